"""Does a text ask for harm, insult or despair? Probabilities in OpenAI's categories, from the embedded embedder.

A linear head over e5's sentence vectors and the text's letters, fitted to the labelled examples of the safe persona
(`serve moderation fit`); its file lies beside them. Figures: docs/gateway.md.
"""

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from personas.embedder import Embed, Vectors
from serve.errors import ApiError
from serve.settings import Settings

HARMLESS = "harmless"
CATEGORIES = (
    "harassment", "harassment/threatening", "hate", "hate/threatening", "illicit", "illicit/violent", "self-harm",
    "self-harm/instructions", "self-harm/intent", "sexual", "sexual/minors", "violence", "violence/graphic",
)  # fmt: skip
HEAD_FILE = "moderation.npz"
EXAMPLES_FILE = "moderation.jsonl"  # beside it: more examples, of prompts alone
GRAMS = 1 << 14  # buckets
_WINDOW = 120  # characters that are judged together: the examples are short, and a request hides in a long text
_MOST_WINDOWS = 24


class ModerationUnavailable(ApiError):
    """Nobody can judge now: no fitted head, or the outside endpoint does not answer."""

    status = 503
    code = "moderation_unavailable"


def softmax(logits: NDArray[Any]) -> NDArray[Any]:
    """Probabilities over the last axis of (texts, classes)."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def grams(text: str) -> tuple[list[int], NDArray[np.float32]]:
    """The buckets of a text's runs of 2, 3 and 4 characters, and how often each is there: 1 + log, of length 1."""
    spread = f" {' '.join(text.lower().split())} "
    runs = (spread[i : i + size] for size in (2, 3, 4) for i in range(len(spread) - size + 1))
    counts = Counter(crc32(run.encode()) % GRAMS for run in runs)
    values = 1 + np.log(np.fromiter(counts.values(), np.float32, len(counts)))
    return list(counts), np.asarray(values / max(np.linalg.norm(values), 1e-9), np.float32)


@dataclass(frozen=True)
class Head:
    """A softmax over classes, the temperature within all its weights.

    Attributes:
        weights: of the sentence vector, (dimension, classes).
        gram_weights: of the letters, (GRAMS, classes).
        bias: (classes,).
        threshold: the probability of not being harmless from which a text is flagged.
    """

    classes: tuple[str, ...]
    weights: Vectors
    gram_weights: NDArray[Any]
    bias: Vectors
    threshold: float

    def probabilities(self, texts: list[str], embed: Embed) -> Vectors:
        """Of shape (texts, classes)."""
        logits = embed(texts) @ self.weights + self.bias
        for row, text in zip(logits, texts, strict=True):
            buckets, values = grams(text)
            row += values @ self.gram_weights[buckets]
        return softmax(logits)

    def save(self, file: Path) -> None:
        np.savez_compressed(
            file,
            classes=np.array(self.classes),
            weights=self.weights,
            gram_weights=self.gram_weights,
            bias=self.bias,
            threshold=self.threshold,
        )

    @staticmethod
    def load(file: Path) -> "Head":
        if not file.is_file():
            raise ModerationUnavailable("the moderator is not fitted (run: serve moderation fit --write)")
        with np.load(file, allow_pickle=False) as held:
            if "gram_weights" not in held:
                raise ModerationUnavailable("the moderator is of an older form (run: serve moderation fit --write)")
            classes = tuple(str(name) for name in held["classes"])
            return Head(classes, held["weights"], held["gram_weights"], held["bias"], float(held["threshold"]))


@dataclass(frozen=True)
class Verdict:
    """What is thought of one text: each category's probability, and those that it is flagged for."""

    scores: dict[str, float]
    flagged: frozenset[str]

    def as_row(self) -> dict[str, Any]:
        """One of OpenAI's `results`."""
        return {
            "flagged": bool(self.flagged),
            "categories": {name: name in self.flagged for name in CATEGORIES},
            "category_scores": {name: round(self.scores.get(name, 0.0), 6) for name in CATEGORIES},
            "category_applied_input_types": {name: ["text"] for name in CATEGORIES},
        }


class Moderator(Protocol):
    """Who judges texts."""

    name: str

    async def judge(self, texts: list[str]) -> list[Verdict]: ...

    async def close(self) -> None: ...


class OwnModerator:
    """The fitted head over the embedded embedder, both loaded at the first text."""

    def __init__(self, file: Path, make_embed: Callable[[], Embed]) -> None:
        self.name = "gamyeon-moderation"
        self._parts = lru_cache(maxsize=1)(lambda: (Head.load(file), make_embed()))
        self._turn = asyncio.Lock()  # the embedder takes one call at a time; those that wait hold no thread

    async def judge(self, texts: list[str]) -> list[Verdict]:
        async with self._turn:
            return await asyncio.to_thread(self._judge, texts)

    async def close(self) -> None:
        """Nothing is open."""

    def _judge(self, texts: list[str]) -> list[Verdict]:
        head, embed = self._parts()
        pieces = [windows(text) for text in texts]
        made = head.probabilities([window for group in pieces for window in group], embed)
        harmless = head.classes.index(HARMLESS)
        verdicts, start = [], 0
        for group in pieces:
            rows = made[start : start + len(group)]
            start += len(group)
            worst = rows[rows[:, harmless].argmin()]
            scores = {name: float(p) for name, p in zip(head.classes, worst, strict=True) if name != HARMLESS}
            verdicts.append(Verdict(scores, flagged(scores, head.threshold)))
        return verdicts


class OutsideModerator:
    """An OpenAI-compatible `/v1/moderations` (`GAMYEON_MODERATION_URL`)."""

    def __init__(self, settings: Settings) -> None:
        import openai

        key = settings.moderation_key
        self.name = settings.moderation_model
        self._client = openai.AsyncOpenAI(
            base_url=settings.moderation_url, api_key=key.get_secret_value() if key else "none", timeout=10
        )

    async def judge(self, texts: list[str]) -> list[Verdict]:
        import openai

        try:
            reply = await self._client.moderations.create(input=texts, model=self.name)
        except openai.OpenAIError as error:
            raise ModerationUnavailable(f"the moderation endpoint failed: {type(error).__name__}") from None
        return [_outside(result.model_dump(by_alias=True)) for result in reply.results]

    async def close(self) -> None:
        await self._client.close()


def _outside(result: dict[str, Any]) -> Verdict:
    yes = {name for name, is_so in result["categories"].items() if is_so}
    scores = {name: float(score) for name, score in result["category_scores"].items() if score is not None}
    return Verdict(scores, frozenset(yes))


def flagged(scores: dict[str, float], threshold: float) -> frozenset[str]:
    """The categories of a text: none while it is likelier harmless, else the likeliest and all with half of that."""
    if sum(scores.values()) < threshold:
        return frozenset()
    most = max(scores.values())
    return frozenset(name for name, score in scores.items() if score >= most / 2)


def windows(text: str) -> list[str]:
    """A text's pieces of up to 120 characters that overlap by half, 24 at most: the first and the last ones."""
    if len(text) <= _WINDOW:
        return [text]
    pieces = [text[start : start + _WINDOW] for start in range(0, len(text) - _WINDOW // 2, _WINDOW // 2)]
    half = _MOST_WINDOWS // 2
    return pieces if len(pieces) <= _MOST_WINDOWS else [*pieces[:half], *pieces[-half:]]


def make_moderator(settings: Settings, file: Path, make_embed: Callable[[], Embed]) -> Moderator:
    """The moderator that the settings ask for."""
    return OutsideModerator(settings) if settings.moderation_url else OwnModerator(file, make_embed)
