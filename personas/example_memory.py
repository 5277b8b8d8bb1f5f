"""Example memory: the persona's own exchanges that are nearest to what is asked, shown to the model in its prompt.

The exchanges are the first ones of its training records; how near two questions are is the cosine of their vectors by
the embedded embedder. Training shows the model the same kind of prompt (a record's own exchange left out), so that it
learns to adapt what it is shown.
"""

import hashlib
import json
import os
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from personas.embedder import SPEC, Embed, Vectors
from personas.home import Home
from personas.loader import PersonaFolder
from personas.schema import ExampleMemory
from personas.texts import clean, estimate_tokens

SHIPPED = "examples.npz"  # beside persona.yaml: vectors made beforehand
_READ = 400  # characters of a question, from its end; the exchanges' questions are shorter
_HEADING = "비슷한 말에 이렇게 답했습니다."


@dataclass(frozen=True)
class Exchange:
    """What was asked and what was answered."""

    asked: str
    said: str


def read_exchanges(files: Sequence[Path]) -> list[Exchange]:
    """The first exchange of each record of JSON Lines files with `messages`; lines of other forms have none here."""
    found: dict[str, Exchange] = {}
    for file in files:
        for line in file.read_bytes().split(b"\n") if file.suffix.lower() in (".jsonl", ".ndjson") else ():
            with suppress(ValueError, KeyError, TypeError):  # `personas check` and `tune` say what is wrong with a line
                one = _first_exchange(line)
                found.setdefault(one.asked, one)
    return list(found.values())


def _first_exchange(line: bytes) -> Exchange:
    turns = [turn for turn in json.loads(line.decode("utf-8-sig"))["messages"] if turn["role"] != "system"][:2]
    if [turn["role"] for turn in turns] != ["user", "assistant"]:
        raise ValueError
    asked, said = (clean(turn["content"]).strip() for turn in turns)
    return Exchange(asked, said)


class ExampleIndex:
    """Exchanges and the vectors of what was asked, of shape (exchanges, dimension)."""

    def __init__(self, exchanges: list[Exchange], vectors: Vectors) -> None:
        self.exchanges = exchanges
        self.vectors = vectors

    def nearest(self, question: Vectors, wanted: ExampleMemory, leave_out: str = "") -> list[Exchange]:
        """The nearest exchanges to a question's vector of shape (dimension,), the nearest first, within the budget.

        Args:
            question: of length 1.
            wanted: how many, how near, and how long.
            leave_out: what the exchange that must not be shown asks.
        """
        if not self.exchanges:
            return []
        scores = self.vectors @ question
        chosen: list[Exchange] = []
        room = wanted.tokens
        for index in np.argsort(-scores, kind="stable")[: wanted.top_k + 1]:
            one = self.exchanges[int(index)]
            room_after = room - estimate_tokens(one.asked + one.said)
            if scores[index] >= wanted.least and one.asked != leave_out and room_after >= 0:
                chosen.append(one)
                room = room_after
        return chosen[: wanted.top_k]


def open_index(folder: PersonaFolder, home: Home, make_embed: Callable[[], Embed]) -> ExampleIndex:
    """The persona's index. Its vectors are read from beside it or from the home, or made, once, and kept there."""
    exchanges = read_exchanges(folder.data_files)
    texts = [one.asked for one in exchanges]
    key = hashlib.sha256("\0".join([SPEC, *texts]).encode()).hexdigest()
    kept = home.examples / f"{folder.persona.name}-{key[:12]}.npz"
    for file in (folder.path / SHIPPED, kept):
        with suppress(OSError, ValueError, KeyError, BadZipFile), np.load(file, allow_pickle=False) as held:
            if str(held["key"]) == key:
                return ExampleIndex(exchanges, held["vectors"].astype(np.float32))
    vectors = (question_vectors(make_embed(), texts) if texts else np.zeros((0, 1))).astype(np.float16)
    staged = kept.with_name(f".{kept.stem}.{os.getpid()}.{threading.get_ident()}.npz")
    with suppress(OSError):  # what cannot be kept is made again
        np.savez_compressed(staged, key=key, vectors=vectors)
        staged.replace(kept)
    return ExampleIndex(exchanges, vectors.astype(np.float32))


def question_vectors(embed: Embed, questions: list[str]) -> Vectors:
    """Vectors of questions, of shape (questions, dimension), as the index wants them."""
    return embed([question[-_READ:] for question in questions])


def with_examples(system_prompt: str, exchanges: Sequence[Exchange]) -> str:
    """The system prompt, followed by the exchanges, if any."""
    lines = [f"{_flat(one.asked)} → {_flat(one.said)}" for one in exchanges]
    return "\n".join([system_prompt, "", _HEADING, *lines]) if lines else system_prompt


def _flat(text: str) -> str:
    return " ".join(text.split())
