import io
import json
import unicodedata
from pathlib import Path

import pytest

from tune.data_tools import json_rows
from tune.data_tools.json_rows import document_rows
from tune.data_tools.reader import Fault, Source
from tune.formats.base import Example

GOOD = json.dumps({"instruction": "수도는?", "output": "서울."}, ensure_ascii=False)


def both(file: Path) -> tuple[list[Example], list[str], list[str]]:
    source = Source([file])
    made = list(source.read())
    return (
        [one for one in made if isinstance(one, Example)],
        [str(one) for one in made if isinstance(one, Fault)],
        source.notes,
    )


@pytest.fixture(params=["jsonl", "json", "csv"])
def three_records(request: pytest.FixtureRequest) -> tuple[str, str]:
    """The same three records in every text container: its ending, and the text."""
    texts = {
        "jsonl": "\n".join([GOOD] * 3),
        "json": "[\n" + ",\n".join([GOOD] * 3) + "\n]",
        "csv": "instruction,output\n" + "수도는?,서울.\n" * 3,
    }
    return str(request.param), texts[request.param]


@pytest.mark.parametrize("content", [b"", b" \n\t\n", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("suffix", ["jsonl", "json", "csv"])
def test_empty_file(tmp_path: Path, content: bytes, suffix: str) -> None:
    file = tmp_path / f"a.{suffix}"
    file.write_bytes(content)
    assert both(file) == ([], [f"{file}: the file is empty"], [])


@pytest.mark.parametrize(
    ("encoding", "note"), [("utf-8", []), ("utf-8-sig", []), ("cp949", ["CP949"]), ("utf-16", ["UTF-16"])]
)
def test_encodings(tmp_path: Path, three_records: tuple[str, str], encoding: str, note: list[str]) -> None:
    file = tmp_path / f"a.{three_records[0]}"
    file.write_bytes(three_records[1].encode(encoding))
    examples, faults, notes = both(file)
    assert [one.response for one in examples] == ["서울."] * 3
    assert faults == []
    assert [text.split("read as ")[1] for text in notes] == note


def test_cp949_bytes_in_a_utf8_file_are_a_fault_of_their_line(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_bytes(GOOD.encode() + b"\n" + GOOD.encode("cp949") + b"\n" + GOOD.encode())
    examples, faults, notes = both(file)
    assert (len(examples), notes) == (2, [])
    assert [text.startswith(f"{file}:2: not UTF-8 (byte ") for text in faults] == [True]


def test_neither_utf8_nor_cp949(tmp_path: Path) -> None:
    for suffix, content in {
        "jsonl": b'{"instruction": "\xff\xff"}',
        "json": b'["\xff\xff"]',
        "csv": b"a,b\n\xff\xff,1\n",
    }.items():
        file = tmp_path / f"a.{suffix}"
        file.write_bytes(content)
        assert len(both(file)[1]) == 1


def test_truncated_json_keeps_what_came_before(tmp_path: Path) -> None:
    for suffix, text, line in (
        ("jsonl", f"{GOOD}\n{GOOD}\n{GOOD[:-9]}", 3),
        ("json", f"[\n{GOOD},\n{GOOD},\n{GOOD[:-9]}", 4),
    ):
        file = tmp_path / f"a.{suffix}"
        file.write_text(text, encoding="utf-8")
        examples, faults, _ = both(file)
        assert len(examples) == 2
        assert [one.startswith(f"{file}:{line}: truncated JSON") for one in faults] == [True]


@pytest.mark.parametrize("cut", range(1, len(GOOD) + 2, 3))
def test_json_list_cut_anywhere_is_told(tmp_path: Path, cut: int) -> None:
    file = tmp_path / "a.json"
    file.write_text(f"[{GOOD},{GOOD}]"[:-cut], encoding="utf-8")
    examples, faults, _ = both(file)
    assert len(faults) == 1
    assert len(examples) == (2 if cut == 1 else 1)


def test_record_without_an_answer(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    rows = [{"instruction": "수도는?"}, {"instruction": "수도는?", "output": " "}, {"instruction": "?", "output": None}]
    file.write_text("\n".join([GOOD, *(json.dumps(row) for row in rows)]), encoding="utf-8")
    examples, faults, _ = both(file)
    assert len(examples) == 1
    assert faults == [
        f"{file}:2: output: field is missing",
        f"{file}:3: output: empty",
        f"{file}:4: output: not a string",
    ]


@pytest.mark.parametrize(
    ("row", "missing"),
    [
        ({"instruction": "수도는?"}, "output (alpaca) | response (dolly)"),
        ({"instruction": "수도는?", "input": ""}, "output (alpaca)"),
        ({"instruction": "수도는?", "context": "서울은 수도다."}, "response (dolly)"),
        ({"prompt": "수도는?"}, "completion (prompt-completion)"),
        ({"prompt": "수도는?", "chosen": "서울."}, "rejected (preference)"),
        ({"output": "서울."}, "instruction (alpaca)"),
    ],
)
def test_a_file_of_which_no_record_has_an_answer(tmp_path: Path, row: dict[str, str], missing: str) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text(json.dumps(row), encoding="utf-8")
    assert both(file)[1] == [f"{file}:1: {missing}: field is missing; add it, or see `tune data formats`"]


def test_fields_of_no_format(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text(json.dumps({"q": "수도는?", "a": "서울."}), encoding="utf-8")
    assert both(file)[1] == [f"{file}:1: no format is known for the fields q, a"]


@pytest.mark.parametrize("suffix", ["jsonl", "json", "csv"])
def test_two_megabyte_record(tmp_path: Path, suffix: str) -> None:
    long = "가" * 700_000
    big = json.dumps({"instruction": "수도는?", "output": long}, ensure_ascii=False)
    texts = {"jsonl": f"{GOOD}\n{big}\n{GOOD}", "json": f"[{GOOD},{big},{GOOD}]"}
    texts["csv"] = f"instruction,output\n1,2\n3,{long}\n4,5\n"
    file = tmp_path / f"a.{suffix}"
    file.write_text(texts[suffix], encoding="utf-8")
    examples, faults, _ = both(file)
    assert ([len(one.response) for one in examples][1], len(examples), faults) == (700_000, 3, [])


def test_a_record_without_end_stops_before_memory_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_rows, "MAX_RECORD", 1 << 21)
    file = tmp_path / "a.json"
    file.write_text(f'[{GOOD},{{"instruction": "{"x" * (1 << 23)}', encoding="utf-8")
    read = 0

    class Counting(io.StringIO):
        def read(self, size: int | None = -1) -> str:
            nonlocal read
            text = super().read(size)
            read += len(text)
            return text

    counting = Counting(file.read_bytes().decode())
    monkeypatch.setattr(Path, "open", lambda path, **_: counting)
    *_, (_, error) = document_rows(file, "utf-8")
    assert "one record is over 2 MB" in str(error)
    assert read < 1 << 23


def test_nul(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    lines = [GOOD.encode(), GOOD.encode().replace(b"?", b"\0"), GOOD.encode().replace(b"?", b"\\u0000")]
    file.write_bytes(b"\n".join(lines))
    examples, faults, _ = both(file)
    assert len(examples) == 1
    assert ["NUL byte" in faults[0], "instruction: contains a NUL character" in faults[1]] == [True, True]
    file.write_bytes(b"\0" * 5000)
    assert both(file)[1] == [f"{file}: not a text file (NUL bytes)"]


@pytest.mark.parametrize("break_", ["\u2028", "\u2029", "\x85", "\x0b"])
@pytest.mark.parametrize("suffix", ["jsonl", "json", "csv"])
def test_only_newlines_end_a_line(tmp_path: Path, suffix: str, break_: str) -> None:
    answer = f"한 줄{break_}두 줄"
    row = json.dumps({"instruction": "?", "output": answer}, ensure_ascii=False)
    texts = {"jsonl": f"{row}\n{GOOD}", "json": f"[{row}, {GOOD}]", "csv": f"instruction,output\n?,{answer}\n1,2\n"}
    file = tmp_path / f"a.{suffix}"
    file.write_text(texts[suffix], encoding="utf-8", newline="")
    if suffix != "csv" and break_ == "\x0b":
        file.write_text(texts[suffix].replace("\x0b", "\\u000b"), encoding="utf-8")
    examples, faults, _ = both(file)
    assert (examples[0].response, len(examples), faults) == (answer, 2, [])


def test_nfd_becomes_nfc(tmp_path: Path, three_records: tuple[str, str]) -> None:
    file = tmp_path / f"a.{three_records[0]}"
    file.write_text(unicodedata.normalize("NFD", three_records[1]), encoding="utf-8")
    assert [one.response for one in both(file)[0]] == ["서울."] * 3


def test_nfd_korquad_finds_its_answer(tmp_path: Path) -> None:
    context = "대한민국의 수도는 서울이다."
    asked = {"question": "수도는?", "answers": [{"text": "서울", "answer_start": context.index("서울")}]}
    text = json.dumps({"context": context, "qas": [asked]}, ensure_ascii=False)
    file = tmp_path / "a.jsonl"
    file.write_text(unicodedata.normalize("NFD", text), encoding="utf-8")
    (example,) = both(file)[0]
    assert (example.context, example.response) == (context, "서울")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"instruction": "\\ud800", "output": "x"}', "instruction: bad Unicode"),
        ("[" * 100_000, "nested too deeply"),
        ('{"instruction": ' + "9" * 5000 + "}", "digits"),
        ("3", "not a JSON object"),
        ("null", "not a JSON object"),
    ],
)
def test_hostile_lines(tmp_path: Path, text: str, reason: str) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text(f"{GOOD}\n{text}\n{GOOD}", encoding="utf-8")
    examples, faults, _ = both(file)
    assert len(examples) == 2
    assert faults[0].startswith(f"{file}:2: ")
    assert reason in faults[0]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (f"[\n{GOOD}\n{GOOD}]", 3),
        (f"[{GOOD},]", 1),
        (f"[{GOOD}] x", 1),
        (f"[{GOOD},\n\nx]", 3),
        ('{"data": {"a": 1}', 1),
    ],
)
def test_broken_json_documents(tmp_path: Path, text: str, line: int) -> None:
    file = tmp_path / "a.json"
    file.write_text(text, encoding="utf-8")
    faults = both(file)[1]
    assert [one.startswith(f"{file}:{line}: ") for one in faults] == [True]


def test_json_lines_called_json_and_one_pretty_object(tmp_path: Path) -> None:
    lines = tmp_path / "a.json"
    lines.write_text(f"{GOOD}\n{GOOD}\n", encoding="utf-8")
    pretty = tmp_path / "b.json"
    pretty.write_text(json.dumps(json.loads(GOOD), indent=2, ensure_ascii=False), encoding="utf-8")
    assert [len(both(file)[0]) for file in (lines, pretty)] == [2, 1]


@pytest.mark.parametrize("block", [1, 2, 3, 7, 64])
def test_lines_are_right_however_the_file_is_cut_into_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr(json_rows, "BLOCK", block)
    file = tmp_path / "a.json"
    values = [{"a": 12345}, {"b": [True, None, -1.5e3]}, {"c": '\\ " \u2028 가\n'}, {}]
    texts = [json.dumps(value, indent=1, ensure_ascii=False) for value in values]
    file.write_text("[\n\n" + ",\n".join(texts) + "]\n", encoding="utf-8", newline="")
    starts = [3 + sum(text.count("\n") + 1 for text in texts[:i]) for i in range(len(texts))]
    assert list(document_rows(file, "utf-8")) == list(zip(starts, values, strict=True))
    file.write_text("[1234567, 89]", encoding="utf-8")
    assert [value for _, value in document_rows(file, "utf-8")] == [1234567, 89]


def test_csv_with_ragged_rows(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text("instruction,output\n가,나\n다\n라,마,바\n사,아\n", encoding="utf-8")
    examples, faults, _ = both(file)
    assert [one.response for one in examples] == ["나", "아"]
    assert [one.startswith(f"{file}:{line}: ") for one, line in zip(faults, (3, 4), strict=True)] == [True, True]


def test_not_there_not_known_not_parquet(tmp_path: Path) -> None:
    (tmp_path / "a.docx").write_text("x")
    (tmp_path / "a.parquet").write_text("x")
    (tmp_path / "empty").mkdir()
    reasons = [both(tmp_path / name)[1] for name in ("no.json", "a.docx", "a.parquet", "empty")]
    wanted = ["no such file", "no known kind", "not Parquet", "no data files"]
    assert [want in found[0] for want, found in zip(wanted, reasons, strict=True)] == [True] * 4
