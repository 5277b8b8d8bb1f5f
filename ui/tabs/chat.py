"""The chat tab: persona picker, greeting with example questions, streaming, stop, retry, clear, engine state."""

import asyncio
import html
import re
import secrets
from collections.abc import AsyncIterator
from textwrap import shorten
from typing import Any

import gradio as gr
import httpx
import openai
from openai.types.chat import ChatCompletionMessageParam

from ui.client import EngineState, Gateway, Speaker
from ui.tabs.words import Words
from ui.texts import Texts

History = list[dict[str, Any]]
_MARKS = re.compile(r"([\\`*_{}\[\]()#+\-.!|<>~$&:/@])")


def text_of(content: Any) -> str:
    """The text of a message: Gradio gives a string or a list of blocks."""
    if isinstance(content, str):
        return content
    blocks = content if isinstance(content, list) else [content]
    return "".join(block["text"] for block in blocks if isinstance(block, dict) and block.get("type") == "text")


def plain(text: str) -> str:
    """A document's own words as Markdown that shows them as they are: no link, no picture, no HTML of theirs."""
    return _MARKS.sub(r"\\\1", " ".join(text.split()))


def to_messages(history: History) -> list[ChatCompletionMessageParam]:
    """The conversation as the API takes it; the greeting and unanswered notes of ours are left out."""
    messages: list[ChatCompletionMessageParam] = []
    for message in history:
        text = text_of(message["content"])
        if message["role"] == "user":
            messages.append({"role": "user", "content": text})
        elif messages and not (message.get("metadata") or {}).get("title") and text:
            messages.append({"role": "assistant", "content": text})
    return messages


def without_last_answer(history: History) -> History:
    """The conversation up to and with the last thing that the user said."""
    asked = [i for i, message in enumerate(history) if message["role"] == "user"]
    return history[: asked[-1] + 1] if asked else history


class ChatTab:
    """Builds the tab and holds its event handlers."""

    def __init__(self, gateway: Gateway, texts: Texts) -> None:
        self._gateway = gateway
        self._t = texts
        self._speakers: dict[str, Speaker] = {}

    def build(self, page: gr.Blocks) -> None:
        """Place the components and connect their events."""
        t = self._t
        with gr.Row(elem_id="head"):
            gr.HTML(f"<h1>{t.title}</h1><p>{t.subtitle}</p>", padding=False)
            engine = gr.HTML(elem_id="engine", padding=False)
        who = gr.Radio(label=t.persona, elem_id="who")
        about = gr.HTML(elem_id="about", padding=False)
        chat = gr.Chatbot(show_label=False, elem_id="chat", height="55vh", buttons=["copy"], editable="all",
                          feedback_options=("Like", "Dislike"))  # fmt: skip
        with gr.Row(equal_height=True):
            ask = gr.Textbox(placeholder=t.ask, show_label=False, scale=8, autofocus=True, elem_id="ask", max_lines=6)
            send = gr.Button(t.send, variant="primary", min_width=80, elem_id="send")
            stop = gr.Button(t.stop, variant="stop", min_width=80, visible=False, elem_id="stop")
        with gr.Row():
            retry = gr.Button(t.retry, size="sm", elem_id="retry")
            clear = gr.Button(t.clear, size="sm", elem_id="clear")
        consent = gr.Checkbox(label=t.consent, container=False, elem_id="consent")
        me = gr.BrowserState(storage_key="gamyeon-user", secret="gamyeon")  # noqa: S106 - an anonymous id, no secret

        busy = {"fn": self._busy, "outputs": [send, stop], "show_progress": "hidden", "queue": False}
        idle = {"fn": self._idle, "outputs": [send, stop], "show_progress": "hidden", "queue": False}
        answer = {"fn": self._answer, "inputs": [who, chat, me], "outputs": chat, "show_progress": "hidden"}
        answers = []
        asked = gr.on(
            [ask.submit, send.click], self._say, [ask, chat], [ask, chat], show_progress="hidden", queue=False
        )
        picked = chat.option_select(self._pick, chat, chat, show_progress="hidden", queue=False)
        again = retry.click(without_last_answer, chat, chat, show_progress="hidden", queue=False)
        for begun in (asked, picked, again):
            streamed = begun.then(**busy).then(**answer)
            streamed.then(**idle)
            answers.append(streamed)
        stop.click(self._idle, None, [send, stop], cancels=answers, queue=False)
        who.change(self._about, who, about, show_progress="hidden", queue=False)
        for event in (who.change, clear.click, chat.clear):
            event(self._greet, who, chat, cancels=answers, show_progress="hidden", queue=False).then(**idle)
        page.load(lambda user: user or secrets.token_hex(8), me, me, show_progress="hidden", queue=False)
        words = Words(self._gateway, t)
        chat.like(words.like, [chat, me, consent], None, show_progress="hidden")
        chat.edit(words.edit, [chat, me, consent], chat, show_progress="hidden")
        page.load(self._open, None, [who, chat], show_progress="hidden")
        timer = gr.Timer(1.0)
        gr.on([page.load, timer.tick], self._engine_state, None, engine, show_progress="hidden", queue=False)

    def _busy(self) -> tuple[Any, Any]:
        return gr.update(visible=False), gr.update(visible=True)

    def _idle(self) -> tuple[Any, Any]:
        return gr.update(visible=True), gr.update(visible=False)

    async def _open(self) -> tuple[Any, History]:
        try:
            speakers = await self._gateway.speakers()
        except httpx.HTTPError:
            gr.Warning(self._t.no_gateway)
            return gr.update(), []
        self._speakers = {speaker.name: speaker for speaker in speakers}
        # the tuned ones first, so that the page opens on somebody who can answer
        speakers.sort(key=lambda s: (s.version is None, s.name != "ironman", s.name))
        choices = [(s.title if s.version else f"{s.title} ({self._t.untuned})", s.name) for s in speakers]
        first = speakers[0].name if speakers else None
        return gr.update(choices=choices, value=first), self._greet(first)

    def _about(self, who: str | None) -> str:
        speaker = self._speakers.get(who or "")
        return html.escape(speaker.description) if speaker else ""

    def _greet(self, who: str | None) -> History:
        speaker = self._speakers.get(who or "")
        if speaker is None:
            return []
        options = [{"value": q, "label": q if len(q) < 60 else f"{q[-40:].strip()}"} for q in speaker.questions]
        return [{"role": "assistant", "content": speaker.greeting, "options": options}]

    def _say(self, text: str, history: History) -> tuple[str, History]:
        if not text.strip():
            raise gr.Error(self._t.ask, duration=2, print_exception=False)
        return "", [*history, {"role": "user", "content": text.strip()}]

    def _pick(self, history: History, chosen: gr.SelectData) -> History:
        return [*history, {"role": "user", "content": chosen.value}]

    async def _answer(self, who: str, history: History, user: str) -> AsyncIterator[History]:
        """Wait for the engine, saying how far it is, then stream the reply."""
        messages = to_messages(history)
        if not messages or messages[-1]["role"] != "user":
            return
        while not (state := await self._gateway.engine()).ready:
            yield [*history, self._note(f"{self._t.waiting} — {state.percent}% {state.text}")]
            await asyncio.sleep(0.5)
        text = ""
        try:
            async for piece in self._gateway.reply(who, messages, user):
                text += piece.text
                answered = [*history, {"role": "assistant", "content": text, "metadata": {"id": piece.answer}}]
                yield [*answered, self._sources(piece.citations)] if piece.citations else answered
        except openai.APIStatusError as error:
            yield [*history, self._note(f"{self._t.failed}: {error.message}")]
        except openai.OpenAIError:
            said = [{"role": "assistant", "content": text}] if text else []
            yield [*history, *said, self._note(self._t.cut)]

    def _sources(self, citations: list[dict[str, Any]]) -> dict[str, Any]:
        """The passages below an answer; those that it cites open the list."""
        used = " ".join(f"[{c['number']}]" for c in citations if c["used"])
        note = self._note(f"{self._t.sources} {len(citations)}" + (f" · {self._t.cited} {used}" if used else ""))
        note["metadata"]["status"] = "done"  # folded
        note["content"] = "\n\n".join(
            f"**[{c['number']}] {plain(c['document'])} {self._t.page.format(c['page'])}** {plain(c['heading'])}\n\n"
            f"{plain(shorten(c['excerpt'], 300, placeholder=' …'))}"
            for c in sorted(citations, key=lambda c: (not c["used"], c["number"]))
        )
        return note

    @staticmethod
    def _note(text: str) -> dict[str, Any]:
        """A message of the page's own, not of the persona; its title keeps it out of the conversation."""
        return {"role": "assistant", "content": "", "metadata": {"title": text}}

    async def _engine_state(self) -> str:
        return engine_badge(await self._gateway.engine(), self._t)


def engine_badge(state: EngineState, texts: Texts) -> str:
    """The engine's state as a coloured dot, a text and, during a start, a bar."""
    if state.ready:
        return f'<div class="badge ready"><i></i>{texts.ready}</div>'
    if state.state == "unreachable":
        return f'<div class="badge failed"><i></i>{html.escape(texts.no_gateway)}</div>'
    kind = "failed" if state.state == "failed" else "starting"
    bar = f'<progress max="100" value="{state.percent}"></progress>' if kind == "starting" else ""
    return f'<div class="badge {kind}"><i></i>{html.escape(state.text)} {state.percent}%{bar}</div>'
