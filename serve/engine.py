"""The engine: vLLM as a supervised child, or an OpenAI-compatible server elsewhere.

`Engine` is what the gateway sees: a URL, a key and how far it is. `ChildEngine` prepares the base model, starts vLLM,
watches its log for stages and its health for readiness, restarts it with back-off and ends its whole process group.
"""

import asyncio
import contextlib
import logging
import os
import secrets
import shlex
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO, Literal

import aiohttp
from pydantic import SecretStr

from personas.bases import base_name, find_base
from personas.lang import say
from serve.settings import Settings, child_environment, device

log = logging.getLogger(__name__)

# A line of vLLM's log that contains the mark begins the stage; shares are those of a start on two cores.
_STAGES = (
    ("non-default args", 45, say("설정을 읽는 중", "reading the configuration")),
    ("Initializing a V1 LLM engine", 60, say("엔진 코어를 시작하는 중", "starting the engine core")),
    ("Starting to load model", 65, say("모델을 메모리에 올리는 중", "loading the model")),
    ("Loading weights took", 75, say("어댑터 자리를 준비하는 중", "preparing adapter slots")),
    ("KV cache size", 88, say("예열하는 중", "warming up")),
    ("Starting vLLM server", 97, say("문을 여는 중", "opening")),
)
_BACK_OFF = (1.0, 2.0, 5.0, 10.0, 30.0)  # seconds before each restart in a row
_STEADY_SECONDS = 60.0  # an engine that lived this long starts the back-off anew
_STOP_SECONDS = 15.0


@dataclass(frozen=True)
class Status:
    """How far the engine is: `percent` 0 to 100 of a start; `text` for people; `since` Unix seconds."""

    state: Literal["starting", "ready", "restarting", "failed", "stopped"]
    percent: int
    text: str
    since: float
    restarts: int = 0


class Engine:
    """OpenAI-compatible servers elsewhere, one or several alike: nothing to start, nothing to stop.

    Args:
        url: one address or several with commas between, each up to and with `/v1`.
    """

    def __init__(self, url: str, key: SecretStr | None) -> None:
        self.url = ",".join(one.strip().rstrip("/").removesuffix("/v1") for one in url.split(","))
        self.key = key
        self.status = Status("ready", 100, say("준비됨", "ready"), time.time())

    @property
    def urls(self) -> list[str]:
        return self.url.split(",")

    @property
    def ready(self) -> bool:
        return self.status.state == "ready"

    async def start(self) -> None:
        """Begin to make it ready; returns at once."""

    async def stop(self) -> None:
        """End it and everything it started."""


def free_port() -> int:
    """A TCP port that was free on loopback a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def vllm_command(settings: Settings, port: int) -> list[str]:
    """The arguments of vLLM for this machine."""
    command = [sys.executable, "-m", "serve.vllm_child"]
    command += ["--model", base_name(settings.base), "--host", "127.0.0.1", "--port", str(port)]
    command += ["--max-model-len", str(settings.max_model_len), "--disable-uvicorn-access-log"]
    command += ["--enable-lora", "--max-lora-rank", str(settings.max_lora_rank), "--max-loras", "4"]
    command += ["--max-cpu-loras", "32", "--enable-auto-tool-choice", "--tool-call-parser", settings.tool_call_parser]
    if device() == "cpu":
        # bfloat16 falls off the fast path on AVX2; `uni` keeps the worker inside the core (one process less).
        command += ["--dtype", "float32", "--distributed-executor-backend", "uni"]
    return command + shlex.split(settings.engine_args)


def vllm_environment(settings: Settings, key: str) -> dict[str, str]:
    """The environment of vLLM for this machine; the key goes here, not into the arguments that `ps` shows."""
    extra = {
        "VLLM_API_KEY": key,
        "VLLM_PLUGINS": "lora_filesystem_resolver",
        "VLLM_LORA_RESOLVER_CACHE_DIR": str(settings.home.adapters),
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_CONFIGURE_LOGGING": "1",  # the stages are read from its log
        "VLLM_LOGGING_LEVEL": "INFO",
        "HF_HUB_OFFLINE": "1",  # the base is a prepared folder
        "PYTHONUNBUFFERED": "1",
    }
    if device() == "cpu":
        extra |= {
            "GAMYEON_FORK_CORE": "1",
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "VLLM_CPU_KVCACHE_SPACE": str(settings.kv_cache_gib),
            "VLLM_CPU_NUM_OF_RESERVED_CPU": "0",
        }
    return child_environment(extra)


class ChildEngine(Engine):
    """vLLM as a child process in its own process group."""

    def __init__(self, settings: Settings, on_status: Callable[[Status], None] = lambda _: None) -> None:
        super().__init__("", SecretStr(secrets.token_urlsafe(32)))
        self._settings = settings
        self._on_status = on_status
        self._supervisor: asyncio.Task[None] | None = None
        self._child: asyncio.subprocess.Process | None = None
        self._restarts = 0
        self.log_file = settings.home.logs / "engine.log"
        self.status = Status("starting", 0, say("시작하는 중", "starting"), time.time())

    @property
    def pid(self) -> int | None:
        """The child's process id, which is also its process group's."""
        return self._child.pid if self._child else None

    async def start(self) -> None:
        self._supervisor = asyncio.create_task(self._supervise())

    async def stop(self) -> None:
        if self._supervisor:
            self._supervisor.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._supervisor
        await self._end_child()
        self._set("stopped", 0, say("멈춤", "stopped"))

    def _set(
        self, state: Literal["starting", "ready", "restarting", "failed", "stopped"], percent: int, text: str
    ) -> None:
        if (state, percent, text) != (self.status.state, self.status.percent, self.status.text):
            self.status = Status(state, percent, text, time.time(), self._restarts)
            log.info("engine %s %d%% %s", state, percent, text)
            self._on_status(self.status)

    async def _supervise(self) -> None:
        """Keep one engine alive; returns only when the base model cannot be prepared."""
        if not await self._prepare():
            return
        failures = 0
        while True:
            began = time.monotonic()
            state: Literal["starting", "restarting"] = "restarting" if self._restarts else "starting"
            await self._run_once(state)
            failures = 0 if time.monotonic() - began > _STEADY_SECONDS else failures + 1
            self._restarts += 1
            await self._end_child()
            pause = _BACK_OFF[min(failures, len(_BACK_OFF) - 1)]
            text = say(f"엔진이 멈춰 {pause:g}초 뒤 다시 시작합니다", f"the engine died; restart in {pause:g} s")
            self._set("failed" if failures > len(_BACK_OFF) else "restarting", 0, text)
            log.error("engine died; its log: %s", self.log_file)
            await asyncio.sleep(pause)

    async def _prepare(self) -> bool:
        """Prepare the base in a process of its own: torch stays out of the gateway."""
        if find_base(self._settings.base, self._settings.home):
            return True
        self._set("starting", 2, say("베이스 모델을 준비하는 중 (처음 한 번)", "preparing the base model (once)"))
        self._child = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "personas.cli", "prepare", self._settings.base,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        assert self._child.stdout
        assert self._child.stderr
        errors = asyncio.create_task(self._child.stderr.read())
        async for line in self._child.stdout:
            self._set("starting", 10, line.decode().strip())
        if await self._child.wait() == 0:
            return True
        reason = (await errors).decode().strip().splitlines()
        self._set("failed", 0, " ".join(reason[-2:]) or say("베이스 모델 준비 실패", "cannot prepare the base model"))
        return False

    async def _run_once(self, state: Literal["starting", "restarting"]) -> None:
        """Start vLLM, follow it to readiness and wait for its end."""
        self._set(state, 25, say("vLLM을 불러오는 중", "importing vLLM"))
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        if self.log_file.exists():
            self.log_file.replace(self.log_file.with_suffix(".log.1"))
        assert self.key
        with self.log_file.open("wb") as output:
            self._child = await asyncio.create_subprocess_exec(
                *vllm_command(self._settings, port),
                cwd=self._settings.home.models,
                env=vllm_environment(self._settings, self.key.get_secret_value()),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        ended = asyncio.create_task(self._child.wait())
        try:
            with self.log_file.open("rb") as lines:
                while not ended.done() and not await self._healthy():
                    self._read_stages(lines, state)
                    await asyncio.wait((ended,), timeout=0.2)
            if not ended.done():
                self._set("ready", 100, say("준비됨", "ready"))
            await ended
        finally:
            ended.cancel()

    def _read_stages(self, lines: BinaryIO, state: Literal["starting", "restarting"]) -> None:
        for line in lines:
            for mark, percent, text in _STAGES:
                if mark.encode() in line:
                    self._set(state, percent, text)

    async def _healthy(self) -> bool:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2)) as session:
            try:
                async with session.get(f"{self.url}/health") as reply:
                    return reply.status == 200
            except (aiohttp.ClientError, TimeoutError):
                return False

    async def _end_child(self) -> None:
        """End the whole group: politely first, then not; also what a killed leader left behind."""
        if self._child is None:
            return
        group, self._child = self._child, None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group.pid, signal.SIGTERM)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(group.wait(), _STOP_SECONDS)
            os.killpg(group.pid, signal.SIGKILL)
        await group.wait()


def make_engine(settings: Settings, on_status: Callable[[Status], None] = lambda _: None) -> Engine:
    """The engine that the settings ask for."""
    if settings.engine_url:
        return Engine(settings.engine_url, settings.engine_key)
    return ChildEngine(settings, on_status)
