"""A judge for the gate: any OpenAI-compatible model compares two answers, each pair in both orders."""

import asyncio
import os
from collections.abc import Sequence

from openai import AsyncOpenAI, OpenAIError

from personas.errors import GamyeonError
from personas.lang import say
from personas.schema import Judge
from tune.data import Record

_ASK = """다음은 한 질문에 대한 두 답입니다. 페르소나의 지시를 더 잘 따르고 한국어가 더 자연스러운 답을 고르세요.

[지시]
{system}

[질문]
{prompt}

[답 A]
{a}

[답 B]
{b}

A, B, 비김 가운데 하나만 말하세요."""


class JudgeError(GamyeonError):
    """The judge did not answer."""


async def _win(
    client: AsyncOpenAI, judge: Judge, system: str, prompt: str, pair: tuple[str, str], gate: asyncio.Semaphore
) -> float:
    """1 if the judge says A, 0 if B, 0.5 otherwise."""
    text = _ASK.format(system=system, prompt=prompt, a=pair[0], b=pair[1])
    async with gate:
        reply = await client.chat.completions.create(
            model=judge.model, messages=[{"role": "user", "content": text}], temperature=0, max_tokens=8
        )
    said = (reply.choices[0].message.content or "").strip().upper()
    return {"A": 1.0, "B": 0.0}.get(said[:1], 0.5)


async def _all(judge: Judge, system: str, prompts: list[str], pairs: list[tuple[str, str]]) -> list[float]:
    gate = asyncio.Semaphore(8)
    async with AsyncOpenAI(base_url=judge.url, api_key=os.environ.get(judge.key_env) or "none") as client:
        asked = [
            one
            for prompt, (a, b) in zip(prompts, pairs, strict=True)
            for one in (
                _win(client, judge, system, prompt, (a, b), gate),
                _win(client, judge, system, prompt, (b, a), gate),
            )
        ]
        said = await asyncio.gather(*asked)
    return [(first + 1 - second) / 2 for first, second in zip(said[::2], said[1::2], strict=True)]


def share_won(
    judge: Judge, system: str, records: Sequence[Record], candidate: Sequence[str], live: Sequence[str]
) -> float:
    """Share of comparisons that the candidate wins, draws counted half; the order of two answers decides nothing.

    Raises:
        JudgeError: it cannot be reached or refuses.
    """
    pairs = list(zip(candidate, live, strict=True))
    prompts = [record.messages[-2].content for record in records]
    try:
        won = asyncio.run(_all(judge, system, prompts, pairs))
    except OpenAIError as error:
        raise JudgeError(
            say(f"심판 모델 {judge.url}: {error}", f"the judge at {judge.url}: {error}"), f"export {judge.key_env}=…"
        ) from error
    return sum(won) / len(won)
