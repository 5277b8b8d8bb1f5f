"""How good an adapter is on held-out records: loss on the reference replies, beside the untuned base's."""

import math
from contextlib import nullcontext
from typing import Any

import torch
from rich.progress import track
from transformers import PreTrainedTokenizerBase

from personas.lang import say
from tune.data import Record
from tune.examples import IGNORED, encode


@torch.no_grad()
def reply_losses(
    model: Any, tokenizer: PreTrainedTokenizerBase, records: list[Record], system_prompt: str, label: str
) -> tuple[float, int, int]:
    """Total negative log-likelihood of the assistant's tokens in nats, their number, and the replies' characters."""
    nats, tokens, characters = 0.0, 0, 0
    for record in track(records, description=label):
        example = encode(record, tokenizer, system_prompt)
        ids = torch.tensor([example["input_ids"]], device=model.device)
        targets = torch.tensor(example["labels"][1:], device=model.device)
        columns = (targets != IGNORED).nonzero().squeeze(1)
        logits = model(input_ids=ids, logits_to_keep=columns).logits[0].float()
        nats += torch.nn.functional.cross_entropy(logits, targets[columns], reduction="sum").item()
        tokens += len(columns)
        characters += sum(len(turn.content) for turn in record.messages if turn.role == "assistant")
    return nats, tokens, characters


def held_out_scores(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    records: list[Record],
    system_prompt: str,
    untuned_model: Any = None,
) -> dict[str, float]:
    """Loss a character (nats) and perplexity a token on held-out replies, tuned and untuned, under one template.

    Args:
        model: a PEFT model, or a whole one.
        untuned_model: the base, where `model` is a whole one; an adapter is turned off instead.
    """
    model.eval()
    tuned = reply_losses(model, tokenizer, records, system_prompt, say("튜닝된 모델 평가", "evaluating tuned"))
    with model.disable_adapter() if untuned_model is None else nullcontext():
        untuned = reply_losses(
            untuned_model or model, tokenizer, records, system_prompt, say("베이스 평가", "evaluating base")
        )
    scores = {"held_out_records": float(len(records))}
    for name, (nats, tokens, characters) in {"tuned": tuned, "base": untuned}.items():
        scores[f"{name}_loss_per_character"] = round(nats / characters, 4)
        scores[f"{name}_perplexity"] = round(math.exp(nats / tokens), 2)
    scores["loss_ratio"] = round(tuned[0] / untuned[0], 4)
    return scores
