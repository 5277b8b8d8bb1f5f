import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tune.cli import app
from tune.data_tools.convert import convert
from tune.data_tools.reader import Fault, Faults, Source
from tune.data_tools.targets import TARGETS, target_named
from tune.formats.base import DataError, Example

LONG = {
    "conversations": [
        {"from": "system", "value": "짧게"},
        {"from": "human", "value": "첫째?"},
        {"from": "gpt", "value": "하나."},
        {"from": "human", "value": "둘째?"},
        {"from": "gpt", "value": "둘."},
    ]
}
PAIR = {"instruction": "가?", "context": "나", "response": "다.", "category": "closed_qa", "rejected": "c."}


def write(file: Path, *records: Any) -> Path:
    file.write_text("".join(json.dumps(one, ensure_ascii=False) + "\n" for one in records), encoding="utf-8")
    return file


def run(*arguments: Any) -> Any:
    return CliRunner().invoke(app, ["data", *map(str, arguments)])


def rows(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n") if line]


def examples(file: Path) -> list[Example]:
    made = list(Source([file]).read())
    assert [str(one) for one in made if isinstance(one, Fault)] == []
    return [one for one in made if isinstance(one, Example)]


def test_a_conversation_becomes_one_dolly_record_an_exchange(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    result = run("convert", write(tmp_path / "a.jsonl", LONG), "--to", "dolly", "-o", out)
    assert result.exit_code == 0, result.output
    assert rows(out) == [
        {"instruction": "첫째?", "context": "", "response": "하나.", "category": "open_qa"},
        {"instruction": "둘째?", "context": "질문: 첫째?\n답변: 하나.", "response": "둘.", "category": "open_qa"},
    ]
    assert "no place for 1 system" in result.output


def test_dpo_and_preference_need_a_rejected_answer(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", PAIR, {**PAIR, "rejected": ""})
    out = tmp_path / "out.jsonl"
    for to in ("dpo", "preference"):
        with pytest.raises(DataError) as caught:
            convert(Source([file]), target_named(to), out, Faults())
        assert caught.value.message.startswith(f"{file}:2: rejected: missing")
        assert not out.exists()
    assert convert(Source([file]), TARGETS["dpo"], out, Faults(), skip_bad=True).written == 1
    assert rows(out) == [PAIR]
    convert(Source([out]), TARGETS["preference"], out, Faults(), overwrite=True)
    assert rows(out) == [
        {
            "prompt": [{"role": "user", "content": "가?\n\n나"}],
            "chosen": [{"role": "assistant", "content": "다."}],
            "rejected": [{"role": "assistant", "content": "c."}],
        }
    ]


@pytest.mark.parametrize("to", TARGETS)
@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".tsv", ".parquet"])
def test_every_form_in_every_container_reads_back(tmp_path: Path, to: str, suffix: str) -> None:
    file, out = (
        write(tmp_path / "a.jsonl", PAIR, {**PAIR, "instruction": '줄\n바꿈, "따옴표"\u2028'}),
        tmp_path / f"b{suffix}",
    )
    convert(Source([file]), TARGETS[to], out, Faults())
    back = examples(out)
    assert [one.response for one in back] == ["다.", "다."]
    assert '줄\n바꿈, "따옴표"' in back[1].instruction
    if to in ("dolly", "dpo", "preference"):
        assert [one.rejected for one in back] == ["c.", "c."]
    assert [one.messages() for one in back] == [one.messages() for one in examples(file)]


@pytest.mark.parametrize("to", ["messages", "alpaca", "sharegpt", "prompt-completion"])
@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_history_and_system_survive_where_there_is_place(tmp_path: Path, to: str, suffix: str) -> None:
    file, out = write(tmp_path / "a.jsonl", LONG), tmp_path / f"b{suffix}"
    convert(Source([file]), TARGETS[to], out, Faults())
    assert examples(out) == examples(file)


def test_bad_records_stop_it_and_nothing_is_written(tmp_path: Path) -> None:
    file, out = write(tmp_path / "a.jsonl", PAIR, *[{**PAIR, "response": ""}] * 30), tmp_path / "out.jsonl"
    result = CliRunner().invoke(app, ["data", "convert", str(file), "--to", "dolly", "-o", str(out)])
    assert isinstance(result.exception, DataError)
    lines = result.exception.message.splitlines()
    assert (lines[0], lines[-1], len(lines)) == (f"{file}:2: response: empty", "and 10 more", 21)
    assert sorted(tmp_path.glob("**/*out*")) == []
    result = run("convert", file, "--to", "dolly", "-o", out, "--skip-bad")
    assert (result.exit_code, len(rows(out))) == (0, 1)
    assert "bad 30" in result.output


def test_what_exists_is_not_harmed(tmp_path: Path) -> None:
    file, out = write(tmp_path / "a.jsonl", PAIR), tmp_path / "out.jsonl"
    out.write_text("precious")
    for target in (out, tmp_path, file):
        with pytest.raises(DataError):
            convert(Source([file]), TARGETS["dolly"], target, Faults())
    with pytest.raises(DataError):
        convert(Source([write(tmp_path / "bad.jsonl", {"x": 1})]), TARGETS["dolly"], out, Faults(), overwrite=True)
    assert out.read_text() == "precious"
    convert(Source([file]), TARGETS["dolly"], out, Faults(), overwrite=True)
    assert rows(out) == [PAIR]
    convert(Source([file]), TARGETS["messages"], file, Faults(), overwrite=True)  # onto itself: read before replaced
    assert "messages" in rows(file)[0]


def test_a_full_disk_leaves_what_was_there(tmp_path: Path) -> None:
    file, out = write(tmp_path / "a.jsonl", *[PAIR] * 5000), tmp_path / "out.jsonl"
    out.write_text("precious")
    code = "import sys; from tune.cli import main; sys.argv[0] = 'tune'; main()"
    limit = 100_000  # bytes a file: the write fails like on a full disk
    done = subprocess.run(
        [sys.executable, "-c", code, "data", "convert", str(file), "--to", "dolly", "-o", str(out), "--overwrite"],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert done.returncode == 1
    assert f"{out}: File too large" in done.stderr
    assert "nothing was changed" in done.stderr
    assert out.read_text() == "precious"
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["a.jsonl", "out.jsonl"]


def test_leftovers_of_a_killed_run_are_swept(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    left, other = tmp_path / f".out.jsonl.{dead.pid}.part", tmp_path / f".out.jsonl.{os.getppid()}.part"
    left.touch()
    other.touch()
    convert(Source([write(tmp_path / "a.jsonl", PAIR)]), TARGETS["dolly"], tmp_path / "out.jsonl", Faults())
    assert (left.exists(), other.exists()) == (False, True)


def test_cp949_is_read_with_a_note(tmp_path: Path) -> None:
    file, out = tmp_path / "a.csv", tmp_path / "out.jsonl"
    file.write_bytes("instruction,output\n가?,나.\n".encode("cp949"))
    result = run("convert", file, "--to", "dolly", "-o", out)
    assert "read as CP949" in result.output
    assert rows(out)[0]["response"] == "나."


def test_category_window_and_names(tmp_path: Path) -> None:
    context = "앞 " * 3000 + "답은 서울이다." + " 뒤" * 3000
    asked = {"question": "수도?", "answers": [{"text": "서울", "answer_start": context.index("서울")}]}
    file, out = write(tmp_path / "a.jsonl", {"context": context, "qas": [asked]}), tmp_path / "out.jsonl"
    result = run("convert", file, "--to", "dolly", "-o", out, "--category", "quiz", "--max-length", 256)
    assert result.exit_code == 0, result.output
    (row,) = rows(out)
    assert (row["category"], len(row["context"]) < 256, "서울" in row["context"]) == ("quiz", True, True)
    for bad in (["--to", "dollly"], ["--to", "dolly", "--from", "dollly"]):
        result = run("convert", file, *bad, "-o", tmp_path / "x.jsonl")
        assert isinstance(result.exception, DataError)
        assert "dolly" in result.exception.hint


def test_check_names_every_bad_record_and_goes_on(tmp_path: Path) -> None:
    first = write(tmp_path / "a.jsonl", PAIR, {"instruction": "가?"}, PAIR, {**PAIR, "instruction": ["x"]})
    second = tmp_path / "b.json"
    second.write_text(json.dumps([PAIR])[:-1])
    result = run("check", first, second, tmp_path / "no.csv")
    assert result.exit_code == 1
    assert result.stdout.splitlines() == [
        f"{first}:2: response: field is missing",
        f"{first}:4: instruction: not a string",
        f"{second}:1: truncated JSON",
        f"{tmp_path / 'no.csv'}: no such file",
        "good 3 (dolly 3), bad 4",
    ]
    assert run("check", write(tmp_path / "good.jsonl", PAIR)).exit_code == 0


def test_formats_are_listed(tmp_path: Path) -> None:
    result = run("formats")
    assert [name for name in ("sharegpt", "korquad2", "--to: dolly dpo") if name not in result.output] == []
