"""The detector on real Korean text and on drift, and the splitter on text in pieces."""

import json
import random
from pathlib import Path

import pytest

from personas.language import Sentences, first_drift, judge
from personas.loader import find_persona


@pytest.mark.parametrize(
    "sentence",
    [
        "그건 파이썬으로 짜는 게 빨라.",
        "Python이랑 PyTorch부터 깔고, GPU 드라이버를 봐.",
        "README.md를 읽고 `pip install torch`를 쳐 봐.",
        "https://example.com/a/b?c=d 에 들어가 보세요.",
        "docker run 하기 전에 git pull 먼저 해.",
        "Tony라고 불러.",
        "AI가 뭐라고 하든 KTX 예매는 네가 해.",
        "한국(韓國)은 사계절이 뚜렷해요.",
        "ㅋㅋㅋㅋ 그래, OK.",
        "iPhone 15 Pro랑 갤럭시 S24 중에 골라 봐.",
        "1. 물을 끓인다. 2. 면을 넣는다.",
        "E=mc² 알지?",
        "π는 3.14야.",
        "3D 프린터, 5G, Wi-Fi 6E까지 다 있어.",
        "vLLM과 LoRA로 서비스해.",
        "메일은 tony@stark.com으로 보내.",
        "",
        "...",
        "😀👍",
        "노래 제목은 Back in Black이야.",
        "JARVIS, 조명 켜 줘.",
    ],
)
def test_korean_usage_passes(sentence: str) -> None:
    assert judge(sentence).drift == ""


@pytest.mark.parametrize(
    ("sentence", "drift"),
    [
        ("I think you should try it.", "english"),
        ("Sure!", "english"),
        ("그건 말이지, you should not do that again.", "english"),
        ("너는 beautiful하고 amazing해.", "english"),
        ("The answer is 42.", "english"),
        ("今天天气很好。", "hanja"),
        ("나는 今日 기분이 좋아.", "hanja"),
        ("こんにちは、元気ですか?", "kana"),
        ("그래, それでいい.", "kana"),
        ("Привет, как дела?", "other"),
        ("สวัสดีครับ 반가워요", "other"),
        ("As an AI language model, I cannot 대답해.", "english"),
    ],
)
def test_drift_is_found(sentence: str, drift: str) -> None:
    assert judge(sentence).drift == drift


def test_words_of_the_persona_pass() -> None:
    assert judge("너는 beautiful하고 amazing해.", allowed=frozenset({"beautiful", "amazing"})).drift == ""


def test_no_reply_in_the_personas_data_is_taken_for_drift() -> None:
    """Over 2,000 replies that people wrote: each is Korean. Those of `docs` quote commands of its passages."""
    checked = 0
    for name in ("ironman", "safe"):
        folder = find_persona(name)
        for file in [*folder.data_files, folder.eval_file]:
            for line in file.read_text(encoding="utf-8").splitlines():
                for message in json.loads(line)["messages"]:
                    if message["role"] == "assistant":
                        assert first_drift(message["content"], 0.3)[1:] == ("", ""), message["content"]
                        checked += 1
    assert checked > 1500


TEXT = (
    "그래, 들어 봐. 버전 3.14가 나왔어! 코드는 이래:\n```python\nprint('I am a long English sentence here.')\n```\n"
    "됐지? “정말.” 끝까지 읽어 줘서 고마워"
)


def test_pieces_of_any_size_give_the_same_sentences() -> None:
    whole = Sentences()
    expected = [*whole.feed(TEXT), *whole.flush()]
    assert "".join(sentence for sentence, _ in expected) == TEXT
    assert [sentence.strip() for sentence, code in expected if code] == [
        "```python", "print('I am a long English sentence here.')", "```",
    ]  # fmt: skip
    generator = random.Random(7)
    for _ in range(200):
        splitter, found, rest = Sentences(), [], TEXT
        while rest:
            size = generator.randint(1, 9)
            found += splitter.feed(rest[:size])
            rest = rest[size:]
        assert [*found, *splitter.flush()] == expected


def test_a_sentence_without_end_is_cut_at_a_blank() -> None:
    text = "아주 긴 문장 " * 100 + "붙여" * 300 + "쓰기. 끝"
    pieces = Sentences().feed(text)
    one_by_one = Sentences()
    assert [piece for letter in text for piece in one_by_one.feed(letter)] == pieces
    assert len(pieces) > 2
    assert all(len(sentence) <= 410 and not sentence.endswith(" ") for sentence, _ in pieces)


@pytest.mark.parametrize("size", [1, 3, 100])
def test_the_numbers_of_its_sources_belong_to_a_sentence(size: int) -> None:
    text = "2년입니다. [1] 6개월입니다. [1, 2] [3] 끝?[4]\n[비고] 없음. [참고] 다음."
    splitter, found = Sentences(), []
    for start in range(0, len(text), size):
        found += splitter.feed(text[start : start + size])
    assert [sentence.strip() for sentence, _ in [*found, *splitter.flush()]] == [
        "2년입니다. [1]", "6개월입니다. [1, 2] [3]", "끝?[4]", "[비고] 없음.", "[참고] 다음.",
    ]  # fmt: skip


def test_what_comes_before_the_drift_is_kept() -> None:
    good, bad, kind = first_drift("그래, 알았어. 내일 보자. Then we will talk about it. 끝.", 0.3)
    assert (good, bad, kind) == ("그래, 알았어. 내일 보자.", " Then we will talk about it.", "english")


def test_shipped_replies_file(tmp_path: Path) -> None:
    """Replies that the model really gave (docs/replies-ironman-v1.jsonl): Korean ones pass."""
    file = Path(__file__).parents[2] / "docs" / "replies-ironman-v1.jsonl"
    replies = [json.loads(line)["reply"] for line in file.read_text(encoding="utf-8").splitlines()]
    drifted = [reply for reply in replies if first_drift(reply, 0.3)[1]]
    assert len(drifted) <= len(replies) / 20, drifted
