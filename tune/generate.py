"""Loads a model with or without an adapter and lets it answer, token by token or many questions at once."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedTokenizerBase,
    StoppingCriteria,
    StoppingCriteriaList,
    TextIteratorStreamer,
)

from personas.bases import Base
from personas.chat_templates import fit_template
from tune.data import Message
from tune.locate import Adapter
from tune.merge import apply_adapter, load_tokenizer


class Knobs(BaseModel):
    """Sampling of a reply; the defaults are those of the scripts that this product replaces."""

    model_config = ConfigDict(extra="forbid")

    max_new_tokens: int = Field(256, ge=1, le=8192)
    temperature: float = Field(0.1, ge=0, le=2, description="0: always the likeliest token")
    top_p: float = Field(0.95, gt=0, le=1)
    top_k: int = Field(50, ge=0, description="0: all")
    repetition_penalty: float = Field(1.1, gt=0, le=2)
    seed: int = 0

    def options(self) -> dict[str, Any]:
        """Arguments of transformers' `generate`."""
        shared = {"max_new_tokens": self.max_new_tokens, "repetition_penalty": self.repetition_penalty}
        if self.temperature == 0:
            return {**shared, "do_sample": False, "temperature": None, "top_p": None, "top_k": None}
        return {
            **shared,
            "do_sample": True,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": self.top_k,
        }


@dataclass(frozen=True)
class Speaker:
    """A model that can answer; `model` is a `PeftModel` where there is an adapter."""

    model: Any
    tokenizer: PreTrainedTokenizerBase


def load_speaker(base: Base, adapter: Adapter | None = None) -> Speaker:
    """A base with an adapter on it, on the GPU where there is one: bfloat16 there, float32 on a CPU.

    Raises:
        AdapterError: the adapter does not fit the base.
    """
    model = _load(base.path)
    tokenizer = load_tokenizer(adapter, base) if adapter else AutoTokenizer.from_pretrained(base.path)
    return Speaker(apply_adapter(model, adapter) if adapter else model.eval(), tokenizer)


def load_folder(folder: Path) -> Speaker:
    """A whole model's folder, such as a merged one. Without a chat template it gets the one that its name tells of."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = tokenizer.chat_template or fit_template(str(folder), tokenizer)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    return Speaker(_load(folder).eval(), tokenizer)


def _load(folder: Path) -> Any:
    gpu = torch.cuda.is_available()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16 if gpu else torch.float32)
    return model.to("cuda") if gpu else model


def _encoded(speaker: Speaker, conversations: list[list[Message]]) -> dict[str, torch.Tensor]:
    """Prompts as ids and attention masks (conversations, tokens), padded at the left."""
    texts = [
        str(speaker.tokenizer.apply_chat_template(one, tokenize=False, add_generation_prompt=True))
        for one in conversations
    ]
    encoded = speaker.tokenizer(texts, return_tensors="pt", padding=True, padding_side="left", add_special_tokens=False)
    return {key: encoded[key].to(speaker.model.device) for key in ("input_ids", "attention_mask")}


class _Stop(StoppingCriteria):  # type: ignore[misc]
    """Ends generation at the next token once the reader has gone."""

    def __init__(self) -> None:
        self.asked = Event()

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **_: Any) -> torch.Tensor:
        return torch.full((len(input_ids),), self.asked.is_set(), device=input_ids.device)


class _Pieces(TextIteratorStreamer):  # type: ignore[misc]
    """Gives each token's text as soon as it is whole characters; transformers' own waits for a blank after Hangul."""

    next_tokens_are_prompt: bool
    print_len: int

    def put(self, value: torch.Tensor) -> None:
        if self.next_tokens_are_prompt:
            self.next_tokens_are_prompt = False
            return
        self.token_cache.extend(value.flatten().tolist())
        text = self.tokenizer.decode(self.token_cache, **self.decode_kwargs)
        if not text.endswith("\ufffd"):  # the rest of a character is still to come
            self.on_finalized_text(text[self.print_len :])
            self.print_len = len(text)


def stream(speaker: Speaker, messages: list[Message], knobs: Knobs) -> Iterator[str]:
    """One reply, a piece of text at a time as tokens come; generation ends when the iterator is closed."""
    streamer = _Pieces(speaker.tokenizer, skip_prompt=True, skip_special_tokens=True)
    stop, failure = _Stop(), []

    def work() -> None:
        try:
            _generate(speaker, [messages], knobs, streamer=streamer, stopping_criteria=StoppingCriteriaList([stop]))
        except BaseException as error:
            failure.append(error)
            streamer.end()

    torch.manual_seed(knobs.seed)
    thread = Thread(target=work, daemon=True)
    thread.start()
    try:
        for piece in streamer:
            if piece:
                yield piece
    finally:
        stop.asked.set()
        thread.join()
    if failure:
        raise failure[0]


def answer(speaker: Speaker, conversations: list[list[Message]], knobs: Knobs) -> list[str]:
    """Replies to many conversations, generated together."""
    torch.manual_seed(knobs.seed)
    made, prompt = _generate(speaker, conversations, knobs)
    return [text.strip() for text in speaker.tokenizer.batch_decode(made[:, prompt:], skip_special_tokens=True)]


@torch.no_grad()
def _generate(
    speaker: Speaker, conversations: list[list[Message]], knobs: Knobs, **options: Any
) -> tuple[torch.Tensor, int]:
    """Ids (conversations, prompt + reply) and the prompt's length."""
    encoded = _encoded(speaker, conversations)
    pad = speaker.tokenizer.pad_token_id
    made = speaker.model.generate(**encoded, pad_token_id=pad, **knobs.options(), **options)
    return made, encoded["input_ids"].shape[1]
