"""The openai Python client's own API tests against a running gateway; prints one JSON line, exits 1 when one fails.

    python bench/openai_own_tests.py --url http://127.0.0.1:8000/v1 --model ironman [--key KEY] [--only create]

The tests come from the sdist of the version in requirements/cpu.lock, checked by its hash, and run in an environment of
their own, both below `--cache`. What is changed in their requests and what is left out: `openai_tests_plugin.py`.
"""

import json
import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path

from common import client_parser, emit

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
LOCK = ROOT / "requirements" / "cpu.lock"
NEEDED = ["pytest>=9.0.3", "pytest-asyncio>=1.4.0", "rich>=13.7.1"]  # as in the `dev` group of the sdist
FILES = (
    "chat/test_completions.py", "test_completions.py", "test_responses.py", "test_embeddings.py", "test_models.py",
    "test_moderations.py",
)  # fmt: skip


def locked() -> tuple[str, str]:
    """The locked version of openai, and its requirement with hashes."""
    found = re.search(r"^openai==(\S+)( \\\n +--hash=\S+)+", LOCK.read_text(encoding="utf-8"), re.MULTILINE)
    if found is None:
        sys.exit(f"{LOCK}: no openai in it; run: make lock")
    return found[1], found[0]


def sources(cache: Path) -> tuple[str, Path]:
    """The version and its unpacked sdist."""
    version, requirement = locked()
    folder = cache / f"openai-{version}"
    if not folder.exists():
        wanted = cache / "openai.txt"
        wanted.write_text(requirement, encoding="utf-8")
        pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", "openai", "--require-hashes"]
        subprocess.run([*pip, "-r", wanted, "-d", cache], check=True)
        unpacked = cache / "unpacked"
        with tarfile.open(cache / f"openai-{version}.tar.gz") as packed:
            packed.extractall(unpacked, filter="data")
        (unpacked / folder.name).rename(folder)
    return version, folder


def python(cache: Path, version: str) -> Path:
    """The interpreter of an environment with that version and what its tests need."""
    venv = cache / f"venv-{version}"
    program = venv / "bin" / "python"
    if not (done := venv / "complete").exists():
        uv = Path(sys.executable).with_name("uv")
        subprocess.run([uv, "venv", "-q", "--clear", "--python", sys.executable, venv], check=True)
        install = [str(uv), "pip", "install", "-q", "--python", str(program)]
        subprocess.run([*install, f"openai[aiohttp]=={version}", *NEEDED], check=True)
        done.touch()
    return program


def main() -> None:
    parser = client_parser()
    parser.add_argument("--cache", type=Path, default=ROOT / "build" / "openai-tests")
    parser.add_argument("--only", default="", help="tests whose name has this")
    given = parser.parse_args()
    cache: Path = given.cache.resolve()
    cache.mkdir(parents=True, exist_ok=True)
    version, folder = sources(cache)
    report = cache / "report.json"
    report.unlink(missing_ok=True)
    environment = {
        "TEST_API_BASE_URL": given.url, "GAMYEON_TESTS_KEY": given.key, "GAMYEON_TESTS_MODEL": given.model,
        "GAMYEON_TESTS_EMBEDDER": given.embedder, "GAMYEON_TESTS_REPORT": str(report), "PYTHONPATH": str(HERE),
    }  # fmt: skip
    # Their own settings, less the `-n auto` that needs another plugin.
    pytest = [str(python(cache, version)), "-m", "pytest", "-o", "addopts=", "--tb=short", "-q", "-k", given.only]
    files = [f"tests/api_resources/{name}" for name in FILES]
    with (cache / "pytest.log").open("w") as log:
        subprocess.run(
            [*pytest, "-p", "openai_tests_plugin", *files],
            cwd=folder, env={**os.environ, **environment}, stdout=log, stderr=log,
        )  # fmt: skip
    if not report.exists():
        sys.exit(f"the tests did not run; see {cache / 'pytest.log'}")
    made = json.loads(report.read_text(encoding="utf-8"))
    emit(version=version, **made)
    sys.exit(bool(made["failed"]) or not made["passed"])


if __name__ == "__main__":
    main()
