"""The hook of the example memory: a persona's nearest exchanges into its system prompt."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from time import monotonic

from personas.embedder import Embed
from personas.example_memory import ExampleIndex, Exchange, open_index, with_examples
from personas.home import Home
from personas.loader import find_persona
from personas.schema import ExampleMemory
from serve.call import Call
from serve.policies import asked_texts
from serve.prompt import Payload

_READ = 400  # characters of what was asked; the exchanges' questions are shorter


class ExampleHook:
    """Indexes are opened on first use and stay; a changed data folder is seen at the next start."""

    def __init__(self, root: Path, home: Home, make_embed: Callable[[], Embed]) -> None:
        self._root = root
        self._home = home
        self._make_embed = make_embed
        self._indexes: dict[str, ExampleIndex] = {}
        self._turn = asyncio.Lock()  # the embedder takes one call at a time; those that wait hold no thread

    async def __call__(self, call: Call) -> None:
        assert call.target
        assert call.target.persona
        assert call.payload is not None
        persona, said = call.target.persona, asked_texts(call.payload)
        has_place = "messages" in call.payload or "instructions" in call.payload
        if persona.example_memory is None or not has_place or not said or not said[-1].strip():
            return
        call.stages.append(("prompt", monotonic()))
        async with self._turn:
            found = await asyncio.to_thread(self._nearest, persona.name, said[-1], persona.example_memory)
        call.payload = _shown(call.payload, found)
        call.stages.append(("examples", monotonic()))

    def _nearest(self, name: str, asked: str, wanted: ExampleMemory) -> list[Exchange]:
        return self.index(name).nearest(self._make_embed()([asked[-_READ:]])[0], wanted)

    def index(self, name: str) -> ExampleIndex:
        """A persona's index. Runs in a thread."""
        if name not in self._indexes:
            self._indexes[name] = open_index(find_persona(name, self._root), self._home, self._make_embed)
        return self._indexes[name]


def _shown(payload: Payload, found: list[Exchange]) -> Payload:
    """The payload with the exchanges after its system prompt."""
    if "instructions" in payload:
        return {**payload, "instructions": with_examples(payload["instructions"], found)}
    system, *rest = payload["messages"]
    return {**payload, "messages": [{**system, "content": with_examples(system["content"], found)}, *rest]}
