"""Documents for a request: passages into its prompt on the way in, citations into its reply on the way out.

The only module of `serve` that imports `rag`. A persona with `documents:` always looks things up; any request to a
persona may name a collection: `"documents": {"collection": "manuals", "top_k": 4, "tokens": 1200}`. The reply has
`citations` and `grounding` (whether anything relevant was `found`, and its `unsupported` sentences) beside OpenAI's
fields; a stream has them in its last chunk.
"""

import asyncio
import glob
import shutil
import threading
from collections.abc import Callable
from datetime import date
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any

from pydantic import ValidationError

from personas.errors import GamyeonError
from personas.schema import Documents
from personas.texts import estimate_tokens
from rag.answer import RULES, Context, build_context, not_found, report, standalone, with_passages
from rag.embed import make_embedder
from rag.errors import CollectionError
from rag.ingest import Event, Report, ingest
from rag.manage import collection_rows, document_rows, remove
from rag.relevance import judge
from rag.rows import Collection as Collection  # `serve.jobs` names the type
from rag.search import Filter, Found, Method, Searcher, as_row
from rag.settings import RagSettings
from rag.terms import sentences, terms
from serve.access import Key
from serve.call import Call
from serve.citing import Citing
from serve.errors import ApiError, BadRequest
from serve.metrics import Metrics
from serve.prompt import said_text
from serve.settings import Settings

Only = tuple[tuple[str, ...], date | None, date | None]


class CollectionNotFound(ApiError):
    """No such collection, or it belongs to another key."""

    status = 404
    type = "invalid_request_error"
    code = "collection_not_found"


class CollectionExists(ApiError):
    """The name is taken."""

    status = 409
    type = "invalid_request_error"
    code = "collection_exists"


class DocumentsUnavailable(ApiError):
    """The document store does not answer."""

    status = 503
    code = "documents_unavailable"


class Library:
    """The collections, opened on first use; searches run in threads."""

    def __init__(self, settings: Settings) -> None:
        self.home = settings.home
        self.settings = RagSettings()
        self._searcher: Searcher | None = None
        self._opening = threading.Lock()
        # The embedder takes one call at a time: those that wait must not hold the threads that all others need.
        self.embedding = asyncio.Lock()

    @property
    def searcher(self) -> Searcher:
        with self._opening:
            if self._searcher is None:
                self._searcher = Searcher(self.home, self.settings)
            return self._searcher

    def collection(self, name: str, key: Key | None) -> Collection:
        """A collection that a key may use: its own, a shared one, or any where keys are not in use.

        Raises:
            CollectionNotFound: there is none; another key's is not told from none.
        """
        found = self.searcher.store.find(name)
        if found is None or not may_use(found, key):
            raise CollectionNotFound(f"there is no collection '{name[:60]}'", param="collection")
        return found

    def look_up(self, question: str, wanted: Documents, key: Key | None) -> tuple[Found, bool]:
        """The passages for a question, and whether they answer it. Runs in a thread."""
        collection = self.collection(wanted.collection, key)
        found = self.searcher.search(question, collection.name, wanted.top_k)
        # A greeting asks for nothing: it is answered, and without passages.
        relevant = len(set(found.terms)) > 1 and judge(self.searcher, collection, found)[1]
        return found, relevant

    def listed(self, key: Key | None) -> list[dict[str, Any]]:
        """The collections that a key may use."""
        store = self.searcher.store
        may = {found.name for found in store.collections() if may_use(found, key)}
        return [row for row in collection_rows(store) if row["name"] in may]

    def create(self, name: str, shared: bool, key: Key | None) -> None:
        """A new collection, of the key or shared.

        Raises:
            CollectionExists: the name is taken.
        """
        if self.searcher.store.find(name) is not None:
            raise CollectionExists(f"the name '{name}' is taken", param="name")
        owner = "" if shared or key is None else key.id
        made = self.searcher.store.create(name, self.settings.embedder, self.settings.chunk_chars, owner)
        if made.owner != owner:  # another request was faster
            raise CollectionExists(f"the name '{name}' is taken", param="name")

    def documents(self, name: str, key: Key | None) -> list[dict[str, Any]]:
        """The documents of a collection, without the paths that they have here."""
        self.collection(name, key)
        rows = document_rows(self.searcher.store, name)
        return [{field: value for field, value in row.items() if field != "source"} for row in rows]

    def remove(self, name: str, document: str | None, key: Key | None) -> None:
        """Remove a document, or the collection with all that was uploaded to it."""
        folder = self.folder(self.collection(name, key))
        remove(self.home, name, [document] if document else [], document is None)
        if document is None:
            shutil.rmtree(folder, ignore_errors=True)
        else:
            (folder / Path(document).name).unlink(missing_ok=True)

    def folder(self, collection: Collection) -> Path:
        """Where a collection's uploads are kept."""
        return self.home.uploads / str(collection.id)

    def unfinished(self) -> list[tuple[Collection, list[Path]]]:
        """Collections with the uploads that are not stored yet, or lack vectors."""
        if not any(self.home.uploads.iterdir()):
            return []
        store = self.searcher.store
        waiting = []
        for collection in store.collections():
            done = {row.source for row in store.documents(collection) if not row.waiting}
            folder = self.folder(collection)
            files = sorted(file for file in folder.glob("[!.]*") if str(file.resolve()) not in done)
            if files:
                waiting.append((collection, files))
        return waiting

    def ingest(self, collection: Collection, files: list[Path], watch: Callable[[Event], None]) -> Report:
        """Read files into a collection. Runs in a thread.

        Raises:
            RagError: the collection was removed meanwhile; the files go, too, instead of into a new one of that name.
        """
        now = self.searcher.store.find(collection.name)
        if now is None or now.id != collection.id:
            shutil.rmtree(self.folder(collection), ignore_errors=True)
            raise CollectionError("the collection was removed before its files were read")
        names = [glob.escape(str(file)) for file in files]
        return ingest(names, collection.name, self.home, self.settings, watch, owner=collection.owner)

    def find(self, name: str, key: Key | None, query: str, k: int, method: Method, only: Only) -> list[dict[str, Any]]:
        """The hits of a search, of the documents and between the dates that `only` names."""
        self.collection(name, key)
        return [as_row(hit) for hit in self.searcher.search(query, name, k, method, Filter(*only)).hits]

    def embed(self, texts: list[str], is_query: bool) -> tuple[list[list[float]], int]:
        """Vectors of texts and about how many tokens they have."""
        embedder = make_embedder(self.settings.embedder, self.settings)
        made = embedder.queries(texts) if is_query else embedder.passages(texts)
        return made.tolist(), sum(estimate_tokens(text) for text in texts)

    def close(self) -> None:
        if self._searcher is not None:
            self._searcher.close()


def may_use(collection: Collection, key: Key | None) -> bool:
    """Whether a key may see a collection."""
    return key is None or collection.owner in ("", key.id) or "admin" in key.scopes


def as_api_error(error: GamyeonError) -> ApiError:
    """An error of `rag` as the API shows it."""
    text = f"{error.message}; {error.hint}" if error.hint else error.message
    return BadRequest(text) if isinstance(error, CollectionError) else DocumentsUnavailable(text)


class Grounding:
    """The hook: passages into `call.payload`, a filter for the reply into `call.filters`."""

    def __init__(self, library: Library, metrics: Metrics) -> None:
        self._library = library
        self._metrics = metrics

    async def __call__(self, call: Call) -> None:
        assert call.payload is not None
        asked = call.payload.get("documents")
        if isinstance(asked, dict):  # a list of documents is for the engine's chat template
            del call.payload["documents"]
        persona = call.target.persona if call.target else None
        wanted = _wanted(asked) or (persona.documents if persona else None)
        messages = call.payload.get("messages")
        if wanted is None or not isinstance(messages, list) or call.redirected:
            return
        questions = [said_text(m.get("content")) for m in messages if m.get("role") == "user"]
        question = standalone(questions, terms)
        if not question:
            return
        began = monotonic()
        try:
            found, relevant = await asyncio.to_thread(self._library.look_up, question, wanted, call.key)
        except GamyeonError as error:
            raise as_api_error(error) from error
        if not call.stages or call.stages[-1][0] != "examples":
            call.stages.append(("prompt", began))
        call.stages.append(("retrieval", monotonic()))
        seconds = self._metrics.labelled(self._metrics.retrieval, call.model.partition("@")[0], str(relevant).lower())
        seconds.observe(monotonic() - began)
        if not relevant and len(set(found.terms)) < 2:
            return
        passages = [(hit.passage, hit.score) for hit in found.hits]
        context = build_context(passages, wanted.tokens)
        if relevant:
            call.payload["messages"] = _grounded(messages, questions[-1], context)
            call.filters.append(Citing(partial(_report, context, True), None))
        else:
            # The engine is asked for one token alone: its reply is the envelope for ours.
            _ask_little(call.payload)
            call.settled = True
            call.filters.append(Citing(partial(_report, context, False), not_found()))


def _report(context: Context, found: bool, text: str) -> dict[str, Any]:
    """What is said beside a reply: the passages given, those that it names marked, and what they do not support."""
    made = report(text if found else "", context, terms, sentences)
    return {"citations": made["citations"], "grounding": {"found": found, "unsupported": made["unsupported"]}}


def _wanted(asked: Any) -> Documents | None:
    if not isinstance(asked, dict):
        return None
    try:
        return Documents.model_validate(asked)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(["documents", *(str(part) for part in first["loc"])])
        raise BadRequest(f"{where}: {first['msg']}", param=where) from None


def _grounded(messages: list[Any], question: str, context: Context) -> list[Any]:
    """The messages with the rules in the system prompt and the passages before the last question."""
    made = list(messages)
    if made and made[0].get("role") == "system":
        made[0] = {**made[0], "content": f"{made[0]['content']}\n\n{RULES}"}
    last = max(index for index, message in enumerate(made) if message.get("role") == "user")
    made[last] = {**made[last], "content": with_passages(question, context)}
    return made


_ASKS_FORM = (
    "max_completion_tokens", "min_tokens", "tools", "tool_choice", "response_format", "structured_outputs", "logprobs",
    "top_logprobs",
)  # fmt: skip


def _ask_little(payload: dict[str, Any]) -> None:
    for name in _ASKS_FORM:
        payload.pop(name, None)
    payload["max_tokens"] = 1
