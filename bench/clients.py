"""LiteLLM and Open WebUI's calls against a running gateway; prints a JSON line a check, exits 1 when one fails.

    python bench/clients.py --url http://127.0.0.1:8000/v1 --model ironman [--key KEY]

LiteLLM is the one of `gateway.py`, in its own environment. Open WebUI is not installed: the requests are those that its
backend's `routers/openai.py` sends, by aiohttp as there, and the replies are read as it reads them; those for titles
and embeddings are written as its documentation has them.
"""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
from common import check, client_parser, must
from gateway import litellm_program

TITLE = """### Task:
Generate a concise, 3-5 word title with an emoji summarizing the chat history.
### Output:
JSON format: { "title": "your concise title here" }
### Chat History:
<chat_history>
USER: 안녕? 오늘 기분 어때?
ASSISTANT: 언제나 최고지.
</chat_history>"""


class WebUI:
    """What Open WebUI asks of a connection."""

    def __init__(self, url: str, model: str, key: str, embedder: str) -> None:
        self.url, self.model, self.embedder = url, model, embedder
        self.headers = {
            "Content-Type": "application/json", "Authorization": f"Bearer {key}",
            "X-OpenWebUI-User-Name": quote("홍길동", safe=" "), "X-OpenWebUI-User-Id": "8f2c1d3e",
            "X-OpenWebUI-User-Email": "gildong@example.com", "X-OpenWebUI-User-Role": "user",
        }  # fmt: skip

    def _session(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(trust_env=True, timeout=aiohttp.ClientTimeout(total=300))

    def asked(self, text: Any = "안녕?", **more: Any) -> dict[str, Any]:
        return {"stream": False, "model": self.model, "messages": [{"role": "user", "content": text}], **more}

    async def post(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        async with (
            self._session() as session,
            session.post(f"{self.url}{path}", data=json.dumps(body), headers=self.headers) as reply,
        ):
            return reply.status, await reply.json()

    async def whole(self, body: dict[str, Any]) -> str:
        """The text of a reply that is not streamed."""
        status, made = await self.post("/chat/completions", body)
        must(status == 200, f"200, got {status} {made}")
        text = made["choices"][0]["message"]["content"]
        must(isinstance(text, str) and text, "content")
        return str(text)

    async def events(self, body: dict[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        """The events of a stream up to `[DONE]`, which must come."""
        async with (
            self._session() as session,
            session.post(f"{self.url}/chat/completions", data=json.dumps(body), headers=self.headers) as reply,
        ):
            must("text/event-stream" in reply.headers["Content-Type"], "an event stream")
            async for line in reply.content:
                if line.startswith(b"data: [DONE]"):
                    return
                if line.startswith(b"data: "):
                    yield json.loads(line[6:])
        raise ValueError("expected [DONE]")

    async def models(self) -> list[str]:
        async with self._session() as session, session.get(f"{self.url}/models", headers=self.headers) as reply:
            must(reply.status == 200, f"200, got {reply.status}")
            made = await reply.json()
        must("error" not in made and isinstance(made["data"], list), "a list")
        names = {card["id"]: card.get("name", card["id"]) for card in made["data"]}
        must(len(names) == len(made["data"]) and all(isinstance(name, str) for name in names.values()), "names")
        must(self.model in names, f"{self.model} among {list(names)}")
        return list(names)

    async def chat(self) -> str:
        return await self.whole(self.asked(max_tokens=24))

    async def stream(self) -> str:
        knobs = {"temperature": 0.7, "top_p": 0.9, "max_tokens": 40, "seed": 1, "stop": ["###"], "logit_bias": {}}
        asked = self.asked(**knobs, stream=True, stream_options={"include_usage": True})
        text, usage = "", []
        async for event in self.events(asked):
            must("error" not in event, f"no error, got {event}")
            for choice in event.get("choices", []):
                text += choice["delta"].get("content") or ""
            usage += [event["usage"]] if event.get("usage") else []
        must(text and "\ufffd" not in text, "whole letters")
        must(len(usage) == 1 and usage[0]["completion_tokens"] > 0, f"one usage, got {usage}")
        return text

    async def plain_stream(self) -> int:
        """Without the model's `usage` capability there is no `stream_options`, and none is to come."""
        seen = [event async for event in self.events(self.asked(stream=True, max_tokens=8))]
        must(seen and not any(event.get("usage") for event in seen), "no usage")
        return len(seen)

    async def stop(self) -> str:
        """The stop button closes the connection; the next message is answered."""
        async with aclosing(self.events(self.asked(stream=True))) as events:
            async for event in events:
                if event.get("choices") and event["choices"][0]["delta"].get("content"):
                    break
        return await self.whole(self.asked(max_tokens=8))

    async def title(self) -> str:
        return await self.whole(self.asked(TITLE, max_completion_tokens=1000))

    async def talk(self) -> str:
        """A system prompt from its settings, earlier turns, and a message in parts."""
        parts = [{"type": "text", "text": "그래서 이름이 뭐야?"}]
        turns = [
            {"role": "system", "content": "짧게 답하세요."}, {"role": "user", "content": "안녕?"},
            {"role": "assistant", "content": "안녕."}, {"role": "user", "content": parts},
        ]  # fmt: skip
        return await self.whole({**self.asked(max_tokens=24), "messages": turns})

    async def embeddings(self) -> str:
        status, made = await self.post("/embeddings", {"input": ["안녕", "반가워"], "model": self.embedder})
        must(status == 200 and "data" in made, f"data, got {status} {made}")
        sizes = {len(row["embedding"]) for row in made["data"]}
        must(len(made["data"]) == 2 and len(sizes) == 1, "two vectors of one size")
        return f"2 × {sizes.pop()}"

    async def no_such_model(self) -> str:
        status, made = await self.post("/chat/completions", {**self.asked(), "model": "nobody"})
        must(status == 404 and made["error"]["message"], f"404 with a message, got {status}")
        return str(made["error"]["message"])


def open_webui(webui: WebUI) -> bool:
    """Every check, one after another."""
    works: dict[str, Callable[[], Coroutine[Any, Any, Any]]] = {
        "models": webui.models,
        "chat": webui.chat,
        "stream": webui.stream,
        "stream without usage": webui.plain_stream,
        "stop button": webui.stop,
        "title": webui.title,
        "earlier turns": webui.talk,
        "embeddings": webui.embeddings,
        "no such model": webui.no_such_model,
    }
    failed = sum(not check(f"open webui {name}", partial(_run, work)) for name, work in works.items())
    return failed == 0


def _run(work: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    return asyncio.run(work())


def litellm(url: str, model: str, key: str, embedder: str) -> bool:
    """LiteLLM's checks, in its environment."""
    python, script = litellm_program().with_name("python"), Path(__file__).with_name("litellm_client.py")
    command = [str(python), str(script), url, model, key, embedder]
    # Without the internet for its price list, and without a proxy's logging.
    environment = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR", "PYTHONPATH": ""}
    return subprocess.run(command, env={**os.environ, **environment}).returncode == 0


def main() -> None:
    parser = client_parser()
    given = parser.parse_args()
    asked = (given.url, given.model, given.key, given.embedder)
    sys.exit(not all([litellm(*asked), open_webui(WebUI(*asked))]))


if __name__ == "__main__":
    main()
