"""Small things made by hand: a random Llama of a few kilobytes, LoRA adapters, and a base that needs no model."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from personas.adapters import CONFIG_FILE, WEIGHTS_FILE
from personas.bases import Base
from tune.data import Record

LLAMA3_TOKENS = ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]


def make_tiny(folder: Path, seed: int = 0, chat_template: str | None = None, llama3: bool = False) -> Path:
    """A random Llama (32 wide, 2 layers, 2 heads) with a byte-level tokenizer, in transformers' layout."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = ["<s>", "</s>", *LLAMA3_TOKENS, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    raw = Tokenizer(models.BPE(vocab={word: number for number, word in enumerate(words)}, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    raw.decoder = decoders.ByteLevel()
    bos, eos = ("<|begin_of_text|>", "</s>") if llama3 else ("<s>", "</s>")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, bos_token=bos, eos_token=eos, additional_special_tokens=LLAMA3_TOKENS
    )
    tokenizer.chat_template = chat_template
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=512,
        bos_token_id=words.index(bos),
        eos_token_id=words.index(eos),
    )
    torch.manual_seed(seed)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_adapter(folder: Path, value: float = 1.0, **config: Any) -> Path:
    """A LoRA adapter of one layer, every value the same."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {"base_model.model.q_proj.lora_A.weight": torch.full((2, 4), value)}
    save_file(tensors, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    settings = {"peft_type": "LORA", "r": 2, "base_model_name_or_path": "/elsewhere", **config}
    (folder / CONFIG_FILE).write_text(json.dumps(settings))
    return folder


def hand_base(name: str = "hand", weights: str = "a" * 64, template: str = "b" * 64) -> Base:
    """A prepared base without a model."""
    return Base("embedded:hand", name, weights, template, "c" * 64, "", Path("/nowhere"))


def manifest_fields(persona: str = "stark") -> dict[str, Any]:
    """What `AdapterStore.publish` is told of an adapter."""
    return {
        "persona": persona,
        "rank": 2,
        "recipe": {"name": "sft"},
        "data_sha256": "d" * 64,
        "records": 3,
        "scores": {"loss_ratio": 0.5},
    }


def record(*contents: str) -> Record:
    """A conversation: what the user and the assistant say in turn."""
    messages = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(contents)]
    return Record.model_validate({"category": "test", "messages": messages})


@pytest.fixture(scope="session")
def tiny_source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny Llama's folder, made once; not to be changed."""
    return make_tiny(tmp_path_factory.mktemp("tiny") / "llama")
