"""Tokens of a text, and of a whole conversation, in the tokenizer of a base model."""

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from personas.bases import EMBEDDED, PLAIN_TEMPLATE, prepare_base
from personas.errors import BaseModelError
from personas.home import Home
from personas.lang import say
from tune.formats.base import Count, Example

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def load_tokenizer(base: str) -> "PreTrainedTokenizerBase":
    """The tokenizer alone of a base: of the embedded one, a folder or a hub id; with a chat template.

    Raises:
        BaseModelError: there is none.
    """
    from transformers import AutoTokenizer

    where = str(prepare_base(base, Home.from_env()).path) if base.startswith(EMBEDDED) else base
    try:
        tokenizer = AutoTokenizer.from_pretrained(where)
    except (OSError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise BaseModelError(
            f"{base}: {reason}", say("--base에 폴더나 허브 이름을", "--base FOLDER or a hub name")
        ) from error
    if not tokenizer.chat_template:
        tokenizer.chat_template = Path(PLAIN_TEMPLATE).read_text(encoding="utf-8")
    return tokenizer


def token_counter(base: str) -> Count:
    """A function that counts a text's tokens, special tokens left out."""
    tokenizer = load_tokenizer(base)
    return lambda text: len(tokenizer(text, add_special_tokens=False)["input_ids"])


def lengths(examples: Iterable[Example], tokenizer: "PreTrainedTokenizerBase", size: int = 256) -> Iterator[int]:
    """Tokens of each example once the chat template is put around it, as it is trained on."""
    stream = iter(examples)
    while batch := list(islice(stream, size)):
        texts = [tokenizer.apply_chat_template(_conversation(one), tokenize=False) for one in batch]
        yield from (len(ids) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"])


def _conversation(example: Example) -> list[dict[str, str]]:
    system = [{"role": "system", "content": example.system}] if example.system else []
    return [*system, *example.messages()]
