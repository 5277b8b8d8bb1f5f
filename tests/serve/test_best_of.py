"""The best of several replies, from a fake engine that writes good and bad ones."""

import json
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from fixtures_loop import gateway_over, run

from serve.best_of import best

PERSONA = """\
name: stark
title: 스타크
description: 시험
greeting: 안녕
system_prompt: 나는 스타크.
best_of: {n: 3}
example_memory: {least: 0.2}
"""
SAID = "장화를 신고 우산을 챙겨. 젖은 양말은 하루를 망치거든."
TEXTS = ["비는 밥이야.", "장화를 신고 우산을 챙겨. 젖은 신발은 하루를 망치거든.", "우산은 날아가."]
ASK: dict[str, Any] = {"model": "stark", "messages": [{"role": "user", "content": "오늘 비가 많이 온대"}]}


def choice(text: str, finish: str = "stop") -> dict[str, Any]:
    return {"index": 7, "message": {"role": "assistant", "content": text}, "finish_reason": finish}


@pytest.fixture(autouse=True)
def persona(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "personas" / "stark"
    (folder / "data").mkdir(parents=True)
    (folder / "persona.yaml").write_text(PERSONA, encoding="utf-8")
    turns = [{"role": "user", "content": "비가 많이 오네"}, {"role": "assistant", "content": SAID}]
    (folder / "data" / "a.jsonl").write_text(json.dumps({"category": "a", "messages": turns}), encoding="utf-8")
    monkeypatch.setenv("GAMYEON_PERSONAS", str(folder.parent))


class Engine:
    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []

    async def answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.asked.append(body)
        if body.get("seed") == 400:
            return web.json_response({"error": {"message": "no such seed"}}, status=400)
        choices = [choice(text) for text in TEXTS[: body.get("n") or 1]]
        usage = {"prompt_tokens": 9, "completion_tokens": 30, "total_tokens": 39}
        return web.json_response({"id": "chatcmpl-1", "model": "stark", "choices": choices, "usage": usage})


def test_what_the_examples_support_is_sent_whole_and_as_a_stream() -> None:
    engine = Engine()

    async def test() -> None:
        async with gateway_over(engine.answer) as client:
            whole = (await client.post("/v1/chat/completions", json=ASK)).json()
            assert [one["message"]["content"] for one in whole["choices"]] == [TEXTS[1]]
            assert whole["choices"][0]["index"] == 0
            assert whole["usage"]["completion_tokens"] == 30  # all were generated
            for asked in ({}, {"stream_options": {"include_usage": True}}):
                reply = await client.post("/v1/chat/completions", json={**ASK, **asked, "stream": True})
                assert reply.headers["content-type"].startswith("text/event-stream")
                *events, done = [line.removeprefix("data: ") for line in reply.text.split("\n\n") if line]
                chunks = [json.loads(event) for event in events]
                assert done == "[DONE]"
                assert {one["object"] for one in chunks} == {"chat.completion.chunk"}
                deltas = [one["choices"][0] for one in chunks if one["choices"]]
                assert "".join(one["delta"].get("content", "") for one in deltas) == TEXTS[1]
                assert [one["finish_reason"] for one in deltas] == [None, None, "stop"]
                assert [one["usage"]["total_tokens"] for one in chunks if not one["choices"]] == [39] * bool(asked)

    run(test)
    assert [(one["n"], one["stream"], "stream_options" in one) for one in engine.asked] == [(3, False, False)] * 3


def test_an_answer_in_a_form_of_its_own_and_an_error_are_passed_on() -> None:
    engine = Engine()

    async def test() -> None:
        async with gateway_over(engine.answer) as client:
            two = (await client.post("/v1/chat/completions", json={**ASK, "n": 2})).json()
            assert len(two["choices"]) == 2
            for stream in (False, True):
                wrong = await client.post("/v1/chat/completions", json={**ASK, "seed": 400, "stream": stream})
                assert (wrong.status_code, wrong.json()["error"]["message"]) == (400, "no such seed")

    run(test)


def test_without_examples_the_replies_vote_and_one_that_fails_comes_last() -> None:
    texts = ["비 오는 날은 집에 있어.", "비 오는 날은 집이 최고야.", "고래는 노래해."]
    assert best([choice(text) for text in texts], [])["message"]["content"] in texts[:2]
    cut, good = choice(SAID, "length"), choice("장화를 신어.")
    assert best([cut, good], [SAID]) is good
    foreign = choice(SAID + " You should really take an umbrella with you today.")
    assert best([foreign, good], [SAID]) is good
