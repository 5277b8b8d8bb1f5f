"""The whole product over the real vLLM: persona → gateway → engine → adapter, one engine a run."""

import asyncio
import contextlib
import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from conftest import Running, descendants, line_with
from playwright.sync_api import sync_playwright

from personas.adapters import AdapterStore, Manifest
from personas.bases import Base
from personas.loader import find_persona
from personas.registry import Registry
from tune.data import read_records
from tune.remember import remembered

pytestmark = pytest.mark.timeout(1200)
ASK = [{"role": "user", "content": "소코비아 협정에 대해 어떻게 생각하나요?"}]


@pytest.fixture
def client(running: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{running.url}/v1", api_key="none", timeout=120, max_retries=0) as client:
        yield client


def post(running: Running, **body: Any) -> dict[str, Any]:
    reply = httpx.post(
        f"{running.url}/v1/chat/completions", json={"model": "ironman", "messages": ASK, **body}, timeout=120
    )
    assert reply.status_code == 200, reply.text
    found: dict[str, Any] = reply.json()
    return found


def hangul_share(text: str) -> float:
    letters = [c for c in text if c.isalpha()]
    return sum("가" <= c <= "힣" for c in letters) / max(1, len(letters))


def vllm_process(running: Running) -> int:
    """The engine's process id."""
    return next(
        p for p in descendants(running.process.pid) if b"serve.vllm_child" in Path(f"/proc/{p}/cmdline").read_bytes()
    )


def test_the_shipped_iron_man_answers_in_korean_and_stops(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(model="ironman", messages=ASK, seed=7)  # type: ignore[arg-type]
    text = reply.choices[0].message.content
    assert reply.model == "ironman@v1"
    assert text
    assert hangul_share(text) >= 0.85
    assert reply.choices[0].finish_reason == "stop"
    assert reply.usage
    assert reply.usage.completion_tokens > 3


def test_a_stream_is_the_whole_reply_and_hangul_is_never_broken(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "ironman", "messages": ASK, "temperature": 0}
    whole = client.chat.completions.create(**asked).choices[0].message.content
    chunks = list(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == whole
    assert chunks[-1].usage
    assert "\N{REPLACEMENT CHARACTER}" not in (whole or "")


def test_openai_parameters_do_what_vllm_does(running: Running) -> None:
    two = post(running, n=2, logprobs=True, top_logprobs=2, max_tokens=8)
    assert len(two["choices"]) == 2
    assert len(two["choices"][0]["logprobs"]["content"][0]["top_logprobs"]) == 2
    seeded = [post(running, seed=3, temperature=1, max_tokens=12)["choices"][0]["message"]["content"] for _ in range(2)]
    assert seeded[0] == seeded[1]
    first = seeded[0][:2]
    assert (
        first not in post(running, seed=3, temperature=1, max_tokens=12, stop=first)["choices"][0]["message"]["content"]
    )
    schema = {
        "type": "object",
        "properties": {"mood": {"enum": ["good", "bad"]}},
        "required": ["mood"],
        "additionalProperties": False,
    }
    made = post(
        running, max_tokens=40, response_format={"type": "json_schema", "json_schema": {"name": "m", "schema": schema}}
    )
    assert json.loads(made["choices"][0]["message"]["content"])["mood"] in ("good", "bad")


def test_a_named_tool_is_called(running: Running) -> None:
    parameters = {
        "type": "object",
        "properties": {"city": {"enum": ["서울", "부산"]}},
        "required": ["city"],
        "additionalProperties": False,
    }
    tool = {"type": "function", "function": {"name": "weather", "strict": True, "parameters": parameters}}
    made = post(running, tools=[tool], tool_choice={"type": "function", "function": {"name": "weather"}}, max_tokens=60)
    call = made["choices"][0]["message"]["tool_calls"][0]["function"]
    assert call["name"] == "weather"
    assert json.loads(call["arguments"])["city"] in ("서울", "부산")


def test_completions_and_the_bare_base(client: openai.OpenAI) -> None:
    for model in ("gemma-3-270m", "ironman"):
        assert client.completions.create(model=model, prompt="대한민국의 수도는", max_tokens=4).choices[0].text


def test_trained_and_served_token_ids_are_equal(running: Running, embedded: Base) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(embedded.path)
    persona = find_persona("ironman")
    records = remembered(read_records([persona.eval_file]), persona, running.home)
    process = vllm_process(running)
    command = Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0")
    port = int(command[command.index(b"--port") + 1])
    environment = dict(
        e.split(b"=", 1) for e in Path(f"/proc/{process}/environ").read_bytes().split(b"\0") if b"=" in e
    )
    headers = {"authorization": f"Bearer {environment[b'VLLM_API_KEY'].decode()}"}
    for record in [records[0], *(r for r in records if len(r.messages) > 2)]:
        conversation = record.conversation(persona.persona.system_prompt)
        trained = tokenizer.apply_chat_template(conversation, tokenize=True, return_dict=True)["input_ids"]
        body = {"model": embedded.name, "messages": conversation, "add_generation_prompt": False}
        served = httpx.post(f"http://127.0.0.1:{port}/tokenize", json=body, headers=headers).json()["tokens"]
        assert served == trained
        # and as the gateway sends it: without the system prompt, its examples and the last answer, which it asks for
        asked = [turn.model_dump() for turn in record.messages[:-1]]
        got = post(running, messages=asked, max_tokens=1, return_token_ids=True)["prompt_token_ids"]
        assert got == trained[: len(got)]
        assert len(got) > len(trained) / 2


def publish_copy(running: Running, base: Base) -> Manifest:
    """The first Iron Man adapter again, as the next version, and live."""
    store, registry = AdapterStore(running.home.adapters), Registry(running.home.database)
    source = store.folder("ironman", 1)
    fields = {"persona": "ironman", "rank": 16, "recipe": {}, "data_sha256": "", "records": 0, "scores": {}}
    manifest = store.publish(source, fields, base)
    registry.add("ironman", manifest.version)
    registry.promote("ironman", manifest.version, "test", "swap")
    registry.close()
    return manifest


def test_a_new_version_goes_live_under_load_without_a_failure(running: Running, embedded: Base) -> None:
    seen: list[str] = []

    async def ask(client: openai.AsyncOpenAI, until: asyncio.Event) -> None:
        while not until.is_set():
            stream = await client.chat.completions.create(model="ironman", messages=ASK, stream=True, max_tokens=12)  # type: ignore[call-overload]
            names = {chunk.model async for chunk in stream}
            assert len(names) == 1, f"one reply of two versions: {names}"
            seen.extend(names)

    async def test() -> Manifest:
        async with openai.AsyncOpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0) as client:
            until = asyncio.Event()
            asking = [asyncio.create_task(ask(client, until)) for _ in range(4)]
            await asyncio.sleep(2)
            manifest = await asyncio.to_thread(publish_copy, running, embedded)
            await asyncio.sleep(4)
            until.set()
            await asyncio.gather(*asking)
            return manifest

    manifest = asyncio.run(test())
    assert {seen[0], seen[-1]} == {f"ironman@v{manifest.version - 1}", manifest.id}
    assert post(running, model="ironman@v1", max_tokens=1)["model"] == "ironman@v1"


def test_a_changed_adapter_is_refused_and_says_what_to_run(running: Running, embedded: Base) -> None:
    manifest = publish_copy(running, embedded)
    folder = AdapterStore(running.home.adapters).folder("ironman", manifest.version)
    with (folder / "adapter_model.safetensors").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\x7f")
    reply = httpx.post(f"{running.url}/v1/chat/completions", json={"model": manifest.id, "messages": ASK})
    registry = Registry(running.home.database)
    registry.promote("ironman", 1, "test", "back")
    registry.close()
    assert reply.status_code == 409
    assert "tune persona ironman" in reply.json()["error"]["message"]
    shutil.rmtree(folder)


def test_the_page_answers_in_a_browser_and_survives_a_killed_engine(running: Running) -> None:
    address = line_with(running.output, "page", running.process)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=os.environ.get("CHROMIUM", "/usr/bin/chromium"),
            args=["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"],
        )  # fmt: skip
        with contextlib.closing(browser):
            page = browser.new_page()
            page.goto(address)
            page.get_by_text(find_persona("ironman").persona.greeting).wait_for()
            page.get_by_text("Engine ready").wait_for()
            page.get_by_role("button", name=find_persona("ironman").persona.questions[0]).click()
            page.wait_for_function("document.querySelectorAll('#chat .bot.message').length >= 2", timeout=60_000)
            page.locator("#send").wait_for(state="visible", timeout=60_000)
            assert hangul_share(page.locator("#chat .bot.message").last.inner_text()) > 0.8

            os.kill(vllm_process(running), signal.SIGKILL)
            page.locator("#engine .badge:not(.ready)").wait_for(timeout=20_000)
            assert (
                httpx.post(f"{running.url}/v1/chat/completions", json={"model": "ironman", "messages": ASK}).status_code
                == 503
            )
            page.fill("#ask textarea", "다시 살아나면 대답해 줘")
            page.press("#ask textarea", "Enter")
            page.locator("#engine .badge.ready").wait_for(timeout=400_000)
            page.locator("#send").wait_for(state="visible", timeout=60_000)
            answer = page.locator("#chat .bot.message").last.inner_text()
            assert hangul_share(answer) > 0.8, answer
    assert httpx.get(f"{running.url}/ready").json()["restarts"] == 1
