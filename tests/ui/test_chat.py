"""The chat tab's own logic; the page as a whole is tested in a browser (tests/test_slice.py)."""

from typing import Any

import pytest

from ui.client import EngineState
from ui.tabs.chat import engine_badge, text_of, to_messages, without_last_answer
from ui.texts import EN, KO


def said(role: str, text: str, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": [{"type": "text", "text": text}], **more}


GREETING = said("assistant", "어서 와.")


@pytest.mark.parametrize(
    "content",
    ["안녕", {"type": "text", "text": "안녕"}, [{"type": "text", "text": "안"}, {"type": "text", "text": "녕"}]],
)
def test_text_of_every_form_that_gradio_gives(content: Any) -> None:
    assert text_of(content) == "안녕"


def test_the_greeting_and_notes_of_ours_are_not_sent() -> None:
    note = {"role": "assistant", "content": "", "metadata": {"title": "⚠️ cut"}}
    history = [GREETING, said("user", "안녕"), said("assistant", "그래."), note, said("user", "뭐 해?")]
    assert to_messages(history) == [
        {"role": "user", "content": "안녕"},
        {"role": "assistant", "content": "그래."},
        {"role": "user", "content": "뭐 해?"},
    ]


def test_retry_goes_back_to_the_last_question() -> None:
    history = [GREETING, said("user", "안녕"), said("assistant", "그래.")]
    assert without_last_answer(history) == history[:2]
    assert without_last_answer([GREETING]) == [GREETING]


@pytest.mark.parametrize("texts", [KO, EN])
def test_the_badge_says_how_far_the_engine_is(texts: Any) -> None:
    assert texts.ready in engine_badge(EngineState("ready", 100, "준비됨"), texts)
    starting = engine_badge(EngineState("starting", 45, "<b>"), texts)
    assert "45%" in starting
    assert "&lt;b&gt;" in starting
    assert "failed" in engine_badge(EngineState("unreachable", 0, ""), texts)


def test_every_text_is_translated() -> None:
    assert all(getattr(KO, name) != getattr(EN, name) for name in KO.__dataclass_fields__)
