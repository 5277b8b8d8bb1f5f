"""Documents, guard and feedback of one persona together: the order of the hooks, and what each leaves to the next."""

import json
import re
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiohttp import web
from fixtures_loop import chunk, gateway_over, run, sse

from personas.feedback_store import FeedbackStore
from personas.home import Home
from rag.ingest import ingest
from rag.settings import RagSettings

TEXT = "보증 기간은 구입한 날부터 2년입니다. 배터리는 6개월만 보증합니다."
ASK: dict[str, Any] = {"model": "clerk", "messages": [{"role": "user", "content": "제품 보증 기간은 얼마인가요?"}]}
GOOD = "보증 기간은 2년입니다. [1]"
DRIFTS = GOOD + " The battery is covered for six months only. 끝."
PERSONA = """\
name: clerk
title: 서기
description: 찾아 드립니다
greeting: 네
system_prompt: 당신은 서기입니다.
guard:
  fallback: 다시 물어봐 주세요.
documents:
  collection: docs
"""


@pytest.fixture(autouse=True)
def persona(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "personas" / "clerk"
    folder.mkdir(parents=True)
    (folder / "persona.yaml").write_text(PERSONA, encoding="utf-8")
    monkeypatch.setenv("GAMYEON_PERSONAS", str(folder.parent))
    (tmp_path / "보증.txt").write_text(TEXT, encoding="utf-8")
    ingest([str(tmp_path / "보증.txt")], "docs", home, RagSettings())


class Engine:
    """Answers its n-th request with the n-th text; of `max_tokens: 1` with one English word, as a real one might."""

    def __init__(self, *texts: str) -> None:
        self.texts = texts
        self.asked: list[dict[str, Any]] = []

    async def answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.asked.append(body)
        text = "The" if body.get("max_tokens") == 1 else self.texts[min(len(self.asked), len(self.texts)) - 1]
        if not body.get("stream"):
            choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "length"}
            usage = {"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 14}
            return web.json_response({"id": "chatcmpl-1", "choices": [choice], "usage": usage})
        reply = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await reply.prepare(request)
        role = {"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}
        usage = {"id": "chatcmpl-1", "choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": len(text)}}
        events = [{**chunk(), "choices": [role]}, *map(chunk, text), chunk("", finish="length"), usage]
        for raw in sse(*events).split(b"\n\n"):
            await reply.write(raw + b"\n\n")
        return reply


async def ask(client: httpx.AsyncClient, stream: bool, **more: Any) -> tuple[str, dict[str, Any], list[dict[str, Any]]]:
    """The reply's text, what stands beside it, and all chunks or the one body."""
    reply = await client.post("/v1/chat/completions", json={**ASK, **more, "stream": stream})
    assert reply.status_code == 200, reply.text
    if not stream:
        body = reply.json()
        return body["choices"][0]["message"]["content"], body, [body]
    assert reply.text.endswith("data: [DONE]\n\n")
    chunks = [json.loads(line[6:]) for line in reply.text.split("\n\n") if line.startswith("data: {")]
    assert ["citations" in one for one in chunks] == [False] * (len(chunks) - 1) + [True]
    text = "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks if c["choices"])
    return text, chunks[-1], chunks


@pytest.fixture
def relevant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve.context.judge", lambda *_: (0.9, True))


@pytest.mark.usefixtures("relevant")
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("usage", [False, True])
def test_a_mended_answer_carries_the_citations_of_what_is_sent(stream: bool, usage: bool) -> None:
    more = {"stream_options": {"include_usage": True}} if usage and stream else {}

    async def test() -> None:
        engine = Engine(DRIFTS, " 배터리는 6개월입니다. [1]")
        async with gateway_over(engine.answer) as client:
            text, last, chunks = await ask(client, stream, **more)
        assert text == GOOD + " 배터리는 6개월입니다. [1]"
        (citation,) = last["citations"]
        assert (citation["document"], citation["number"], citation["used"]) == ("보증.txt", 1, True)
        assert last["grounding"] == {"found": True, "unsupported": []}
        assert ["usage" in one for one in chunks][-1] == (usage or not stream)
        first, second = engine.asked
        assert TEXT in first["messages"][-1]["content"]
        assert first["messages"][-1] == second["messages"][-2]
        assert "documents" not in first

    run(test)


@pytest.mark.usefixtures("relevant")
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("text", "kept", "used"), [(DRIFTS, GOOD, True), ("All of it is English.", "", False)])
def test_an_answer_given_up_still_has_the_passages(stream: bool, text: str, kept: str, used: bool) -> None:
    async def test() -> None:
        engine = Engine(text, " And it goes on in English, too.")
        async with gateway_over(engine.answer) as client:
            said, last, _ = await ask(client, stream)
        assert said == (kept or "다시 물어봐 주세요.")
        assert [(c["document"], c["used"]) for c in last["citations"]] == [("보증.txt", used)]
        assert len(engine.asked) == 3

    run(test)


@pytest.mark.parametrize("stream", [False, True])
def test_not_found_passes_the_guard_unharmed(stream: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve.context.judge", lambda *_: (0.1, False))
    monkeypatch.setenv("LANG", "ko_KR.UTF-8")

    async def test() -> None:
        engine = Engine("must not be said")
        async with gateway_over(engine.answer) as client:
            said, last, chunks = await ask(client, stream, min_tokens=20, structured_outputs={"choice": ["a long one"]})
            assert said == "자료에서 관련 내용을 찾지 못했습니다. 질문을 바꾸거나 다른 문서를 넣어 주세요."
            assert "The" not in json.dumps(chunks)
            assert last["grounding"] == {"found": False, "unsupported": []}
            assert [citation["used"] for citation in last["citations"]] == [False]
            (asked,) = engine.asked  # the guard asks for no second one
            assert asked["max_tokens"] == 1
            assert not {"min_tokens", "structured_outputs"} & set(asked)
            ended = [c["choices"][0].get("finish_reason") for c in chunks if c["choices"]]
            assert ended.count("stop") == 1
            assert set(ended) <= {"stop", None}

    run(test)


@pytest.mark.usefixtures("relevant")
def test_feedback_keeps_what_was_said_and_the_metrics_show_all_three(home: Home) -> None:
    async def test() -> None:
        async with gateway_over(Engine(DRIFTS, " 배터리는 6개월입니다. [1]").answer) as client:
            await ask(client, True)
            word = {"id": "chatcmpl-1", "thumb": "up", "consent": True}
            assert (await client.post("/v1/feedback", json=word)).status_code == 200
            shown = (await client.get("/metrics")).text
        (found,) = FeedbackStore(home.database).all("clerk")
        assert found.content
        assert found.content.messages == ASK["messages"]  # without the passages, which may be another's
        assert found.content.answer == GOOD + " 배터리는 6개월입니다. [1]"
        assert found.content.grounded
        assert len(found.content.failures) == 1
        counted = dict(re.findall(r"^(gamyeon_(?:guard|feedback|retrieval)\S*) (\S+)$", shown, re.MULTILINE))
        assert counted['gamyeon_guard_replies_total{model="clerk",outcome="mended"}'] == "1.0"
        assert counted['gamyeon_guard_sentences_total{drift="english",model="clerk"}'] == "1.0"
        assert counted['gamyeon_feedback_total{persona="clerk",value="up",version=""}'] == "1.0"
        assert counted['gamyeon_retrieval_seconds_count{found="true",persona="clerk"}'] == "1.0"

    run(test)
