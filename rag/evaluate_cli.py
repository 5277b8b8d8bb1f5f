"""The `rag eval` command."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from personas.home import Home
from personas.lang import say

if TYPE_CHECKING:
    from rag.evaluate import Outcome

_SHOWN = ("mrr@10", "recall@1", "recall@5", "recall@10", "citation_precision", "unanswerable_auroc",
          "unanswerable_accuracy", "answerable_accuracy")  # fmt: skip


def evaluate(
    questions: Annotated[Path, typer.Argument(help=say("질문 파일 (JSONL)", "questions (JSONL)"))],
    collection: Annotated[str, typer.Option("--collection", "-c", help=say("컬렉션 이름", "the collection's name"))],
    method: Annotated[
        list[str] | None, typer.Option(help="hybrid | dense | bm25 | whitespace (" + say("여러 번", "repeatable") + ")")
    ] = None,
    half: Annotated[str, typer.Option(help="all | calibration | test")] = "all",
    details: Annotated[
        bool, typer.Option(help=say("--json에 질문마다 한 줄을 더합니다", "with --json, a line a question too"))
    ] = False,
    picture: Annotated[Path | None, typer.Option(help=say("그림을 저장할 PNG", "save a picture as PNG"))] = None,
    as_json: Annotated[bool, typer.Option("--json", help=say("한 줄에 하나씩 JSON", "one JSON object a line"))] = False,
) -> None:
    """Measure retrieval on a question set: recall, MRR, citation precision, unanswerable questions."""
    from rag.evaluate import METHODS, comparisons, draw, read_questions, summary
    from rag.search import Searcher

    methods = method or ["hybrid"]
    if unknown := sorted(set(methods) - set(METHODS)):
        raise typer.BadParameter(f"{unknown[0]}: {' | '.join(METHODS)}", param_hint="--method")
    if half not in ("all", "calibration", "test"):
        raise typer.BadParameter("all | calibration | test", param_hint="--half")
    asked = read_questions(questions, half)  # type: ignore[arg-type]
    searcher = Searcher(Home.from_env())
    results = {name: _asked(searcher, collection, asked, name) for name in dict.fromkeys(methods)}
    searcher.close()
    summaries = {name: summary(outcomes) for name, outcomes in results.items()}
    compared = comparisons(results)
    if as_json:
        _print_json(results if details else {}, summaries, compared)
    else:
        _print_table(summaries, compared)
    if picture:
        draw(summaries, picture)


def _asked(searcher: Any, collection: str, questions: list[Any], method: str) -> "list[Outcome]":
    from rich.console import Console
    from rich.progress import Progress

    from rag.evaluate import evaluate as ask

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(method, total=len(questions))
        return ask(searcher, collection, questions, method, lambda done, _: bar.update(task, completed=done))  # type: ignore[arg-type]


def _print_json(
    results: "dict[str, list[Outcome]]", summaries: dict[str, dict[str, Any]], compared: list[dict[str, Any]]
) -> None:
    lines: list[dict[str, Any]] = []
    for name, outcomes in results.items():
        lines += [
            {"method": name, "id": o.question.id, "kind": o.question.kind, "rank": o.rank,
             "probability": o.probability, "answered": o.answered}
            for o in outcomes
        ]  # fmt: skip
    lines += [{"method": name, **figures} for name, figures in summaries.items()]
    for line in [*lines, *compared]:
        print(json.dumps(line, ensure_ascii=False))


def _print_table(summaries: dict[str, dict[str, Any]], compared: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(say("지표", "figure"), *summaries)
    kinds = list(dict.fromkeys(kind for figures in summaries.values() for kind in figures["recall@5_by_kind"]))
    rows = {key: [figures[key] for figures in summaries.values()] for key in _SHOWN}
    rows |= {f"recall@5 {k}": [figures["recall@5_by_kind"].get(k) for figures in summaries.values()] for k in kinds}
    for key, values in rows.items():
        table.add_row(key, *("-" if value is None else f"{value:.3f}" for value in values))
    console = Console()
    console.print(table)
    for line in compared:
        console.print(
            f"MRR@10 {line['compare']}: {line['mrr@10_ratio']:.2f}× (95 %: {line['low95']:.2f}–{line['high95']:.2f})",
            highlight=False,
        )
