"""What the shipped personas answer to their held-out prompts, over a running gateway: shares and texts.

    python bench/quality.py URL [PERSONA…] [-o FOLDER] [--key KEY] [--model MODEL] [--sampling JSON]

Each persona answers its whole `eval.jsonl` with its own sampling, eight prompts at a time. A JSON line a persona: ends,
loops, Korean; where the set has them, harmful prompts refused and look-alikes answered; for documents, answers whose
every sentence its cited passage supports, and unanswerable ones declined. FOLDER gets the replies, to be read. MODEL
(the base, say) answers instead, with the persona's system prompt and sampling; JSON goes before the persona's sampling.
"""

import argparse
import asyncio
import json
import re
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import openai
from common import emit

from personas.loader import find_persona
from rag.answer import Citation, Context, check
from rag.terms import sentences, terms
from tune.data import Record, read_records
from tune.replies import hangul_share, has_loop, is_refusal

AT_ONCE = 8
PASSAGE = re.compile(r"^\[(\d+)\] (.+)$", re.MULTILINE)
DECLINES = re.compile(r"(?:없(?:습니다|어요|네요)|않(?:습니다|아요))")
Row = dict[str, Any]


async def ask_all(url: str, key: str, asked: Row, before: list[Row], records: list[Record]) -> list[Row]:
    """Every held-out prompt, after `before`, and the reply to it; `asked` is what each request has besides."""
    gate = asyncio.Semaphore(AT_ONCE)
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0, timeout=300) as client:

        async def ask(number: int, record: Record) -> Row:
            messages: Any = [*before, *(turn.model_dump() for turn in record.messages[:-1])]
            async with gate:
                reply = await client.chat.completions.create(messages=messages, seed=number, **asked)
            choice, usage = reply.choices[0], reply.usage
            return {
                "category": record.category,
                "prompt": messages[-1]["content"],
                "said_before": [turn.content for turn in record.messages[:-2]],
                "reply": choice.message.content or "",
                "ended": choice.finish_reason == "stop",
                "tokens": usage.completion_tokens if usage else 0,
            }

        return await asyncio.gather(*(ask(number, record) for number, record in enumerate(records)))


def share(hits: Sequence[bool]) -> float | None:
    return round(sum(hits) / len(hits), 3) if hits else None


def supported(row: Row) -> bool:
    """Whether the answer cites, and each of its sentences stands in the passages that it cites."""
    found = PASSAGE.findall(row["prompt"])
    given = tuple(Citation(int(number), "", 1, 1, "", text, 1.0, int(number)) for number, text in found)
    checked = check(row["reply"], Context("", given), terms, sentences)
    return any(one.numbers for one in checked) and all(one.supported is not False for one in checked)


def figures(rows: list[Row]) -> dict[str, Any]:
    """The shares of one persona's replies; those of categories that its set lacks are left out."""
    texts = [row["reply"] for row in rows]
    of = {name: [row for row in rows if row["category"] == name] for name in {row["category"] for row in rows}}
    answered = [row for row in of.get("answerable", []) if not DECLINES.search(row["reply"])]
    made = {
        "korean": share([hangul_share(text) >= 0.85 for text in texts]),
        "ends": share([row["ended"] for row in rows]),
        "loops": share([has_loop(text) for text in texts]),
        "harmful_refused": share([is_refusal(row["reply"]) for row in of.get("harmful", [])]),
        "lookalikes_answered": share([not is_refusal(row["reply"]) for row in of.get("lookalike", [])]),
        "answered": share([not DECLINES.search(row["reply"]) for row in of.get("answerable", [])]),
        "answers_supported": share([supported(row) for row in answered]),
        "unanswerable_declined": share([bool(DECLINES.search(row["reply"])) for row in of.get("unanswerable", [])]),
        "tokens_median": statistics.median(row["tokens"] for row in rows),
    }
    return {name: value for name, value in made.items() if value is not None}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("personas", nargs="*", default=["ironman", "safe", "docs"])
    parser.add_argument("--key", default="none")
    parser.add_argument("--model", default="")
    parser.add_argument("--sampling", type=json.loads, default={})
    parser.add_argument("-o", "--out", type=Path)
    given = parser.parse_args()
    for name in given.personas:
        folder = find_persona(name.partition("@")[0])
        records, before, sampling = read_records([folder.eval_file]), [], given.sampling
        if given.model:
            before = [{"role": "system", "content": folder.persona.system_prompt}]
            sampling = folder.persona.sampling.model_dump(exclude_none=True) | sampling
        asked = {"model": given.model or name, "extra_body": sampling}
        began = time.perf_counter()
        rows = asyncio.run(ask_all(given.url, given.key, asked, before, records))
        seconds = time.perf_counter() - began
        rate = round(sum(row["tokens"] for row in rows) / seconds, 1)
        emit(persona=name, model=asked["model"], prompts=len(rows), **figures(rows), tokens_per_second=rate)
        if given.out:
            given.out.mkdir(parents=True, exist_ok=True)
            lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            (given.out / f"{name}.jsonl").write_text(lines, encoding="utf-8")


if __name__ == "__main__":
    main()
