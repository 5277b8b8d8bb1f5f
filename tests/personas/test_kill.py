"""Kill -9 at every line of publish, add, promote, canary and rollback: registry and live version stay whole.

A child process is forked for each line that these run, kills itself when it comes to that line, and what it left is
looked at. Torch is imported once, before the forks, in a process of its own.
"""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

_SCRIPT = textwrap.dedent("""
    import os, shutil, signal, sys, threading
    from pathlib import Path
    import torch, safetensors.torch
    from fixtures_tiny import hand_base, make_adapter, manifest_fields
    from personas.adapters import AdapterStore, read_manifest, verify_files
    from personas.registry import Registry

    root, job = Path(sys.argv[1]), sys.argv[2]
    OURS = tuple(f"personas/{name}.py" for name in ("adapters", "registry", "files"))
    make_adapter(root / "a", 1.0), make_adapter(root / "b", 2.0)

    def fresh(home):
        (home / "adapters").mkdir(parents=True)
        registry, store = Registry(home / "gamyeon.db"), AdapterStore(home / "adapters")
        for source in ("a", "b"):
            registry.add("stark", store.publish(root / source, manifest_fields(), hand_base()).version)
        registry.promote("stark", 1, "test", "first")
        registry.promote("stark", 2, "test", "second")
        registry.close()

    def work(home):
        registry, store = Registry(home / "gamyeon.db"), AdapterStore(home / "adapters")
        if job == "publish":
            number = store.publish(root / "b", manifest_fields(), hand_base()).version
            registry.add("stark", number)
            registry.promote("stark", number, "test", "third")
        elif job == "canary":
            registry.canary("stark", 1, 10.0, "test", "try")
        else:
            registry.rollback("stark", "test", "back")

    def kill_at(line):
        seen = 0
        def trace(frame, event, _):
            nonlocal seen
            if not frame.f_code.co_filename.endswith(OURS):
                return None
            if event == "line":
                seen += 1
                if seen == line:
                    os.kill(os.getpid(), signal.SIGKILL)
            return trace
        sys.settrace(trace)

    def check(home, line):
        registry, store = Registry(home / "gamyeon.db"), AdapterStore(home / "adapters")
        registry.reconcile(store)
        for persona, version in store.versions():
            verify_files(store.folder(persona, version), read_manifest(store.folder(persona, version)))
        assert registry.versions("stark") == [v for _, v in store.versions()], line
        route, last = registry.route("stark"), registry.history("stark")[-1]
        moved = len(registry.history("stark")) == 3
        expected = {"publish": (3, None), "canary": (2, 1), "rollback": (1, None)}[job] if moved else (2, None)
        assert (route.live, route.canary) == expected, (line, route, last)
        assert registry._db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        if job == "publish":  # and work goes on: the next publish sweeps what the kill left
            made = store.publish(root / "b", manifest_fields(), hand_base())
            assert not list((home / "adapters" / ".staging").iterdir()), line
            registry.add("stark", made.version)
            registry.promote("stark", made.version, "test", "after")
        registry.close()

    fresh(root / "fresh")
    outcomes = []
    for line in range(1, 2000):
        home = root / "home"
        shutil.copytree(root / "fresh", home)
        child = os.fork()
        if child == 0:
            kill_at(line)
            work(home)
            os._exit(0)
        killed = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        check(home, line)
        shutil.rmtree(home)
        if not killed:
            break
    print("lines", line - 1)
""")


@pytest.mark.parametrize(("job", "least"), [("publish", 60), ("canary", 20), ("rollback", 20)])
def test_killed_at_every_line(job: str, least: int, tmp_path: Path) -> None:
    here = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT, str(tmp_path), job],
        capture_output=True, text=True, timeout=300, check=False, cwd=here,
        env={"PYTHONPATH": f"{here}:{here / 'tests'}", "PATH": "", "HOME": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout.split()[-1]) >= least, done.stdout
