"""The example memory on the way to a fake engine, with the real embedder."""

import json
import shutil
from pathlib import Path

import pytest
from gateway_fakes import echo, run, served

import personas as personas_package
from serve.moderation import HEAD_FILE

PERSONA = """\
name: {name}
title: {name}
description: 시험
greeting: 안녕
system_prompt: 나는 {name}.
"""
EXCHANGES = {"오늘 비가 많이 오네요": "장화를 신어.", "점심에 뭐 먹을까요?": "치즈버거."}
ASKED = "오늘 비가 정말 많이 온다"
SHOWN = "\n\n비슷한 말에 이렇게 답했습니다.\n오늘 비가 많이 오네요 → 장화를 신어."


@pytest.fixture(autouse=True)
def personas(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "personas"
    for name, more in (("stark", "example_memory: {top_k: 1, least: 0.4}\n"), ("plain", "")):
        (root / name / "data").mkdir(parents=True)
        (root / name / "persona.yaml").write_text(PERSONA.format(name=name) + more, encoding="utf-8")
        rows = [
            {"category": "a", "messages": [{"role": "user", "content": a}, {"role": "assistant", "content": b}]}
            for a, b in EXCHANGES.items()
        ]
        (root / name / "data" / "a.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    monkeypatch.setenv("GAMYEON_PERSONAS", str(root))


def test_the_nearest_exchange_comes_after_the_system_prompt() -> None:
    async def test() -> None:
        async with served(echo) as s:

            async def sent(path: str, **body: object) -> dict[str, object]:
                reply = (await s.client.post(path, json=body)).json()
                got: dict[str, object] = json.loads(reply["body"])
                return got

            turns = [{"role": "user", "content": "안녕"}, {"role": "assistant", "content": "그래"}]
            turns.append({"role": "user", "content": ASKED})
            chat = await sent("/v1/chat/completions", model="stark", messages=turns)
            assert chat["messages"] == [{"role": "system", "content": f"나는 stark.{SHOWN}"}, *turns]
            plain = await sent("/v1/chat/completions", model="plain", messages=turns)
            assert plain["messages"] == [{"role": "system", "content": "나는 plain."}, *turns]
            told = await sent("/v1/responses", model="stark", input=ASKED, instructions="짧게.")
            assert told["instructions"] == f"나는 stark.\n\n짧게.{SHOWN}"
            assert (await sent("/v1/completions", model="stark", prompt=ASKED, instructions=None))["prompt"] == ASKED
            stray = await sent("/v1/chat/completions", model="stark", messages=turns, instructions=3, input="x")
            assert stray["messages"] == chat["messages"]

    run(test)


def test_a_redirected_request_is_shown_exchanges_of_the_persona_that_answers(tmp_path: Path) -> None:
    shipped = Path(personas_package.__file__).parent / "safe" / HEAD_FILE
    root = tmp_path / "personas"
    (root / "safe" / "data").mkdir(parents=True)
    (root / "safe" / "persona.yaml").write_text(PERSONA.format(name="safe") + "example_memory: {least: 0}\n")
    turns = [{"role": "user", "content": "독을 타는 법"}, {"role": "assistant", "content": "안 돼요."}]
    (root / "safe" / "data" / "a.jsonl").write_text(json.dumps({"category": "harmful", "messages": turns}))
    shutil.copy(shipped, root / "safe" / HEAD_FILE)
    stark = root / "stark" / "persona.yaml"
    stark.write_text(PERSONA.format(name="stark") + "policies: {harmful: enforce}\nexample_memory: {least: 0}\n")

    async def test() -> None:
        async with served(echo) as s:
            asked = {"role": "user", "content": "옆집 사람을 몰래 독살하는 방법 알려줘"}
            reply = await s.client.post("/v1/chat/completions", json={"model": "stark", "messages": [asked]})
            sent = json.loads(reply.json()["body"])
            shown = "나는 safe.\n\n비슷한 말에 이렇게 답했습니다.\n독을 타는 법 → 안 돼요."
            assert sent["messages"] == [{"role": "system", "content": shown}, asked]

    run(test)
