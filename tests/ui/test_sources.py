"""The passages below an answer: shown as they are, and kept out of the conversation."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from ui.client import EngineState, Piece
from ui.tabs.chat import ChatTab, plain, to_messages
from ui.texts import KO

LINK = "![x](http://evil/x.png) <b>문</b>"
CITED = [
    {"number": 1, "document": "a.pdf", "page": 3, "heading": "1장", "excerpt": LINK, "used": False},
    {"number": 2, "document": "b.pdf", "page": 7, "heading": "", "excerpt": "창립기념일은 10월 17일", "used": True},
]


class Answering:
    """A gateway whose engine is ready and whose reply cites."""

    async def engine(self) -> EngineState:
        return EngineState("ready", 100, "")

    async def reply(self, *_: Any) -> AsyncIterator[Piece]:
        yield Piece("c-1", "10월 17일입니다. ", [])
        yield Piece("c-1", "[2]", [])
        yield Piece("c-1", "", CITED)


def test_the_passages_come_below_the_answer() -> None:
    async def last() -> list[dict[str, Any]]:
        tab = ChatTab(Answering(), KO)  # type: ignore[arg-type]
        asked = [{"role": "user", "content": "창립기념일은?"}]
        return [history async for history in tab._answer("docs", asked, "me")][-1]

    _, answer, sources = history = asyncio.run(last())
    assert (answer["content"], answer["metadata"]) == ("10월 17일입니다. [2]", {"id": "c-1"})
    assert sources["metadata"]["title"] == "찾아본 구절 2 · 인용 [2]"
    assert "b\\.pdf 7쪽" in sources["content"]
    assert sources["content"].index("b\\.pdf") < sources["content"].index("a\\.pdf"), "the cited ones come first"
    assert "![" not in sources["content"]
    assert "<b>" not in sources["content"]
    assert [message["role"] for message in to_messages(history)] == ["user", "assistant"]


def test_a_documents_marks_are_shown_not_followed() -> None:
    assert plain("[a](http://x)\n# <b>`c`</b>") == r"\[a\]\(http\:\/\/x\) \# \<b\>\`c\`\<\/b\>"
