"""Thumbs and corrections: the page's own logic, and the whole way in a real browser over a fake engine."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from conftest import line_with
from fixtures_loop import chunk, gateway_over, publish_versions, sse
from playwright.sync_api import Page, expect, sync_playwright

from personas.feedback_store import Feedback, FeedbackStore
from personas.home import Home
from serve.engine import free_port
from ui.tabs.words import answer_id

HISTORY = [
    {"role": "assistant", "content": "어서 와."},
    {"role": "user", "content": "안녕"},
    {"role": "assistant", "content": "그래.", "metadata": {"id": "chatcmpl-7"}},
]


@pytest.mark.parametrize(("index", "answer"), [(2, "chatcmpl-7"), ([2, 0], "chatcmpl-7"), (0, ""), (1, ""), (9, "")])
def test_only_answers_have_an_id(index: Any, answer: str) -> None:
    assert answer_id(HISTORY, index) == answer


async def engine(request: web.Request) -> web.Response:
    raw = sse(*(chunk(letter, answer="chatcmpl-page") for letter in "그건 비밀이야, 전화해."), chunk(finish="stop"))
    return web.Response(body=raw, content_type="text/event-stream")


def use(page: Page) -> None:
    """Ask, thumb down, agree, and put the answer right."""
    page.get_by_text("어서 와.").first.wait_for()
    page.fill("#ask textarea", "비밀이 뭐야?")
    page.press("#ask textarea", "Enter")
    page.get_by_text("그건 비밀이야, 전화해.").wait_for()
    page.locator("#send").wait_for(state="visible")
    page.locator("#chat .bot.message").last.hover()
    page.get_by_label("dislike").last.click()
    expect(page.get_by_text("Without your consent")).to_be_visible()
    page.locator("#consent input").check()
    page.get_by_label("edit").last.click()
    box = page.locator("#chat .bot textarea, #chat textarea").last
    box.fill("아크 원자로 도면이야. 010-1234-5678로 물어봐.")
    page.get_by_label("Submit").last.click()
    expect(page.get_by_text("The next version will learn")).to_be_visible()
    if picture := os.environ.get("PICTURE"):
        page.screenshot(path=picture)


def in_browser(url: str, output: Path) -> None:
    command = [sys.executable, "-m", "ui.cli", "--gateway", url, "--port", str(free_port()), "--lang", "en"]
    with output.open("w") as file:
        child = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
    try:
        address = line_with(output, "✓ page", child)  # type: ignore[arg-type]
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=os.environ.get("CHROMIUM", "/usr/bin/chromium"),
                args=["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"],
            )
            page = browser.new_page(viewport={"width": 900, "height": 860})
            page.set_default_timeout(20_000)
            page.goto(address)
            use(page)
            browser.close()
    finally:
        child.terminate()
        child.wait(20)


@pytest.mark.timeout(180)
def test_a_correction_in_the_page_reaches_the_database(home: Home, tmp_path: Path) -> None:
    async def test() -> None:
        publish_versions(home, tmp_path, 1)
        async with gateway_over(engine) as client:
            await asyncio.to_thread(in_browser, str(client.base_url), tmp_path / "page.txt")

    asyncio.run(asyncio.wait_for(test(), 170))
    found: list[Feedback] = list(FeedbackStore(home.database).all("ironman"))
    assert [(word.thumb, word.version, word.consent) for word in found] == [("down", 1, True)]
    assert found[0].content
    assert found[0].content.correction == "아크 원자로 도면이야. [전화번호]로 물어봐."
    assert found[0].content.answer == "그건 비밀이야, 전화해."
    assert found[0].content.messages[-1] == {"role": "user", "content": "비밀이 뭐야?"}
