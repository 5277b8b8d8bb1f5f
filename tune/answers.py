"""Greedy answers of a model to many records at once."""

from collections.abc import Sequence
from typing import Any

import torch
from rich.progress import track
from transformers import GenerationConfig

from personas.lang import say
from tune.data import Record

_BATCH = 8


@torch.inference_mode()
def answer_all(
    model: Any, tokenizer: Any, records: Sequence[Record], system_prompt: str, max_tokens: int, penalty: float
) -> list[tuple[str, bool]]:
    """Each record's last answer, said anew: (text, whether the model ended it within `max_tokens`)."""
    stops = model.generation_config.eos_token_id
    stops = stops if isinstance(stops, list) else [stops]
    config = GenerationConfig(
        do_sample=False,
        max_new_tokens=max_tokens,
        repetition_penalty=penalty,
        eos_token_id=stops,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
    )
    answers: list[tuple[str, bool]] = []
    for begin in track(range(0, len(records), _BATCH), description=say("답해 보는 중", "answering")):
        asked = [record.conversation(system_prompt)[:-1] for record in records[begin : begin + _BATCH]]
        batch = tokenizer.apply_chat_template(
            asked, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt",
            padding=True, tokenizer_kwargs={"padding_side": "left"},
        ).to(model.device)  # fmt: skip
        made = model.generate(**batch, generation_config=config)[:, batch["input_ids"].shape[1] :]
        for ids in made.tolist():
            end = next((i for i, number in enumerate(ids) if number in stops), None)
            answers.append((tokenizer.decode(ids[:end], skip_special_tokens=True).strip(), end is not None))
    return answers
