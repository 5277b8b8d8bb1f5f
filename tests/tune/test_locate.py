"""What `tune sft` leaves, by every name it has: its folder, its run, a short name."""

import json
import os
import sys
from pathlib import Path

import pytest
from fixtures_tiny import make_tiny

from personas.adapters import WEIGHTS_FILE
from personas.console import run
from personas.home import Home
from tune.cli import app
from tune.locate import find_adapter, kept_prompt
from tune.report import read_run
from tune.runs import RunError, begin, find, find_run, read_json

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
    for name in (str(out), folder.name, str(folder), "stark"):
        assert (find_adapter(name, home).folder / WEIGHTS_FILE).read_bytes() == finished
    assert (find_adapter(folder.name, home, 2).folder / WEIGHTS_FILE).read_bytes() != finished  # not scaled

    assert find_adapter("stark", home, 2).folder.name == "checkpoint-2"
    assert {find_run("stark", home), find(home, "stark"), read_run("stark", home).folder} == {folder}

    capsys.readouterr()
    asked: list[str] = []

    def ask(_speaker: object, prompt: str, *_: object) -> list[object]:
        asked.append(prompt)
        return []

    with monkeypatch.context() as patched:
        patched.setattr("tune.compare.ask_models", ask)
        for adapter in (out, folder.name, folder / "checkpoints" / "checkpoint-2"):
            assert tune(patched, "compare", adapter, "--count", "1") == 0
        assert tune(patched, "report", "stark", "--samples", "1") == 0
    assert asked == ["너는 토니"] * 4

    assert tune(monkeypatch, "merge", out, "-o", out.parent / "merged") == 0
    assert f"serve up --base {out.parent / 'merged'}" in capsys.readouterr().out
    assert kept_prompt(out.parent / "merged") == "너는 토니"
    assert tune(monkeypatch, "compare", out, "--count", "1", "--max-tokens", "4") == 0
    assert "stark" in capsys.readouterr().out


def test_a_run_by_its_short_name(home: Home) -> None:
    for number, name in enumerate(("stark-aaaaaaaaaa", "stark-dpo-bbbbbbbbbb", "iron-man-cccccccccc")):
        (home.runs / name).mkdir()
        (home.runs / name / "settings.json").write_text("{}")
        begin(home.runs / name, ["sft"], os.getpid())
        os.utime(home.runs / name / "job.json", (number, number))
    assert find_run("stark", home) == home.runs / "stark-dpo-bbbbbbbbbb"
    assert find_run("iron-man", home) == find(home, "iron-man") == home.runs / "iron-man-cccccccccc"
    assert find_run("iron", home) is None
    assert find_run(str(home.runs / "stark-aaaaaaaaaa"), home) == home.runs / "stark-aaaaaaaaaa"
    (home.runs / "stark-aaaaaaaaaa" / "job.json").unlink()
    with pytest.raises(RunError, match="no run 'stark-aaaaaaaaaa'"):
        find(home, "stark-aaaaaaaaaa")
