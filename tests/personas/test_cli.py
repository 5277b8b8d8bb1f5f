import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from personas.cli import app
from personas.console import run
from personas.loader import find_persona
from personas.texts import overlap
from tune.data import read_records

PROGRAM = "import personas.cli; personas.cli.main()"


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of personas."""
    folder = tmp_path / "personas"
    folder.mkdir()
    monkeypatch.setenv("GAMYEON_PERSONAS", str(folder))
    return folder


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch) -> "Call":
    return Call(monkeypatch)


class Call:
    """Calls the program as its command line does; returns the exit code."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.monkeypatch = monkeypatch

    def __call__(self, *arguments: str) -> int:
        self.monkeypatch.setattr(sys, "argv", ["personas", *arguments])
        with pytest.raises(SystemExit) as caught:
            run(app)
        return int(caught.value.code or 0)


def test_new_then_check_and_ls(root: Path, call: Call, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("new", "pepper-2") == 0
    assert call("check") == 0
    assert f"✓ pepper-2 ({root / 'pepper-2'})" in capsys.readouterr().out
    folder = find_persona("pepper-2")
    examples, held_out = read_records(folder.data_files), read_records([folder.eval_file])
    assert (len(examples), len(held_out)) == (1, 4)
    assert max(overlap(a.prompt, b.prompt) for a in examples for b in held_out) < 0.3
    (folder.path / "data" / "more.csv").write_bytes("instruction,output\n가?,나\n".encode("cp949"))
    assert call("ls") == 0
    listed = capsys.readouterr().out
    assert "pepper-2" in listed
    assert "1 + 1 files" in listed


@pytest.mark.parametrize(
    "name", ["Stark", "stark!", "a b", "-stark", "x" * 41, "x" * 300, "토니", "a: b", "a/b", "../stark", "a #b", "a\nb"]
)
def test_bad_name_is_refused_and_leaves_nothing(
    root: Path, call: Call, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    before = set(root.parent.iterdir())
    assert call("new", "--", name) == 1
    assert "error: " in capsys.readouterr().err
    assert list(root.iterdir()) == []
    assert set(root.parent.iterdir()) == before


@pytest.mark.parametrize("name", ["007", "no", "null", "1e3"])
def test_good_name_that_yaml_reads_as_something_else(root: Path, call: Call, name: str) -> None:
    assert call("new", name) == 0
    assert call("check") == 0


def test_existing_persona_is_not_touched(root: Path, call: Call, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("new", "stark") == 0
    file = root / "stark" / "persona.yaml"
    file.write_text(file.read_text().replace("title: stark", "title: mine"))
    assert call("new", "stark") == 1
    assert f"{root / 'stark'} exists" in capsys.readouterr().err
    assert "title: mine" in file.read_text()


def test_check_reports_all_faults(root: Path, call: Call, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("one", "two"):
        call("new", name)
        file = root / name / "persona.yaml"
        file.write_text(file.read_text().replace("greeting:", "greting:"))
    assert call("check") == 1
    error = capsys.readouterr().err
    for name in ("one", "two"):
        assert f"{root / name / 'persona.yaml'}:4: greting: " in error
    assert "Traceback" not in error


@pytest.mark.parametrize(
    ("lang", "options", "word"),
    [
        ("ko_KR.UTF-8", ["--lang", "en"], "error: no embedded model"),
        ("ko_KR.UTF-8", ["--lang=en"], "error: no embedded model"),
        ("en_US.UTF-8", ["--lang", "ko"], "오류: 내장 모델"),
        ("C.UTF-8", [], "오류: 내장 모델"),
        ("en_GB", [], "error: no embedded model"),
    ],
)
def test_language(
    call: Call,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    lang: str,
    options: list[str],
    word: str,
) -> None:
    monkeypatch.setenv("LANG", lang)
    assert call(*options, "prepare", "embedded:none") == 1
    error = capsys.readouterr().err
    assert error.startswith(word)
    assert "\n→ base: embedded:" in error


def test_debug_shows_the_error(monkeypatch: pytest.MonkeyPatch) -> None:
    from personas.errors import BaseModelError

    monkeypatch.setattr(sys, "argv", ["personas", "--debug", "prepare", "embedded:none"])
    with pytest.raises(BaseModelError):
        run(app)


def test_one_warning_of_bitsandbytes_is_dropped(call: Call, root: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert call("check") == 0
    logger = logging.getLogger("bitsandbytes.backends.cpu.ops")
    logger.warning("Failed to load CPU gemm_4bit_forward from kernels-community: %s", "no kernels")
    logger.warning("something else")
    assert caplog.messages == ["something else"]


def test_program_help_and_error() -> None:
    environment = {**os.environ, "LANG": "ko_KR.UTF-8", "PYTHONUTF8": "1"}
    shown, failed = (
        subprocess.run(
            [sys.executable, "-c", PROGRAM, "--lang", "en", *arguments],
            env=environment, capture_output=True, text=True, timeout=60, check=False,
        )
        for arguments in (["--help"], ["prepare", "embedded:none"])
    )  # fmt: skip
    assert shown.returncode == 0
    assert "See, check and make personas" in shown.stdout
    assert failed.returncode == 1
    assert "error: no embedded model 'embedded:none'" in failed.stderr
    assert "Traceback" not in failed.stderr
