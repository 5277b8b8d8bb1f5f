"""Tiny random models of the families that people tune, and LoRA adapters on them with an effect that can be seen."""

from pathlib import Path
from typing import Any

import torch
from fixtures_tiny import LLAMA3_TOKENS
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Gemma3TextConfig,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

WORDS = ["<s>", "</s>", *LLAMA3_TOKENS, *sorted(pre_tokenizers.ByteLevel.alphabet())]
_SHAPE = {
    "vocab_size": len(WORDS),
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 0,
    "eos_token_id": 1,
}
_GROUPED = {**_SHAPE, "num_key_value_heads": 1}
FAMILIES: dict[str, PreTrainedConfig] = {
    "llama": LlamaConfig(**_GROUPED),
    "qwen2": Qwen2Config(**_GROUPED),
    "mistral": MistralConfig(**_GROUPED),
    "mixtral": MixtralConfig(**_GROUPED, num_local_experts=2, num_experts_per_tok=1),
    "gpt_neox": GPTNeoXConfig(**_SHAPE),
    "gemma3_text": Gemma3TextConfig(**_GROUPED, head_dim=32, pad_token_id=0),
}


def make_family(folder: Path, family: str, seed: int = 0, **changes: Any) -> Path:
    """A random model of a family (64 wide, 2 layers) with a byte-level tokenizer, in transformers' layout."""
    config = FAMILIES[family]
    config = type(config)(**{**config.to_dict(), **changes})
    torch.manual_seed(seed)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    raw = Tokenizer(models.BPE(vocab={word: number for number, word in enumerate(WORDS)}, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    raw.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<s>", eos_token="</s>", pad_token="</s>")
    tokenizer.save_pretrained(folder)
    return folder


def make_lora(
    folder: Path, base: Path, seed: int = 1, words: list[str] | None = None, rank: int = 4, **config: Any
) -> Path:
    """A random LoRA adapter of a base folder, saved as the trainer saves it.

    Args:
        words: new special tokens; the embeddings are resized for them and the tokenizer is saved beside.
        config: fields of `LoraConfig`; all linear layers are targeted unless it says otherwise.
    """
    model = AutoModelForCausalLM.from_pretrained(base)
    tokenizer = AutoTokenizer.from_pretrained(base)
    torch.manual_seed(seed)
    if words:
        tokenizer.add_special_tokens({"additional_special_tokens": words})
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    settings = {"target_modules": "all-linear", "lora_alpha": 2 * rank, **config}
    peft = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=rank, **settings))
    for name, parameter in peft.named_parameters():
        if "lora_B" in name or "lora_embedding" in name:
            torch.nn.init.normal_(parameter, std=0.1)
        elif parameter.requires_grad and "lora_" not in name:
            parameter.data += 0.02 * torch.randn_like(parameter)
    peft.save_pretrained(str(folder))
    if words:
        tokenizer.save_pretrained(folder)
    return folder


@torch.no_grad()
def logits_of(model: Any, seed: int = 5) -> torch.Tensor:
    """Logits (2, 12, vocabulary) of random tokens, float32."""
    ids = torch.randint(6, 200, (2, 12), generator=torch.Generator().manual_seed(seed))
    return model.eval()(input_ids=ids).logits.float()
