"""Feedback in the database: merging, consent, and erasing with proof."""

from pathlib import Path
from typing import Any

import pytest

from personas.feedback_store import Content, Feedback, FeedbackStore, user_hash
from personas.home import Home

SECRET = "내 비밀은 아무도 몰라야 해"


def feedback(answer: str = "chatcmpl-1", user: str = "pepper", **more: Any) -> Feedback:
    fields = {"answer": answer, "persona": "ironman", "version": 2, "user": user, "consent": True, **more}
    return Feedback.model_validate(fields)


def content(**more: Any) -> Content:
    said = [{"role": "user", "content": SECRET}]
    return Content.model_validate({"messages": said, "answer": "그건 둘만 아는 걸로 하자.", **more})


@pytest.fixture
def store(home: Home) -> FeedbackStore:
    return FeedbackStore(home.database)


def test_a_word_comes_back_without_its_users_name(store: FeedbackStore, home: Home) -> None:
    store.put(feedback(thumb="down", content=content(correction="걱정 마, 아무한테도 말 안 해.")))
    (found,) = store.all("ironman", "pepper")
    assert (found.thumb, found.version, found.user) == ("down", 2, user_hash("pepper"))
    assert found.content == content(correction="걱정 마, 아무한테도 말 안 해.")
    assert b"pepper" not in home.database.read_bytes() + Path(f"{home.database}-wal").read_bytes()
    assert list(store.all("safe")) == []
    assert list(store.all(user="happy")) == []


def test_a_later_word_adds_to_the_earlier(store: FeedbackStore) -> None:
    store.put(feedback(thumb="down", consent=False))
    store.put(feedback(content=content(correction="고친 답이야.")))
    store.put(feedback(content=content(reason="말투")))
    store.put(feedback(thumb="up", content=content()))
    (found,) = store.all()
    assert found.thumb == "up"
    assert found.content == content(correction="고친 답이야.", reason="말투")


def test_without_consent_there_is_no_content_and_taking_it_back_removes_it(store: FeedbackStore, home: Home) -> None:
    store.put(feedback(thumb="up", consent=False, content=content()))
    assert next(store.all()).content is None
    store.put(feedback(content=content()))
    store.put(feedback(consent=False))
    (found,) = store.all()
    assert (found.content, found.thumb) == (None, "up")
    store.close()
    assert SECRET.encode() not in home.database.read_bytes()


def test_erasing_leaves_nothing_of_the_user_and_all_of_the_others(store: FeedbackStore, home: Home) -> None:
    for number in range(50):
        store.put(feedback(f"p{number}", content=content(correction=f"고친 답 {number}번, 길게 써 본다")))
        store.put(feedback(f"h{number}", "happy", content=content(answer=f"다른 사람의 답 {number}")))
    other = FeedbackStore(home.database)  # a gateway that goes on running
    assert len(list(other.all())) == 100
    assert store.erase("pepper") == (50, 0)
    files = [p.read_bytes() for p in home.root.glob("gamyeon.db*")]
    assert not any("고친 답".encode() in data or user_hash("pepper").encode() in data for data in files)
    assert len(list(other.all())) == 50
    assert store.erase("pepper") == (0, 0)


def test_what_is_left_is_found(store: FeedbackStore, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    store.put(feedback(content=content()))
    files = home.database.with_name(home.database.name + "-wal")
    leaked = files.read_bytes()
    original = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: leaked if path == files else original(path))
    rows, left = store.erase("pepper")
    assert rows == 1
    assert left > 0
