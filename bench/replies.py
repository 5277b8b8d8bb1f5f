"""Held-out Iron Man prompts through the gateway, and what the gateway adds to the first token.

    python bench/replies.py [OUTPUT.jsonl]

Starts engine and gateway, asks the 60 held-out prompts with the persona's own sampling (temperature 0.7), and prints
the shares that the first issue sets targets for. Then 40 pairs of streamed requests, gateway and engine in turn.
"""

import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import openai
from common import emit, first_token, machine, process, wait_for_reply

from personas.adapters import AdapterStore
from personas.home import Home
from personas.loader import find_persona
from personas.registry import Registry
from serve.engine import free_port
from tune.data import Record, read_records
from tune.replies import hangul_share, has_loop

PAIRS = 40


async def ask_all(url: str, records: list[Record]) -> list[dict[str, Any]]:
    """Every held-out prompt, eight at a time."""
    gate = asyncio.Semaphore(8)
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=300) as client:

        async def ask(number: int, record: Record) -> dict[str, Any]:
            messages = [turn.model_dump() for turn in record.messages[:-1]]
            async with gate:
                reply = await client.chat.completions.create(model="ironman", messages=messages, seed=number)  # type: ignore[arg-type]
            choice = reply.choices[0]
            tokens = reply.usage.completion_tokens if reply.usage else 0
            shown = {"category": record.category, "prompt": messages[-1]["content"]}
            return {**shown, "reply": choice.message.content or "", "finish": choice.finish_reason, "tokens": tokens}

        return await asyncio.gather(*(ask(i, record) for i, record in enumerate(records)))


def report_replies(replies: list[dict[str, Any]], seconds: float) -> None:
    texts = [reply["reply"] for reply in replies]
    count = len(replies)
    emit(
        bench="replies",
        prompts=count,
        non_empty=sum(bool(text.strip()) for text in texts) / count,
        korean=sum(hangul_share(text) >= 0.85 for text in texts) / count,
        ends=sum(r["finish"] == "stop" and r["tokens"] <= 200 for r in replies) / count,
        loops=sum(map(has_loop, texts)) / count,
        tokens_median=statistics.median(r["tokens"] for r in replies),
        tokens_per_second=round(sum(r["tokens"] for r in replies) / seconds, 1),
    )


def engine_address(gateway_pid: int) -> tuple[str, dict[str, str]]:
    """The engine's own address and key, from its process: nobody else gets them."""
    children = Path(f"/proc/{gateway_pid}/task/{gateway_pid}/children").read_text().split()
    child = next(p for p in children if b"serve.vllm_child" in Path(f"/proc/{p}/cmdline").read_bytes())
    command = Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")
    environment = dict(e.split(b"=", 1) for e in Path(f"/proc/{child}/environ").read_bytes().split(b"\0") if b"=" in e)
    port = command[command.index(b"--port") + 1].decode()
    return f"http://127.0.0.1:{port}", {"authorization": f"Bearer {environment[b'VLLM_API_KEY'].decode()}"}


def report_latency(url: str, direct: str, headers: dict[str, str], version: int) -> None:
    """The same streamed request to the gateway and to the engine, in turn; seconds to the first text."""
    persona = find_persona("ironman").persona
    ask = [{"role": "user", "content": "안녕"}]
    sampling = {"temperature": 0, "max_tokens": 4}
    bodies = {
        "gateway": (url, {"model": "ironman", "messages": ask, **sampling}, None),
        "direct": (
            direct,
            {
                **persona.sampling.model_dump(exclude_none=True),
                "model": f"ironman@v{version}",
                "messages": [{"role": "system", "content": persona.system_prompt}, *ask],
                **sampling,
            },
            headers,
        ),
    }
    times: dict[str, list[float]] = {"gateway": [], "direct": []}
    for number in range(PAIRS + 3):
        for who in ("gateway", "direct")[:: 1 if number % 2 else -1]:
            seconds, _ = first_token(*bodies[who])
            if number >= 3:  # the first few warm connections and prefix cache
                times[who].append(seconds * 1000)
    medians = {who: statistics.median(values) for who, values in times.items()}
    added = statistics.median(g - d for g, d in zip(times["gateway"], times["direct"], strict=True))
    emit(bench="first_token_ms", **{k: round(v, 2) for k, v in medians.items()}, added=round(added, 2), pairs=PAIRS)


def main() -> None:
    home = Home.from_env()
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "serve.cli", "up", "--port", str(port)]
        with process(command, Path(folder) / "serve.log", {"GAMYEON_HOME": str(home.root)}) as pid:
            wait_for_reply(
                url, {"model": "ironman", "messages": [{"role": "user", "content": "안녕"}], "max_tokens": 1}
            )
            began = time.perf_counter()
            replies = asyncio.run(ask_all(url, read_records([find_persona("ironman").eval_file])))
            report_replies(replies, time.perf_counter() - began)
            version = Registry(home.database).live("ironman") or 1
            report_latency(url, *engine_address(pid), version)
    manifest = AdapterStore(home.adapters).folder("ironman", version) / "manifest.json"
    emit(bench="held_out_loss", version=version, **json.loads(manifest.read_text())["scores"])
    emit(bench="machine", **machine())
    if len(sys.argv) > 1:
        lines = (json.dumps(reply, ensure_ascii=False) for reply in replies)
        Path(sys.argv[1]).write_text("\n".join(lines) + os.linesep, encoding="utf-8")


if __name__ == "__main__":
    main()
