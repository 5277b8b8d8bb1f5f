"""What `tune sft` leaves, by every name it has: its folder, its run, a short name."""

import json
import sys
from pathlib import Path

import pytest
from fixtures_tiny import make_tiny

from personas.adapters import WEIGHTS_FILE
from personas.console import run
from personas.home import Home
from tune.cli import app
from tune.locate import find_adapter, read_json

SETS = {
    "rank": 4, "batch_size": 4, "learning_rate": 0.05, "schedule": "constant", "max_steps": 4, "save_every": 2,
    "validation_share": 0.25, "scales": "[0.5, 0.25]", "warmup_steps": 0,
}  # fmt: skip


def tune(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> int:
    """The command line; returns the exit code."""
    monkeypatch.setattr(sys, "argv", ["tune", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        run(app)
    return int(ended.value.code or 0)


@pytest.fixture
def out(tmp_path: Path, home: Home, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The adapter folder of `tune sft` on a tiny base."""
    lines = [json.dumps({"instruction": f"{n}번은?", "output": f"답 {n}"}, ensure_ascii=False) for n in range(12)]
    (tmp_path / "data.jsonl").write_text("\n".join(lines), encoding="utf-8")
    sets = [part for key, value in SETS.items() for part in ("--set", f"{key}={value}")]
    made = tmp_path / "stark"
    base = make_tiny(tmp_path / "tiny")
    code = tune(monkeypatch, "sft", tmp_path / "data.jsonl", "--base", base, "--system", "너는 토니", "-o", made, *sets)
    assert code == 0
    return made


def test_the_finished_adapter_is_found_by_folder_and_by_run(
    out: Path, home: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder,) = home.runs.glob("stark-*")
    scale = read_json(folder / "run.json")["scores"]["scale"]
    assert scale in (0.5, 0.25)
    finished = (out / WEIGHTS_FILE).read_bytes()
    for name in (str(out), folder.name, str(folder)):
        assert (find_adapter(name, home).folder / WEIGHTS_FILE).read_bytes() == finished
    assert (find_adapter(folder.name, home, 2).folder / WEIGHTS_FILE).read_bytes() != finished  # not scaled

    capsys.readouterr()
    assert tune(monkeypatch, "merge", out, "-o", out.parent / "merged") == 0
    assert f"serve up --base {out.parent / 'merged'}" in capsys.readouterr().out
    assert tune(monkeypatch, "compare", out, "--count", "1", "--max-tokens", "4") == 0
    assert "stark" in capsys.readouterr().out
