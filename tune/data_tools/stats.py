"""What is in a data set: counts, lengths in tokens, share of Korean, duplicates, and a histogram as a picture."""

from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from personas.lang import say
from tune.data_tools.dedupe import exact_key
from tune.data_tools.korean import korean_share
from tune.data_tools.tokens import Tokens
from tune.formats.base import Example

PERCENTILES = (5, 25, 50, 75, 90, 95, 99, 100)
KOREAN = 0.5  # an answer with at least this share of Hangul among its letters is Korean


@dataclass
class Stats:
    """Figures of a data set; lengths are in tokens, template included.

    Attributes:
        korean_letters: mean share of Hangul among the letters of the answers.
        korean_answers: answers that are mostly Korean.
    """

    examples: int = 0
    turns: int = 0
    categories: Counter[str] = field(default_factory=Counter)
    with_context: int = 0
    with_system: int = 0
    with_rejected: int = 0
    duplicates: int = 0
    korean_letters: float = 0.0
    korean_answers: int = 0
    lengths: "array[int]" = field(default_factory=lambda: array("I"))

    def percentile(self, share: int) -> int:
        """Length that `share` percent of the examples do not exceed, in tokens."""
        return int(np.percentile(np.frombuffer(self.lengths, dtype=np.uint32), share, method="higher"))

    def longer_than(self, limit: int) -> int:
        """Examples with more tokens than the limit."""
        return int((np.frombuffer(self.lengths, dtype=np.uint32) > limit).sum())


def stats_of(examples: Iterator[Example], tokens: Tokens) -> Stats:
    """Go through the examples once; some 30 bytes of memory a record."""
    stats, keys = Stats(), array("Q")

    def counted() -> Iterator[Example]:
        for example in examples:
            stats.examples += 1
            stats.turns += len(example.turns) // 2
            stats.categories[example.category] += 1
            stats.with_context += bool(example.context)
            stats.with_system += bool(example.system)
            stats.with_rejected += bool(example.rejected)
            share = korean_share(example.response)
            stats.korean_letters += (share - stats.korean_letters) / stats.examples
            stats.korean_answers += share >= KOREAN
            keys.append(exact_key(example))
            yield example

    stats.lengths.extend(tokens.lengths(counted()))
    stats.duplicates = len(keys) - len(np.unique(np.frombuffer(keys, dtype=np.uint64))) if keys else 0
    return stats


def histogram(stats: Stats, limit: int, title: str, out: Path) -> None:
    """Draw the lengths as a PNG, the training length as a line."""
    from matplotlib.figure import Figure
    from matplotlib.font_manager import get_font_names

    fonts = {"NanumGothic", "NanumBarunGothic", "Noto Sans CJK KR", "Malgun Gothic", "AppleGothic"} & {
        *get_font_names()
    }
    font = min(fonts, default="DejaVu Sans")

    def label(ko: str, en: str) -> str:
        return say(ko, en) if fonts else en

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    values = np.frombuffer(stats.lengths, dtype=np.uint32)
    axes.hist(values, bins=min(60, max(1, int(values.max() - values.min()))), color="#4c72b0")
    if limit < 1.5 * values.max():  # further out it would press the bars together
        axes.axvline(limit, color="#c44e52", linestyle="--", label=f"max_length {limit:,}")
    middle = stats.percentile(50)
    axes.axvline(middle, color="#55a868", label=label(f"중앙값 {middle:,}", f"median {middle:,}"))
    axes.set_title(title if fonts or title.isascii() else "data", fontname=font)
    axes.set_xlabel(label("길이 (토큰)", "length (tokens)"), fontname=font)
    axes.set_ylabel(label("기록", "records"), fontname=font)
    axes.legend(prop={"family": font})
    figure.savefig(out, dpi=120, format="png")
