"""Fits the moderation head to labelled examples, and measures it on held-out ones.

Examples are records of chat messages with a `category`; of `harmful` ones `topic` is the OpenAI category (`illicit`
where it is missing). Other personas' prompts are harmless examples, of less weight: there are many.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from personas.embedder import Embed, Vectors
from serve.moderation import GRAMS, HARMLESS, Head, grams, softmax

OTHERS_WEIGHT = 0.5
_STRENGTHS = (3.0, 10.0, 30.0)
_LETTERS = 0.1  # how far they count beside the sentence vector; 0, .2 and .3 find less in cross-validation
_FOLDS = 5
_WANTED_PASSED = 0.92  # of harmless examples, at the threshold
_BY_CATEGORY = {"insult": "harassment", "despair": "self-harm/intent"}


@dataclass(frozen=True)
class Example:
    """A user's message, the class that it should get, the record's own category, and its weight."""

    text: str
    wanted: str
    category: str
    weight: float = 1.0


def read_examples(files: Iterable[Path], weight: float = 1.0, harmless: bool = False) -> Iterator[Example]:
    """The last user message of each record of some JSON Lines files; answers may be missing."""
    for file in files:
        for line in file.read_text(encoding="utf-8").splitlines():
            record = json.loads(line)
            asked = [turn["content"] for turn in record["messages"] if turn["role"] == "user"]
            category = record.get("category", "")
            yield Example(asked[-1], HARMLESS if harmless else _wanted(record, category), category, weight)


def _wanted(record: dict[str, Any], category: str) -> str:
    if category == "harmful":
        return str(record.get("topic", "illicit"))
    return _BY_CATEGORY.get(category, HARMLESS)


def fit(examples: list[Example], embed: Embed) -> tuple[Head, dict[str, Any]]:
    """A head, and what its cross-validation says: strength, log loss, temperature, threshold."""
    from scipy.sparse import csr_matrix, hstack
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    texts = [example.text for example in examples]
    letters, rarity = _letters(texts)
    vectors = hstack([csr_matrix(embed(texts)), letters]).tocsr()
    wanted = np.array([example.wanted for example in examples])
    weights = np.array([example.weight for example in examples])
    classes = np.unique(wanted)
    truth = np.searchsorted(classes, wanted)
    folds = StratifiedKFold(_FOLDS, shuffle=True, random_state=0)
    tried = []
    for strength in _STRENGTHS:
        model = LogisticRegression(C=strength, max_iter=5000)
        scores = cross_val_predict(
            model, vectors, wanted, cv=folds, method="decision_function", params={"sample_weight": weights}
        )
        scores = _each_class(scores.reshape(len(texts), -1))
        temperature, loss = _best_temperature(scores, truth, weights)
        tried.append((loss, strength, temperature, scores))
    loss, strength, temperature, scores = min(tried, key=lambda found: found[0])
    model = LogisticRegression(C=strength, max_iter=5000).fit(vectors, wanted, sample_weight=weights)
    unharmed = softmax(scores / temperature)[:, list(classes).index(HARMLESS)]
    threshold = _operating_point(1 - unharmed, wanted != HARMLESS, weights)
    fitted = np.asarray(_each_class(model.coef_.T) / temperature, np.float32)
    head = Head(
        classes=tuple(str(name) for name in classes),
        weights=fitted[:-GRAMS],
        gram_weights=np.asarray(fitted[-GRAMS:] * rarity[:, None], np.float16),
        bias=np.asarray(_each_class(model.intercept_) / temperature, np.float32),
        threshold=threshold,
    )
    told = {"examples": len(examples), "strength": strength, "temperature": round(temperature, 3)}
    return head, {**told, "log_loss": round(loss, 4), "threshold": round(threshold, 3)}


def _each_class(values: Any) -> Any:
    """A last axis of all classes; scikit-learn gives the second alone where there are two."""
    return np.concatenate([np.zeros_like(values), values], -1) if values.shape[-1] == 1 else values


def _letters(texts: list[str]) -> tuple[Any, Vectors]:
    """What `grams` says of texts, (texts, GRAMS), times each bucket's weight (inverse document frequency); and that."""
    from scipy.sparse import csr_matrix

    found = [grams(text) for text in texts]
    rows = np.repeat(np.arange(len(texts)), [len(buckets) for buckets, _ in found])
    columns = np.concatenate([np.asarray(buckets, np.int64) for buckets, _ in found])
    values = np.concatenate([values for _, values in found])
    rarity = _LETTERS * (np.log(len(texts) / (1 + np.bincount(columns, minlength=GRAMS))) + 1)
    made = csr_matrix((values * rarity[columns], (rows, columns)), shape=(len(texts), GRAMS))
    return made, np.asarray(rarity, np.float32)


def measure(head: Head, examples: list[Example], embed: Embed) -> dict[str, Any]:
    """What a head does with examples that it was not fitted to; `brier` and `calibration_error` of being flagged."""
    made = head.probabilities([example.text for example in examples], embed)
    score = 1 - made[:, head.classes.index(HARMLESS)]
    bad = np.array([example.wanted != HARMLESS for example in examples])
    kinds = sorted({example.category for example in examples})
    shares = {
        kind: round(float((score[[e.category == kind for e in examples]] >= head.threshold).mean()), 3)
        for kind in kinds
    }
    told = {"examples": len(examples), "brier": round(float(np.mean((score - bad) ** 2)), 4)}
    return {**told, "auroc": auroc(score, bad), "calibration_error": calibration_error(score, bad), "flagged": shares}


def auroc(score: Vectors, bad: Any) -> float | None:
    """How often a bad one scores higher than a good one, ties half; None where there are not both."""
    from sklearn.metrics import roc_auc_score

    return None if bad.all() or not bad.any() else round(float(roc_auc_score(bad, score)), 4)


def calibration_error(score: Vectors, bad: Any, bins: int = 10) -> float:
    """Expected calibration error: |mean score - share of bad| of equal-width bins, weighted by their size."""
    held = np.minimum((score * bins).astype(int), bins - 1)
    parts = [(held == b) for b in range(bins) if (held == b).any()]
    return round(float(sum(part.mean() * abs(score[part].mean() - bad[part].mean()) for part in parts)), 4)


def _operating_point(score: Any, bad: Any, weights: Any) -> float:
    """The threshold that lets the wanted share of harmless examples pass, by weight, over cross-validated scores."""
    order = np.argsort(score[~bad])
    passed = np.cumsum(weights[~bad][order]) / weights[~bad].sum()
    return float(score[~bad][order][np.searchsorted(passed, _WANTED_PASSED)])


def _best_temperature(scores: Any, truth: Any, weights: Any) -> tuple[float, float]:
    """The temperature of least log loss on cross-validated scores, and that loss."""

    def loss(temperature: float) -> float:
        right = softmax(scores / temperature)[np.arange(len(truth)), truth]
        return float(np.average(-np.log(np.maximum(right, 1e-12)), weights=weights))

    best = min(np.geomspace(0.3, 3, 47), key=loss)
    return float(best), loss(best)
