"""Feedback over HTTP: ids of answers, consent, masking, bounds."""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiohttp import web
from fixtures_loop import chunk, gateway_over, publish_versions, run, sse
from gateway_fakes import bearer, make_key

from personas.console import run as run_app
from personas.feedback_store import FeedbackStore
from personas.home import Home
from serve.cli import app
from serve.feedback import Answers, Kept

SAID = [{"role": "user", "content": "내 번호는 010-1234-5678이야, 외워 둬"}]
ASK = {"model": "ironman", "messages": SAID, "user": "u1"}
TEXT = "그래, 외웠어. 근데 tony@stark.com으로도 보내."


async def engine(request: web.Request) -> web.StreamResponse:
    body = await request.json()
    if not body.get("stream"):
        message = {"role": "assistant", "content": TEXT}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return web.json_response({"id": "chatcmpl-whole", "choices": [choice]})
    reply = web.StreamResponse(headers={"content-type": "text/event-stream"})
    await reply.prepare(request)
    raw = sse(*(chunk(letter, answer="chatcmpl-stream") for letter in TEXT), chunk(finish="stop"))
    for start in range(0, len(raw), 77):  # events and letters split anywhere
        await reply.write(raw[start : start + 77])
    return reply


async def answer(client: httpx.AsyncClient, stream: bool) -> str:
    reply = await client.post("/v1/chat/completions", json={**ASK, "stream": stream})
    assert reply.status_code == 200
    return "chatcmpl-stream" if stream else str(reply.json()["id"])


@pytest.mark.parametrize("stream", [True, False])
def test_a_correction_is_stored_masked_with_its_conversation(home: Home, tmp_path: Path, stream: bool) -> None:
    async def test() -> None:
        publish_versions(home, tmp_path, 1)
        async with gateway_over(engine) as client:
            word = {"id": await answer(client, stream), "thumb": "down", "consent": True, "reason": "a@b.kr 왜 줘"}
            got = await client.post("/v1/feedback", json={**word, "correction": "900101-1234568 이런 건 묻지 마."})
            assert (got.status_code, got.json()["conversation_stored"]) == (200, True)
        (found,) = FeedbackStore(home.database).all("ironman", "u1")
        assert (found.persona, found.version, found.thumb) == ("ironman", 1, "down")
        assert found.content
        assert found.content.messages == [{"role": "user", "content": "내 번호는 [전화번호]이야, 외워 둬"}]
        assert found.content.answer == "그래, 외웠어. 근데 [이메일]으로도 보내."
        assert found.content.correction == "[주민등록번호] 이런 건 묻지 마."
        assert found.content.reason == "[이메일] 왜 줘"

    run(test)


def test_without_consent_only_the_thumb_reaches_the_disk(home: Home, tmp_path: Path) -> None:
    async def test() -> None:
        publish_versions(home, tmp_path, 1)
        async with gateway_over(engine) as client:
            word = {"id": await answer(client, True), "thumb": "up", "reason": "아주 재미있는 답이었어"}
            got = await client.post("/v1/feedback", json=word)
            assert got.json() == {
                "object": "feedback", "id": "chatcmpl-stream", "thumb": "up", "conversation_stored": False,
            }  # fmt: skip
        stored = b"".join(file.read_bytes() for file in home.root.rglob("*") if file.is_file())
        assert b"chatcmpl-stream" in stored
        assert not any(text.encode() in stored for text in ("외워", "외웠어", "재미있는"))

    run(test)


@pytest.mark.parametrize(
    ("word", "status", "code"),
    [
        ({"id": "nobody", "thumb": "up"}, 404, "answer_not_found"),
        ({"id": "x"}, 400, "bad_request"),
        ({"thumb": "up"}, 400, "bad_request"),
        ({"id": "x", "thumb": "sideways"}, 400, "bad_request"),
        ({"id": "x", "thumb": "up", "typo": 1}, 400, "bad_request"),
        ({"id": "x", "correction": "가" * 16_001}, 400, "bad_request"),
        ("{", 400, "bad_request"),
        ({"id": "x", "correction": "가" * 200_000}, 413, "body_too_large"),
    ],
)
def test_bad_words(home: Home, word: Any, status: int, code: str) -> None:
    async def test() -> None:
        async with gateway_over(engine) as client:
            body = word if isinstance(word, str) else json.dumps(word)
            reply = await client.post("/v1/feedback", content=body)
            assert (reply.status_code, reply.json()["error"]["code"]) == (status, code)

    run(test)


def test_erasing_over_the_admin_api_empties_memory_too(home: Home, tmp_path: Path) -> None:
    async def test() -> None:
        publish_versions(home, tmp_path, 1)
        async with gateway_over(engine) as client:
            word = {"id": await answer(client, True), "thumb": "up", "consent": True}
            await client.post("/v1/feedback", json=word)
            erased = await client.post("/admin/feedback/erase", json={"user": "u1"})
            assert erased.json() == {"deleted": 1, "left": 0}
            assert (await client.post("/v1/feedback", json=word)).status_code == 404

    run(test)


def test_failed_answers_are_not_kept(home: Home) -> None:
    async def failing(_: web.Request) -> web.Response:
        return web.json_response({"id": "chatcmpl-bad", "error": {"message": "no"}}, status=400)

    async def test() -> None:
        async with gateway_over(failing) as client:
            await client.post("/v1/chat/completions", json=ASK)
            assert (await client.post("/v1/feedback", json={"id": "chatcmpl-bad", "thumb": "up"})).status_code == 404

    run(test)


def test_a_word_comes_from_who_got_the_answer(home: Home) -> None:
    """Ids can be guessed: nobody else may consent to keeping a conversation, or put it under another user."""

    async def test() -> None:
        mine, other = bearer(make_key(home)), bearer(make_key(home))
        async with gateway_over(engine) as client:
            assert (await client.post("/v1/chat/completions", json=ASK, headers=mine)).status_code == 200
            word = {"id": "chatcmpl-whole", "thumb": "up", "consent": True}
            for more, headers in (({}, other), ({"user": "u1"}, other), ({"user": "u2"}, mine)):
                reply = await client.post("/v1/feedback", json=word | more, headers=headers)
                assert (reply.status_code, reply.json()["error"]["code"]) == (404, "answer_not_found")
            assert list(FeedbackStore(home.database).all()) == []
            assert (await client.post("/v1/feedback", json=word | {"user": "u1"}, headers=mine)).status_code == 200
        (found,) = FeedbackStore(home.database).all(user="u1")
        assert found.content

    run(test)


@pytest.mark.parametrize(
    ("route", "ask"), [("/v1/completions", {"prompt": "안녕"}), ("/v1/responses", {"input": "안녕"})]
)
def test_other_routes_have_no_conversation_to_learn_from(home: Home, route: str, ask: dict[str, str]) -> None:
    async def other(_: web.Request) -> web.Response:
        return web.json_response({"id": "cmpl-1", "choices": [{"index": 0, "text": "그래."}], "output": []})

    async def test() -> None:
        async with gateway_over(other) as client:
            assert (await client.post(route, json={"model": "ironman", **ask})).status_code == 200
            word = {"id": "cmpl-1", "thumb": "up", "consent": True}
            assert (await client.post("/v1/feedback", json=word)).status_code == 404

    run(test)


def test_an_answer_that_was_cut_is_not_kept(home: Home) -> None:
    async def dying(request: web.Request) -> web.StreamResponse:
        reply = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await reply.prepare(request)
        await reply.write(sse(chunk("그래,")).removesuffix(b"data: [DONE]\n\n"))
        await asyncio.sleep(0.1)
        assert request.transport
        request.transport.abort()
        return reply

    async def test() -> None:
        async with gateway_over(dying) as client:
            text = (await client.post("/v1/chat/completions", json={**ASK, "stream": True})).text
            assert "engine_lost" in text
            assert (await client.post("/v1/feedback", json={"id": "chatcmpl-1", "thumb": "up"})).status_code == 404

    run(test)


def kept(size: int, at: float | None = None, user: str = "u") -> Kept:
    made = Kept("ironman", 1, user, {}, raw=[b"x" * size])
    return made if at is None else Kept("ironman", 1, user, {}, at=at, raw=[b"x" * size])


def test_the_store_is_bounded_in_bytes_and_time() -> None:
    import time

    from serve.errors import AnswerNotFound

    answers = Answers(keep_bytes=100)
    for number in range(10):
        answers._keep(str(number), kept(30))
    assert [number for number in range(10) if str(number) in answers._kept] == [7, 8, 9]
    answers._keep("huge", kept(1000))
    assert not answers._kept
    assert answers._bytes == 0
    for _ in range(9):
        answers._keep("again", kept(60))  # an engine that counts its ids anew
    assert (list(answers._kept), answers._bytes) == (["again"], 60)
    answers.forget("u")
    answers._keep("old", kept(1, at=time.monotonic() - 3601))
    with pytest.raises(AnswerNotFound):
        answers.get("old", "")
    answers._keep("mine", kept(1, user="a"))
    answers._keep("theirs", kept(1, user="b"))
    answers.forget("a")
    assert list(answers._kept) == ["theirs"]


def test_export_and_erase(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def fill() -> None:
        publish_versions(home, tmp_path, 1)
        async with gateway_over(engine) as client:
            await client.post("/v1/feedback", json={"id": await answer(client, True), "thumb": "up", "consent": True})

    def serve(*arguments: str) -> None:
        monkeypatch.setattr(sys, "argv", ["serve", "feedback", *arguments])
        with pytest.raises(SystemExit) as ended:
            run_app(app)
        assert not ended.value.code

    run(fill)
    output = tmp_path / "out.jsonl"
    serve("export", "-o", str(output), "--persona", "ironman")
    assert json.loads(output.read_text())["content"]["answer"].startswith("그래, 외웠어.")
    serve("erase", "--user", "nobody")
    serve("export")
    assert "외웠어" in capsys.readouterr().out
    serve("erase", "--user", "u1")
    assert "1 deleted; nothing is left" in capsys.readouterr().out
    serve("export")
    assert capsys.readouterr().out == ""
