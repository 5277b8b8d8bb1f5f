"""Model families: the linear layers that LoRA adapts in each, and whether vLLM takes such an adapter.

vLLM 0.32 serves LoRA where the class of its registry that carries the architecture says `SupportsLoRA`; the table is
checked against those classes, and one adapter of each family against PEFT's output, in tests/tune/test_families.py.
"""

from dataclasses import dataclass
from typing import Any

_ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
_LLAMA = (*_ATTENTION, "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class Family:
    """One family: its models by name, its LoRA targets, and whether vLLM serves its adapters."""

    models: str
    template: str
    targets: tuple[str, ...]
    serves_lora: bool = True


# By `model_type` of config.json.
FAMILIES: dict[str, Family] = {
    "llama": Family("Llama 3, Llama 2, SOLAR", "llama3 | solar | korean_alpaca", _LLAMA),
    "qwen2": Family("Qwen 2", "chatml", _LLAMA),
    "mistral": Family("Mistral", "mistral", _LLAMA),
    "mixtral": Family("Mixtral", "mistral", _ATTENTION),  # the experts are no linear layers (transformers 5)
    "gpt_neox": Family("polyglot-ko", "korean_qa", ("query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h")),
    "gemma3_text": Family("Gemma 3", "korean_qa", _LLAMA),
}


def target_modules(named: str | list[str], config: Any) -> str | list[str]:
    """PEFT's `target_modules` for a model: as the settings name them, or the family's where they say `family`."""
    if named != "family":
        return named
    family = FAMILIES.get(config.get_text_config().model_type)
    return list(family.targets) if family else "all-linear"
