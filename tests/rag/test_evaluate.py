"""The figures of `rag eval` against values worked out by hand, faulty question files, and the fixed halves."""

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from personas.home import Home
from rag.cli import app
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
from rag.ingest import ingest
from rag.rows import Stored
from rag.settings import RagSettings

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


def test_the_command_measures_a_real_collection(home: Home, tmp_path: Path) -> None:
    (tmp_path / "manual.md").write_text("# 보증\n\n본체는 산 날부터 2년 동안 고친다.\n", encoding="utf-8")
    (tmp_path / "other.md").write_text("# 청소\n\n마른 천으로 닦는다.\n", encoding="utf-8")
    ingest([str(tmp_path)], "c", home, RagSettings(), vectors=False)
    lines = [
        {"id": "1", "question": "고치는 건 몇 년인가요?", "pages": [1], "kind": "paraphrase", "document": "manual"},
        {"id": "2", "question": "마른 천으로", "pages": [1], "kind": "exact", "document": "other.md"},
        {"id": "3", "question": "가격은?", "pages": [], "kind": "unanswerable"},
    ]
    file = tmp_path / "q.jsonl"
    file.write_text("\n".join(json.dumps(line) for line in lines), encoding="utf-8")
    command = ["eval", str(file), "-c", "c", "--method", "bm25", "--method", "whitespace", "--json", "--details"]
    reply = CliRunner().invoke(app, command)
    assert reply.exit_code == 0, reply.output
    rows = [json.loads(line) for line in reply.stdout.splitlines() if line.startswith("{")]
    ranks = {(row["method"], row["id"]): row["rank"] for row in rows if "rank" in row}
    assert (ranks["bm25", "1"], ranks["whitespace", "1"]) == (1, 0)  # 고치는 and 고친다 share no word between spaces
    assert ranks["bm25", "2"] == ranks["whitespace", "2"] == 1
    assert {row["method"]: row["mrr@10"] for row in rows if "mrr@10" in row} == {"bm25": 1.0, "whitespace": 0.5}
    assert rows[-1]["compare"] == "bm25/whitespace"
    table = CliRunner().invoke(app, command[:-2])
    assert "MRR@10 bm25/whitespace: 2.00×" in table.stdout


def test_an_unknown_method_is_refused(tmp_path: Path) -> None:
    reply = CliRunner().invoke(app, ["eval", str(tmp_path / "q.jsonl"), "-c", "c", "--method", "magic"])
    assert reply.exit_code == 2
    assert "whitespace" in reply.output
