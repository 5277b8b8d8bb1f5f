"""How well a collection answers a question set: recall, MRR, citation precision, unanswerable questions told apart.

A question set is JSON lines `{"id", "question", "answer", "pages", "kind", "document"}`: `pages` are 1-based PDF pages,
any of which counts; none means that the documents do not answer it. `document` (a file name, with or without its
ending) may be missing. A passage is right when its printed page is one of the pages of the question's document.
"""

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field, ValidationError

from personas.lang import say
from rag.errors import RagError
from rag.relevance import judge
from rag.rows import Stored
from rag.search import Found, Searcher

EvalMethod = Literal["hybrid", "dense", "bm25", "whitespace"]
Half = Literal["all", "calibration", "test"]
Floats = NDArray[np.float64]
Progress = Callable[[int, int], None]
METHODS: tuple[EvalMethod, ...] = get_args(EvalMethod)
DEPTH = 10
_RESAMPLES = 10_000


class EvaluationError(RagError):
    """A question set cannot be read."""


class Question(BaseModel):
    """One line of a question set."""

    id: str = Field(min_length=1)
    question: str = Field(min_length=1)
    answer: str = ""
    pages: list[int] = []
    kind: str = "-"
    document: str = ""

    @property
    def answerable(self) -> bool:
        return bool(self.pages)

    def is_right(self, passage: Stored) -> bool:
        named = passage.document in (self.document, "") or Path(passage.document).stem == self.document
        return passage.page in self.pages and (not self.document or named)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one method made of one question.

    Attributes:
        rank: of the first right passage among the first ten, 1-based; 0 if there is none.
        probability: that the passages answer it; None for methods that are not judged.
        answered: whether the product would answer from them.
    """

    question: Question
    rank: int
    probability: float | None = None
    answered: bool | None = None


def in_test_half(question: Question) -> bool:
    """A fixed half of the questions, by the hash of their ids, that nothing may be fitted to."""
    return hashlib.sha256(question.id.encode()).digest()[0] % 2 == 1


def read_questions(path: Path, half: Half = "all") -> list[Question]:
    """A question set.

    Raises:
        EvaluationError: no such file, a faulty line (named), or no question in it.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise EvaluationError(f"{path}: {error}", say("질문 파일의 경로를 확인하세요", "check the path")) from error
    found = [_question(path, number, line) for number, line in enumerate(lines, 1) if line.strip()]
    kept = [question for question in found if half == "all" or in_test_half(question) == (half == "test")]
    if not kept:
        raise EvaluationError(f"{path}: " + say("질문이 없습니다", "no questions"))
    return kept


def _question(path: Path, number: int, line: str) -> Question:
    try:
        return Question.model_validate_json(line)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise EvaluationError(
            f"{path}:{number}: {field} {first['msg']}",
            say(
                '한 줄에 {"id", "question", "pages": [쪽], "kind"} 하나',
                'one {"id", "question", "pages", "kind"} a line',
            ),
        ) from error


def evaluate(
    searcher: Searcher, collection: str, questions: Sequence[Question], method: EvalMethod,
    progress: Progress = lambda done, total: None,
) -> list[Outcome]:  # fmt: skip
    """Ask every question by one method.

    Raises:
        CollectionError: no such collection, or another embedder is set.
    """
    stored = searcher.store.collection(collection)
    plain = WhitespaceBM25(searcher, collection) if method == "whitespace" else None
    outcomes = []
    for done, question in enumerate(questions, 1):
        if plain:
            outcomes.append(Outcome(question, _rank(question, plain.search(question.question))))
        else:
            assert method != "whitespace"
            found = searcher.search(question.question, collection, DEPTH, method)
            judged = judge(searcher, stored, found) if method == "hybrid" else (None, None)
            outcomes.append(Outcome(question, _rank(question, _passages(found)), *judged))
        progress(done, len(questions))
    return outcomes


def _passages(found: Found) -> list[Stored]:
    return [hit.passage for hit in found.hits]


def _rank(question: Question, passages: list[Stored]) -> int:
    return next((rank for rank, passage in enumerate(passages, 1) if question.is_right(passage)), 0)


class WhitespaceBM25:
    """The plain baseline: BM25 (k1 1.2, b 0.75) over what stands between spaces, without the headings."""

    def __init__(self, searcher: Searcher, collection: str) -> None:
        import bm25s  # type: ignore[import-untyped]

        store = searcher.store
        rows = store.documents(store.collection(collection))
        self._passages = [passage for row in rows for passage in store.document_passages(row.id)]
        self._index = bm25s.BM25(k1=1.2, b=0.75, method="lucene")
        self._index.index([passage.text.lower().split() for passage in self._passages], show_progress=False)

    def search(self, query: str) -> list[Stored]:
        """The best passages that hold a word of the query."""
        scores = self._index.get_scores(query.lower().split())
        order = np.argsort(-scores, kind="stable")[:DEPTH]
        return [self._passages[i] for i in order if scores[i] > 0]


def summary(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """The figures of one method; shares are 0…1, None where nothing was judged.

    `citation_precision`: of the questions that it would answer, those whose first passage is right; an unanswerable
    question that is answered counts against it. `unanswerable_accuracy`: declined among the unanswerable;
    `answerable_accuracy`: answered among the rest.
    """
    asked = [outcome for outcome in outcomes if outcome.question.answerable]
    ranks = np.array([outcome.rank for outcome in asked])
    figures: dict[str, Any] = {"questions": len(outcomes), "answerable": len(asked)}
    for k in (1, 3, 5, 10):
        figures[f"recall@{k}"] = _mean((ranks > 0) & (ranks <= k))
    figures["mrr@10"] = _mean(reciprocal_ranks(outcomes))
    kinds = dict.fromkeys(outcome.question.kind for outcome in asked)
    of_kind = {kind: np.array([o.rank for o in asked if o.question.kind == kind]) for kind in kinds}
    figures["recall@5_by_kind"] = {kind: _mean((r > 0) & (r <= 5)) for kind, r in of_kind.items()}
    return figures | _judged(outcomes)


def _judged(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    judged = [outcome for outcome in outcomes if outcome.probability is not None]
    answered = [outcome for outcome in judged if outcome.answered]
    right = [o.probability for o in judged if o.question.answerable and o.probability is not None]
    wrong = [o.probability for o in judged if not o.question.answerable and o.probability is not None]
    return {
        "citation_precision": _mean([o.rank == 1 for o in answered]),
        "unanswerable_auroc": auroc(right, wrong),
        "unanswerable_accuracy": _mean([not o.answered for o in judged if not o.question.answerable]),
        "answerable_accuracy": _mean([bool(o.answered) for o in judged if o.question.answerable]),
    }


def _mean(values: Any) -> float | None:
    return round(float(np.mean(values)), 4) if len(values) else None


def reciprocal_ranks(outcomes: Sequence[Outcome]) -> Floats:
    """1 / rank of each answerable question, 0 where nothing right was found; shape (answerable,)."""
    return np.array([1 / o.rank if o.rank else 0.0 for o in outcomes if o.question.answerable])


def auroc(positive: Sequence[float], negative: Sequence[float]) -> float | None:
    """The chance that a positive scores above a negative, ties counted half (Mann-Whitney); None if either is empty."""
    if not positive or not negative:
        return None
    difference = np.asarray(positive)[:, None] - np.asarray(negative)[None, :]
    return round(float(np.mean((difference > 0) + 0.5 * (difference == 0))), 4)


def ratio_interval(better: Floats, base: Floats, seed: int = 0) -> tuple[float, float, float]:
    """Ratio of two means over the same questions, with its paired-bootstrap 95 % interval (10,000 resamples)."""
    drawn = np.random.default_rng(seed).integers(0, len(base), (_RESAMPLES, len(base)))
    ratios = better[drawn].mean(1) / np.maximum(base[drawn].mean(1), 1e-9)
    low, high = np.percentile(ratios, [2.5, 97.5])
    return round(float(better.mean() / max(base.mean(), 1e-9)), 3), round(float(low), 3), round(float(high), 3)


def comparisons(results: dict[str, list[Outcome]]) -> list[dict[str, Any]]:
    """MRR@10 of the first method against each other one."""
    (first, outcomes), *others = results.items()
    made = []
    for name, other in others:
        ratio, low, high = ratio_interval(reciprocal_ranks(outcomes), reciprocal_ranks(other))
        made.append({"compare": f"{first}/{name}", "mrr@10_ratio": ratio, "low95": low, "high95": high})
    return made


def draw(summaries: dict[str, dict[str, Any]], picture: Path) -> None:
    """A picture of the methods: MRR@10 and recall@5, and recall@5 by kind of question."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import font_manager, pyplot

    korean = [
        f.name for f in font_manager.fontManager.ttflist if re.search(r"Nanum\w*Gothic$|Noto Sans (CJK )?KR", f.name)
    ]
    mpl.rcParams["font.family"] = [*korean[:1], "DejaVu Sans"]
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4), layout="constrained")
    _bars(left, summaries, {"MRR@10": "mrr@10", "recall@5": "recall@5"})
    kinds = list(next(iter(summaries.values()))["recall@5_by_kind"])
    flat = {name: {**s, **{f"kind {k}": s["recall@5_by_kind"].get(k) for k in kinds}} for name, s in summaries.items()}
    _bars(right, flat, {kind: f"kind {kind}" for kind in kinds})
    left.set_title(say("검색 방식", "by method"))
    right.set_title(say("질문 갈래별 recall@5", "recall@5 by kind of question"))
    right.legend(loc="lower right")
    figure.savefig(picture, dpi=120)
    pyplot.close(figure)


def _bars(axes: Any, summaries: dict[str, dict[str, Any]], columns: dict[str, str]) -> None:
    width = 0.8 / len(summaries)
    for number, (name, figures) in enumerate(summaries.items()):
        heights = [figures[key] or 0.0 for key in columns.values()]
        places = np.arange(len(columns)) + (number - (len(summaries) - 1) / 2) * width
        drawn = axes.bar(places, heights, width, label=name)
        axes.bar_label(drawn, fmt="%.2f", fontsize=7)
    axes.set_xticks(np.arange(len(columns)), list(columns))
    axes.set_ylim(0, 1.08)
