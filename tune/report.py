"""A run told in one page: curves, memory, time, settings, scores and samples; as HTML and as a picture.

Everything comes from what the run left: `settings.json`, `run.json`, `samples.json` and the newest checkpoint's
`trainer_state.json`. What an older run did not write is said to be missing, never made up.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from personas.adapters import WEIGHTS_FILE, AdapterStore, Manifest, read_manifest
from personas.errors import GamyeonError
from personas.files import sha256_of
from personas.home import Home
from personas.lang import say
from tune.charts import GIB, Memory, curves_svg, korean_font, label, memory_svg, report_png, series
from tune.locate import STATE_FILE, checkpoints
from tune.runs import find_run, persona_of_run, read_json

SAMPLES_FILE = "samples.json"


class ReportError(GamyeonError):
    """A run cannot be reported on."""


@dataclass(frozen=True)
class Run:
    """What a run left behind."""

    folder: Path
    persona: str
    record: dict[str, Any]
    settings: dict[str, Any]
    history: list[dict[str, Any]]
    scores: dict[str, float]
    samples: list[dict[str, str]]

    @property
    def memory(self) -> Memory | None:
        """None where the run did not write all three figures."""
        keys = ("memory_before", "memory_peak", "device_memory")
        values = [self.record.get(key) for key in keys]
        return Memory(*map(int, values)) if all(value for value in values[1:]) and values[0] is not None else None  # type: ignore[arg-type]

    @property
    def seconds(self) -> float | None:
        value = self.record.get("seconds", self.scores.get("train_seconds"))
        return None if value is None else float(value)

    @property
    def steps(self) -> int:
        return max((int(entry["step"]) for entry in self.history), default=0)


def read_run(text: str, home: Home) -> Run:
    """A run by name or folder.

    Raises:
        ReportError: no such run, a damaged file in it, or nothing trained yet.
    """
    folder = find_run(text, home)
    if folder is None:
        names = ", ".join(sorted(p.name for p in home.runs.iterdir() if p.is_dir())) or say("없음", "none")
        raise ReportError(say(f"'{text}' 실행이 없습니다", f"no run '{text}'") + f" ({names})", "tune report RUN")
    saved = checkpoints(folder)
    try:
        record = read_json(folder / "run.json")
        settings = read_json(folder / "settings.json")
        state = read_json(saved[max(saved)] / STATE_FILE if saved else folder / STATE_FILE)
        samples = json.loads((folder / SAMPLES_FILE).read_text()) if (folder / SAMPLES_FILE).is_file() else []
    except (OSError, ValueError) as error:
        raise ReportError(f"{folder}: {error}") from error
    if not state and not record:
        raise ReportError(
            say(f"{folder.name}: 아직 체크포인트가 없습니다", f"{folder.name}: no checkpoint yet"),
            f"tune log {folder.name}",
        )
    published = _published(folder, home)
    scores = record.get("scores") or (published.scores if published else {})
    if published and "records" not in record:
        record["records"] = published.records
    return Run(folder, persona_of_run(folder), record, settings, state.get("log_history", []), scores, samples)


def _published(folder: Path, home: Home) -> Manifest | None:
    """The stored version that has a run's weights, where there is one."""
    weights = folder / "adapter" / WEIGHTS_FILE
    if not weights.is_file():
        return None
    store, mine = AdapterStore(home.adapters), sha256_of(weights)
    found = (read_manifest(store.folder(*version)) for version in store.versions())
    return next((manifest for manifest in found if manifest.files[WEIGHTS_FILE] == mine), None)


def _time(seconds: float | None) -> str:
    if seconds is None:
        return say("기록 없음", "not recorded")
    return say(f"{seconds:.1f}초 ({seconds / 60:.1f}분)", f"{seconds:.1f} s ({seconds / 60:.1f} min)")


def _tiles(run: Run) -> dict[str, str]:
    """The figures that are looked at first; those that the run has."""
    found = {say("걸린 시간", "time"): _time(run.seconds), say("스텝", "steps"): f"{run.steps:,}"}
    if records := run.record.get("records"):
        found[say("기록", "records")] = f"{records:,}"
    if losses := series(run.history, "loss")[1]:
        found[say("마지막 학습 손실", "last training loss")] = f"{losses[-1]:.3f}"
    if losses := series(run.history, "eval_loss")[1]:
        found[say("가장 낮은 검증 손실", "least validation loss")] = f"{min(losses):.3f}"
    if ratio := run.scores.get("loss_ratio"):
        found[say("베이스 대비 손실", "loss against the base")] = f"{ratio:.3f}"
    return found


def memory_facts(memory: Memory) -> dict[str, str]:
    """Memory before, at the peak and for training, each in GiB and as a share of the device."""

    def shown(size: int) -> str:
        return f"{size / GIB:.2f} GiB · {size / memory.device:.1%}"

    return {
        say("장치 전체", "device"): f"{memory.device / GIB:.2f} GiB",
        say("시작 전", "before"): shown(memory.before),
        say("최대", "peak"): shown(memory.peak),
        say("학습에 쓴 몫 (최대 − 시작 전)", "for training (peak − before)"): shown(memory.training),
    }


def _about(run: Run) -> str:
    device = run.record.get("device") or say("장치 기록 없음", "device not recorded")
    base = run.record.get("base") or say("베이스 기록 없음", "base not recorded")
    return " · ".join((run.persona, str(base), str(device)))


def write_html(run: Run, file: Path) -> None:
    """Write the page: one file that needs nothing else."""
    from markupsafe import Markup

    from tune.pages import render

    memory = run.memory
    page = render(
        "report.html.jinja",
        title=say(f"튜닝 보고서: {run.folder.name}", f"Tuning report: {run.folder.name}"),
        about=_about(run),
        tiles=_tiles(run),
        curves=Markup(curves_svg(run.history)),  # noqa: S704 - drawn here, not user input
        memory_chart=Markup(memory_svg(memory)) if memory else "",  # noqa: S704
        memory=memory_facts(memory) if memory else {},
        pairs=run.samples,
        scores={name: f"{value:g}" for name, value in run.scores.items()},
        settings=run.settings,
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(page, encoding="utf-8")


def write_png(run: Run, file: Path) -> None:
    """Draw the picture."""
    korean = korean_font() is not None
    facts = " · ".join(f"{name} {value}" for name, value in _tiles(run).items())
    lines = [_about(run), facts] if korean else [f"{run.steps} steps"]
    file.parent.mkdir(parents=True, exist_ok=True)
    title = label(f"튜닝 보고서: {run.folder.name}", f"Tuning report: {run.folder.name}")
    report_png(title, lines, run.history, run.memory, file)
