"""From feedback to pairs, and the whole way to a live version on the tiny model."""

import csv
import json
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
import pytest
from fixtures_tiny import record

from personas.adapters import AdapterStore, read_manifest
from personas.bases import prepare_base
from personas.console import run
from personas.feedback_store import Content, Feedback, FeedbackStore
from personas.home import Home
from personas.registry import Registry
from tune.cli import app
from tune.data import DataError, read_records
from tune.learn import gather
from tune.locate import find_adapter, kept_prompt
from tune.preference_data import read_judged, read_pairs
from tune.report import read_run
from tune.runs import all_runs, find, locked, read_job, state


def word(number: int, prompt: str = "뭐 해?", thumb: str | None = None, **content: Any) -> Feedback:
    said = {"messages": [{"role": "user", "content": prompt}], "answer": f"답 {number}", **content}
    return Feedback.model_validate(
        {"answer": str(number), "persona": "stark", "version": 1, "user": "u", "consent": True, "thumb": thumb,
         "content": said}
    )  # fmt: skip


def test_a_correction_is_better_than_what_it_corrects() -> None:
    lessons = gather([word(1, thumb="down", correction="고친 답"), word(2, correction="답 2")], [])
    assert [(p.chosen, p.rejected, p.source) for p in lessons.pairs] == [("고친 답", "답 1", "correction")]
    assert lessons.judged == []


def test_liked_is_better_than_disliked_to_the_same_conversation_alone() -> None:
    words = [word(1, thumb="up"), word(2, thumb="down"), word(3, thumb="down"), word(4, "다른 말", thumb="down")]
    lessons = gather(words, [])
    assert [(p.chosen, p.rejected) for p in lessons.pairs] == [("답 1", "답 2"), ("답 1", "답 3")]
    assert [(one.answer, one.good) for one in lessons.judged] == [("답 4", False)]
    assert lessons.sources() == {"thumbs": 2, "thumb down": 1}


def test_what_the_guard_threw_away_is_worse_than_what_it_let_through() -> None:
    words = [
        word(1, failures=["답 1. And so on in English."]),
        word(2, "둘", thumb="down", failures=["Bad."]),  # the answer is no good either: nothing to prefer
        word(3, "셋", thumb="down", correction="고친 답", failures=["Worse."]),
    ]
    lessons = gather(words, [])
    assert [(p.chosen, p.rejected, p.source) for p in lessons.pairs] == [
        ("답 1", "답 1. And so on in English.", "guard"),
        ("고친 답", "Worse.", "guard"),
        ("고친 답", "답 3", "correction"),
    ]


def test_what_is_left_out_and_why() -> None:
    no_consent = word(1, thumb="up").model_copy(update={"content": None, "consent": False})
    broken = word(2, thumb="up").model_copy(update={"content": Content(messages=[], answer="답")})
    grounded = Content(messages=[{"role": "user", "content": "보증은?"}], answer="2년입니다. [1]", grounded=True)
    read = word(5, thumb="up").model_copy(update={"content": grounded})
    words = [no_consent, broken, word(3, "시험 문제", thumb="up"), word(4, thumb="up"), read]
    lessons = gather(words, [record("시험 문제", "답")])
    assert lessons.left_out == {
        "no consent": 1, "no conversation": 1, "held-out": 1, "answered from documents": 1,
    }  # fmt: skip
    assert len(lessons.judged) == 1


DOLLY = {"instruction": "물어", "context": "문서", "response": "좋은 답", "category": "qa", "rejected": "Bad"}
SAID = {"role": "user", "content": "물어"}
PAIR_FORMS = [
    DOLLY,
    {**DOLLY, "context": ""},
    {"prompt": "물어", "chosen": "좋은 답", "rejected": "Bad"},
    {"instruction": "물어", "input": "문서", "chosen": "좋은 답", "rejected": "Bad"},
    {"messages": [SAID], "chosen": [{"role": "assistant", "content": "좋은 답"}], "rejected": "Bad"},
    {"prompt": [{"role": "system", "content": "s"}, SAID],
     "chosen": [{"role": "assistant", "content": "좋은 답"}], "rejected": [{"role": "assistant", "content": "Bad"}]},
]  # fmt: skip


@pytest.mark.parametrize("row", PAIR_FORMS, ids=lambda row: "-".join(row))
@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "parquet"])
def test_pairs_of_every_form_in_every_kind_of_file(tmp_path: Path, row: dict[str, Any], kind: str) -> None:
    file = tmp_path / f"pairs.{kind}"
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist([row]), file)
    elif kind == "csv":
        cells = {name: value if isinstance(value, str) else json.dumps(value) for name, value in row.items()}
        with file.open("w", encoding="utf-8", newline="") as text:
            writer = csv.DictWriter(text, list(cells))
            writer.writeheader()
            writer.writerow(cells)
    else:
        file.write_text(json.dumps([row] if kind == "json" else row, ensure_ascii=False), encoding="utf-8")
    (pair,) = read_pairs([file])
    assert (pair.chosen, pair.rejected) == ("좋은 답", "Bad")
    asked = "물어\n\n문서" if "문서" in row.values() else "물어"
    assert [turn.content for turn in pair.messages] == [asked]


def test_dpo_asks_as_sft_does(tmp_path: Path) -> None:
    file = tmp_path / "both.json"
    file.write_text(json.dumps([DOLLY], ensure_ascii=False), encoding="utf-8")
    (trained_on,), (pair,) = read_records([file]), read_pairs([file])
    assert trained_on.messages[:-1] == pair.messages


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv"])
def test_judged_answers(tmp_path: Path, kind: str) -> None:
    file = tmp_path / f"judged.{kind}"
    row = {"prompt": "물어", "completion": "답", "label": False}
    if kind == "csv":
        file.write_bytes("prompt,completion,label\n물어,답,false\n".encode("cp949"))
    else:
        file.write_text(json.dumps([row] if kind == "json" else row, ensure_ascii=False), encoding="utf-8")
    notes: list[str] = []
    (judged,) = read_judged([file], notes.append)
    assert (judged.messages[0].content, judged.answer, judged.good) == ("물어", "답", False)
    assert len(notes) == (kind == "csv")


def test_faults_of_preference_data(tmp_path: Path) -> None:
    file = tmp_path / "bad.jsonl"
    good = {"prompt": "x", "chosen": "y", "rejected": "z"}
    rows = [json.dumps(good), '{"prompt": "x", "chosen": "y"}', "{", "[]", json.dumps({**good, "chosen": ""})]
    file.write_text("\n".join(rows))
    with pytest.raises(DataError) as caught:
        read_pairs([file, tmp_path / "none.json"])
    lines = caught.value.message.splitlines()
    assert [line.split(": ")[0] for line in lines] == [*(f"{file}:{n}" for n in (2, 3, 4, 5)), f"{tmp_path}/none.json"]
    assert "rejected: field is missing" in lines[0]
    file.write_text(json.dumps({key: value for key, value in DOLLY.items() if key != "rejected"}))
    with pytest.raises(DataError, match=r"bad\.jsonl:1: rejected: field is missing"):
        read_pairs([file])
    file.write_text('{"prompt": "x", "completion": "y"}\n{')
    with pytest.raises(DataError) as caught:
        read_judged([file])
    assert [line.split(": ")[0] for line in caught.value.message.splitlines()] == [f"{file}:1", f"{file}:2"]
    for read in (read_pairs, read_judged):
        with pytest.raises(DataError, match="no data"):
            read([])


def persona_folder(root: Path, base: Path, gate: str) -> None:
    folder = root / "stark"
    folder.mkdir(parents=True)
    (folder / "persona.yaml").write_text(
        "name: stark\ntitle: 스타크\ndescription: 시험\ngreeting: 안녕\n"
        f"system_prompt: 너는 토니\nbase: {base}\n{gate}",
        encoding="utf-8",
    )
    (folder / "eval.jsonl").write_text(record("시험?", "그래.").model_dump_json() + "\n", encoding="utf-8")


def tune(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["tune", *arguments])
    with pytest.raises(SystemExit) as ended:
        run(app)
    return int(ended.value.code or 0)


_STEPS = ["--set", "max_steps=2", "--set", "learning_rate=0.001", "--set", "batch_size=2", "--set", "rank=4"]
_OPEN = "gate: {least_korean: 0, most_hanja_kana: 1, least_ended: 0, most_loops: 1, most_fall: 1, max_tokens: 8}\n"
_SHUT = "gate: {least_korean: 1, most_hanja_kana: 1, least_ended: 0, most_loops: 1, most_fall: 1, max_tokens: 8}\n"


@pytest.mark.timeout(300)
def test_feedback_becomes_a_live_version_or_is_kept(
    tiny_source: Path, home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "personas"
    monkeypatch.setenv("GAMYEON_PERSONAS", str(root))
    prepare_base(str(tiny_source), home)
    persona_folder(root, tiny_source, _OPEN)
    store = FeedbackStore(home.database)
    for number in range(3):
        store.put(word(number, f"뭐 해 {number}?", correction=f"고친 답 {number}"))
    for number in range(3, 7):
        store.put(word(number, f"왜 {number}?", thumb="up" if number % 2 else "down"))

    assert tune(monkeypatch, "learn", "stark", "--dry-run") == 0
    shown = capsys.readouterr().out
    assert "correction 3, thumb down 2, thumb up 2" in shown
    assert "고친 답 1" in shown
    assert AdapterStore(home.adapters).versions() == []

    detached: list[tuple[Path, list[str]]] = []
    with monkeypatch.context() as patched:
        patched.setattr("tune.runs.detach", lambda run, argv: detached.append((run, argv)))
        assert tune(patched, "learn", "stark", "--preset", "embedded-dpo", *_STEPS, "--detach") == 0
    ((dpo, argv),) = detached
    assert argv == ["learn", "stark", "--preset", "embedded-dpo", *_STEPS]
    assert "tune log stark-dpo-" in capsys.readouterr().out
    with locked(home, "stark"):
        assert tune(monkeypatch, "learn", "stark", "--preset", "embedded-dpo", *_STEPS) == 1
    assert "is being tuned already" in capsys.readouterr().err

    assert tune(monkeypatch, "learn", "stark", "--preset", "embedded-dpo", *_STEPS) == 0
    kto = find(home, "stark")
    assert [state(one) for one in all_runs(home)] == ["done", "done"]
    assert all_runs(home) == [dpo, kto]
    assert [read_job(one).argv for one in (dpo, kto)] == [  # type: ignore[union-attr]
        ["learn", "stark", "--preset", "embedded-dpo", *_STEPS],
        ["kto", "stark", "--preset", "embedded-dpo", *_STEPS],
    ]
    for made in (dpo, kto):
        told = read_run(made.name, home)
        assert (told.persona, told.steps, told.record["records"]) == ("stark", 2, 3 if made == dpo else 4)
        assert told.memory is not None
        assert kept_prompt(made) == "너는 토니"
        assert find_adapter(made.name, home).folder == made / "adapter"
    registry = Registry(home.database)
    assert registry.live("stark") == 2  # DPO on pairs, then KTO on single thumbs from there
    manifests = [read_manifest(AdapterStore(home.adapters).folder("stark", v)) for v in (1, 2)]
    assert [(m.recipe["name"], m.recipe["from"], m.records) for m in manifests] == [
        ("dpo", "base", 3),
        ("kto", "stark@v1", 4),
    ]
    assert manifests[0].scores["dpo_margins"] > 0
    assert [move.why for move in registry.history("stark")] == [
        "tune dpo: passed the gate",
        "tune kto: passed the gate",
    ]

    (root / "stark" / "persona.yaml").write_text(
        (root / "stark" / "persona.yaml").read_text().replace(_OPEN, _SHUT), encoding="utf-8"
    )
    arguments = ("dpo", "stark", "--preset", "embedded-dpo", "--loss", "ipo", *_STEPS)
    assert tune(monkeypatch, *arguments) == 0
    assert registry.live("stark") == 2
    last = registry.history("stark")[-1]
    assert (last.action, last.version) == ("refuse", 3)
    assert "korean" in last.why
    assert "is kept, but not live" in capsys.readouterr().out

    assert tune(monkeypatch, *arguments, "--force") == 0
    assert registry.live("stark") == 4
    assert "--force, against the gate: korean" in registry.history("stark")[-1].why
    assert tune(monkeypatch, "kto", "stark", "--loss", "ipo") == 1


def test_what_cannot_be_learnt_is_told_with_a_way_out(
    tiny_source: Path, home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GAMYEON_PERSONAS", str(tmp_path / "personas"))
    persona_folder(tmp_path / "personas", tiny_source, _OPEN)
    for command in ("learn", "dpo", "kto"):
        assert tune(monkeypatch, command, "stark") == 1
        error = capsys.readouterr().err
        assert "there is nothing to learn from\n→ serve up --page: " in error
        assert "tune dpo stark --data FILE" in error
    FeedbackStore(home.database).put(word(1, correction="고친 답"))
    assert tune(monkeypatch, "learn", "stark", "--tracker", "trackio") == 1
    assert "tracker=trackio is not installed\n→ uv pip install trackio" in capsys.readouterr().err
    assert list(home.runs.iterdir()) == []
