"""Tuning runs as folders under `GAMYEON_HOME/runs`: who works on one, how far it is, how it ended.

<name>-<key>/  settings.json  job.json (command, process, error)  progress.jsonl (one line a log)  log.txt (detached)
               system_prompt.txt   checkpoints/   run.json (once it is done)   stop (asked to stop)
"""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import psutil
from filelock import FileLock, Timeout
from pydantic import BaseModel

from personas.adapters import CONFIG_FILE
from personas.errors import GamyeonError
from personas.home import Home
from personas.lang import say

RUN_FILE, JOB_FILE, PROGRESS_FILE, LOG_FILE, STOP_FILE = "run.json", "job.json", "progress.jsonl", "log.txt", "stop"
PROMPT_FILE = "system_prompt.txt"
_RUN_NAME = re.compile(r"(-dpo|-kto)?-[^-]*$")  # what comes after the name that a run is for
State = Literal["running", "stopped", "done", "failed"]


class RunError(GamyeonError):
    """A run is not there, is busy, or was stopped."""


class Stopped(RunError):
    """A run was asked to stop: its checkpoint is written."""


class Job(BaseModel):
    """The last process that worked on a run; `created` is the process's start time, as process ids come again."""

    argv: list[str]
    cwd: str
    pid: int
    created: float
    started: datetime
    error: str = ""
    ended: bool = False  # its work on this run, though the process may live on with another (`tune learn`)

    @property
    def alive(self) -> bool:
        if self.ended:
            return False
        try:
            process = psutil.Process(self.pid)
            return process.create_time() == self.created and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False


def begin(run: Path, argv: list[str], pid: int) -> Job:
    """Note which process works on a run."""
    created = psutil.Process(pid).create_time()
    job = Job(argv=argv, cwd=str(Path.cwd()), pid=pid, created=created, started=datetime.now(UTC))
    _write(run, job)
    return job


def read_job(run: Path) -> Job | None:
    file = run / JOB_FILE
    return Job.model_validate_json(file.read_bytes()) if file.is_file() else None


def state(run: Path) -> State:
    """Running while its process lives; else done, failed with an error, or stopped (also by a kill)."""
    job = read_job(run)
    if job and job.alive:
        return "running"
    if job and job.error:
        return "failed"
    return "done" if (run / RUN_FILE).is_file() else "stopped"


def progress(run: Path) -> dict[str, Any]:
    """The last step and the last loss that were logged; empty before the first."""
    file = run / PROGRESS_FILE
    found: dict[str, Any] = {}
    for line in file.read_text().splitlines() if file.is_file() else []:
        found |= json.loads(line)
    return found


def all_runs(home: Home) -> list[Path]:
    """Every run, the one begun last at the end."""
    found = [p.parent for p in home.runs.glob(f"*/{JOB_FILE}")]
    return sorted(found, key=lambda run: (run / JOB_FILE).stat().st_mtime)


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object from a file; empty where there is no such file."""
    return dict(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else {}


def persona_of_run(run: Path) -> str:
    """The persona, or the output folder, that a run is for: from its record, or else from its name."""
    return str(read_json(run / RUN_FILE).get("persona") or _RUN_NAME.sub("", run.name))


def exact_run(text: str, home: Home) -> Path | None:
    """A run's folder by its whole name below `GAMYEON_HOME/runs` or by its path; None where the text names no run."""
    for folder in (home.runs / text, Path(text).expanduser()):
        # what `tune sft` wrote has settings too, beside its weights
        has_weights = (folder / CONFIG_FILE).is_file() or (folder / "config.json").is_file()
        if (folder / "checkpoints").is_dir() or ((folder / "settings.json").is_file() and not has_weights):
            return folder.resolve()
    return None


def find_run(text: str, home: Home) -> Path | None:
    """A run by its whole name or its path, or the last one of a persona or an output folder of that name."""
    named = (run for run in reversed(all_runs(home)) if persona_of_run(run) == text)
    return exact_run(text, home) or next(named, None)


def find(home: Home, name: str) -> Path:
    """A run that `find_run` finds and a process has worked on.

    Raises:
        RunError: no such run.
    """
    run, runs = find_run(name, home), all_runs(home)
    if run is None or read_job(run) is None:
        names = ", ".join(run.name for run in runs) or say("없음", "none")
        raise RunError(
            say(f"'{name}' 실행이 없습니다 (있는 것: {names})", f"no run '{name}' (there are: {names})"), "tune runs"
        )
    return run


@contextmanager
def locked(home: Home, name: str) -> Iterator[None]:
    """Hold a name, so that it is tuned once at a time.

    Raises:
        RunError: another process holds it.
    """
    try:
        with FileLock(home.runs / f".{name}.lock", timeout=0):
            yield
    except Timeout:
        raise RunError(
            say(f"'{name}' 튜닝이 이미 돌고 있습니다", f"'{name}' is being tuned already"),
            f"tune log {name} -f | tune stop {name}",
        ) from None


@contextmanager
def working(run: Path, argv: list[str]) -> Iterator[None]:
    """Work on a run: noted while it lasts, an error noted when it fails; SIGTERM asks it to stop at its next step."""
    (run / STOP_FILE).unlink(missing_ok=True)
    job = begin(run, argv, os.getpid())
    in_main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, lambda *_: (run / STOP_FILE).touch()) if in_main else None
    failure = ""
    try:
        yield
    except Stopped:
        raise
    except Exception as error:
        failure = str(error) or type(error).__name__
        raise
    finally:
        with suppress(OSError):  # a full disk must not hide why it failed
            _write(run, job.model_copy(update={"error": failure, "ended": True}))
        (run / STOP_FILE).unlink(missing_ok=True)
        if in_main:
            signal.signal(signal.SIGTERM, before)


def detach(run: Path, argv: list[str]) -> Job:
    """Start the command again in a session of its own, which outlives the terminal; its output goes to the log."""
    with (run / LOG_FILE).open("a") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "tune.cli", *argv], stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
            start_new_session=True, env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )  # fmt: skip
    return begin(run, argv, process.pid)


def stop(run: Path, seconds: float) -> bool:
    """Ask a run to write a checkpoint and end; whether it did within the time.

    Raises:
        RunError: it does not run.
    """
    job = read_job(run)
    if job is None or not job.alive:
        raise RunError(say(f"{run.name}은(는) 돌고 있지 않습니다", f"{run.name} is not running"), "tune runs")
    (run / STOP_FILE).touch()
    deadline = time.monotonic() + seconds
    while job.alive and time.monotonic() < deadline:
        time.sleep(0.2)
    return not job.alive


def follow(run: Path, keep_on: bool) -> Iterator[str]:
    """A run's log in pieces; with `keep_on`, until its process ends.

    Raises:
        RunError: it has no log, as it was not detached.
    """
    file = run / LOG_FILE
    if not file.is_file():
        raise RunError(say(f"{run.name}: 로그가 없습니다", f"{run.name} has no log"), "--detach")
    with file.open(errors="replace") as log:
        while True:
            alive = keep_on and (job := read_job(run)) is not None and job.alive
            while text := log.read(1 << 16):
                yield text
            if not alive:
                return
            time.sleep(0.3)


def _write(run: Path, job: Job) -> None:
    new = run / f".{JOB_FILE}.{os.getpid()}"
    try:
        new.write_text(job.model_dump_json(indent=2))
        new.replace(run / JOB_FILE)
    finally:
        new.unlink(missing_ok=True)
