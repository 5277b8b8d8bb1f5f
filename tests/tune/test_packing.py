"""A packed row with the loss on hidden states gives what the plain model gives, for every family."""

from typing import Any

import pytest
import torch
from transformers import (
    Gemma3TextConfig,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    PreTrainedModel,
    Qwen2Config,
)
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from tune.examples import IGNORED, Example
from tune.loss import add_label_loss, has_plain_frozen_head
from tune.packing import SharedPrefixCollator, can_pack, shared_prefix

SIZE: dict[str, Any] = {
    "vocab_size": 300, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 16, "sliding_window": 64,
}  # fmt: skip
FAMILIES = {
    "llama": LlamaConfig(**{k: v for k, v in SIZE.items() if k != "sliding_window"}),
    "qwen2": Qwen2Config(**SIZE),
    "mistral": MistralConfig(**SIZE),
    "mixtral": MixtralConfig(**SIZE, num_local_experts=2),
    "gpt_neox": GPTNeoXConfig(
        vocab_size=300, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2
    ),
    "gemma3": Gemma3TextConfig(**SIZE),
}


def example(prompt: list[int], *spans: tuple[list[int], bool]) -> Example:
    ids, labels = list(prompt), [IGNORED] * len(prompt)
    for span, said in spans:
        ids += span
        labels += span if said else [IGNORED] * len(span)
    return {"input_ids": ids, "labels": labels}


PREFIX = [1, 7, 8, 9]
EXAMPLES = [
    example(PREFIX, ([20, 21], False), ([30, 31, 32], True)),
    example(PREFIX, ([22], False), ([33], True), ([23, 24, 25], False), ([34, 35], True)),
    example(PREFIX, ([26, 27, 28, 29], False), ([36, 37, 38, 39, 40, 41], True)),
]


def tiny(family: str, frozen: bool = True) -> PreTrainedModel:
    torch.manual_seed(0)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(FAMILIES[family])
    model.get_output_embeddings().weight.requires_grad = not frozen
    return model


@pytest.mark.parametrize("family", FAMILIES)
def test_the_loss_and_its_gradient_are_those_of_rows_of_their_own(family: str) -> None:
    model = tiny(family)
    model.train()
    plain = torch.zeros(())
    for one in EXAMPLES:
        labels = torch.tensor(one["labels"][1:])
        logits = model(input_ids=torch.tensor([one["input_ids"]])).logits[0, :-1]
        plain = plain + torch.nn.functional.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="sum")
    plain.backward()
    wanted = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()

    assert has_plain_frozen_head(model)
    assert can_pack(model.config, 20)
    add_label_loss(model)
    row = SharedPrefixCollator(shared_prefix(EXAMPLES))(EXAMPLES)
    assert row["input_ids"].shape == (1, 64)  # rows have few lengths
    packed = model(**row, label_loss=True)
    packed.loss.backward()
    assert packed.tokens == 12
    assert packed.loss.item() == pytest.approx(plain.item(), rel=1e-5)
    assert wanted
    for name, parameter in model.named_parameters():
        if name in wanted and "lm_head" not in name and "embed" not in name:
            assert parameter.grad is not None
            assert torch.allclose(parameter.grad, wanted[name], rtol=1e-3, atol=1e-5), name


def test_the_row_holds_the_prefix_once() -> None:
    assert shared_prefix(EXAMPLES) == 4
    batch = SharedPrefixCollator(4)(EXAMPLES)
    assert batch["input_ids"].shape == (1, 64)  # 4 + 5 + 7 + 10, and what makes it one of few lengths
    assert (batch["labels"][0, 26:] == IGNORED).all()
    assert not batch["attention_mask"][0, 0, :26, 26:].any()
    assert batch["position_ids"][0, :12].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 4, 5, 6]
    mask = batch["attention_mask"][0, 0]
    assert mask[9].nonzero().squeeze(1).tolist() == [0, 1, 2, 3, 9]
    assert EXAMPLES[0]["input_ids"][:4] == PREFIX  # the examples are as they were


def test_the_prefix_ends_before_the_token_that_says_the_first_label() -> None:
    assert shared_prefix([example([1, 2, 3], ([4], True)), example([1, 2, 3], ([5], True))]) == 2
    assert shared_prefix([example([1], ([4], True))]) == 0
    assert shared_prefix([example([1, 2, 3], ([4], True)), example([1, 9, 3], ([5], True))]) == 1


def test_right_guesses_are_counted() -> None:
    model = tiny("llama")
    ids = torch.tensor([EXAMPLES[0]["input_ids"]])
    best = model(input_ids=ids).logits.argmax(2)
    labels = torch.full_like(ids, IGNORED)
    labels[0, 1:4] = best[0, :3]
    labels[0, 5] = (best[0, 4] + 1) % 300
    add_label_loss(model)
    with torch.no_grad():
        made = model(input_ids=ids, labels=labels, label_loss=True)
    assert (made.right.item(), made.tokens.item()) == (3, 4)


@pytest.mark.parametrize("soft_cap", [False, True])
def test_a_trained_head_gives_the_same_loss_and_gradient(soft_cap: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tune.loss._CHUNK", 5)
    model = tiny("gemma3" if soft_cap else "llama", frozen=False)
    if soft_cap:
        model.config.final_logit_softcapping = 0.5
    assert not has_plain_frozen_head(model)
    batch = SharedPrefixCollator(4)(EXAMPLES)
    logits = model(**{k: v for k, v in batch.items() if k != "labels"}).logits[0, :-1].float()
    wanted = torch.nn.functional.cross_entropy(logits, batch["labels"][0, 1:], ignore_index=IGNORED, reduction="sum")
    wanted.backward()
    head = model.get_output_embeddings().weight
    gradient = head.grad.clone()
    model.zero_grad()
    add_label_loss(model)
    made = model(**batch, label_loss=True)
    made.loss.backward()
    assert made.loss.item() == pytest.approx(wanted.item(), rel=1e-5)
    assert torch.allclose(head.grad, gradient, rtol=1e-3, atol=1e-5)


def test_a_record_longer_than_the_window_is_not_packed() -> None:
    assert can_pack(tiny("mistral").config, 64)
    assert not can_pack(tiny("mistral").config, 65)
