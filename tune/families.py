"""Model families: the linear layers that LoRA adapts in each, and whether vLLM takes such an adapter.

vLLM 0.32 serves LoRA where the class of its registry that carries the architecture says `SupportsLoRA`; the table is
checked against those classes, and one adapter of each family against PEFT's output, in tests/tune/test_families.py.
"""

import json
from dataclasses import dataclass
from typing import Any

from personas.bases import Base
from personas.errors import BaseModelError
from personas.lang import say

_ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
_LLAMA = (*_ATTENTION, "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class Family:
    """One family: its models by name, the chat templates that fit, and its LoRA targets."""

    models: str
    template: str
    targets: tuple[str, ...]


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


# Architectures that vLLM 0.32 runs by classes without `SupportsLoRA`: their adapters are merged to be served.
WITHOUT_LORA = {
    "BailingMoeV2_5ForCausalLM", "BailingMoeV3ForCausalLM", "BloomForCausalLM", "Cohere2MoeForCausalLM",
    "DbrxForCausalLM", "FalconForCausalLM", "FalconMambaForCausalLM", "GPT2LMHeadModel",
    "GPTJForCausalLM", "Gemma3nForCausalLM", "HCXVisionV2ForCausalLM", "HrmTextForCausalLM",
    "IQuestLoopCoderForCausalLM", "Mamba2ForCausalLM", "MambaForCausalLM", "MiMoV2FlashForCausalLM",
    "MiMoV2ForCausalLM", "OrionForCausalLM", "StableLmForCausalLM", "Step1ForCausalLM",
    "Step3TextForCausalLM", "Step3p5ForCausalLM", "Zamba2ForCausalLM",
}  # fmt: skip


def serves_lora(architectures: list[str]) -> bool:
    """Whether vLLM serves LoRA adapters of a base with these `architectures` (config.json)."""
    return not WITHOUT_LORA.intersection(architectures)


def refuse_unservable(base: Base) -> None:
    """Refuse a persona on a base whose adapters the engine cannot serve.

    Raises:
        BaseModelError: says how to get a merged model, which it can.
    """
    architectures = json.loads((base.path / "config.json").read_text()).get("architectures") or []
    if not serves_lora(architectures):
        raise BaseModelError(
            say(
                f"{base.spec} ({architectures[0]}): vLLM이 이 계열의 LoRA를 서비스하지 못합니다. 병합한 모델은 됩니다",
                f"{base.spec} ({architectures[0]}): vLLM serves no LoRA of this family; a merged model it does",
            ),
            f"tune sft DATA --base {base.spec} -o OUT; tune merge OUT -o MERGED; serve up --base MERGED",
        )
