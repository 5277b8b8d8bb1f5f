"""The figures of `rag eval` against values worked out by hand, faulty question files, and the fixed halves."""

import json
from pathlib import Path

import numpy as np
import pytest

from rag.evaluate import (
    EvaluationError,
    Outcome,
    Question,
    auroc,
    comparisons,
    draw,
    in_test_half,
    ratio_interval,
    read_questions,
    summary,
)
from rag.rows import Stored

QUESTIONS = Path(__file__).parents[2] / "bench" / "rag" / "questions.jsonl"


def question(number: int, pages: list[int], kind: str = "exact") -> Question:
    return Question(id=f"q{number}", question="?", pages=pages, kind=kind, document="manual")


def passage(document: str, page: int) -> Stored:
    return Stored(1, 1, document, f"/{document}", 0, page, page, "", 0, 1, "x")


def test_right_means_page_and_document() -> None:
    asked = question(1, [3, 4])
    assert asked.is_right(passage("manual.pdf", 4))
    assert asked.is_right(passage("manual", 3))
    assert not asked.is_right(passage("manual.pdf", 5))
    assert not asked.is_right(passage("other.pdf", 4))
    assert Question(id="a", question="?", pages=[4]).is_right(passage("other.pdf", 4))


def test_summary_by_hand() -> None:
    outcomes = [
        Outcome(question(1, [1]), 1, 0.9, True),
        Outcome(question(2, [1]), 4, 0.4, False),
        Outcome(question(3, [1], "table"), 0, 0.8, True),
        Outcome(question(4, [], "unanswerable"), 0, 0.1, False),
        Outcome(question(5, [], "unanswerable"), 0, 0.85, True),
    ]
    figures = summary(outcomes)
    assert figures["recall@1"] == pytest.approx(1 / 3, abs=1e-4)
    assert figures["recall@5"] == pytest.approx(2 / 3, abs=1e-4)
    assert figures["mrr@10"] == pytest.approx((1 + 1 / 4) / 3, abs=1e-4)
    assert figures["recall@5_by_kind"] == {"exact": 1.0, "table": 0.0}
    assert figures["citation_precision"] == pytest.approx(1 / 3, abs=1e-4)
    assert figures["unanswerable_auroc"] == pytest.approx(4 / 6, abs=1e-4)
    assert (figures["unanswerable_accuracy"], figures["answerable_accuracy"]) == (0.5, pytest.approx(2 / 3, abs=1e-4))


def test_methods_that_are_not_judged_have_no_judgement() -> None:
    figures = summary([Outcome(question(1, [1]), 2)])
    assert figures["mrr@10"] == 0.5
    assert figures["citation_precision"] is figures["unanswerable_auroc"] is None


def test_auroc_counts_ties_half() -> None:
    assert auroc([0.5, 0.9], [0.5]) == 0.75
    assert auroc([], [0.5]) is None


def test_interval_is_paired() -> None:
    base = np.tile([1.0, 0.2, 0.5, 0.1], 30)
    assert ratio_interval(base * 2, base) == (2.0, 2.0, 2.0)
    ratio, low, high = ratio_interval(np.roll(base, 1), base)
    assert low < ratio == 1.0 < high


def test_comparisons_and_picture(tmp_path: Path) -> None:
    results = {
        "hybrid": [Outcome(question(i, [1]), 1, 0.5, True) for i in range(8)],
        "dense": [Outcome(question(i, [1]), 2) for i in range(8)],
    }
    assert comparisons(results) == [{"compare": "hybrid/dense", "mrr@10_ratio": 2.0, "low95": 2.0, "high95": 2.0}]
    draw({name: summary(outcomes) for name, outcomes in results.items()}, tmp_path / "p.png")
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ('{"id": "a"}', "question"),
        ("not json", "JSON"),
        ('{"id": "a", "question": "?", "pages": ["x"]}', "pages.0"),
    ],
)
def test_a_faulty_line_is_named(tmp_path: Path, line: str, named: str) -> None:
    file = tmp_path / "q.jsonl"
    file.write_text('{"id": "a", "question": "?"}\n' + line, encoding="utf-8")
    with pytest.raises(EvaluationError, match=f":2:.*{named}"):
        read_questions(file)


def test_missing_and_empty_files(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError):
        read_questions(tmp_path / "none.jsonl")
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(EvaluationError):
        read_questions(tmp_path / "empty.jsonl")


def test_the_shipped_set_is_whole() -> None:
    rows = [json.loads(line) for line in QUESTIONS.read_text(encoding="utf-8").split("\n") if line]
    asked = read_questions(QUESTIONS)
    assert len({q.id for q in asked}) == len(rows) >= 130
    assert sum(not q.answerable for q in asked) >= 35
    assert {q.kind for q in asked} == {"paraphrase", "exact", "table", "multi", "unanswerable"}
    assert all(bool(row["evidence"]) == bool(row["pages"]) == (row["kind"] != "unanswerable") for row in rows)
    halves = [sum(in_test_half(q) for q in asked if q.answerable is kind) for kind in (True, False)]
    assert 60 < halves[0] < 123
    assert 14 < halves[1] < 34
