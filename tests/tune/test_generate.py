import time
from pathlib import Path

import pytest
from fixtures_families import make_family, make_lora
from fixtures_tiny import make_tiny
from pydantic import ValidationError

from personas.bases import prepare_base
from personas.home import Home
from tune.generate import Knobs, Speaker, answer, load_folder, load_speaker, stream
from tune.locate import find_adapter

ASK = [{"role": "user", "content": "안녕?"}]


@pytest.fixture
def speaker(home: Home, tmp_path: Path) -> Speaker:
    base = prepare_base(str(make_family(tmp_path / "base", "llama")), home)
    return load_speaker(base, find_adapter(str(make_lora(tmp_path / "lora", base.path)), home))


def test_stream_is_the_whole_reply_in_pieces(speaker: Speaker) -> None:
    knobs = Knobs(max_new_tokens=24, temperature=0)
    pieces = list(stream(speaker, ASK, knobs))
    assert len(pieces) > 1
    assert "".join(pieces).strip() == answer(speaker, [ASK], knobs)[0]


def test_closing_the_stream_ends_generation(speaker: Speaker) -> None:
    pieces = stream(speaker, ASK, Knobs(max_new_tokens=8000, temperature=1.0))
    next(pieces)
    began = time.monotonic()
    pieces.close()  # type: ignore[attr-defined]
    assert time.monotonic() - began < 2


def test_an_error_while_generating_is_raised_not_swallowed(speaker: Speaker) -> None:
    broken = Speaker(speaker.model, speaker.tokenizer)
    broken.model.config.vocab_size = 1
    broken.model.get_input_embeddings().weight.data = broken.model.get_input_embeddings().weight.data[:1]
    with pytest.raises(IndexError):
        list(stream(broken, ASK, Knobs(max_new_tokens=2)))


def test_knobs(speaker: Speaker) -> None:
    warm = Knobs(max_new_tokens=16, temperature=1.5, repetition_penalty=1.0)
    assert answer(speaker, [ASK], warm) == answer(speaker, [ASK], warm)  # the seed decides
    assert answer(speaker, [ASK], warm) != answer(speaker, [ASK], warm.model_copy(update={"seed": 1}))
    assert Knobs().options() == {
        "max_new_tokens": 256, "repetition_penalty": 1.1, "do_sample": True, "temperature": 0.1,
        "top_p": 0.95, "top_k": 50,
    }  # fmt: skip
    for wrong in ({"repetition_penalty": 2.1}, {"temperature": -1}, {"top_p": 0}):
        with pytest.raises(ValidationError):
            Knobs.model_validate(wrong)


def test_answers_together_are_the_answers_alone(speaker: Speaker) -> None:
    asked = [ASK, [{"role": "user", "content": "조금 더 긴 질문을 해 볼게. 오늘 날씨가 어때?"}]]
    knobs = Knobs(max_new_tokens=12, temperature=0)
    assert answer(speaker, asked, knobs) == [answer(speaker, [one], knobs)[0] for one in asked]


def test_whole_folder(home: Home, tmp_path: Path) -> None:
    base = prepare_base(str(make_family(tmp_path / "base", "gemma3_text")), home)
    assert isinstance("".join(stream(load_folder(base.path), ASK, Knobs(max_new_tokens=8))), str)


def test_whole_folder_without_a_chat_template_and_padding(tmp_path: Path) -> None:
    folder = make_tiny(tmp_path / "blend")  # as mergekit leaves a blend of models that have none
    assert isinstance("".join(stream(load_folder(folder), ASK, Knobs(max_new_tokens=8))), str)
