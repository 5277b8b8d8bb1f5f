"""`tune data reject` and `tune data from-pdf`: what asks a model. The key comes from OPENAI_API_KEY alone."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from personas.lang import say

if TYPE_CHECKING:
    from tune.data_tools.ask import Endpoint
    from tune.data_tools.journal import Journal
    from tune.data_tools.reader import Fault, Faults
    from tune.formats.base import Example

Model = Annotated[str, typer.Option(help=say("모델 이름", "the model's name"))]
Url = Annotated[
    str,
    typer.Option(
        envvar="OPENAI_BASE_URL", help=say("OpenAI 호환 주소 (/v1까지)", "an OpenAI-compatible address, with /v1")
    ),
]
Concurrency = Annotated[int, typer.Option(min=1, max=256, help=say("동시 요청 수", "requests at a time"))]
PriceIn = Annotated[float, typer.Option(min=0, help=say("입력 100만 토큰의 값 ($)", "$ for a million prompt tokens"))]
PriceOut = Annotated[float, typer.Option(min=0, help=say("출력 100만 토큰의 값 ($)", "$ for a million answer tokens"))]
Budget = Annotated[
    float, typer.Option(min=0, help=say("이 금액($)을 넘지 않습니다; 0: 제한 없음", "$ never gone over; 0: none"))
]
Out = Annotated[Path, typer.Option("-o", "--out", help=say("쓸 파일", "the file to write"))]
Overwrite = Annotated[bool, typer.Option(help=say("있는 파일을 바꿉니다", "replace what is there"))]
OPENAI_URL = "https://api.openai.com/v1"


def reject(
    inputs: Annotated[list[Path], typer.Argument(metavar="IN…")],
    out: Out,
    model: Model,
    url: Url = OPENAI_URL,
    kind: Annotated[
        str,
        typer.Option(help=say("english: 답의 영어 번역 | answer: 그 모델의 답", "english: the translation | answer")),
    ] = "english",
    to: Annotated[str, typer.Option(help="dpo | preference")] = "dpo",
    from_: Annotated[str, typer.Option("--from")] = "",
    temperature: Annotated[float, typer.Option(min=0, max=2)] = 0.0,
    concurrency: Concurrency = 8,
    price_in: PriceIn = 0.0,
    price_out: PriceOut = 0.0,
    budget: Budget = 0.0,
    overwrite: Overwrite = False,
) -> None:
    """Give every record a worse answer, checked. After a kill the same command goes on and pays nothing twice."""
    import asyncio

    from tune.data_tools.reader import Faults, Source
    from tune.data_tools.reject import KINDS, ask_for, with_rejected
    from tune.data_tools.targets import target_named
    from tune.data_tools.writer import refuse_existing

    if kind not in KINDS:
        raise typer.BadParameter(" | ".join(KINDS), param_hint="--kind")
    refuse_existing(out, overwrite)
    target_named(to)
    source, faults = Source(inputs, from_), Faults()
    endpoint = replace(_endpoint(model, url, concurrency, price_in, price_out, budget), temperature=temperature)
    with _asking(out, endpoint) as (journal, report):
        asyncio.run(ask_for(source, kind, endpoint, journal, report))
        _write(with_rejected(source, kind, endpoint, journal), to, out, faults, overwrite)


def from_pdf(
    inputs: Annotated[list[Path], typer.Argument(metavar="PDF…")],
    out: Out,
    model: Model,
    url: Url = OPENAI_URL,
    to: Annotated[str, typer.Option(help="dolly | messages | record | …")] = "dolly",
    questions: Annotated[int, typer.Option(min=1, max=20, help=say("글 조각마다 질문 수", "questions a passage"))] = 3,
    size: Annotated[int, typer.Option(min=200, help=say("글 조각의 글자 수", "characters of a passage"))] = 800,
    concurrency: Concurrency = 8,
    price_in: PriceIn = 0.0,
    price_out: PriceOut = 0.0,
    budget: Budget = 0.0,
    overwrite: Overwrite = False,
) -> None:
    """Make records from PDFs; only answers that are in their passage, word for word, are kept."""
    import asyncio

    from tune.data_tools import pdf
    from tune.data_tools.reader import Faults
    from tune.data_tools.targets import target_named
    from tune.data_tools.writer import refuse_existing

    refuse_existing(out, overwrite)
    target_named(to)
    files = [file for one in inputs for file in (sorted(one.rglob("*.pdf")) if one.is_dir() else [one])]
    faults = Faults()
    endpoint = _endpoint(model, url, concurrency, price_in, price_out, budget)
    with _asking(out, endpoint) as (journal, report):
        asyncio.run(pdf.ask_for(pdf.worth_asking(files, size, faults.add), questions, endpoint, journal, report))
        done = pdf.worth_asking(files, size, lambda _: None)
        _write(pdf.records(done, questions, endpoint, journal), to, out, faults, overwrite)


def _endpoint(model: str, url: str, concurrency: int, price_in: float, price_out: float, budget: float) -> "Endpoint":
    from tune.data_tools.ask import Endpoint

    if budget and not (price_in or price_out):
        raise typer.BadParameter(
            say("--price-in과 --price-out이 있어야 셀 수 있습니다", "needs --price-in and --price-out"),
            param_hint="--budget",
        )
    return Endpoint(model, url, concurrency, price_in, price_out, budget)


@contextmanager
def _asking(out: Path, endpoint: "Endpoint") -> "Iterator[tuple[Journal, Callable[[int], None]]]":
    """The journal of an output and a running display; tokens and cost are shown however it ends."""
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    from tune.data_tools.journal import journal_of

    console = Console(stderr=True)
    columns = SpinnerColumn(), TextColumn("{task.completed:,} · {task.description}"), TimeElapsedColumn()
    with journal_of(out) as journal:

        def spent() -> str:
            tokens = journal.prompt_tokens, journal.completion_tokens
            return say("토큰 {:,} + {:,} · ${:.4f}", "tokens {:,} + {:,} · ${:.4f}").format(
                *tokens, endpoint.cost(*tokens)
            )

        try:
            with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
                task = progress.add_task(spent(), total=None)
                yield journal, lambda more: progress.update(task, advance=more, description=spent())
        finally:
            typer.echo(spent(), err=True)


def _write(made: "Iterator[Example | Fault]", to: str, out: Path, faults: "Faults", overwrite: bool) -> None:
    """Write what is good, and show what is not."""
    from tune.data_tools.convert import write_all
    from tune.data_tools.reader import Fault
    from tune.data_tools.targets import target_named

    def good() -> "Iterator[Example]":
        for one in made:
            if isinstance(one, Fault):
                faults.add(one)
            else:
                yield one

    done = write_all(good(), target_named(to), out, faults, overwrite)
    for fault in faults.first:
        typer.echo(str(fault), err=True)
    left = faults.count
    typer.echo(f"✓ {out}: {done.written:,}" + (say(f", 뺀 것 {left:,}", f", left out {left:,}") if left else ""))
