"""Runs that are killed, stopped, followed and resumed; processes that train together; disks that are full."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil
import pytest
import torch
from fixtures_tiny import make_tiny
from safetensors.torch import load_file

from personas.adapters import WEIGHTS_FILE
from personas.bases import prepare_base
from personas.home import Home
from personas.loader import PersonaFolder
from personas.schema import Persona
from tune.data import DataError, Record, Turn
from tune.faults import TrainingError
from tune.launch import Launch, train_in
from tune.loop import plan_improvement
from tune.preference import Pair
from tune.preference_settings import PreferenceSettings
from tune.preset_files import SettingsError
from tune.recipe import Plan, carry_out_sft, plan_persona, plan_sft
from tune.runs import RunError, Stopped, begin, find, follow, locked, progress, read_job, state, stop, working
from tune.settings import SftSettings

DATA = [
    {"category": "t", "messages": [{"role": "user", "content": f"{n}번?"}, {"role": "assistant", "content": f"답 {n}"}]}
    for n in range(12)
]
OPTIONS = {
    "rank": 4, "batch_size": 4, "gradient_accumulation": 1, "epochs": 3, "learning_rate": 1e-3,
    "max_steps": 150, "save_every": 10, "log_every": 1,
    "validation_share": 0, "scales": [1.0], "precision": "fp32", "dropout": 0.1, "warmup_steps": 2,
}  # fmt: skip


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A tiny base and a data file beside each other."""
    make_tiny(tmp_path / "tiny")
    lines = [json.dumps(row, ensure_ascii=False) for row in DATA]
    (tmp_path / "data.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return tmp_path


def settings(**changes: object) -> SftSettings:
    return SftSettings.model_validate({**OPTIONS, **changes})


def plan(source: Path, home: Home, out: str = "out", **changes: object) -> Plan:
    return plan_sft(
        [source / "data.jsonl"], [], str(source / "tiny"), "너는 토니", settings(**changes), source / out, home
    )


def command(source: Path, home: Home, *more: str, **changes: object) -> subprocess.Popen[bytes]:
    """The real command line, as a process of its own."""
    sets = [part for key, value in {**OPTIONS, **changes}.items() for part in ("--set", f"{key}={value}")]
    with (source / "printed.txt").open("ab") as printed:
        return subprocess.Popen(
            [sys.executable, "-m", "tune.cli", "sft", str(source / "data.jsonl"), "--base", str(source / "tiny"),
             "--system", "너는 토니", "-o", str(source / "out"), *sets, *more],
            env={**os.environ, "GAMYEON_HOME": str(home.root), "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
            stdout=printed, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip


def wait_for(run: Path, step: int, process: psutil.Process | subprocess.Popen[bytes]) -> None:
    """Wait until a checkpoint of at least this step is whole."""
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        steps = [int(p.parent.name[11:]) for p in run.glob("checkpoints/*/trainer_state.json")]
        if any(found >= step for found in steps):
            return
        alive = process.poll() is None if isinstance(process, subprocess.Popen) else process.is_running()
        assert alive, (run.parent.parent.parent / "printed.txt").read_text()[-3000:]
        time.sleep(0.01)
    raise TimeoutError


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / WEIGHTS_FILE)


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], tolerance: float = 0.0) -> bool:
    return one.keys() == other.keys() and all(
        torch.allclose(one[name].float(), other[name].float(), rtol=0, atol=tolerance) for name in one
    )


def test_a_run_killed_with_9_ends_as_if_it_had_not_been(source: Path, home: Home) -> None:
    run = plan(source, home).run
    process = command(source, home)
    wait_for(run, 20, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (source / "out").exists()
    assert state(run) == "stopped"
    logged = len((run / "progress.jsonl").read_text().splitlines())
    assert 20 <= progress(run)["step"] < 150, "it was killed too late to show anything"

    resumed = plan(source, home)
    assert resumed.run == run
    carry_out_sft(resumed, source / "out")
    lines = (run / "progress.jsonl").read_text().splitlines()
    assert json.loads(lines[logged])["step"] > 20  # it went on from a checkpoint, not from the beginning

    elsewhere = Home(source / "elsewhere")
    carry_out_sft(plan(source, elsewhere, "whole"), source / "whole")
    assert same(weights(source / "out"), weights(source / "whole"))


def test_a_detached_run_is_stopped_and_resumed(source: Path, home: Home) -> None:
    run = plan(source, home).run
    assert command(source, home, "--detach").wait(120) == 0, (source / "printed.txt").read_text()
    job = read_job(run)
    assert job
    wait_for(run, 10, psutil.Process(job.pid))
    assert os.getsid(job.pid) != os.getsid(0)
    assert state(run) == "running"
    with pytest.raises(RunError, match="is being tuned already"), locked(home, "out"):
        pass
    assert stop(find(home, "out"), 120)
    assert state(run) == "stopped"
    step = progress(run)["step"]
    assert (run / "checkpoints" / f"checkpoint-{step}" / "trainer_state.json").is_file()
    assert "stopped at step" in "".join(follow(run, keep_on=True))
    with pytest.raises(RunError, match="is not running"):
        stop(run, 1)

    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    resumed = subprocess.run([sys.executable, "-m", "tune.cli", "resume", "out"], env=environment, check=False)
    assert resumed.returncode == 0
    assert state(run) == "done"
    assert progress(run)["step"] == 150
    assert weights(source / "out")


def test_states_of_a_run(source: Path, home: Home) -> None:
    made = plan(source, home).run
    assert state(made) == "stopped"
    with pytest.raises(ValueError, match="no luck"), working(made, ["sft"]):  # noqa: PT012
        assert state(made) == "running"
        raise ValueError("no luck")
    failed = read_job(made)
    assert failed
    assert failed.error == "no luck"
    (made / "job.json").write_text(failed.model_copy(update={"created": 1.0}).model_dump_json())
    assert state(made) == "failed"
    job = begin(made, ["sft"], os.getpid()).model_copy(update={"created": 1.0})
    assert not job.alive  # the process id came again
    with pytest.raises(Stopped), working(made, ["sft"]):  # noqa: PT012
        os.kill(os.getpid(), signal.SIGTERM)
        assert (made / "stop").exists()
        raise Stopped("asked")
    assert not (made / "stop").exists()
    with pytest.raises(RunError, match="no run 'x'") as caught:
        find(home, "x")
    assert caught.value.hint == "tune runs"
    with pytest.raises(RunError, match="has no log"):
        list(follow(made, keep_on=False))


def test_two_processes_agree_with_one_of_twice_the_batch(source: Path, home: Home) -> None:
    base = prepare_base(str(source / "tiny"), home)
    records = [Record.model_validate(row) for row in DATA[:4]]
    wanted = {"max_steps": 5, "dropout": 0, "learning_rate": 1e-2, "schedule": "constant", "warmup_steps": 0}
    runs = {name: home.runs / name for name in ("one", "two")}
    for run in runs.values():
        run.mkdir()
    one = train_in(Launch(), base, records, "너는 토니", settings(**wanted), runs["one"])
    two = train_in(Launch(2), base, records, "너는 토니", settings(**wanted, batch_size=2), runs["two"])
    assert one.steps == two.steps == 5
    losses = [
        [line["loss"] for line in map(json.loads, (run / "progress.jsonl").read_text().splitlines()) if "loss" in line]
        for run in runs.values()
    ]
    assert losses[1][-1] < losses[1][0]
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    values = [{n: p.detach() for n, p in t.model.named_parameters() if p.requires_grad} for t in (one, two)]
    assert values[0].keys() == values[1].keys()
    assert same(*values, tolerance=1e-4)
    assert [p.name for p in runs["two"].glob("**/adapter_model.safetensors") if "checkpoint" not in str(p)]


def test_what_training_would_refuse_leaves_no_run(source: Path, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_weights(*_: object, **__: object) -> None:
        raise AssertionError("weights were loaded")

    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", no_weights)
    with pytest.raises(DataError, match=r"'0번\?…' has \d+ tokens \(max_length 16\)"):
        plan(source, home, max_length=16)
    with pytest.raises(DataError, match="every record is longer than 16 tokens"):
        plan(source, home, max_length=16, drop_longer=True)
    persona = Persona(
        name="stark", title="토니", description="d", greeting="g", system_prompt="s", base=str(source / "tiny")
    )
    pair = Pair(messages=[Turn(role="user", content="왜?")], chosen="그냥.", rejected="Just so.")
    with pytest.raises(DataError, match=r"'왜\?…' has \d+ tokens \(max_prompt_length 8\)"):
        plan_improvement(PersonaFolder(persona, source), [pair], PreferenceSettings(max_prompt_length=8), home)
    template = "{% for message in messages %}{{ message.content }}{% endfor %}"
    make_tiny(source / "tiny", chat_template=template)
    with pytest.raises(DataError, match="generation marks"):
        plan(source, home)
    assert list(home.runs.iterdir()) == []


@contextmanager
def disk_of(size: int) -> Iterator[None]:
    """Files of this process may grow to `size` bytes: what a full disk does, to this process alone."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk_harms_no_checkpoint(source: Path, home: Home) -> None:
    made = plan(source, home, max_steps=3, save_every=1, keep=2)
    base, records = made.base, made.records
    short = settings(max_steps=3, save_every=1, schedule="constant")
    train_in(Launch(), base, records, "", short.model_copy(update={"max_steps": 2}), made.run)
    before = {p: p.read_bytes() for p in made.run.glob("checkpoints/checkpoint-2/*")}
    assert before
    with disk_of(9000), pytest.raises(TrainingError, match="cannot write a checkpoint") as caught:
        train_in(Launch(), base, records, "", short, made.run)
    assert "--set keep=1" in caught.value.hint
    assert {p: p.read_bytes() for p in before} == before
    assert train_in(Launch(), base, records, "", short, made.run).steps == 3


def test_a_full_disk_does_not_hide_why_a_run_failed(source: Path, home: Home) -> None:
    run = plan(source, home).run
    with ExitStack() as stack, pytest.raises(TrainingError, match="no room"), working(run, ["sft"]):  # noqa: PT012
        stack.enter_context(disk_of(100))
        raise TrainingError("no room")
    assert read_job(run)  # as it was begun
    assert list(run.glob(".job.json*")) == []


def test_what_cannot_be_served_is_refused_before_training(
    source: Path, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    persona = Persona(
        name="stark", title="토니", description="d", greeting="g", system_prompt="s", base=str(source / "tiny")
    )
    folder = PersonaFolder(persona, source)
    with pytest.raises(SettingsError, match=r"rank=32 .* GAMYEON_MAX_LORA_RANK=16") as caught:
        plan_persona(folder, settings(rank=32), home)
    assert "--set rank=16" in caught.value.hint
    monkeypatch.setenv("GAMYEON_MAX_LORA_RANK", "2")
    with pytest.raises(SettingsError, match="GAMYEON_MAX_LORA_RANK=2"):
        plan_persona(folder, settings(), home)
    with pytest.raises(SettingsError, match="a persona is a LoRA adapter") as caught:
        plan_persona(folder, SftSettings(method="full"), home)
    assert caught.value.hint.startswith("tune sft")
    with pytest.raises(SettingsError, match="template=solar"):
        plan_persona(folder, SftSettings(template="solar", rank=2), home)
    with pytest.raises(SettingsError, match="tracker=trackio is not installed"):
        plan(source, home, tracker="trackio")
    (source / "out").mkdir()
    with pytest.raises(SettingsError, match="out exists"):
        plan(source, home)
