"""Time from the start command to the first correct reply: `serve up --page` (what `make chat` runs) beside plain vLLM.

    python bench/start.py [ROUNDS]

Both serve the same prepared base with the Iron Man adapter, in turn, in one run. Cold: an empty vLLM cache and, where
the kernel lets us, an empty page cache. Warm: right after it. One JSON line a start, then medians and ratios.
"""

import contextlib
import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import emit, machine, process, wait_for_reply

from personas.adapters import AdapterStore
from personas.bases import Base, prepare_base
from personas.home import Home
from personas.loader import find_persona
from personas.schema import EMBEDDED_BASE
from serve.engine import free_port

QUESTION = "소코비아 협정에 대해 어떻게 생각하나요?"


def make_cold(cache: Path) -> bool:
    """Empty vLLM's cache and the page cache; whether the latter was possible."""
    shutil.rmtree(cache, ignore_errors=True)
    with contextlib.suppress(OSError):
        os.sync()
        Path("/proc/sys/vm/drop_caches").write_text("3")
        return True
    return False


def start_ours(home: Home, work: Path, environment: dict[str, str]) -> tuple[float, str]:
    port, page_port = free_port(), free_port()
    command = [sys.executable, "-m", "serve.cli", "up", "--page", "--port", str(port), "--page-port", str(page_port)]
    began = time.perf_counter()
    with process(command, work / "ours.log", {**environment, "GAMYEON_HOME": str(home.root)}):
        body = {
            "model": "ironman",
            "messages": [{"role": "user", "content": QUESTION}],
            "temperature": 0,
            "max_tokens": 1,
        }
        text = wait_for_reply(f"http://127.0.0.1:{port}", body)
        return time.perf_counter() - began, text


def start_plain(home: Home, base: Base, work: Path, environment: dict[str, str]) -> tuple[float, str]:
    """vLLM as its documentation says to start it on a CPU, with the same adapter given by hand."""
    port = free_port()
    adapter = AdapterStore(home.adapters).folder("ironman", 1)
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", base.name, "--dtype", "float32"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--max-model-len", "4096"]
    command += ["--enable-lora", "--max-lora-rank", "16", "--lora-modules", f"ironman={adapter}"]
    environment = {
        **environment,
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_NUM_OF_RESERVED_CPU": "0",
        "HF_HUB_OFFLINE": "1",
    }
    prompt = find_persona("ironman").persona.system_prompt
    messages = [{"role": "system", "content": prompt}, {"role": "user", "content": QUESTION}]
    body: dict[str, Any] = {"model": "ironman", "messages": messages, "temperature": 0, "max_tokens": 1}
    body["repetition_penalty"] = find_persona("ironman").persona.sampling.repetition_penalty
    began = time.perf_counter()
    with process(command, work / "plain.log", environment, cwd=home.models):
        text = wait_for_reply(f"http://127.0.0.1:{port}", body)
        return time.perf_counter() - began, text


def main() -> None:
    from personas.registry import Registry
    from personas.shipped import install_shipped

    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    home = Home.from_env()
    base = prepare_base(EMBEDDED_BASE, home)
    persona = find_persona("ironman")
    install_shipped({"ironman": persona}, AdapterStore(home.adapters), Registry(home.database))
    seconds: dict[tuple[str, str], list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        work, cache = Path(folder), Path(folder) / "vllm-cache"
        environment = {"VLLM_CACHE_ROOT": str(cache)}
        for number in range(rounds):
            for who in ("ours", "plain")[:: 1 if number % 2 == 0 else -1]:
                dropped = make_cold(cache)
                for kind in ("cold", "warm"):
                    took, text = (
                        start_ours(home, work, environment)
                        if who == "ours"
                        else start_plain(home, base, work, environment)
                    )
                    seconds.setdefault((who, kind), []).append(took)
                    emit(
                        bench="start",
                        who=who,
                        kind=kind,
                        round=number,
                        seconds=round(took, 1),
                        first=text,
                        dropped=dropped,
                    )
    for kind in ("cold", "warm"):
        ours, plain = (statistics.median(seconds[who, kind]) for who in ("ours", "plain"))
        emit(
            bench="start",
            kind=kind,
            ours=round(ours, 1),
            plain=round(plain, 1),
            ratio=round(ours / plain, 3),
            **machine(),
        )


if __name__ == "__main__":
    main()
