"""Answers in a batch are those given alone: padding changes nothing."""

from pathlib import Path

import pytest
import torch
from fixtures_tiny import record

from personas.bases import prepare_base
from personas.home import Home
from tune.answers import answer_all
from tune.sft import load


@pytest.mark.parametrize("penalty", [1.0, 1.1])
def test_a_batch_answers_as_each_alone(tiny_source: Path, home: Home, penalty: float) -> None:
    model, tokenizer = load(prepare_base(str(tiny_source), home))
    model.eval()
    with torch.no_grad():  # as it is, a random model says the same to everybody
        for parameter in model.parameters():
            parameter.mul_(4)
    records = [
        record("안녕?", "그래."),
        record("아주 긴 질문을 하나 해 볼게, 들어 봐", "응."),
        record("또?", "응.", "왜?", "그냥."),
    ]
    together = answer_all(model, tokenizer, records, "너는 토니", 12, penalty)
    alone = [answer_all(model, tokenizer, [one], "너는 토니", 12, penalty)[0] for one in records]
    assert together == alone
    assert len({text for text, _ in together}) == len(records)
