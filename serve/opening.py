"""An answer that begins with words of ours: the engine goes on after them, and the reader gets both."""

import orjson

from serve.citing import chunk_of
from serve.prompt import Payload
from serve.relay import parsed
from serve.steering import is_plain


def begun(payload: Payload, route: str, opening: str) -> Payload | None:
    """The request for the rest of an answer that begins with `opening`.

    None where that cannot be: another route than chat, an answer in a form of its own, or one that the client began.
    """
    if not is_plain(route, payload) or payload["messages"][-1].get("role") == "assistant":
        return None
    messages = [*payload["messages"], {"role": "assistant", "content": opening}]
    return {**payload, "messages": messages, "continue_final_message": True, "add_generation_prompt": False}


class Opened:
    """A filter that puts the opening in front of the reply's text."""

    def __init__(self, opening: str) -> None:
        self._opening = opening

    async def whole(self, body: bytes) -> bytes:
        reply = parsed(body)
        message = reply["choices"][0]["message"]
        message["content"] = self._opening + (message.get("content") or "")
        return orjson.dumps(reply)

    async def events(self, data: bytes) -> bytes:
        if not self._opening:
            return data
        return b"".join(self._event(event) + b"\n\n" for event in data.split(b"\n\n") if event.strip())

    async def end(self) -> bytes:
        return b""

    def _event(self, event: bytes) -> bytes:
        chunk = chunk_of(event)
        if not self._opening or chunk is None or not chunk["choices"]:
            return event
        choice = chunk["choices"][0]
        delta = choice.get("delta") or {}
        if not (delta.get("content") or choice.get("finish_reason")):
            return event  # the role in front
        choice["delta"] = {**delta, "content": self._opening + (delta.get("content") or "")}
        self._opening = ""
        return b"data: " + orjson.dumps(chunk)
