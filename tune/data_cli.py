"""`tune data`: read, check, convert and make instruction data of any format."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from personas.console import make_app
from personas.lang import say
from personas.schema import EMBEDDED_BASE
from tune.data_ask_cli import from_pdf, reject

if TYPE_CHECKING:
    from tune.data_tools.reader import Faults, Source
    from tune.data_tools.targets import Target
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
SameForm = Annotated[str, typer.Option("--to", help=say("쓸 형식; 없으면 읽은 형식", "form to write; else as read"))]
Seed = Annotated[int, typer.Option(help=say("난수 시드", "random seed"))]
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


def _kinds(source: "Source") -> str:
    """The formats that were read, each with its number of examples, in brackets."""
    kinds = ", ".join(f"{name} {count:,}" for name, count in source.formats.items())
    return f" ({kinds})" if kinds else ""


def _counter(base: str) -> "Count | None":
    if not base:
        return None
    from tune.data_tools.tokens import token_counter

    return token_counter(base)


def _target(name: str, source: "Source") -> "Target":
    """The form named, or the one that the source is read in, or our own."""
    from tune.data_tools.reader import Faults
    from tune.data_tools.targets import TARGETS, target_named

    if not name:
        next(source.good(Faults()), None)
        name = next((read for read in source.formats if read in TARGETS), "record")
    return target_named(name)


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
    typer.echo(
        f"✓ {out}: {done.written:,}{_kinds(source)}"
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
    good = sum(source.formats.values())
    typer.echo(
        say(f"맞는 기록 {good:,}{_kinds(source)}, 틀린 기록 {bad:,}", f"good {good:,}{_kinds(source)}, bad {bad:,}")
    )
    if bad or not good:
        raise typer.Exit(1)


@app.command(
    help=say("개수, 토큰 길이, 한국어 비율, 중복, 히스토그램", "Counts, token lengths, share of Korean, duplicates")
)
def stats(
    inputs: Inputs,
    base: Base = EMBEDDED_BASE,
    from_: From = "",
    max_length: MaxLength = 1024,
    picture: Annotated[Path | None, typer.Option(help=say("히스토그램 PNG", "the histogram, a PNG"))] = None,
) -> None:
    """Show what is in the data, lengths in tokens of the base's own tokenizer and template."""
    from tune.data_tools.progress import counted
    from tune.data_tools.reader import Faults
    from tune.data_tools.stats import histogram, stats_of
    from tune.data_tools.tables import stats_table
    from tune.data_tools.tokens import load_tokens
    from tune.data_tools.writer import whole_file

    source, faults = _source(inputs, from_, None, max_length), Faults()
    tokens = load_tokens(base)
    with counted(source, say("읽기", "reading")):
        found = stats_of(source.good(faults), tokens)
    _notes(source, faults)
    if not found.examples:
        raise typer.Exit(1)
    stats_table(found, dict(source.formats), faults.count, base, max_length)
    if picture:
        with whole_file(picture) as part:
            histogram(found, max_length, ", ".join(path.name for path in inputs), part)
        typer.echo(f"✓ {picture}")


@app.command(help=say("비율대로 나눕니다: train=0.98 valid=0.02", "Split by shares: train=0.98 valid=0.02"))
def split(
    inputs: Inputs,
    out: Annotated[Path, typer.Option("-o", "--out", help=say("쓸 폴더", "the folder to write to"))],
    part: Annotated[list[str], typer.Option("--part", metavar="NAME=SHARE")] = ["train=0.98", "valid=0.02"],  # noqa: B006
    to: SameForm = "",
    from_: From = "",
    seed: Seed = 42,
    overwrite: Overwrite = False,
) -> None:
    """Split by shares; records with the same first question always come into the same part."""
    from tune.data_tools.parts import shares_of
    from tune.data_tools.parts import split as run

    source, shares = _source(inputs, from_), shares_of(part)
    outs = [out / f"{name}.jsonl" for name in shares]
    for file, count in zip(outs, run(source, _target(to, source), shares, outs, seed, overwrite), strict=True):
        typer.echo(f"✓ {file}: {count:,}")


@app.command(help=say("가중치대로 섞습니다: a.jsonl=0.7 b.json=0.3", "Mix by weight: a.jsonl=0.7 b.json=0.3"))
def mix(
    inputs: Annotated[list[str], typer.Argument(metavar="IN=WEIGHT…")],
    out: Out,
    to: SameForm = "",
    total: Annotated[
        int, typer.Option(min=0, help=say("모두 몇 개; 0: 하나가 다할 때까지", "how many; 0: until one input ends"))
    ] = 0,
    seed: Seed = 42,
    overwrite: Overwrite = False,
) -> None:
    """Draw records from several inputs by weight; with `--total`, one that ends starts again."""
    from tune.data_tools.convert import write_all
    from tune.data_tools.parts import mixed, shares_of
    from tune.data_tools.reader import Faults

    shares, faults = shares_of(inputs), Faults()
    sources = [_source([Path(name)], "") for name in shares]
    target = _target(to, sources[0])
    streams = [partial(source.good, faults) for source in sources]
    examples = mixed(streams, list(shares.values()), total, seed)
    done = write_all(examples, target, out, faults, overwrite)
    typer.echo(f"✓ {out}: {done.read:,}")


@app.command(help=say("같은 기록과 거의 같은 기록을 뺍니다", "Leave out duplicates and near-duplicates"))
def dedupe(
    inputs: Inputs,
    out: Out,
    to: SameForm = "",
    from_: From = "",
    near: Annotated[
        float,
        typer.Option(
            min=0.5, max=1.0, help=say("이만큼 비슷하면 중복; 1: 같은 것만", "as alike as this; 1: exact only")
        ),
    ] = 0.8,
    overwrite: Overwrite = False,
) -> None:
    """Keep the first of each group of records that are the same, or nearly, after normalisation."""
    from tune.data_tools.convert import write_all
    from tune.data_tools.dedupe import exact_duplicates, near_duplicates
    from tune.data_tools.progress import counted
    from tune.data_tools.reader import Faults
    from tune.data_tools.writer import refuse_existing

    refuse_existing(out, overwrite)
    source, faults = _source(inputs, from_), Faults()
    target = _target(to, source)
    out.parent.mkdir(parents=True, exist_ok=True)
    with counted(source, say("비교", "comparing")):
        exact = exact_duplicates(source.good(Faults()))
    like = set[int]()
    if near < 1:
        with counted(source, say("비슷한 기록 찾기", "looking for near-duplicates")):
            like = near_duplicates(source.good(Faults()), near, out.parent).keys() - exact
    kept = (one for i, one in enumerate(source.good(faults)) if i not in exact and i not in like)
    done = write_all(kept, target, out, faults, overwrite)
    _notes(source, faults)
    typer.echo(
        say(
            f"✓ {out}: {done.read:,}개를 남기고 같은 것 {len(exact):,}개, 비슷한 것 {len(like):,}개를 뺐습니다",
            f"✓ {out}: kept {done.read:,}, left out {len(exact):,} the same and {len(like):,} alike",
        )
    )


app.command(help=say("DPO용으로 더 나쁜 답(영어 번역)을 만듭니다", "Make the rejected answers of DPO: the English"))(
    reject
)
app.command("from-pdf", help=say("PDF로 질문과 답을 만듭니다", "Make questions and answers from PDFs"))(from_pdf)


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
