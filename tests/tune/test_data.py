import json
import unicodedata
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fixtures_tiny import record

from personas.loader import PersonaFolder, load_personas
from personas.texts import overlap
from tune.data import DataError, Record, data_hash, read_records

USER, ASSISTANT = {"role": "user", "content": "안녕?"}, {"role": "assistant", "content": "그래."}


def line(*messages: dict[str, str], **more: str) -> str:
    return json.dumps({"category": "test", "messages": messages, **more}, ensure_ascii=False)


GOOD = line(USER, ASSISTANT)


def write(folder: Path, *lines: str, name: str = "a.jsonl") -> Path:
    file = folder / name
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


def test_good_records(tmp_path: Path) -> None:
    records = read_records([write(tmp_path, GOOD, "", line(USER, ASSISTANT, USER, ASSISTANT))])
    assert [len(one.messages) for one in records] == [2, 4]
    assert records[0].prompt == "안녕?"
    assert records[0].conversation("너는 토니") == [{"role": "system", "content": "너는 토니"}, USER, ASSISTANT]


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (GOOD[:-9], ""),
        ("not JSON", ""),
        ("[]", ""),
        (line(), "roles must alternate"),
        (line(USER), "roles must alternate"),
        (line(ASSISTANT, USER), "roles must alternate"),
        (line(USER, ASSISTANT, ASSISTANT), "roles must alternate"),
        (line({"role": "system", "content": "x"}, USER, ASSISTANT), "messages.0.role"),
        (line(USER, {"role": "assistant"}), "messages.1.content"),
        (line(USER, {"role": "assistant", "content": "  "}), "messages.1.content"),
        (line(USER, ASSISTANT, source="web"), "source"),
        (line(USER, {**ASSISTANT, "name": "x"}), "messages.1.name"),
        (json.dumps({"messages": [USER, ASSISTANT]}), "category"),
    ],
)
def test_fault_names_file_and_line(tmp_path: Path, fault: str, reason: str) -> None:
    file = write(tmp_path, GOOD, "", fault, GOOD)
    with pytest.raises(DataError) as caught:
        read_records([file])
    assert caught.value.message.startswith(f"{file}:3: ")
    assert reason in caught.value.message
    assert len(caught.value.message.splitlines()) == 1


def test_all_faults_of_all_files_at_once(tmp_path: Path) -> None:
    first = write(tmp_path, "{", GOOD, line(USER))
    second = write(tmp_path, GOOD, line(USER, ASSISTANT, x="y"), name="b.jsonl")
    with pytest.raises(DataError) as caught:
        read_records([first, tmp_path / "none.jsonl", second])
    starts = [f"{first}:1: ", f"{first}:3: ", f"{tmp_path / 'none.jsonl'}: ", f"{second}:2: "]
    lines = caught.value.message.splitlines()
    assert [start for start, text in zip(starts, lines, strict=True) if not text.startswith(start)] == []


def test_hint_fits_the_fault(tmp_path: Path) -> None:
    for file, hint in ((tmp_path / "none.json", "check the path"), (write(tmp_path, "{"), "mend these lines")):
        with pytest.raises(DataError) as caught:
            read_records([file])
        assert caught.value.hint == hint


def test_not_utf8_names_file_and_line(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_bytes(GOOD.encode() + b"\n" + GOOD.encode("cp949") + b"\n")
    with pytest.raises(DataError, match="not UTF-8") as caught:
        read_records([file])
    assert caught.value.message.startswith(f"{file}:2: ")


@pytest.mark.parametrize("lines", [[], ["", "  "]])
def test_empty_data_is_refused(tmp_path: Path, lines: list[str]) -> None:
    file = write(tmp_path, *lines)
    with pytest.raises(DataError, match=str(file)):
        read_records([file])
    with pytest.raises(DataError, match="no training data"):
        read_records([])


@pytest.mark.parametrize("break_", ["\u2028", "\u2029", "\x85"])
def test_only_newlines_end_a_record(tmp_path: Path, break_: str) -> None:
    content = f"한 줄{break_}두 줄"
    records = read_records([write(tmp_path, line(USER, {"role": "assistant", "content": content}), GOOD)])
    assert [one.messages[1].content for one in records] == [content, "그래."]


@pytest.mark.parametrize("escaped", [False, True])
def test_text_is_normalized_to_nfc(tmp_path: Path, escaped: bool) -> None:
    content = {"category": "test", "messages": [USER, {**ASSISTANT, "content": unicodedata.normalize("NFD", "그래.")}]}
    records = read_records([write(tmp_path, json.dumps(content, ensure_ascii=escaped))])
    assert records[0].messages[1].content == "그래."


def test_any_format_in_a_personas_folder(tmp_path: Path) -> None:
    folder = PersonaFolder(load_personas()["ironman"].persona, tmp_path)
    data = tmp_path / "data"
    data.mkdir()
    (data / "a.jsonl").write_text(GOOD + "\n", encoding="utf-8")
    (data / "b.json").write_text(json.dumps([{"instruction": "가?", "input": "나", "output": "다."}]), encoding="utf-8")
    (data / "c.csv").write_bytes("instruction,output\n라?,마.\n".encode("cp949"))
    said = [{"from": "human", "value": "바?"}, {"from": "gpt", "value": "사."}]
    pq.write_table(pa.Table.from_pylist([{"conversations": said}]), data / "d.parquet")
    (data / "README.md").write_text("not data")
    notes: list[str] = []
    records = read_records(folder.data_files, notes.append)
    assert [one.messages[-1].content for one in records] == ["그래.", "다.", "마.", "사."]
    assert [one.messages[0].content for one in records] == ["안녕?", "가?\n\n나", "라?", "바?"]
    assert [one.category for one in records] == ["test", "open_qa", "open_qa", "open_qa"]
    assert [note.endswith("read as CP949") for note in notes] == [True]
    (data / "e.jsonl").write_text(json.dumps({"messages": [{"role": "system", "content": "x"}, USER, ASSISTANT]}))
    with pytest.raises(DataError, match=r"e\.jsonl:1: system: belongs in persona"):
        read_records(folder.data_files, notes.append)


def test_a_record_may_bring_its_own_system_prompt_where_there_is_no_persona(tmp_path: Path) -> None:
    own = json.dumps({"messages": [{"role": "system", "content": "짧게"}, USER, ASSISTANT]})
    plain = json.dumps({"messages": [USER, ASSISTANT]})
    records = read_records([write(tmp_path, own, plain)], own_system=True)
    assert [one.system for one in records] == ["짧게", ""]
    said = [one.conversation("너는 토니")[0]["content"] for one in records]
    assert said == ["짧게", "너는 토니"]
    assert records[1].conversation("") == [USER, ASSISTANT]
    assert [Record.model_validate(one.model_dump()) for one in records] == records  # as worker processes get them
    assert data_hash(records[:1]) != data_hash(records[1:]) == data_hash([records[1].model_copy(update={"system": ""})])
    assert "system" not in records[1].model_dump()


def test_a_dataset_info_speaks_for_its_folder(tmp_path: Path) -> None:
    (tmp_path / "dataset_info.json").write_text(
        json.dumps({"x": {"file_name": "x.json", "columns": {"prompt": "q", "response": "a"}}})
    )
    (tmp_path / "x.json").write_text(json.dumps([{"q": "가?", "a": "나."}]))
    (record_,) = read_records(sorted(tmp_path.iterdir()))
    assert [turn.content for turn in record_.messages] == ["가?", "나."]


def test_hash_is_of_the_records_alone(tmp_path: Path) -> None:
    lines = [line({**USER, "content": str(number)}, ASSISTANT) for number in range(4)]
    whole = read_records([write(tmp_path, *lines)])
    split = read_records([write(tmp_path, *lines[:1], name="b.jsonl"), write(tmp_path, "", *lines[1:], name="c.jsonl")])
    assert data_hash(whole) == data_hash(split)
    assert data_hash(whole) != data_hash(whole[:3])
    assert data_hash([record("가", "나")]) != data_hash([record("가", "다")])


@pytest.mark.parametrize(
    ("a", "b", "wanted"),
    [
        ("소코비아 협정", "소코비아협정", 1.0),
        ("안녕하세요", "점심 뭐 먹지", 0.0),
        ("가나다라", "가나다마", 1 / 3),
        ("ABC", "abc", 1.0),
        ("안녕", unicodedata.normalize("NFD", "안녕"), 1.0),
        ("응", "응", 1.0),
        ("", "", 1.0),
        ("", "가나다", 0.0),
    ],
)
def test_overlap(a: str, b: str, wanted: float) -> None:
    assert overlap(a, b) == overlap(b, a) == pytest.approx(wanted)
