import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from personas.home import Home
from tune import charts
from tune.charts import GIB, Memory, accuracy_key, series
from tune.report import ReportError, memory_facts, read_run, write_html, write_png

RECORD = {
    "persona": "ironman", "base": "gemma-3-270m", "records": 1279, "device": "NVIDIA A100-SXM4-80GB",
    "memory_before": 2 * GIB, "memory_peak": 18 * GIB, "device_memory": 80 * GIB, "seconds": 1611.9,
    "scores": {"loss_ratio": 0.8187},
}  # fmt: skip


def make_run(home: Home, record: dict[str, Any] | None = None, name: str = "ironman-ead34c38b7") -> Path:
    """A run as training leaves it: 30 steps, loss at each 10th, validation at each 15th."""
    folder = home.runs / name
    checkpoint = folder / "checkpoints" / "checkpoint-30"
    checkpoint.mkdir(parents=True)
    (folder / "settings.json").write_text('{"rank": 16, "learning_rate": 0.0003}')
    history = [{"step": s, "loss": 4 - s / 10, "learning_rate": 1e-4} for s in (10, 20, 30)]
    history += [{"step": s, "eval_loss": 3.5 - s / 100} for s in (15, 30)]  # type: ignore[list-item]
    (checkpoint / "trainer_state.json").write_text(json.dumps({"log_history": history}))
    if record is not None:
        (folder / "run.json").write_text(json.dumps(record))
    return folder


def test_page_and_picture(home: Home, tmp_path: Path) -> None:
    folder = make_run(home, RECORD)
    pair = {"question": "소코비아 협정?", "base": "<b>모름</b>", "tuned": "제동 장치부터."}
    (folder / "samples.json").write_text(json.dumps([pair]))
    run = read_run(folder.name, home)
    write_html(run, tmp_path / "out" / "it.html")
    page = (tmp_path / "out" / "it.html").read_text(encoding="utf-8")
    for shown in ("1611.9 s (26.9 min)", "NVIDIA A100-SXM4-80GB", "18.00 GiB · 22.5%", "16.00 GiB · 20.0%", "1,279"):
        assert shown in page
    for shown in ("2.00 GiB · 2.5%", "제동 장치부터.", "&lt;b&gt;모름", "learning_rate", "0.8187", ">3.200<"):
        assert shown in page
    assert page.count("<svg") == 2
    assert "<script" not in page
    assert 'src="' not in page
    write_png(run, tmp_path / "it.png")
    with Image.open(tmp_path / "it.png") as picture:
        assert picture.size[0] == 1650
        assert len(picture.convert("RGB").getcolors(1 << 20) or []) > 50


def test_old_run_says_what_it_does_not_know(home: Home, tmp_path: Path) -> None:
    run = read_run(str(make_run(home)), home)
    assert (run.memory, run.seconds, run.steps, run.persona) == (None, None, 30, "ironman")
    write_html(run, tmp_path / "it.html")
    page = (tmp_path / "it.html").read_text(encoding="utf-8")
    assert page.count("not recorded") == 3
    assert "This run has no record of memory." in page
    write_png(run, tmp_path / "it.png")


@pytest.mark.parametrize("missing", ["memory_before", "memory_peak", "device_memory"])
def test_memory_needs_all_three_figures(missing: str, home: Home) -> None:
    make_run(home, {key: value for key, value in RECORD.items() if key != missing})
    assert read_run("ironman-ead34c38b7", home).memory is None


def test_memory_is_a_share_of_the_device() -> None:
    facts = memory_facts(Memory(before=GIB, peak=3 * GIB, device=16 * GIB))
    assert list(facts.values()) == ["16.00 GiB", "1.00 GiB · 6.2%", "3.00 GiB · 18.8%", "2.00 GiB · 12.5%"]


def test_series_and_accuracy() -> None:
    history = [{"step": 1, "loss": 2.0}, {"step": 1, "eval_loss": 3.0, "eval_mean_token_accuracy": 0.4}]
    assert series(history, "loss") == ([1], [2.0])
    assert accuracy_key(history) == "eval_mean_token_accuracy"
    assert accuracy_key(history[:1]) is None


def test_no_korean_font_means_english_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANG", "ko_KR.UTF-8")
    monkeypatch.setattr(charts, "FONTS", ("Nobody's Font",))
    assert charts.label("손실", "Loss") == "Loss"


def test_refusals(home: Home) -> None:
    with pytest.raises(ReportError, match=r"no run 'nothing' \(none\)"):
        read_run("nothing", home)
    folder = make_run(home)
    (folder / "run.json").write_text("{")
    with pytest.raises(ReportError, match="ironman-ead34c38b7"):
        read_run(folder.name, home)
    (home.runs / "new").mkdir()
    (home.runs / "new" / "settings.json").write_text("{}")
    with pytest.raises(ReportError, match="no checkpoint yet"):
        read_run("new", home)
