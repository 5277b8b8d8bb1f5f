"""The chat template of a base model, with generation marks, and the tokens that end an answer.

A tokenizer's own template is kept, marked so that training can tell the assistant's tokens. A base model without one
gets the form of its family (`FAMILIES`), or the one named after its spec: `upstage/SOLAR-10.7B-v1.0#solar`.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from personas.errors import BaseModelError
from personas.lang import say

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TEMPLATES = Path(__file__).parent / "templates"
PLAIN = "korean_qa"
# A part of the base's name, in lower case → the template of its family; the first that fits.
FAMILIES = {
    "solar": "solar",
    "polyglot": PLAIN,
    "mixtral": "mistral",
    "mistral": "mistral",
    "llama-3": "llama3",
    "qwen": "chatml",
}


def template_names() -> list[str]:
    return sorted(file.stem for file in TEMPLATES.glob("*.jinja"))


def split_spec(spec: str) -> tuple[str, str]:
    """A base's spec without its template, and the template's name or ''.

    Raises:
        BaseModelError: no such template.
    """
    base, mark, template = spec.partition("#")
    if mark and template not in template_names():
        raise BaseModelError(
            say(f"'{template}' 템플릿이 없습니다", f"no template '{template}'"), f"{base}#{'|'.join(template_names())}"
        )
    return base, template


def family_of(base: str) -> str:
    """The template's name for a base that brings none, by its own name."""
    name = base.rstrip("/").rsplit("/", 1)[-1].lower()
    return next((template for part, template in FAMILIES.items() if part in name), PLAIN)


def fit_template(spec: str, tokenizer: "PreTrainedTokenizerBase") -> str:
    """The template for a base: the named one, its own with generation marks, or its family's.

    TRL keeps a marked twin of each well-known template; an unknown one is kept as it is (it can be served, and
    tuning says that the marks are missing).
    """
    base, named = split_spec(spec)
    own = tokenizer.chat_template
    if named or not own:
        return (TEMPLATES / f"{named or family_of(base)}.jinja").read_text(encoding="utf-8")
    from trl.chat_template_utils import get_training_chat_template

    assert isinstance(own, str)
    try:
        return get_training_chat_template(processing_class=tokenizer) or own
    except ValueError:
        return own


def set_stop_tokens(folder: Path, tokenizer: "PreTrainedTokenizerBase") -> None:
    """Add the token that ends an assistant's turn in the template to the generation config's stop tokens."""
    sample = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}]
    encoded = tokenizer.apply_chat_template(sample, tokenize=True, return_dict=True, return_assistant_tokens_mask=True)
    marked = [i for i, mask in zip(encoded["input_ids"], encoded["assistant_masks"], strict=True) if mask]
    file = folder / "generation_config.json"
    settings = json.loads(file.read_text()) if file.is_file() else {}
    own = settings.get("eos_token_id", tokenizer.eos_token_id)
    stops = own if isinstance(own, list) else [own]
    last = [i for i in marked if i in tokenizer.all_special_ids][-1:]
    settings["eos_token_id"] = list(dict.fromkeys([*stops, *last]))
    file.write_text(json.dumps(settings, indent=2))
