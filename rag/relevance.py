"""Whether what was found answers the question: features of a search, and a logistic judgement fitted to them.

One similarity does not tell a question that the documents answer from one that they do not: e5's cosines all lie
close together. Together tell more: how much of the question's rare words the passages hold, how far the best stands
out, and whether words and meaning agree. The weights come from `calibration.json`, which `bench/rag` fits.
"""

import json
import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from rag.rows import Collection
from rag.search import Found, Searcher
from rag.words import frequencies, table_of

FEATURES = (
    "coverage_1",
    "coverage_3",
    "coverage_all",
    "rarest_covered",
    "cosine",
    "cosine_margin",
    "cosine_z",
    "bm25_share",
    "bm25_margin",
    "overlap_5",
    "overlap_10",
    "mutual_rank",
    "unseen",
    "fused",
    "fused_margin",
    "terms",
)
_FEW = 10  # passages that margins and overlaps are taken over
_FILE = Path(__file__).parent / "calibration.json"


def idf(total: int, count: int) -> float:
    """How rare a term is that stands in `count` of `total` passages: ln(1 + (N − n + ½) / (n + ½)), as BM25 has it."""
    return math.log(1 + (total - count + 0.5) / (count + 0.5))


def features(searcher: Searcher, collection: Collection, found: Found) -> dict[str, float]:
    """The features of one hybrid search, by name (`FEATURES`). All are about 0…1 but `cosine_z` and `terms`."""
    from rag.store import embedded_text
    from rag.terms import many_terms

    total, counts = frequencies(searcher.store.db, table_of(collection.id), found.terms)
    weights = {term: idf(total, count) for term, count in counts.items()}
    hits = found.hits[:3]
    held = [set(t) for t in many_terms([embedded_text(h.passage.heading, h.passage.text) for h in hits])]
    joined: set[str] = set().union(*held)
    rare = max(weights, key=lambda term: weights[term], default=None)
    cosines = np.array([score for _, score in found.dense] or [0.0])
    scores = np.array([score for _, score in found.bm25] or [0.0])
    dense, bm25 = [n for n, _ in found.dense], [n for n, _ in found.bm25]
    most = 2.2 * sum(weights.values())  # BM25's ceiling: each term's idf times k1 + 1
    return {
        "coverage_1": _coverage(weights, held[0] if held else set()),
        "coverage_3": _coverage(weights, joined),
        "coverage_all": max((_coverage(weights, each) for each in held), default=0.0),
        "rarest_covered": float(rare in joined),
        "cosine": float(cosines[0]),
        "cosine_margin": float(cosines[0] - cosines[1:10].mean()) if len(cosines) > 1 else 0.0,
        "cosine_z": float((cosines[0] - cosines.mean()) / (cosines.std() + 1e-6)),
        "bm25_share": float(scores[0] / most) if most else 0.0,
        "bm25_margin": float((scores[0] - scores[1:10].mean()) / (scores[0] + 1e-6)) if len(scores) > 1 else 0.0,
        "overlap_5": len(set(dense[:5]) & set(bm25[:5])) / 5,
        "overlap_10": len(set(dense[:10]) & set(bm25[:10])) / 10,
        "mutual_rank": _mutual(dense, bm25),
        "unseen": sum(count == 0 for count in counts.values()) / max(1, len(counts)),
        "fused": hits[0].score if hits else 0.0,
        "fused_margin": hits[0].score - hits[1].score if len(hits) > 1 else 0.0,
        "terms": float(len(weights)),
    }


def _coverage(weights: dict[str, float], held: set[str]) -> float:
    total = sum(weights.values())
    return sum(weight for term, weight in weights.items() if term in held) / total if total else 0.0


def _mutual(dense: list[int], bm25: list[int]) -> float:
    """1 when both put the same passage first; the reciprocal of the least sum of ranks, less one, otherwise."""
    ranks = {number: rank for rank, number in enumerate(bm25, 1)}
    sums = [rank + ranks[number] for rank, number in enumerate(dense, 1) if number in ranks]
    return 1 / (min(sums) - 1) if sums else 0.0


@dataclass(frozen=True, slots=True)
class Calibration:
    """A logistic judgement: weights over standardised features, and the probability from which an answer is given."""

    features: tuple[str, ...]
    mean: tuple[float, ...]
    scale: tuple[float, ...]
    weights: tuple[float, ...]
    bias: float
    threshold: float

    def probability(self, values: dict[str, float]) -> float:
        """The probability that the passages answer the question."""
        total = self.bias
        for name, mean, scale, weight in zip(self.features, self.mean, self.scale, self.weights, strict=True):
            total += weight * (values[name] - mean) / scale
        return 1 / (1 + math.exp(-max(-60.0, min(60.0, total))))


@lru_cache(maxsize=1)
def calibration(path: Path = _FILE) -> Calibration | None:
    """The shipped calibration; None if there is none, and then everything found counts as relevant."""
    if not path.exists():
        return None
    raw = json.loads(path.read_text(encoding="utf-8"))
    lists = {key: tuple(raw[key]) for key in ("features", "mean", "scale", "weights")}
    return Calibration(**lists, bias=raw["bias"], threshold=raw["threshold"])


def judge(searcher: Searcher, collection: Collection, found: Found) -> tuple[float, bool]:
    """The probability that what was found answers the question, and whether to answer from it.

    In a collection of a few passages nothing can stand out: there one shared word is enough.
    """
    fitted = calibration()
    if not found.hits:
        return 0.0, False
    if fitted is None:
        return 1.0, True
    values = features(searcher, collection, found)
    if len(found.dense) < _FEW:
        return values["coverage_3"], values["coverage_3"] > 0
    probability = fitted.probability(values)
    return probability, probability >= fitted.threshold
