import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fixtures_tiny import make_tiny
from transformers import AutoTokenizer
from typer.testing import CliRunner

from personas.chat_templates import TEMPLATES
from personas.texts import overlap
from tune.cli import app
from tune.data_tools.dedupe import PERMUTATIONS, exact_duplicates, near_duplicates, signature
from tune.data_tools.korean import english_share, korean_share
from tune.data_tools.parts import mixed, part_of, shares_of
from tune.data_tools.reader import Source
from tune.data_tools.stats import histogram, stats_of
from tune.data_tools.tokens import load_tokens, token_counter
from tune.formats.base import DataError, Example, exchange

WORDS = [chr(0xAC00 + 37 * i) + chr(0xB000 + 11 * i) for i in range(200)]


def sentence(seed: int, length: int = 40) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=length))


def example(instruction: str, response: str = "답", **more: Any) -> Example:
    return Example(exchange(instruction, response), **more)


def write(file: Path, *pairs: tuple[str, str]) -> Path:
    rows = [json.dumps({"instruction": a, "output": b}, ensure_ascii=False) for a, b in pairs]
    file.write_text("\n".join(rows), encoding="utf-8")
    return file


def asked(file: Path) -> list[str]:
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n") if line]
    return [row["instruction"] for row in rows]


def run(*arguments: Any) -> Any:
    return CliRunner().invoke(app, ["data", *map(str, arguments)])


@pytest.mark.parametrize(
    ("text", "korean", "english"),
    [("가나 ab", 0.5, 0.5), ("서울 2024!", 1.0, 0.0), ("Hello, 1.", 0.0, 1.0), ("漢字", 0.0, 0.0), ("12 !", 0.0, 0.0)],
)
def test_shares_of_letters(text: str, korean: float, english: float) -> None:
    assert (korean_share(text), english_share(text)) == (korean, english)


def test_exact_duplicates_are_the_same_but_for_case_and_blanks() -> None:
    same = [example("A b?", "다"), example("a B ?", "다 "), example("a b?", "라"), example("a b?", "다", context="c")]
    assert exact_duplicates(same) == {1}


def test_signatures_estimate_overlap() -> None:
    for changed in (0, 4, 10, 20, 40):
        text = sentence(1)
        other = " ".join([*text.split()[changed:], *sentence(2).split()[:changed]])
        guess = float(np.mean(signature(text.replace(" ", "")) == signature(other.replace(" ", ""))))
        assert guess == pytest.approx(overlap(text, other), abs=0.15)
    assert len(signature("")) == len(signature("가" * 100_000)) == PERMUTATIONS


def test_near_duplicates_are_found_and_others_are_not(tmp_path: Path) -> None:
    texts = [sentence(i) for i in range(300)]
    near = [text.replace(text.split()[5], "바뀜", 1) for text in texts[:50]]
    found = near_duplicates([example(text) for text in [*texts, *near, "", "가", "나"]], 0.7, tmp_path)
    assert found == {300 + i: i for i in range(50)}
    assert list(tmp_path.iterdir()) == []
    assert near_duplicates([], 0.8) == {}


def test_near_duplicates_compare_with_the_one_that_is_kept() -> None:
    words = sentence(7, 60).split()
    drift = [" ".join([*words[i:], *(WORDS[-k - 1] for k in range(i))]) for i in range(0, 40, 4)]
    found = near_duplicates([example(text) for text in drift], 0.7)
    assert found
    assert all(kept not in found for kept in found.values())


def test_dedupe_command(tmp_path: Path) -> None:
    long = sentence(3)
    file = write(tmp_path / "a.jsonl", ("가?", "나"), (long, "x"), ("가 ?", "나"), (long + " 끝", "x"), ("다?", "라"))
    for near, kept, words in ((1, 4, "the same and 0 alike"), (0.8, 3, "1 the same and 1 alike")):
        out = tmp_path / "new" / f"out{near}.jsonl"
        result = run("dedupe", file, "-o", out, "--near", near)
        assert result.exit_code == 0, result.output
        assert words in result.output
        assert len(asked(out)) == kept
    assert asked(out) == ["가?", long, "다?"]


def test_split_is_stable_and_leaks_no_question(tmp_path: Path) -> None:
    pairs = [(f"질문 {i % 500}?", f"답 {i}") for i in range(1000)]
    file = write(tmp_path / "a.jsonl", *pairs)
    parts = ["--part", "train=0.8", "--part", "valid=0.1", "--part", "test=0.1"]
    for folder in ("one", "two"):
        assert run("split", file, "-o", tmp_path / folder, *parts).exit_code == 0
    got = {name: asked(tmp_path / "one" / f"{name}.jsonl") for name in ("train", "valid", "test")}
    assert got == {name: asked(tmp_path / "two" / f"{name}.jsonl") for name in got}
    assert sum(map(len, got.values())) == 1000
    assert 720 <= len(got["train"]) <= 880
    assert not set(got["train"]) & set(got["valid"]) | set(got["train"]) & set(got["test"])
    assert run("split", file, "-o", tmp_path / "three", *parts, "--seed", 1).exit_code == 0
    assert asked(tmp_path / "three" / "valid.jsonl") != got["valid"]


def test_split_refuses_an_empty_part_and_writes_nothing(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", ("가?", "나"))
    result = run("split", file, "-o", tmp_path / "out")
    assert isinstance(result.exception, DataError)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [file]
    assert part_of(example("x"), [0.0, 1.0], 1) == 1


@pytest.mark.parametrize("bad", [["a"], ["a=0"], ["a=-1"], ["=1"], ["a=1", "a=2"], ["a=nan"], ["a=inf"]])
def test_bad_shares(bad: list[str]) -> None:
    with pytest.raises(DataError, match="NAME=SHARE"):
        shares_of(bad)
    assert shares_of(["a=3", "b=x=1"]) == {"a": 0.75, "b=x": 0.25}


def test_mix_by_weight(tmp_path: Path) -> None:
    first = write(tmp_path / "a.jsonl", *[(f"a{i}", "x") for i in range(50)])
    second = write(tmp_path / "b.jsonl", *[(f"b{i}", "x") for i in range(400)])
    out = tmp_path / "out.jsonl"
    assert run("mix", f"{first}=1", f"{second}=3", "-o", out, "--total", 800).exit_code == 0
    got = asked(out)
    assert len(got) == 800
    assert 150 <= sum(one.startswith("a") for one in got) <= 250
    assert got.count("a0") >= 3  # began again
    assert run("mix", f"{first}=1", f"{second}=3", "-o", out, "--overwrite").exit_code == 0
    whole = asked(out)
    assert sorted(whole) == sorted(set(whole))
    assert {f"a{i}" for i in range(50)} <= set(whole) or {f"b{i}" for i in range(400)} <= set(whole)


def test_mixing_with_nothing_is_refused() -> None:
    with pytest.raises(DataError):
        list(mixed([lambda: iter([example("x")]), lambda: iter([])], [1, 1], 10, 0))


def test_stats_count_everything(tmp_path: Path, tiny_source: Path) -> None:
    rows = [
        example("가나?", "다라", context="문맥", category="a"),
        example("가나 ?", "다라", context="문맥", category="a"),
        example("가?", "Two.", rejected="둘", category="b"),
        Example([*exchange("가", "나"), *exchange("다", "라 b")], system="짧게"),
    ]
    stats = stats_of(iter(rows), load_tokens(str(tiny_source)))
    assert (stats.examples, stats.turns, stats.duplicates) == (4, 5, 1)
    assert (stats.with_context, stats.with_rejected, stats.with_system) == (2, 1, 1)
    assert (dict(stats.categories), stats.korean_answers) == ({"a": 2, "b": 1, "open_qa": 1}, 3)
    assert stats.korean_letters == pytest.approx((1 + 1 + 0 + 0.5) / 4)
    tokenizer = AutoTokenizer.from_pretrained(tiny_source)
    tokenizer.chat_template = (TEMPLATES / "korean_qa.jinja").read_text()
    system = [{"role": "system", "content": "짧게"}]
    chats = [*(row.messages() for row in rows[:3]), [*system, *rows[3].messages()]]
    wanted = [tokenizer.apply_chat_template(chat, tokenize=True, return_dict=True)["input_ids"] for chat in chats]
    assert list(stats.lengths) == list(map(len, wanted))
    assert stats.percentile(100) == max(stats.lengths)
    assert stats.percentile(50) == sorted(stats.lengths)[2]
    assert stats.longer_than(stats.percentile(50)) == 1
    histogram(stats, 50, "데이터", tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_stats_command(tmp_path: Path, tiny_source: Path) -> None:
    file = write(tmp_path / "a.jsonl", *[(f"질문 {i}?", "답" * i) for i in range(1, 60)], ("x", ""))
    picture = tmp_path / "a.png"
    result = run("stats", file, "--base", tiny_source, "--max-length", 200, "--picture", picture)
    assert result.exit_code == 0, result.output
    lines = {
        line.split("│")[1].strip(): line.split("│")[2].strip() for line in result.output.splitlines() if "│" in line
    }
    assert (lines["records"], lines["bad records"], lines["format"]) == ("59", "1", "alpaca 59")
    assert lines["Korean answers"] == "59 (100.0%)"
    count = token_counter(str(tiny_source))
    longest = next(Source([file]).read())
    assert int(lines["length 100%"]) > count("답" * 59) == 59 * 3
    assert isinstance(longest, Example)
    assert picture.stat().st_size > 5000
    assert f"{file}:60: output: empty" in result.output


def test_window_in_tokens_of_a_base(tmp_path: Path) -> None:
    base = make_tiny(tmp_path / "tiny")
    context = "앞 문장이다. " * 300 + "답은 서울이다." + " 뒤 문장이다." * 300
    row = {"context": context, "qas": [{"question": "?", "answers": [{"text": "서울", "answer_start": 2405}]}]}
    (tmp_path / "a.json").write_text(json.dumps([row]))
    out = tmp_path / "out.jsonl"
    result = run("convert", tmp_path / "a.json", "--to", "dolly", "-o", out, "--base", base, "--max-length", 300)
    assert result.exit_code == 0, result.output
    written = json.loads(out.read_text())
    size = len(written["context"].encode())  # the tiny tokenizer has a token a byte
    assert 100 < size <= 300 - 64
    assert "서울" in written["context"]


def test_a_base_that_is_not_there(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", ("가?", "나"))
    result = run("stats", file, "--base", tmp_path / "none")
    assert type(result.exception).__name__ == "BaseModelError"
