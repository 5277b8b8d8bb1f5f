"""A question to the gateway, answered from a collection: the reply's text as it comes, then its citations."""

import json
from collections.abc import Callable
from typing import Any

import httpx

from personas.lang import say
from rag.errors import GatewayError
from rag.settings import RagSettings


def ask(
    question: str, collection: str, persona: str, top_k: int, settings: RagSettings, show: Callable[[str], None]
) -> dict[str, Any]:
    """Ask, show the reply's text piece by piece, and return `citations` and `grounding`.

    Raises:
        GatewayError: no gateway, or it refuses.
    """
    body = {
        "model": persona,
        "messages": [{"role": "user", "content": question}],
        "documents": {"collection": collection, "top_k": top_k},
        "stream": True,
    }
    key = settings.gateway_key
    headers = {"authorization": f"Bearer {key.get_secret_value()}"} if key else {}
    url = settings.gateway_url.rstrip("/").removesuffix("/v1") + "/v1/chat/completions"
    found: dict[str, Any] = {}
    try:
        with httpx.stream("POST", url, json=body, headers=headers, timeout=httpx.Timeout(300, connect=5)) as reply:
            if reply.status_code != 200:
                reply.read()
                raise _refused(reply)
            for line in reply.iter_lines():
                if line.startswith("data: {"):
                    found |= _take(json.loads(line[6:]), show)
    except httpx.TransportError as error:
        raise GatewayError(
            say(f"게이트웨이가 답하지 않습니다: {url}", f"no gateway answers at {url}"),
            say("serve up, 또는 GAMYEON_RAG_GATEWAY_URL을 확인하세요", "serve up, or check GAMYEON_RAG_GATEWAY_URL"),
        ) from error
    return found


def _take(chunk: dict[str, Any], show: Callable[[str], None]) -> dict[str, Any]:
    if "error" in chunk:
        raise GatewayError(str(chunk["error"].get("message", "")))
    for choice in chunk.get("choices", ()):
        show((choice.get("delta") or {}).get("content") or "")
    return {name: chunk[name] for name in ("citations", "grounding") if name in chunk}


def _refused(reply: httpx.Response) -> GatewayError:
    try:
        message = str(reply.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        message = f"HTTP {reply.status_code}"
    hint = (
        say("키: export GAMYEON_API_KEY=gy-…", "a key: export GAMYEON_API_KEY=gy-…") if reply.status_code == 401 else ""
    )
    return GatewayError(message, hint)
