"""Tokens of a text, and of a whole conversation, in the tokenizer of a base model.

The `tokenizers` library is used as it is: through transformers, with which torch comes, Gemma's tokenizer takes 1 GB.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from personas.bases import EMBEDDED, prepare_base
from personas.chat_templates import TEMPLATES, family_of
from personas.errors import BaseModelError
from personas.home import Home
from personas.lang import say
from tune.formats.base import Count, Example

_FILES = ["tokenizer*", "*.jinja", "special_tokens_map.json", "config.json"]
Counts = Callable[[Sequence[str]], list[int]]


@dataclass(frozen=True)
class Tokens:
    """A base's tokenizer and chat template.

    Attributes:
        counts: tokens of each text, special tokens not added.
        template: Jinja source.
        special: `bos_token` and the like, which templates use.
    """

    counts: Counts
    template: str
    special: dict[str, str]

    def rendered(self, example: Example) -> str:
        """The conversation with the template around it, as it is trained on."""
        from transformers.utils.chat_template_utils import render_jinja_template

        system = [{"role": "system", "content": example.system}] if example.system else []
        chat = [*system, *example.messages()]
        return str(render_jinja_template(conversations=[chat], chat_template=self.template, **self.special)[0][0])

    def lengths(self, examples: Iterable[Example], size: int = 256) -> Iterator[int]:
        """Tokens of each example once the template is around it."""
        stream = iter(examples)
        while batch := list(islice(stream, size)):
            yield from self.counts([self.rendered(one) for one in batch])


def load_tokens(base: str) -> Tokens:
    """The tokenizer alone of a base: the embedded one, a folder or a hub id.

    Raises:
        BaseModelError: there is none.
    """
    try:
        folder = _folder(base)
        config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        return Tokens(_counts(folder), _template(base, folder, config), _special(config))
    except (OSError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise BaseModelError(
            f"{base}: {reason}", say("--base에 폴더나 허브 이름을", "--base FOLDER or a hub name")
        ) from error


def _folder(base: str) -> Path:
    if base.startswith(EMBEDDED):
        return prepare_base(base, Home.from_env()).path
    if Path(base).is_dir():
        return Path(base)
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(base, allow_patterns=_FILES))


def _counts(folder: Path) -> Counts:
    if (folder / "tokenizer.json").is_file():
        from tokenizers import Tokenizer

        raw = Tokenizer.from_file(str(folder / "tokenizer.json"))
        raw.no_truncation()
        raw.no_padding()
        return lambda texts: [len(one) for one in raw.encode_batch_fast(texts, add_special_tokens=False)]
    from transformers import AutoTokenizer

    slow = AutoTokenizer.from_pretrained(folder)
    return lambda texts: [len(ids) for ids in slow(list(texts), add_special_tokens=False)["input_ids"]]


def _template(base: str, folder: Path, config: dict[str, Any]) -> str:
    own = folder / "chat_template.jinja"
    if own.is_file():
        return own.read_text(encoding="utf-8")
    inside = config.get("chat_template")
    if isinstance(inside, list):  # several by name
        inside = next((one["template"] for one in inside if one["name"] == "default"), None)
    return str(inside) if inside else (TEMPLATES / f"{family_of(base)}.jinja").read_text(encoding="utf-8")


def _special(config: dict[str, Any]) -> dict[str, str]:
    tokens = {
        name: value for name, value in config.items() if name in ("bos_token", "eos_token", "unk_token", "pad_token")
    }
    return {name: value["content"] if isinstance(value, dict) else value for name, value in tokens.items() if value}


def token_counter(base: str) -> Count:
    """A function that counts a text's tokens, special tokens left out."""
    counts = load_tokens(base).counts
    return lambda text: counts([text])[0]
