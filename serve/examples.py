"""The hook of the example memory: a persona's nearest exchanges into its system prompt."""

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from time import monotonic

from personas.embedder import Embed
from personas.example_memory import ExampleIndex, Exchange, open_index, question_vectors, with_examples
from personas.home import Home
from personas.loader import find_persona
from personas.schema import ExampleMemory
from serve.call import Call
from serve.policies import asked_texts
from serve.prompt import Payload

_PLACES = {"/v1/chat/completions": "messages", "/v1/responses": "instructions"}  # of the system prompt


class ExampleHook:
    """Indexes are opened on first use and stay; a changed data folder is seen at the next start.

    Args:
        root: the folder of persona folders.
        home: where vectors are kept.
        embed: gives the embedder of questions.
        build: gives one for a whole index, where it must be made.
    """

    def __init__(self, root: Path, home: Home, embed: Callable[[], Embed], build: Callable[[], Embed]) -> None:
        self._root = root
        self._home = home
        self._embed = embed
        self._build = build
        self._indexes: dict[str, ExampleIndex] = {}
        self._opening = threading.Lock()  # a reader who leaves ends the task, not the thread that builds
        self._turn = asyncio.Lock()  # the embedder takes one call at a time; those that wait hold no thread

    async def __call__(self, call: Call) -> None:
        assert call.target
        assert call.target.persona
        assert call.payload is not None
        persona, place = call.redirected or call.target.persona, _PLACES.get(call.route)
        if persona.example_memory is None or place is None:
            return
        said = asked_texts(call.payload, call.route)
        if not said or not said[-1].strip():
            return
        call.stages.append(("prompt", monotonic()))
        async with self._turn:
            call.examples = await asyncio.to_thread(self._nearest, persona.name, said, persona.example_memory)
        call.payload = _shown(call.payload, place, call.examples)
        call.stages.append(("examples", monotonic()))

    def _nearest(self, name: str, asked: list[str], wanted: ExampleMemory) -> list[Exchange]:
        return self._index(name).nearest(question_vectors(self._embed(), [asked])[0], wanted)

    def _index(self, name: str) -> ExampleIndex:
        with self._opening:
            if name not in self._indexes:
                self._indexes[name] = open_index(find_persona(name, self._root), self._home, self._build)
            return self._indexes[name]


def _shown(payload: Payload, place: str, found: list[Exchange]) -> Payload:
    """The payload with the exchanges after its system prompt."""
    if place == "instructions":
        return {**payload, place: with_examples(payload[place], found)}
    system, *rest = payload[place]
    return {**payload, place: [{**system, "content": with_examples(system["content"], found)}, *rest]}
