"""Fitting the moderation head: labels from records, a head that tells them apart, and honest measures."""

import json
from pathlib import Path

import numpy as np
import pytest

from serve.moderation import HARMLESS, Head, ModerationUnavailable, Vectors, flagged, grams, windows
from serve.moderation_fit import Example, auroc, calibration_error, fit, measure, read_examples

CENTRES = {"illicit": 0, "harassment": 1, HARMLESS: 2}


def embed(texts: list[str]) -> Vectors:
    """Each text is `class number`: its class's axis, and noise that the number decides."""
    made = np.zeros((len(texts), 8), np.float32)
    for row, text in zip(made, texts, strict=True):
        kind, number = text.split()
        row[:] = np.random.default_rng(int(number)).normal(0, 0.4, 8)
        row[CENTRES[kind]] += 1
    return made


def examples(start: int, count: int = 60) -> list[Example]:
    return [
        Example(f"{kind} {start + i}", kind, "general" if kind == HARMLESS else "harmful")
        for kind in CENTRES
        for i in range(count)
    ]


def test_a_head_is_fitted_saved_and_measured_on_others(tmp_path: Path) -> None:
    head, told = fit(examples(0), embed)
    assert told["examples"] == 180
    head.save(tmp_path / "head.npz")
    head = Head.load(tmp_path / "head.npz")
    assert set(head.classes) == set(CENTRES)
    made = measure(head, examples(1000), embed)
    assert made["auroc"] > 0.9
    assert made["flagged"]["harmful"] > 0.7
    assert made["flagged"]["general"] < 0.2
    assert made["calibration_error"] < 0.15
    harmless = measure(head, [Example(f"{HARMLESS} {i}", HARMLESS, "general") for i in range(50)], embed)
    assert harmless["auroc"] is None


def test_letters_tell_apart_what_vectors_do_not(tmp_path: Path) -> None:
    def blind(texts: list[str]) -> Vectors:
        return np.ones((len(texts), 4), np.float32)

    made = [Example(f"칼 {n}번 가는 법", HARMLESS, "lookalike") for n in range(40)]
    made += [Example(f"칼 {n}번 찌르는 법", "violence", "harmful") for n in range(40)]
    head, _ = fit(made, blind)
    head.save(tmp_path / "head.npz")
    bad, good = Head.load(tmp_path / "head.npz").probabilities(["칼 99번 찌르는 법", "칼  99번\n가는 법"], blind)
    assert bad[head.classes.index("violence")] > 0.6 > 0.4 > good[head.classes.index("violence")]


def test_a_head_of_an_older_form_says_what_to_do(tmp_path: Path) -> None:
    np.savez(tmp_path / "old.npz", classes=["harmless"], weights=np.ones((4, 1)), bias=[0.0], threshold=0.5)
    with pytest.raises(ModerationUnavailable, match="serve moderation fit --write"):
        Head.load(tmp_path / "old.npz")


def test_a_text_without_letters_is_judged() -> None:
    for text in ("", " ", "가", "\n\n"):
        buckets, values = grams(text)
        assert len(buckets) == len(values)
        assert np.isfinite(values).all()


def test_labels_come_from_category_and_topic(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "하나"}, {"role": "assistant", "content": "네"}]
    rows = [
        {"category": "harmful", "topic": "violence", "messages": turns},
        {"category": "harmful", "messages": turns},
        {"category": "despair", "messages": [*turns, {"role": "user", "content": "둘"}, turns[1]]},
        {"category": "lookalike", "messages": turns},
    ]
    file = tmp_path / "a.jsonl"
    file.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    read = [(example.text, example.wanted) for example in read_examples([file])]
    assert read == [("하나", "violence"), ("하나", "illicit"), ("둘", "self-harm/intent"), ("하나", HARMLESS)]
    assert {e.wanted for e in read_examples([file], 0.5, harmless=True)} == {HARMLESS}


def test_flags_and_windows() -> None:
    assert flagged({"illicit": 0.3, "hate": 0.1}, 0.5) == frozenset()
    assert flagged({"illicit": 0.4, "hate": 0.25, "sexual": 0.1}, 0.5) == {"illicit", "hate"}
    assert windows("가" * 120) == ["가" * 120]
    text = "".join(chr(0xAC00 + i % 11000) for i in range(32_000))
    pieces = windows(text)
    assert len(pieces) == 24
    assert text.startswith(pieces[0])
    assert text.endswith(pieces[-1])
    short = windows(text[:300])
    assert all(piece in text for piece in short)
    assert "".join(piece[:60] for piece in short[:-1]) + short[-1] == text[:300]


def test_measures() -> None:
    score, bad = np.array([0.9, 0.8, 0.2, 0.1], np.float32), np.array([True, True, False, False])
    assert auroc(score, bad) == 1.0
    assert auroc(score, ~bad) == 0.0
    assert calibration_error(score, bad) == pytest.approx(0.15)
