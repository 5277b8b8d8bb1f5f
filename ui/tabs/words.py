"""What a reader thinks of an answer: thumbs, and the answer put right in its own place."""

from typing import Any

import gradio as gr

from ui.client import Gateway
from ui.texts import Texts

History = list[dict[str, Any]]


def answer_id(history: History, index: Any) -> str:
    """The gateway's id of the answer at a place in the conversation, or "" for what is none (the greeting)."""
    place = index[0] if isinstance(index, (list, tuple)) else index
    message = history[place] if isinstance(place, int) and place < len(history) else {}
    answer = (message.get("metadata") or {}).get("id") if message.get("role") == "assistant" else ""
    return str(answer or "")


class Words:
    """Sends thumbs and corrections to the gateway."""

    def __init__(self, gateway: Gateway, texts: Texts) -> None:
        self._gateway = gateway
        self._t = texts

    async def like(self, history: History, user: str, consent: bool, given: gr.LikeData) -> None:
        """A thumb was given; taking one back (an empty one) sends nothing."""
        if (answer := answer_id(history, given.index)) and given.liked in (True, False):
            thumb = "up" if given.liked else "down"
            self._say(await self._gateway.feedback(answer, user, consent, thumb=thumb), consent)

    async def edit(self, history: History, user: str, consent: bool, made: gr.EditData) -> History:
        """An answer was put right; the gateway gets the correction.

        The conversation goes on with the corrected text.
        """
        answer = answer_id(history, made.index)
        if answer and not consent:
            gr.Warning(self._t.edit_needs_consent)
        elif answer and made.value.strip():
            correction = {"thumb": "down", "correction": made.value.strip()}
            self._say(await self._gateway.feedback(answer, user, consent, **correction), consent)
        return history

    def _say(self, taken: bool, consent: bool) -> None:
        if taken:
            gr.Info(self._t.thanks if consent else self._t.thumb_only, duration=4)
        else:
            gr.Warning(self._t.not_taken)
