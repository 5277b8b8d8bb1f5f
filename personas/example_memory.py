"""Example memory: the persona's own exchanges that are nearest to what is asked, shown to the model in its prompt.

The exchanges are those of its training records; one that follows another has been asked both questions. How near one
is: the mean of two cosines, of the question to what was asked, and to what was asked and answered together, by the
embedded embedder. A question in the middle of a talk is taken by itself and with the one before it. Training shows
the model the same kind of prompt (a record's own exchanges left out), so that it learns to adapt what it is shown.
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
from numpy.typing import NDArray

from personas.embedder import SPEC, Embed, Vectors
from personas.errors import PersonaError
from personas.home import Home
from personas.loader import PersonaFolder
from personas.schema import ExampleMemory
from personas.texts import clean, estimate_tokens

SHIPPED = "examples.npz"  # beside persona.yaml: vectors made beforehand
_MADE = "3"  # another number where vectors are made another way
_RANKED = 32
_LEVELS = 127  # a vector is kept as whole numbers: a quarter of the room
_READ = 160  # characters of a question, from its end; exchanges are asked in fewer, and more take their time
_HEADING = "비슷한 말에 이렇게 답했습니다."


@dataclass(frozen=True)
class Exchange:
    """What was asked and what was answered."""

    asked: str
    said: str


def read_exchanges(files: Sequence[Path]) -> list[Exchange]:
    """The exchanges of JSON Lines files with `messages`, no question twice; lines of other forms have none here."""
    found: dict[str, Exchange] = {}
    for file in files:
        for line in file.read_bytes().split(b"\n") if file.suffix.lower() in (".jsonl", ".ndjson") else ():
            with suppress(ValueError, KeyError, TypeError):  # `personas check` and `tune` say what is wrong with a line
                for one in _exchanges(line):
                    found.setdefault(one.asked, one)
    return list(found.values())


def _exchanges(line: bytes) -> list[Exchange]:
    turns = [turn for turn in json.loads(line.decode("utf-8-sig"))["messages"] if turn["role"] != "system"]
    said = [clean(turn["content"]).strip() for turn in turns]
    if [turn["role"] for turn in turns] != ["user", "assistant"] * (len(turns) // 2):
        raise ValueError
    return [Exchange(asked_in(said[: at + 1 : 2]), said[at + 1]) for at in range(0, len(said), 2)]


def asked_in(questions: Sequence[str]) -> str:
    """The last of a talk's questions, after the one before it: what a follow-up asks is seldom understood alone."""
    return "\n".join(questions[-2:])


class ExampleIndex:
    """Exchanges and their vectors, of shape (exchanges, dimension)."""

    def __init__(self, exchanges: list[Exchange], vectors: Vectors) -> None:
        self.exchanges = exchanges
        self.vectors = vectors

    def nearest(self, question: Vectors, wanted: ExampleMemory) -> list[Exchange]:
        """The nearest exchanges to a question's vectors, the nearest first, within the budget."""
        return within(self.ranked(question, wanted), wanted)

    def ranked(self, question: Vectors, wanted: ExampleMemory) -> list[Exchange]:
        """The exchanges that are near enough, the nearest first: `_RANKED` at most."""
        if not self.exchanges:
            return []
        scores = self._scores(question)
        order = np.argsort(-scores, kind="stable")[:_RANKED]
        return [self.exchanges[int(index)] for index in order if scores[index] >= wanted.least]

    def _scores(self, question: Vectors) -> Vectors:
        """How near each exchange is to a question's vectors: by itself or in its talk, whichever is more.

        What the earlier question alone is nearer to has been talked about: half of that is taken off.
        """
        alone, *others = (self.vectors @ question.T).T
        if not others:
            return np.asarray(alone, np.float32)
        talk, earlier = others
        return np.asarray(np.maximum(alone, talk - np.maximum(earlier - talk, 0) / 2), np.float32)


def within(exchanges: list[Exchange], wanted: ExampleMemory) -> list[Exchange]:
    """The first of them that fit the budget, no answer twice."""
    chosen: list[Exchange] = []
    room = wanted.tokens
    for one in exchanges:
        size = estimate_tokens(one.asked + one.said)
        if len(chosen) < wanted.top_k and size <= room and one.said not in (other.said for other in chosen):
            chosen.append(one)
            room -= size
    return chosen


def open_index(folder: PersonaFolder, home: Home, make_embed: Callable[[], Embed]) -> ExampleIndex:
    """The persona's index. Its vectors are read from beside it or from the home, or made, once, and kept there."""
    exchanges = read_exchanges(_files(folder))
    key = hashlib.sha256("\0".join([_MADE, SPEC, *_texts(exchanges)]).encode()).hexdigest()
    kept = home.examples / f"{folder.persona.name}-{key[:12]}.npz"
    for file in (folder.path / SHIPPED, kept):
        with suppress(OSError, ValueError, KeyError, BadZipFile), np.load(file, allow_pickle=False) as held:
            if str(held["key"]) == key:
                return ExampleIndex(exchanges, _unpacked(held["vectors"]))
    made = index_vectors(make_embed(), exchanges) if exchanges else np.zeros((0, 1), np.float32)
    packed = np.round(made * _LEVELS).astype(np.int8)
    staged = kept.with_name(f".{kept.stem}.{os.getpid()}.{threading.get_ident()}.npz")
    with suppress(OSError):  # what cannot be kept is made again
        np.savez_compressed(staged, key=key, vectors=packed)
        staged.replace(kept)
    return ExampleIndex(exchanges, _unpacked(packed))


def _unpacked(vectors: NDArray[np.int8]) -> Vectors:
    return np.asarray(vectors, np.float32) / np.float32(_LEVELS)


def _files(folder: PersonaFolder) -> list[Path]:
    try:
        return folder.training_files
    except PersonaError:  # what it shares with others is not here
        return folder.data_files


def question_vectors(embed: Embed, talks: Sequence[Sequence[str]]) -> list[Vectors]:
    """Of each talk's questions, in order: vectors of the last one, of shape (1, dimension), or where others came before
    it (3, dimension): alone, with the one before it, and that one alone.
    """
    texts = [[one[-1], asked_in(one), one[-2]] if len(one) > 1 else [one[-1]] for one in talks]
    vectors = embed([text[-_READ:] for three in texts for text in three])
    return np.split(vectors, np.cumsum([len(three) for three in texts])[:-1])


def index_vectors(embed: Embed, exchanges: list[Exchange]) -> Vectors:
    """Vectors of exchanges, of shape (exchanges, dimension): their product with a question's is how near they are."""
    vectors = embed(_texts(exchanges))
    return np.asarray((vectors[::2] + vectors[1::2]) / 2, np.float32)


def _texts(exchanges: list[Exchange]) -> list[str]:
    return [text for one in exchanges for text in (one.asked, f"{one.asked}\n{one.said}")]


def with_examples(system_prompt: str, exchanges: Sequence[Exchange]) -> str:
    """The system prompt, followed by the exchanges, if any."""
    lines = [f"{_flat(one.asked)} → {_flat(one.said)}" for one in exchanges]
    return "\n".join([system_prompt, "", _HEADING, *lines]) if lines else system_prompt


def _flat(text: str) -> str:
    return " ".join(text.split())
