"""`start_from`: training goes on from an adapter that is there, and the run keeps what it began from."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from fixtures_tiny import make_tiny, record
from safetensors.torch import load_file

from personas.adapters import WEIGHTS_FILE
from personas.errors import AdapterError
from personas.home import Home
from tune.preset_files import SettingsError
from tune.recipe import Plan, carry_out_sft, plan_sft
from tune.settings import SftSettings

PROMPT = "너는 토니"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny base, data, and an adapter that was trained on them."""
    folder = tmp_path_factory.mktemp("source")
    make_tiny(folder / "tiny")
    records = [record(f"{number}번?", f"답은 {number}.") for number in range(12)]
    (folder / "data.jsonl").write_text("\n".join(one.model_dump_json() for one in records), encoding="utf-8")
    carry_out_sft(plan(folder, Home(folder / "first"), "first", max_steps=100), folder / "first-out")
    return folder


def plan(source: Path, home: Home, out: str, base: str = "tiny", **changes: object) -> Plan:
    options = {"rank": 4, "alpha": 8, "batch_size": 4, "max_steps": 6, "learning_rate": 1e-2, "log_every": 1}
    settings = SftSettings.model_validate({**options, "validation_share": 0, "precision": "fp32", **changes})
    return plan_sft([source / "data.jsonl"], [], str(source / base), PROMPT, settings, source / out, home)


def first_loss(run: Path) -> float:
    lines = (run / "progress.jsonl").read_text().splitlines()
    return next(float(row["loss"]) for row in map(json.loads, lines) if "loss" in row)


def test_it_begins_where_the_adapter_ended(source: Path, tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    began = load_file(source / "first-out" / WEIGHTS_FILE)
    on = plan(source, home, "on", start_from=str(source / "first-out"))
    carry_out_sft(on, tmp_path / "on")
    fresh = first_loss(next((source / "first" / "runs").glob("first-*")))
    assert first_loss(on.run) < 0.95 * fresh

    still = plan(source, home, "still", start_from=str(source / "first-out"), learning_rate=1e-12)
    carry_out_sft(still, tmp_path / "still")
    ended = load_file(tmp_path / "still" / WEIGHTS_FILE)
    assert all(torch.allclose(ended[name].float(), began[name].float(), atol=1e-4) for name in began)


def test_the_run_keeps_what_it_began_from(source: Path, tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    shutil.copytree(source / "first-out", tmp_path / "lent")
    made = plan(source, home, "kept", start_from=str(tmp_path / "lent"))
    assert plan(source, home, "kept", start_from=str(tmp_path / "lent")).run == made.run
    shutil.rmtree(tmp_path / "lent")
    carry_out_sft(made, tmp_path / "kept")
    assert (tmp_path / "kept" / WEIGHTS_FILE).is_file()
    assert made.settings.start_from == "lent"
    assert str(tmp_path / "lent") not in (made.run / "settings.json").read_text()


def test_other_weights_are_another_run(source: Path, tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    (tmp_path / "a").mkdir()
    shutil.copytree(source / "first-out", tmp_path / "a", dirs_exist_ok=True)
    first = plan(source, home, "other", start_from=str(tmp_path / "a"))
    carry_out_sft(plan(source, Home(tmp_path / "b"), "b", seed=3), tmp_path / "b-out")
    shutil.copytree(tmp_path / "b-out", tmp_path / "a", dirs_exist_ok=True)
    assert plan(source, home, "other", start_from=str(tmp_path / "a")).run != first.run


def test_what_does_not_fit_is_refused(source: Path, tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    given = str(source / "first-out")
    with pytest.raises(SettingsError, match="rank=8") as refused:
        plan(source, home, "x", start_from=given, rank=8)
    assert refused.value.hint == "--set rank=4"
    with pytest.raises(SettingsError, match="alpha=16"):
        plan(source, home, "x", start_from=given, alpha=16)
    with pytest.raises(AdapterError):
        plan(source, home, "x", start_from=str(tmp_path / "nothing"))
    with pytest.raises(ValueError, match="method=full and start_from"):
        SftSettings(method="full", start_from=given)
    make_tiny(source / "other", seed=1)
    with pytest.raises(AdapterError):
        plan(source, home, "x", base="other", start_from=given)
