"""Files into a collection: only what changed, words first and vectors after, each file whole or not at all."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path

from personas.home import Home
from personas.lang import say
from rag.clean import clean
from rag.embed import make_embedder
from rag.errors import CollectionError, FileError, RagError
from rag.find import Found, find, is_covered, sha256
from rag.load import load
from rag.pages import Parsed
from rag.refusals import file_error
from rag.rows import Collection, DocumentRow, NewDocument
from rag.settings import RagSettings
from rag.split import split
from rag.store import Store, embedded_text
from rag.vectors import VectorIndex


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened: `stage` is read | stored | unchanged | removed | refused | embedding | done."""

    stage: str
    name: str = ""
    done: int = 0
    total: int = 0
    error: RagError | None = None
    note: str = ""


@dataclass(slots=True)
class Report:
    """What an ingest did: names by outcome."""

    stored: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    refused: list[RagError] = field(default_factory=list)
    embedded: int = 0


Watch = Callable[[Event], None]


def open_collection(store: Store, name: str, settings: RagSettings, owner: str = "") -> Collection:
    """The collection to write to; made if it is new.

    Raises:
        CollectionError: it was made with another embedder.
    """
    found = store.find(name) or store.create(name, settings.embedder, settings.chunk_chars, owner)
    check_embedder(found, settings)
    return found


def check_embedder(collection: Collection, settings: RagSettings) -> None:
    """Refuse to mix vectors of two models.

    Raises:
        CollectionError: the collection was made with another embedder.
    """
    if collection.embedder != settings.embedder:
        raise CollectionError(
            say(
                f"컬렉션 '{collection.name}'의 모델은 {collection.embedder}인데 지금 설정은 {settings.embedder}입니다",
                f"'{collection.name}' was made with {collection.embedder}, but {settings.embedder} is set",
            ),
            f"rag reindex --collection {collection.name}",
        )


def ingest(
    arguments: list[str],
    name: str,
    home: Home,
    settings: RagSettings,
    watch: Watch = lambda _: None,
    ocr: bool = False,
    vectors: bool = True,
    owner: str = "",
) -> Report:
    """Bring a collection in step with files, folders and patterns. Stopped at any moment, a second run completes it.

    Raises:
        RagError: the collection or the store refuses; files that are refused are in the report.
    """
    store = Store.open(home)
    try:
        collection = open_collection(store, name, settings, owner)
        report = Report()
        wanted = find(arguments, settings)
        for error in wanted.refused:
            _refuse(report, error, watch)
        have = {row.source: row for row in store.documents(collection)}
        _remove_gone(store, collection, have, {str(f.path) for f in wanted.files}, wanted.covers, report, watch)
        for argument in arguments:
            _missing(argument, wanted.files, have, report, watch, settings)
        changed = [found for found in wanted.files if not _is_unchanged(found, have, ocr, report, watch)]
        _store_all(changed, store, collection, settings, ocr, report, watch)
        if vectors:
            report.embedded = embed_waiting(store, collection, home, settings, watch)
        watch(Event("done"))
        return report
    finally:
        store.close()


def embed_waiting(store: Store, collection: Collection, home: Home, settings: RagSettings, watch: Watch) -> int:
    """Give every passage its vector; returns how many got one."""
    index = VectorIndex(home, settings, store)
    waiting = sum(row.waiting for row in store.documents(collection))
    if not waiting:
        index.drain()
        return 0
    embedder = make_embedder(collection.embedder, settings)
    return index.fill(collection, embedder, lambda done, total: watch(Event("embedding", done=done, total=total)))


def _refuse(report: Report, error: RagError, watch: Watch, name: str = "") -> None:
    report.refused.append(error)
    watch(Event("refused", name, error=error))


def _missing(
    argument: str, files: list[Found], have: dict[str, DocumentRow], report: Report, watch: Watch, settings: RagSettings
) -> None:
    """An argument that names nothing on disk and nothing stored is a mistake."""
    path = Path(argument).expanduser()
    pattern = any(char in argument for char in "*?[")
    if (pattern and not files) or (not pattern and not path.exists() and str(path.resolve()) not in have):
        _refuse(report, file_error("missing", path, "", settings), watch, argument)


def _remove_gone(
    store: Store, collection: Collection, have: dict[str, DocumentRow], found: set[str], covers: list[str],
    report: Report, watch: Watch,
) -> None:  # fmt: skip
    for source, row in have.items():
        if source not in found and is_covered(source, covers) and not Path(source).exists():
            store.remove(collection, row.id)
            report.removed.append(row.name)
            watch(Event("removed", row.name))


def _is_unchanged(found: Found, have: dict[str, DocumentRow], ocr: bool, report: Report, watch: Watch) -> bool:
    row = have.get(str(found.path))
    if row is None or (ocr and row.empty_pages and not row.ocr):
        return False
    if row.size != found.path.stat().st_size or row.sha256 != sha256(found.path):
        return False
    report.unchanged.append(found.name)
    watch(Event("unchanged", found.name))
    return True


def _store_all(
    files: list[Found], store: Store, collection: Collection, settings: RagSettings, ocr: bool, report: Report,
    watch: Watch,
) -> None:  # fmt: skip
    """Read files in child processes, a few at once; write each as it comes."""
    if not files:
        return
    with ThreadPoolExecutor(settings.workers) as pool:
        waiting: dict[Future[tuple[str, Parsed]], Found] = {}
        queue = iter(files)
        try:
            for future in _bounded(pool, queue, waiting, settings, ocr, watch):
                found = waiting.pop(future)
                try:
                    _store_one(found, future.result(), store, collection, settings, ocr, report, watch)
                except FileError as error:
                    _refuse(report, error, watch, found.name)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _bounded(
    pool: ThreadPoolExecutor, queue: Iterator[Found], waiting: dict[Future[tuple[str, Parsed]], Found],
    settings: RagSettings, ocr: bool, watch: Watch,
) -> Iterator[Future[tuple[str, Parsed]]]:  # fmt: skip
    """Futures as they end, never more read files in memory than workers."""

    def start() -> None:
        if (found := next(queue, None)) is not None:
            waiting[pool.submit(_read, found, settings, ocr, watch)] = found

    for _ in range(settings.workers):
        start()
    while waiting:
        yield next(as_completed(waiting))
        start()


def _read(found: Found, settings: RagSettings, ocr: bool, watch: Watch) -> tuple[str, Parsed]:
    try:
        digest = sha256(found.path)
    except OSError as error:
        raise file_error("permission", found.path, error.strerror or "", settings) from error
    parsed = load(found.path, settings, ocr, lambda pages: watch(Event("read", found.name, done=pages)))
    if not any(not page.empty for page in parsed.pages):
        raise file_error("no_text" if found.path.suffix.lower() == ".pdf" else "empty_text", found.path, "", settings)
    return digest, parsed


def _store_one(
    found: Found, read: tuple[str, Parsed], store: Store, collection: Collection, settings: RagSettings, ocr: bool,
    report: Report, watch: Watch,
) -> None:  # fmt: skip
    from rag.terms import many_terms, one_word, sentences

    digest, parsed = read
    passages = split(clean(parsed, one_word), sentences, collection.chunk_chars)
    try:
        status = found.path.stat()
    except OSError as error:
        raise file_error("permission", found.path, error.strerror or "", settings) from error
    empty = parsed.empty_pages
    store.put(
        collection,
        NewDocument(
            str(found.path), found.name, digest, status.st_size, status.st_mtime, len(parsed.pages), empty, ocr,
            passages, many_terms([embedded_text(p.heading, p.text) for p in passages]),
        ),
    )  # fmt: skip
    report.stored.append(found.name)
    note = say(f"글자 없는 쪽: {_numbers(empty)}", f"pages without text: {_numbers(empty)}") if empty else ""
    watch(Event("stored", found.name, done=len(parsed.pages), total=len(passages), note=note))


def _numbers(pages: list[int]) -> str:
    shown = ", ".join(str(page) for page in pages[:10])
    return shown + (f" … ({len(pages)})" if len(pages) > 10 else "")
