"""Training and held-out records get the prompt that the gateway will give: no record is shown its own answer."""

import unicodedata
from pathlib import Path

import numpy as np
import pytest
from fixtures_tiny import record

from personas.embedder import Vectors
from personas.home import Home
from personas.loader import PersonaFolder, find_persona
from tune.remember import remembered


def embed(texts: list[str]) -> Vectors:
    rows = np.array([["비" in text, "밥" in text] for text in texts], np.float32)
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9), np.float32)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PersonaFolder:
    monkeypatch.setattr("tune.remember.batch_topic_embed", lambda: embed)
    made = tmp_path / "stark"
    (made / "data").mkdir(parents=True)
    (made / "persona.yaml").write_text(
        "name: stark\ntitle: 스타크\ndescription: a\ngreeting: 안녕\nsystem_prompt: 너는 스타크다.\n"
        "example_memory: {least: 0.7}\n"
    )
    lines = [record("비가 와", "우산."), record("비 온다", "장화."), record("밥 먹자", "버거.")]
    text = "\n".join(one.model_dump_json() for one in lines).replace(
        "비가 와", unicodedata.normalize("NFD", "비가 와 ")
    )
    (made / "data" / "a.jsonl").write_text("\ufeff" + text, encoding="utf-8")
    return find_persona("stark", tmp_path)


def test_a_record_is_shown_others_and_never_itself(folder: PersonaFolder, home: Home) -> None:
    own, held_out, other = remembered(
        [record("비가 와", "우산."), record("비?", "음."), record("잠", "자.")], folder, home
    )
    assert own.system == "너는 스타크다.\n\n비슷한 말에 이렇게 답했습니다.\n비 온다 → 장화."
    assert held_out.system.endswith("\n비가 와 → 우산.\n비 온다 → 장화.")
    assert other.system == "너는 스타크다."
    assert own.conversation("x")[0]["content"] == own.system


def test_what_is_taught_first_is_the_likest_answer(folder: PersonaFolder, home: Home) -> None:
    asked = [record("비?", "장화."), record("비?", "몰라."), record("비?", "우산.")]
    taught = remembered(asked, folder, home, taught=True)
    first = [one.system.split("\n")[3] for one in taught]
    assert first == ["비 온다 → 장화.", "비가 와 → 우산.", "비가 와 → 우산."]


def test_without_a_memory_nothing_changes(folder: PersonaFolder, home: Home) -> None:
    plain = PersonaFolder(folder.persona.model_copy(update={"example_memory": None}), folder.path)
    records = [record("비가 와", "우산.")]
    assert remembered(records, plain, home) is records
