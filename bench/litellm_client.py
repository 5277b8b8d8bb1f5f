"""LiteLLM as a client of a running gateway; `clients.py` starts it in LiteLLM's own environment.

python litellm_client.py URL MODEL KEY EMBEDDER
"""

import asyncio
import sys
from typing import Any

import litellm  # type: ignore[import-not-found]
from common import check, must

URL, MODEL, KEY, EMBEDDER = sys.argv[1:]
SERVER: dict[str, Any] = {"api_base": URL, "api_key": KEY, "max_retries": 0, "timeout": 300}
CHAT: dict[str, Any] = {
    "model": f"openai/{MODEL}", "messages": [{"role": "user", "content": "안녕?"}], "max_tokens": 24, **SERVER,
}  # fmt: skip
STREAM = {**CHAT, "stream": True, "stream_options": {"include_usage": True}}


def whole(reply: Any) -> str:
    must(reply.choices[0].message.content, "content")
    must(reply.usage.total_tokens > 0, "usage")
    return str(reply.choices[0].message.content)


def streamed(chunks: list[Any]) -> str:
    """The text of a stream that has ended as it should."""
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    must(text and "\ufffd" not in text, "whole letters")
    must(any(chunk.choices and chunk.choices[0].finish_reason for chunk in chunks), "a finish reason")
    usage = [chunk.usage for chunk in chunks if getattr(chunk, "usage", None)]
    must(usage and usage[-1].completion_tokens > 0, "usage")
    return text


async def async_stream() -> str:
    return streamed([chunk async for chunk in await litellm.acompletion(**STREAM)])


def vectors(reply: Any) -> str:
    sizes = {len(row["embedding"]) for row in reply.data}
    must(len(reply.data) == 2 and len(sizes) == 1, "two vectors of one size")
    return f"2 × {sizes.pop()}"


def embedding() -> str:
    return vectors(litellm.embedding(model=f"openai/{EMBEDDER}", input=["안녕", "반가워"], **SERVER))


async def async_embedding() -> str:
    return vectors(await litellm.aembedding(model=f"openai/{EMBEDDER}", input=["안녕", "반가워"], **SERVER))


def responses() -> str:
    asked: dict[str, Any] = {"model": f"openai/{MODEL}", "input": "안녕?", "max_output_tokens": 24, **SERVER}
    made: Any = litellm.responses(**asked)
    must(made.output[0].content[0].text, "text")
    return str(made.output[0].content[0].text)


def refused(kind: Any, **changed: Any) -> str:
    """A request that must end with an error of LiteLLM's own class for it."""
    try:
        litellm.completion(**{**CHAT, **changed})
    except kind as error:
        return str(error.message)
    raise ValueError(f"expected {kind.__name__}")


def main() -> None:
    litellm.suppress_debug_info = True
    checks = {
        "litellm completion": lambda: whole(litellm.completion(**CHAT)),
        "litellm acompletion": lambda: whole(asyncio.run(litellm.acompletion(**CHAT))),
        "litellm stream": lambda: streamed(list(litellm.completion(**STREAM))),
        "litellm async stream": lambda: asyncio.run(async_stream()),
        "litellm embedding": embedding,
        "litellm aembedding": lambda: asyncio.run(async_embedding()),
        "litellm responses": responses,
        "litellm no such model": lambda: refused(litellm.NotFoundError, model="openai/nobody"),
        "litellm bad request": lambda: refused(litellm.BadRequestError, n=99),
    }
    if KEY != "none":
        checks["litellm wrong key"] = lambda: refused(litellm.AuthenticationError, api_key="gy-wrong")
    failed = sum(not check(name, work) for name, work in checks.items())
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
