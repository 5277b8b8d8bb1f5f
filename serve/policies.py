"""A persona's policies: harmful requests, and personal data on the way in and out. The language guard is guard.py."""

import asyncio
from collections.abc import Callable
from typing import Any

from personas.schema import Policies, Policy
from serve.call import Call
from serve.catalog import Catalog
from serve.errors import ApiError, BadRequest, ModelNotFound
from serve.masking import Masked, Overheard
from serve.metrics import Metrics
from serve.moderation import Moderator
from serve.opening import Opened, begun
from serve.privacy import mask
from serve.prompt import Payload, for_persona, said_text

# Not answered by the persona itself. Insults are: turning them aside is a matter of character.
HARMFUL = frozenset((
    "hate/threatening", "harassment/threatening", "illicit", "illicit/violent", "self-harm", "self-harm/instructions",
    "self-harm/intent", "sexual", "sexual/minors", "violence", "violence/graphic", "hate",
))  # fmt: skip


class HarmfulRequest(ApiError):
    """A harmful request on a route whose prompt has no place for another manner."""

    status = 400
    type = "invalid_request_error"
    code = "harmful_request"


_SAID_IN = {"/v1/chat/completions": "messages", "/v1/responses": "input", "/v1/completions": "prompt"}


def asked_texts(payload: Payload, route: str) -> list[str]:
    """What the user has said, in order: of chat messages, of a Responses input, or of a plain prompt."""
    held = payload.get(_SAID_IN[route])
    if isinstance(held, str):
        return [held]
    if not isinstance(held, list):
        return []
    turns = [turn for turn in held if isinstance(turn, dict) and turn.get("role") == "user"]
    if not turns:
        return [text for text in held if isinstance(text, str)]
    return [said_text(turn.get("content")) for turn in turns]


def with_masked(payload: Payload, masked: Callable[[str], str]) -> Payload:
    """The payload with what its user says masked."""

    def part(held: Any) -> Any:
        is_text = isinstance(held, dict) and isinstance(held.get("text"), str)
        return {**held, "text": masked(held["text"])} if is_text else held

    def turn(held: Any) -> Any:
        if not isinstance(held, dict) or held.get("role") != "user":
            return masked(held) if isinstance(held, str) else held
        content = held.get("content")
        if isinstance(content, str):
            return {**held, "content": masked(content)}
        if not isinstance(content, list):
            return held
        return {**held, "content": [part(piece) for piece in content]}

    made = dict(payload)
    for name in ("messages", "input", "prompt"):
        if isinstance(made.get(name), str):
            made[name] = masked(made[name])
        elif isinstance(made.get(name), list):
            made[name] = [turn(held) for held in made[name]]
    return made


def note_if_personal(text: str, note: Callable[[], None]) -> None:
    """Call `note` where a text has personal data."""
    if mask(text) != text:
        note()


class PolicyHook:
    """The hook that applies them; it stands before all others, so that nothing else sees what it masks."""

    def __init__(self, catalog: Catalog, moderator: Moderator, metrics: Metrics, safe_persona: str) -> None:
        self._catalog = catalog
        self._moderator = moderator
        self._metrics = metrics
        self._safe = safe_persona

    async def __call__(self, call: Call) -> None:
        assert call.target
        assert call.target.persona
        persona = call.target.persona
        wanted = persona.policies
        if wanted.harmful != "off":
            await self._look_for_harm(call, wanted)
        if wanted.personal_data_in != "off":
            await self._mask_request(call, wanted)
        if wanted.personal_data_out != "off":
            self._watch_reply(call, wanted.personal_data_out)

    def _watch_reply(self, call: Call, mode: Policy) -> None:
        def note() -> None:
            self._note(call, "personal_data_out", mode)

        if mode == "enforce" and call.route == "/v1/responses" and call.stream:
            raise BadRequest("this persona's replies are masked, which /v1/responses does not stream", param="stream")
        call.filters.append(Masked(note) if mode == "enforce" else Overheard(lambda text: note_if_personal(text, note)))

    def _note(self, call: Call, policy: str, mode: Policy) -> None:
        self._metrics.labelled(self._metrics.policies, call.model, policy, mode).inc()

    async def _look_for_harm(self, call: Call, wanted: Policies) -> None:
        assert call.payload is not None
        said = asked_texts(call.payload, call.route)
        if not said:
            return
        # The last message, the one before, and both together: a request may come in two halves.
        texts = [*said[-2:], "\n".join(said[-2:])] if len(said) > 1 else said[-1:]
        verdicts = await self._moderator.judge(texts)
        found = [(verdict.scores.get(name, 0.0), name) for verdict in verdicts for name in verdict.flagged & HARMFUL]
        if not found:
            return
        self._note(call, "harmful", wanted.harmful)
        if wanted.harmful == "enforce":
            await self._redirect(call, max(found)[1])

    async def _redirect(self, call: Call, category: str) -> None:
        """Let the safe persona's adapter and prompt answer; the reply says so by its `model`."""
        assert call.asked is not None
        if call.route == "/v1/completions":
            raise HarmfulRequest("this persona does not answer harmful requests; /v1/chat/completions says why, kindly")
        try:
            target = await self._catalog.resolve(self._safe, call.user)
        except ModelNotFound:
            raise HarmfulRequest("this persona does not answer harmful requests") from None
        assert target.persona
        asked = {name: value for name, value in call.asked.items() if name not in ("documents", "tools", "tool_choice")}
        made = for_persona(asked, target.persona, target.engine_model, call.route, self._catalog.own_engine)
        if isinstance(options := (call.payload or {}).get("stream_options"), dict):
            made["stream_options"] = options
        call.payload, call.redirected = made, target.persona
        openings = target.persona.policies.openings
        opening = openings.get(category.partition("/")[0], openings.get("default", ""))
        if opening and self._catalog.own_engine and (started := begun(made, call.route, opening)):
            call.payload = started
            call.filters.append(Opened(opening))

    async def _mask_request(self, call: Call, wanted: Policies) -> None:
        assert call.payload is not None
        found = False

        def masked(text: str) -> str:
            nonlocal found
            made = mask(text)
            found = found or made != text
            return made

        made = await asyncio.to_thread(with_masked, call.payload, masked)
        if found:
            self._note(call, "personal_data_in", wanted.personal_data_in)
            if wanted.personal_data_in == "enforce":
                call.payload = made
