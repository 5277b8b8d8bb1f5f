from pathlib import Path

import pytest

from personas.errors import PersonaError
from personas.loader import find_persona, load_personas, read_persona

GOOD = """\
name: {name}
title: 스타크
description: 발명가
greeting: 안녕
system_prompt: 당신은 스타크입니다.
sampling:
  temperature: 0.7
"""


def write(root: Path, content: str | bytes = GOOD, name: str = "stark") -> Path:
    file = root / name / "persona.yaml"
    file.parent.mkdir(parents=True)
    file.write_bytes(content if isinstance(content, bytes) else content.format(name=name).encode())
    return file


def test_good_persona(tmp_path: Path) -> None:
    file = write(tmp_path)
    data = file.parent / "data"
    data.mkdir()
    for name in ("b.jsonl", "a.jsonl", "notes.txt"):
        (data / name).touch()
    folder = find_persona("stark", tmp_path)
    assert folder.persona.title == "스타크"
    assert folder.persona.sampling.model_dump(exclude_none=True) == {"temperature": 0.7}
    assert folder.persona.base == "embedded:gemma-3-270m"
    assert [file.name for file in folder.data_files] == ["a.jsonl", "b.jsonl"]
    assert list(load_personas(tmp_path)) == ["stark"]


def test_shared_data_is_trained_after_its_own(tmp_path: Path) -> None:
    file = write(tmp_path, GOOD + "shared_data:\n  - everyday\n")
    assert list(load_personas(tmp_path)) == ["stark"]  # it can answer without them
    with pytest.raises(PersonaError, match=f"{file}: shared_data: .*everyday/data has no data files"):
        print(find_persona("stark", tmp_path).training_files)
    for folder, name in ((file.parent, "own.jsonl"), (tmp_path / "everyday", "all.jsonl")):
        (folder / "data").mkdir(parents=True)
        (folder / "data" / name).touch()
    folder = find_persona("stark", tmp_path)
    assert [f.name for f in folder.data_files] == ["own.jsonl"]
    assert [f.name for f in folder.training_files] == ["own.jsonl", "all.jsonl"]


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ("shared_data: [stark]", "its own"),
        ("shared_data: [a, a]", "twice"),
        ("example_memory: {}\ndocuments: {collection: m}", "leave out one"),
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path: Path, more: str, why: str) -> None:
    with pytest.raises(PersonaError, match=why):
        read_persona(write(tmp_path, GOOD.replace("{name}", "stark") + more.replace("{", "{{").replace("}", "}}")))


@pytest.mark.parametrize(
    ("old", "new", "line", "field"),
    [
        ("greeting: 안녕", "greeting: 안녕\ngreting: 안녕", 5, "greting"),
        ("  temperature: 0.7", "  temperatur: 0.7", 7, "sampling.temperatur"),
        ("  temperature: 0.7", "  temperature: warm", 7, "sampling.temperature"),
        ("  temperature: 0.7", "  stop:\n    - a\n    - [b]", 9, "sampling.stop.1"),
        ("title: 스타크", "title: [스타크]", 2, "title"),
        ("title: 스타크", "title: '  '", 2, "title"),
        ("title: 스타크\n", "", 1, "title"),
        ("name: {name}", "name: Stark!", 1, "name"),
        ("name: {name}\ntitle: 스타크", "title: 스타크\nname: tony", 2, "name"),
    ],
)
def test_faults_name_file_line_and_field(tmp_path: Path, old: str, new: str, line: int, field: str) -> None:
    assert old in GOOD
    file = write(tmp_path, GOOD.replace(old, new))
    with pytest.raises(PersonaError) as caught:
        read_persona(file)
    assert caught.value.message.startswith(f"{file}:{line}: {field}: ")


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("name: stark\ntitle: 'open\n", 3),
        ("name: stark\ntitle: a: b\n", 2),
        ("name: stark\ntitle: bell \a rings\n", 2),
        (b"name: stark\ntitle: \xff\xfe\n", 2),
        ("- name: stark\n", 1),
        ("", 1),
    ],
    ids=["open quote", "two colons", "control character", "not UTF-8", "list", "empty"],
)
def test_unreadable_yaml_names_file_and_line(tmp_path: Path, content: str | bytes, line: int) -> None:
    file = write(tmp_path, content)
    with pytest.raises(PersonaError) as caught:
        read_persona(file)
    assert caught.value.message.startswith(f"{file}:{line}: ")


@pytest.mark.parametrize("title", ["2024-13-45", "no", "007", "!!python/object:os.system x"])
def test_every_scalar_is_text(tmp_path: Path, title: str) -> None:
    persona = read_persona(write(tmp_path, GOOD.replace("{name}", "stark").replace("title: 스타크", f"title: {title}")))
    assert persona.title == title.split()[-1]


def test_all_faults_of_all_folders_at_once(tmp_path: Path) -> None:
    two = write(tmp_path, GOOD.replace("title: 스타크", "titel: 스타크"), "two-faults")
    yaml = write(tmp_path, "name: [", "bad-yaml")
    name = write(tmp_path, GOOD.replace("{name}", "other"), "bad-name")
    write(tmp_path, name="good")
    with pytest.raises(PersonaError) as caught:
        load_personas(tmp_path)
    lines = caught.value.message.splitlines()
    assert [line.split(":")[0] for line in lines] == [str(name), str(yaml), str(two), str(two)]
    assert "personas check" in caught.value.hint


def test_unknown_persona_names_the_folder(tmp_path: Path) -> None:
    with pytest.raises(PersonaError, match="'nobody'") as caught:
        find_persona("nobody", tmp_path)
    assert "personas ls" in caught.value.hint


def test_text_is_normalized_to_nfc(tmp_path: Path) -> None:
    file = write(tmp_path, GOOD.replace("안녕", "\u110b\u1161\u11ab\u1102\u1167\u11bc"))
    assert read_persona(file).greeting == "안녕"


def test_root_comes_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path)
    monkeypatch.setenv("GAMYEON_PERSONAS", str(tmp_path))
    assert list(load_personas()) == ["stark"]


def test_shipped_personas_load() -> None:
    assert {"docs", "ironman", "safe"} <= load_personas().keys()
