"""What the gateway costs before the real vLLM: the same streamed chat, direct and through it, in turn; JSON lines.

    python bench/gateway_vllm.py [--pairs 10] [--tokens 24] [--streams 4]

Both ask for the same persona version, the same prompt (the direct request carries the persona's system prompt) and
exactly `--tokens` tokens, so tokens/s and first token differ by the gateway alone.
"""

import argparse
import concurrent.futures
import contextlib
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
import psutil
from common import emit, machine, process

from personas.loader import find_persona

QUESTION = "소코비아 협정에 대해 어떻게 생각하나요?"


def engine_of(pid: int) -> tuple[int, str]:
    """The engine's port and key, from the child's arguments and environment."""
    for child in psutil.Process(pid).children(recursive=True):
        words = child.cmdline()
        if "serve.vllm_child" in words:
            return int(words[words.index("--port") + 1]), child.environ()["VLLM_API_KEY"]
    sys.exit("no engine below the gateway")


def timed(client: httpx.Client, url: str, body: dict[str, Any], headers: dict[str, str]) -> tuple[float, float]:
    """Seconds to the first event and to the end."""
    began, first = time.perf_counter(), 0.0
    with client.stream("POST", url, json=body, headers=headers) as reply:
        reply.raise_for_status()
        for _ in reply.iter_raw():
            first = first or time.perf_counter() - began
    return first, time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--streams", type=int, default=4)
    given = parser.parse_args()
    emit(**machine())
    persona = find_persona("ironman").persona
    user = {"role": "user", "content": QUESTION}
    common = {"stream": True, "max_tokens": given.tokens, "min_tokens": given.tokens, "temperature": 0}
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        environment = {"GAMYEON_HOME": os.environ.get("GAMYEON_HOME", str(folder / "home"))}
        port = 18_000 + os.getpid() % 1000
        command = [sys.executable, "-m", "serve.cli", "up", "--port", str(port)]
        pid = stack.enter_context(process(command, folder / "serve.log", environment))
        url = f"http://127.0.0.1:{port}"
        client = stack.enter_context(httpx.Client(timeout=300))
        deadline = time.monotonic() + 400
        while time.monotonic() < deadline:
            with contextlib.suppress(httpx.TransportError):
                if client.get(f"{url}/ready").status_code == 200:
                    break
            time.sleep(0.5)
        live = client.get(f"{url}/v1/models/ironman").json()["root"]
        engine_port, key = engine_of(pid)
        sampling = {k: v for k, v in persona.sampling if v is not None and k not in common}
        system = {"role": "system", "content": persona.system_prompt}
        direct = {**sampling, **common, "model": live, "messages": [system, user]}
        sides = {
            "direct": (f"http://127.0.0.1:{engine_port}", direct, {"authorization": f"Bearer {key}"}),
            "gateway": (url, {**common, "model": "ironman", "messages": [user]}, {}),
        }
        compare(client, sides, given.pairs, given.tokens, given.streams)


def compare(client: httpx.Client, sides: dict[str, Any], pairs: int, tokens: int, streams: int) -> None:
    """Alternate the sides, first one stream at a time, then several at once."""
    for count in (1, streams):
        seen: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
        with concurrent.futures.ThreadPoolExecutor(count) as pool:
            for number in range(pairs + 1):
                for name in sorted(sides, reverse=bool(number % 2)):
                    address, body, headers = sides[name]
                    work = [(client, f"{address}/v1/chat/completions", body, headers)] * count
                    got = list(pool.map(lambda args: timed(*args), work))
                    if number:  # the first round warms both
                        seen[name] += got
        row: dict[str, Any] = {"streams": count, "pairs": pairs, "tokens": tokens}
        for name, times in seen.items():
            row[f"{name}_first_ms"] = round(1000 * statistics.median(first for first, _ in times), 1)
            row[f"{name}_tokens_s"] = round(tokens / statistics.median(end for _, end in times), 2)
        row["first_ratio"] = round(row["gateway_first_ms"] / row["direct_first_ms"], 4)
        row["tokens_ratio"] = round(row["gateway_tokens_s"] / row["direct_tokens_s"], 4)
        emit(**row)


if __name__ == "__main__":
    main()
