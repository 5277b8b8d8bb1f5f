"""`rag`: documents in, cited passages out."""

import json
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from personas.console import make_app, run
from personas.home import Home
from personas.lang import say
from rag.evaluate_cli import evaluate

if TYPE_CHECKING:
    from rag.ingest import Event, Report
    from rag.search import Found

app = make_app(say("문서를 넣고, 찾고, 출처와 함께 답합니다", "Documents in, cited passages out"))
_NAMED = typer.Option("--collection", "-c", help=say("컬렉션 이름", "the collection's name"))


@app.command(
    help=say("파일, 폴더, 패턴을 컬렉션에 넣습니다. 바뀐 것만 다시 합니다", "Bring a collection in step with files")
)
def ingest(
    paths: Annotated[list[str], typer.Argument(help="PDF txt md docx hwpx | DIR | 'GLOB'")],
    collection: Annotated[str, _NAMED],
    ocr: Annotated[
        bool, typer.Option(help=say("글자 없는 쪽을 Tesseract로 읽습니다", "read pages without text by Tesseract"))
    ] = False,
    vectors: Annotated[
        bool, typer.Option(help=say("낱말만 넣고 벡터는 나중에", "--no-vectors: words now, vectors later"))
    ] = True,
) -> None:
    """Bring a collection in step with files, folders and patterns; exit code 1 if a file was refused."""
    from rag.ingest import ingest as bring
    from rag.settings import RagSettings

    with _Progress() as progress:
        report = bring(paths, collection, Home.from_env(), RagSettings(), progress.watch, ocr, vectors)
    _summary(report)
    if report.refused:
        raise typer.Exit(1)


class _Progress:
    """Lines for what is settled, bars for what runs."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._console = Console(stderr=True)
        self._bars = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
            console=self._console, transient=True,
        )  # fmt: skip
        self._reading: dict[str, Any] = {}
        self._embedding: Any = None

    def __enter__(self) -> "_Progress":
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def watch(self, event: "Event") -> None:
        match event.stage:
            case "read":
                if event.name not in self._reading:
                    self._reading[event.name] = self._bars.add_task(event.name[-40:], total=None)
                self._bars.update(self._reading[event.name], completed=event.done)
            case "embedding":
                if self._embedding is None:
                    self._embedding = self._bars.add_task(say("벡터", "vectors"), total=event.total)
                self._bars.update(self._embedding, completed=event.done)
            case "stored" | "removed" | "refused":
                if event.name in self._reading:
                    self._bars.remove_task(self._reading.pop(event.name))
                self._line(event)

    def _line(self, event: "Event") -> None:
        if event.error:
            text = f"✗ {event.error.message}" + (f"\n  → {event.error.hint}" if event.error.hint else "")
        elif event.stage == "removed":
            text = say(f"- {event.name} (파일이 없어져 지움)", f"- {event.name} (its file is gone)")
        else:
            text = say(f"✓ {event.name} ({event.done}쪽, 구절 {event.total}개)",
                       f"✓ {event.name} ({event.done} pages, {event.total} passages)")  # fmt: skip
            text += f" · {event.note}" if event.note else ""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


def _summary(report: "Report") -> None:
    s, u, r, x = len(report.stored), len(report.unchanged), len(report.removed), len(report.refused)
    print(
        say(f"넣음 {s} · 그대로 {u} · 지움 {r} · 거절 {x} · 벡터 {report.embedded}",
            f"stored {s} · unchanged {u} · removed {r} · refused {x} · vectors {report.embedded}")
    )  # fmt: skip


@app.command(help=say("컬렉션이나 그 안의 문서를 보입니다", "List collections, or the documents of one"))
def ls(
    collection: Annotated[str, _NAMED] = "",
    as_json: Annotated[bool, typer.Option("--json", help=say("한 줄에 하나씩 JSON", "one JSON object a line"))] = False,
) -> None:
    """List collections, or the documents of one."""
    from rag.manage import collection_rows, document_rows
    from rag.store import Store

    store = Store.open(Home.from_env())
    rows = document_rows(store, collection) if collection else collection_rows(store)
    _table(rows, as_json)


@app.command(help=say("문서의 구절을 보입니다", "Show the passages of a document"))
def show(
    document: Annotated[str, typer.Argument(help=say("문서 이름", "the document's name"))],
    collection: Annotated[str, _NAMED],
    page: Annotated[int, typer.Option(help=say("이 쪽만", "this page only"))] = 0,
) -> None:
    """Show the passages of a document with page, heading and offsets."""
    from rag.manage import one_document
    from rag.store import Store

    store = Store.open(Home.from_env())
    row = one_document(store, store.collection(collection), document)
    for passage in store.document_passages(row.id):
        if page in (0, passage.page):
            print(f"── {passage.page}" + say("쪽", "p") + f" [{passage.start}:{passage.end}] {passage.heading}")
            print(passage.text)


@app.command(help=say("문서를, 또는 컬렉션을 통째로 지웁니다", "Remove documents, or a whole collection"))
def rm(
    documents: Annotated[list[str] | None, typer.Argument(help=say("문서 이름", "names of documents"))] = None,
    collection: Annotated[str, _NAMED] = "",
    all_: Annotated[bool, typer.Option("--all", help=say("컬렉션을 통째로", "the whole collection"))] = False,
) -> None:
    """Remove documents, or a whole collection with --all; the files themselves stay."""
    from rag.manage import remove

    for name in remove(Home.from_env(), collection, documents or [], all_):
        print(f"✓ {name}")


@app.command(
    help=say("벡터를 지금 설정의 임베딩 모델로 다시 만듭니다", "Make all vectors again with the embedder that is set")
)
def reindex(collection: Annotated[str, _NAMED]) -> None:
    """Make all vectors of a collection again, with the embedder that is set; words can be searched meanwhile."""
    from rag.manage import reindex as again
    from rag.settings import RagSettings

    with _Progress() as progress:
        count = again(Home.from_env(), collection, RagSettings(), progress.watch)
    print(say(f"✓ 벡터 {count}개", f"✓ {count} vectors"))


@app.command(help=say("컬렉션의 크기와 상태", "Sizes and state of a collection"))
def stats(
    collection: Annotated[str, _NAMED],
    as_json: Annotated[bool, typer.Option("--json", help="JSON")] = False,
) -> None:
    """Sizes and state of a collection."""
    from rag.manage import statistics
    from rag.settings import RagSettings

    _table([statistics(Home.from_env(), collection, RagSettings())], as_json)


@app.command(help=say("구절을 찾습니다", "Find passages"))
def search(
    query: Annotated[str, typer.Argument(help=say("질문이나 낱말", "a question or words"))],
    collection: Annotated[str, _NAMED],
    k: Annotated[int, typer.Option("--k", min=1, max=1000, help=say("몇 개", "how many"))] = 10,
    method: Annotated[str, typer.Option(help="hybrid | dense | bm25")] = "hybrid",
    document: Annotated[
        list[str] | None, typer.Option(help=say("이 문서만 (*를 쓸 수 있음)", "these documents only (* allowed)"))
    ] = None,
    since: Annotated[
        datetime | None, typer.Option(formats=["%Y-%m-%d"], help=say("이날부터 고친 파일", "files changed since"))
    ] = None,
    until: Annotated[
        datetime | None, typer.Option(formats=["%Y-%m-%d"], help=say("이날까지 고친 파일", "files changed until"))
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help=say("한 줄에 하나씩 JSON", "one JSON object a line"))] = False,
) -> None:
    """Find passages: one hit a line with document, page, score, heading and text."""
    from rag.search import Filter, Searcher, cross_encoder

    if method not in ("hybrid", "dense", "bm25"):
        raise typer.BadParameter("hybrid | dense | bm25", param_hint="--method")
    only = Filter(tuple(document or ()), since.date() if since else None, until.date() if until else None)
    searcher = Searcher(Home.from_env())
    rerank = cross_encoder(searcher.settings.reranker) if searcher.settings.reranker else None
    found = searcher.search(query, collection, k, method, only, rerank)  # type: ignore[arg-type]
    _hits(found, as_json)


@app.command(help=say("문서에 물어보고 출처와 함께 답을 받습니다", "Ask the documents; an answer with its sources"))
def ask(
    question: Annotated[str, typer.Argument(help=say("질문", "the question"))],
    collection: Annotated[str, _NAMED],
    persona: Annotated[str, typer.Option(help=say("답할 페르소나", "who answers"))] = "docs",
    k: Annotated[int, typer.Option("--k", min=1, max=50, help=say("구절 몇 개", "how many passages"))] = 4,
    as_json: Annotated[bool, typer.Option("--json", help="JSON")] = False,
) -> None:
    """Ask the gateway; the answer, then every passage that it was given, the cited ones marked."""
    from rag.ask import ask as put
    from rag.settings import RagSettings

    parts: list[str] = []

    def show(text: str) -> None:
        parts.append(text)
        if not as_json:
            print(text, end="", flush=True)

    found = put(question, collection, persona, k, RagSettings(), show)
    if as_json:
        print(json.dumps({"answer": "".join(parts), **found}, ensure_ascii=False))
        return
    print("\n")
    for sentence in found.get("grounding", {}).get("unsupported", ()):
        print(say("근거를 찾지 못한 문장: ", "not supported: ") + sentence["text"])
    for c in found.get("citations", ()):
        page = say(f"{c['page']}쪽", f"p. {c['page']}")
        print(
            f"{'*' if c['used'] else ' '} [{c['number']}] {c['document']} {page} · {c['heading']}\n    {c['excerpt']}"
        )


def _hits(found: "Found", as_json: bool) -> None:
    from rag.search import as_row

    for hit in found.hits:
        p = hit.passage
        if as_json:
            print(json.dumps({**as_row(hit), "source": p.source}, ensure_ascii=False))
        else:
            print("\t".join([p.document, str(p.page), f"{hit.score:.4f}", p.heading, " ".join(p.text.split())]))


def _table(rows: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        for row in rows:
            print(json.dumps(row, ensure_ascii=False))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(*(rows[0] if rows else ["-"]))
    for row in rows:
        table.add_row(*(str(value) for value in row.values()))
    Console().print(table)


app.command("eval", help=say("질문 세트로 검색을 잽니다", "Measure retrieval on a question set"))(evaluate)


def main() -> None:
    run(app)


if __name__ == "__main__":
    main()
