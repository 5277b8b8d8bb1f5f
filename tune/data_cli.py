"""`tune data`: read, check, convert and make instruction data of any format."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from personas.console import make_app
from personas.lang import say

if TYPE_CHECKING:
    from tune.data_tools.reader import Faults, Source
    from tune.formats.base import Count

app = make_app(say("학습 데이터를 읽고, 검사하고, 바꾸고, 만듭니다", "Read, check, convert and make training data"))

Inputs = Annotated[
    list[Path],
    typer.Argument(
        metavar="IN…",
        help=say("파일, 폴더, dataset_info.json (JSON, JSONL, CSV, TSV, Parquet)", "files, folders, dataset_info.json"),
    ),
]
From = Annotated[str, typer.Option("--from", help=say("형식; 없으면 알아냅니다", "the format; else recognised"))]
Out = Annotated[Path, typer.Option("-o", "--out", help=say("쓸 파일", "the file to write"))]
To = Annotated[str, typer.Option(help="dolly | dpo | messages | record | preference | …")]
SkipBad = Annotated[bool, typer.Option(help=say("틀린 기록을 빼고 계속합니다", "leave bad records out and go on"))]
Overwrite = Annotated[bool, typer.Option(help=say("있는 파일을 바꿉니다", "replace what is there"))]
Base = Annotated[str, typer.Option(help=say("토큰을 셀 베이스 모델", "the base model whose tokens are counted"))]
MaxLength = Annotated[
    int,
    typer.Option(min=128, help=say("긴 본문을 이 토큰 수에 맞게 자릅니다", "cut long passages to fit these tokens")),
]
Category = Annotated[str, typer.Option(help=say("모든 기록의 category", "category of every record"))]


def _source(
    inputs: list[Path], from_: str, count: "Count | None" = None, length: int = 1024, category: str = ""
) -> "Source":
    from tune.data_tools.reader import Source
    from tune.formats.base import Options

    return Source(inputs, from_, Options(length, count or len, category))


def _notes(source: "Source", faults: "Faults") -> None:
    """Show what a reader should know, on the error stream."""
    for note in source.notes:
        typer.echo(f"· {note}", err=True)
    for fault in faults.first:
        typer.echo(str(fault), err=True)
    if faults.count > len(faults.first):
        more = faults.count - len(faults.first)
        typer.echo(say(f"그 밖에 {more}개 (`tune data check`)", f"and {more} more (`tune data check`)"), err=True)


def _counter(base: str) -> "Count | None":
    if not base:
        return None
    from tune.data_tools.tokens import token_counter

    return token_counter(base)


@app.command(help=say("다른 형식으로 바꿉니다", "Convert to another format"))
def convert(
    inputs: Inputs,
    to: To,
    out: Out,
    from_: From = "",
    category: Category = "",
    max_length: MaxLength = 1024,
    base: Base = "",
    skip_bad: SkipBad = False,
    overwrite: Overwrite = False,
) -> None:
    """Convert any data to one form."""
    from tune.data_tools.convert import convert as run
    from tune.data_tools.progress import counted
    from tune.data_tools.reader import Faults
    from tune.data_tools.targets import target_named

    target = target_named(to)
    source, faults = _source(inputs, from_, _counter(base), max_length, category), Faults()
    with counted(source, say("변환", "converting")):
        done = run(source, target, out, faults, skip_bad, overwrite)
    _notes(source, faults)
    if done.without_system:
        lost = done.without_system
        typer.echo(
            say(
                f"· {to}에는 자리가 없어 시스템 메시지 {lost}개를 뺐습니다",
                f"· {to} has no place for {lost} system messages",
            ),
            err=True,
        )
    formats = ", ".join(f"{name} {n:,}" for name, n in source.formats.items())
    typer.echo(
        f"✓ {out}: {done.written:,} ({formats})"
        + (say(f", 틀린 기록 {faults.count:,}", f", bad {faults.count:,}") if faults.count else "")
    )


@app.command(help=say("틀린 기록을 모두 파일, 줄, 필드, 이유로 알립니다", "Report every bad record"))
def check(inputs: Inputs, from_: From = "", max_length: MaxLength = 1024, base: Base = "") -> None:
    """Report every bad record with file, line, field and reason; exit code 1 if there is one."""
    from tune.data_tools.reader import Fault

    source = _source(inputs, from_, _counter(base), max_length)
    bad = 0
    for made in source.read():
        if isinstance(made, Fault):
            typer.echo(str(made))
            bad += 1
    for note in source.notes:
        typer.echo(f"· {note}", err=True)
    formats = ", ".join(f"{name} {n:,}" for name, n in source.formats.items())
    good = sum(source.formats.values())
    typer.echo(say(f"맞는 기록 {good:,} ({formats}), 틀린 기록 {bad:,}", f"good {good:,} ({formats}), bad {bad:,}"))
    if bad or not good:
        raise typer.Exit(1)


@app.command(help=say("읽을 수 있는 형식과 쓸 수 있는 형식", "The formats that can be read and written"))
def formats() -> None:
    """List formats, each with an example line."""
    import json

    import tune.formats  # noqa: F401  registers the formats
    from tune.data_tools.targets import TARGETS
    from tune.formats.base import FORMATS

    for name, format_ in sorted(FORMATS.items()):
        typer.echo(f"{name}  ({format_.title})\n  {json.dumps(format_.example, ensure_ascii=False)}")
    typer.echo("--to: " + " ".join(TARGETS))
