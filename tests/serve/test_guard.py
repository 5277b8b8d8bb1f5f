"""The language guard in front of a fake engine that drifts: nothing foreign is ever sent, and tries are bounded."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from aiohttp import web
from fixtures_loop import chunk, gateway_over, run, sse
from gateway_fakes import bearer, make_key

from personas.home import Home
from personas.schema import Guard

ASK: dict[str, Any] = {
    "model": "stark",
    "messages": [{"role": "user", "content": "안녕?"}],
    "max_tokens": 60,
    "seed": 5,
}
PERSONA = """\
name: stark
title: 스타크
description: 시험
greeting: 안녕
system_prompt: 너는 스타크야.
guard:
  language: ko
  allow: [rescue]
  fallback: 다시 물어봐 줘.
"""


@pytest.fixture(autouse=True)
def persona(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "personas" / "stark" / "persona.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(PERSONA, encoding="utf-8")
    monkeypatch.setenv("GAMYEON_PERSONAS", str(file.parent.parent))
    return file


class Engine:
    """Answers its n-th request with the n-th text, the last one again and again."""

    def __init__(self, *texts: str, size: int = 2) -> None:
        self.texts, self.size = texts, size
        self.asked: list[dict[str, Any]] = []

    async def answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.asked.append(body)
        text = self.texts[min(len(self.asked), len(self.texts)) - 1]
        name = f"chatcmpl-{len(self.asked)}"
        if not body.get("stream"):
            choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
            usage = {"prompt_tokens": 9, "completion_tokens": len(text), "total_tokens": 9 + len(text)}
            return web.json_response({"id": name, "model": body["model"], "choices": [choice], "usage": usage})
        reply = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await reply.prepare(request)
        role = {"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}
        pieces = [text[i : i + self.size] for i in range(0, len(text), self.size)]
        events = [{**chunk(answer=name), "choices": [role]}, *(chunk(piece, answer=name) for piece in pieces)]
        raw = sse(*events, chunk("", finish="stop", answer=name), {"id": name, "choices": [], "usage": {"n": 1}})
        for start in range(0, len(raw), 61):  # within events and letters
            await reply.write(raw[start : start + 61])
        return reply


async def stream(client: httpx.AsyncClient) -> tuple[str, list[dict[str, Any]]]:
    reply = await client.post(
        "/v1/chat/completions", json={**ASK, "stream": True, "stream_options": {"include_usage": True}}
    )
    events = [line.removeprefix("data: ") for line in reply.text.split("\n\n") if line]
    assert events[-1] == "[DONE]"
    found = [json.loads(event) for event in events[:-1]]
    return "".join(e["choices"][0]["delta"].get("content") or "" for e in found if e["choices"]), found


async def whole(client: httpx.AsyncClient) -> tuple[str, dict[str, Any]]:
    answer = (await client.post("/v1/chat/completions", json=ASK)).json()
    return answer["choices"][0]["message"]["content"], answer


CLEAN = (
    "그래, 왔구나. 오늘은 PyTorch 얘기를 하자.\n\n```sh\necho I will write some English here\n```\n됐지? rescue 출동."
)


def test_a_clean_reply_passes_in_one_try() -> None:
    async def test() -> None:
        engine = Engine(CLEAN)
        async with gateway_over(engine.answer) as client:
            text, events = await stream(client)
            assert text == CLEAN
            assert events[0]["choices"][0]["delta"]["role"] == "assistant"
            assert events[-1]["usage"] == {"n": 1}
            assert [e["choices"][0]["finish_reason"] for e in events[:-1]].count("stop") == 1
            assert (await whole(client))[0] == CLEAN
        assert len(engine.asked) == 2
        assert "continue_final_message" not in engine.asked[0]

    run(test)


DRIFTS = "그래, 들어 봐. 첫째는 잠이야. Second, you should eat well every day. 셋째는 운동."


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_drift_is_never_seen_and_the_reply_goes_on_from_the_last_good_sentence(size: int) -> None:
    async def test() -> None:
        engine = Engine(DRIFTS, " 둘째는 밥이야. 셋째는 운동이고.", size=size)
        async with gateway_over(engine.answer) as client:
            text, events = await stream(client)
        assert text == "그래, 들어 봐. 첫째는 잠이야. 둘째는 밥이야. 셋째는 운동이고."
        assert {event["id"] for event in events} == {"chatcmpl-1"}
        first, second = engine.asked
        assert second["messages"][:-1] != first["messages"]
        assert "한글" in second["messages"][0]["content"]
        assert second["messages"][-1] == {"role": "assistant", "content": "그래, 들어 봐. 첫째는 잠이야."}
        assert (second["continue_final_message"], second["add_generation_prompt"]) == (True, False)
        assert (second["temperature"], second["seed"]) == (0.3, 6)
        assert second["max_tokens"] < 60
        assert "structured_outputs" not in second

    run(test)


def test_a_whole_reply_is_mended_too() -> None:
    async def test() -> None:
        engine = Engine(DRIFTS, " 둘째는 밥이야.")
        async with gateway_over(engine.answer) as client:
            text, answer = await whole(client)
        assert text == "그래, 들어 봐. 첫째는 잠이야. 둘째는 밥이야."
        assert answer["id"] == "chatcmpl-1"
        assert answer["usage"]["completion_tokens"] == len(DRIFTS) + len(" 둘째는 밥이야.")

    run(test)


@pytest.mark.parametrize("ask", [stream, whole])
def test_tries_are_bounded_and_the_good_part_stays(ask: Callable[[httpx.AsyncClient], Any]) -> None:
    async def test() -> None:
        engine = Engine("그래, 왔구나. Well, this is how it goes.", " And again I speak English to you.")
        async with gateway_over(engine.answer) as client:
            assert (await ask(client))[0] == "그래, 왔구나."
        assert len(engine.asked) == 3
        assert "structured_outputs" in engine.asked[2]

    run(test)


@pytest.mark.parametrize("ask", [stream, whole])
def test_a_reply_with_nothing_good_is_the_fallback(ask: Callable[[httpx.AsyncClient], Any]) -> None:
    async def test() -> None:
        engine = Engine("私はトニーです。")
        async with gateway_over(engine.answer) as client:
            assert (await ask(client))[0] == "다시 물어봐 줘."
        assert len(engine.asked) == 3
        assert "continue_final_message" not in engine.asked[1]

    run(test)


def test_an_openai_client_reads_the_mended_stream() -> None:
    async def test() -> None:
        async with gateway_over(Engine(DRIFTS, " 둘째는 밥이야.").answer) as client:
            reader = openai.AsyncOpenAI(base_url=f"{client.base_url}/v1", api_key="none", max_retries=0)
            text, ended = "", 0
            reply = await reader.chat.completions.create(**ASK, stream=True)
            async for event in reply:
                if event.choices:
                    text += event.choices[0].delta.content or ""
                    ended += event.choices[0].finish_reason == "stop"
            await reader.close()
        assert (text, ended) == ("그래, 들어 봐. 첫째는 잠이야. 둘째는 밥이야.", 1)

    run(test)


def test_guarded_failures_are_kept_for_learning_with_consent(tmp_path: Path) -> None:
    from personas.feedback_store import FeedbackStore

    async def test() -> None:
        async with gateway_over(Engine(DRIFTS, " 둘째는 밥이야.").answer) as client:
            await stream(client)
            word = {"id": "chatcmpl-1", "thumb": "up", "consent": True}
            assert (await client.post("/v1/feedback", json=word)).status_code == 200
        (found,) = FeedbackStore(Home.from_env().database).all("stark")
        assert found.content
        assert found.content.answer == "그래, 들어 봐. 첫째는 잠이야. 둘째는 밥이야."
        assert found.content.failures == ["그래, 들어 봐. 첫째는 잠이야. Second, you should eat well every day."]

    run(test)


@pytest.mark.parametrize("more", [{"n": 2}, {"response_format": {"type": "json_object"}}, {"logprobs": True}])
def test_replies_in_a_form_of_their_own_are_not_guarded(more: dict[str, Any]) -> None:
    async def test() -> None:
        engine = Engine("This is English, all of it.")
        async with gateway_over(engine.answer) as client:
            reply = await client.post("/v1/chat/completions", json={**ASK, **more})
            assert reply.json()["choices"][0]["message"]["content"].startswith("This is English")
        assert len(engine.asked) == 1

    run(test)


def test_without_a_guard_bytes_pass_unchanged(persona: Path) -> None:
    persona.write_text(PERSONA[: PERSONA.index("guard:")], encoding="utf-8")
    raw = b'data: {"id" : "chatcmpl-9",  "choices":[]}\n\ndata: [DONE]\n\n'

    async def engine(request: web.Request) -> web.Response:
        return web.Response(body=raw, content_type="text/event-stream")

    async def test() -> None:
        async with gateway_over(engine) as client:
            assert (
                await client.post(
                    "/v1/chat/completions", json={**ASK, "stream": True, "stream_options": {"include_usage": True}}
                )
            ).content == raw

    run(test)


def test_the_engines_error_comes_through() -> None:
    async def engine(_: web.Request) -> web.Response:
        return web.json_response({"error": {"message": "too long"}}, status=400)

    async def test() -> None:
        async with gateway_over(engine) as client:
            for more in ({"stream": True}, {}):
                reply = await client.post("/v1/chat/completions", json={**ASK, **more})
                assert (reply.status_code, reply.json()) == (400, {"error": {"message": "too long"}})

    run(test)


def test_an_engine_that_dies_while_mending_ends_the_stream_with_an_error() -> None:
    scripted = Engine(DRIFTS)

    async def engine(request: web.Request) -> web.StreamResponse:
        if scripted.asked:
            assert request.transport
            request.transport.abort()
        return await scripted.answer(request)

    async def test() -> None:
        async with gateway_over(engine) as client:
            text = (
                await client.post(
                    "/v1/chat/completions", json={**ASK, "stream": True, "stream_options": {"include_usage": True}}
                )
            ).text
        assert "[DONE]" not in text
        assert json.loads(text.strip().split("data: ")[-1])["error"]["code"] == "engine_lost"

    run(test)


def test_the_schema_refuses_what_is_no_guard() -> None:
    assert Guard().language == "ko"
    for wrong in ({"language": "fr"}, {"threshold": 0}, {"tries": 9}, {"typo": 1}):
        with pytest.raises(ValueError):
            Guard.model_validate(wrong)


class Counting(Engine):
    """Says in every event how many tokens it has had, as vLLM does where it is asked for."""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.asked.append(body)
        reply = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await reply.prepare(request)
        text, counts = self.texts[min(len(self.asked), len(self.texts)) - 1], body["stream_options"]
        assert counts == {"include_usage": True, "continuous_usage_stats": True}
        for number, letter in enumerate(text, 1):
            usage = {"prompt_tokens": 10 + len(self.asked), "total_tokens": 0, "completion_tokens": number}
            await reply.write(sse({**chunk(letter), "usage": usage}).removesuffix(b"data: [DONE]\n\n"))
        await reply.write(sse(chunk("", finish="stop"), {"id": "x", "choices": [], "usage": usage}))
        return reply


@pytest.mark.parametrize("asks", [True, False])
@pytest.mark.parametrize("texts", [(DRIFTS, " 둘째는 밥이야."), ("This is all in English. ",)])
def test_what_failed_tries_generated_is_counted(home: Home, texts: tuple[str, ...], asks: bool) -> None:
    """A key pays for them: else drifting replies would pass its limits for nothing."""
    secret = make_key(home, "chat", "admin")
    # A try ends with the letter that shows its drifting sentence to be whole.
    tries = [DRIFTS.index("셋째") + 1, len(texts[-1])] if len(texts) > 1 else [len(texts[0])] * 3
    ask: dict[str, Any] = {**ASK, "stream": True} | ({"stream_options": {"include_usage": True}} if asks else {})

    async def test() -> None:
        async with gateway_over(Counting(*texts).answer) as client:
            client.headers.update(bearer(secret))
            text = (await client.post("/v1/chat/completions", json=ask)).text
            (used,) = (await client.get("/admin/usage")).json()["data"]
        assert (used["prompt_tokens"], used["completion_tokens"]) == (11, sum(tries))
        events = [json.loads(line[6:]) for line in text.split("\n\n") if line.startswith("data: {")]
        told = [event["usage"] for event in events if "usage" in event]
        assert told == (
            [{"prompt_tokens": 11, "total_tokens": 11 + sum(tries), "completion_tokens": sum(tries)}] * asks
        )

    run(test)


def test_both_names_of_the_limit_are_kept_to() -> None:
    async def test() -> None:
        engine = Engine(DRIFTS, " 둘째는 밥이야.", size=1)
        ask = {key: value for key, value in ASK.items() if key != "max_tokens"}
        async with gateway_over(engine.answer) as client:
            more = {"max_completion_tokens": 60, "min_tokens": 50, "stream": True}
            await client.post("/v1/chat/completions", json={**ask, **more})
        second = engine.asked[1]
        assert second["max_completion_tokens"] == 60 - len("그래, 들어 봐. 첫째는 잠이야. S")
        assert "max_tokens" not in second
        assert "min_tokens" not in second

    run(test)


@pytest.mark.parametrize(
    ("raw", "code"),
    [(sse(chunk("그래, 왔구")), "engine_lost"), (b"data: {broken\n\n", "engine_lost"), (b"", "engine_lost")],
)
def test_a_stream_without_end_or_sense_gets_an_error_and_no_done(raw: bytes, code: str) -> None:
    async def engine(_: web.Request) -> web.Response:
        return web.Response(body=raw, content_type="text/event-stream")

    async def test() -> None:
        async with gateway_over(engine) as client:
            text = (await client.post("/v1/chat/completions", json={**ASK, "stream": True})).text
        assert "[DONE]" not in text
        assert json.loads(text.strip().split("data: ")[-1])["error"]["code"] == code

    run(test)


def test_a_body_that_is_no_json_is_the_engines_fault() -> None:
    async def engine(_: web.Request) -> web.Response:
        return web.Response(body=b"{broken", content_type="application/json")

    async def test() -> None:
        async with gateway_over(engine) as client:
            reply = await client.post("/v1/chat/completions", json=ASK)
            assert (reply.status_code, reply.json()["error"]["code"]) == (502, "engine_lost")

    run(test)


def test_events_may_end_their_lines_the_other_way() -> None:
    """sse-starlette, under llama-cpp-python and others, writes CR LF."""

    async def engine(_: web.Request) -> web.Response:
        usage = {"id": "x", "choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}}
        raw = sse(chunk("그래, 왔"), chunk("구나."), chunk(finish="stop"), usage).replace(b"\n", b"\r\n")
        return web.Response(body=raw, content_type="text/event-stream")

    async def test() -> None:
        async with gateway_over(engine) as client:
            text = (await client.post("/v1/chat/completions", json={**ASK, "stream": True})).text
            events = [json.loads(line[6:]) for line in text.split("\n\n") if line.startswith("data: {")]
            assert "".join(e["choices"][0]["delta"].get("content") or "" for e in events) == "그래, 왔구나."
            assert text.endswith("data: [DONE]\n\n")

    run(test)
