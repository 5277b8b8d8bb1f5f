"""A base model in memory as a recipe wants it: precision, quantisation, new tokens, LoRA settings."""

from typing import Any, Literal

import torch
from accelerate import PartialState
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, PreTrainedTokenizerBase

from personas.bases import Base
from tune.device import supports_bf16
from tune.families import target_modules
from tune.settings import SftSettings, Training

Precision = Literal["bf16", "fp16", "fp32"]
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def precision_here(wanted: str) -> Precision:
    """What a wanted precision comes to on this device: 16 bits where it multiplies them fast.

    A GPU without bfloat16 takes float16; a CPU has no float16 training, so it takes bfloat16 or float32.
    """
    if wanted == "fp32":
        return "fp32"
    if torch.cuda.is_available():
        return "bf16" if wanted != "fp16" and supports_bf16() else "fp16"
    return "bf16" if supports_bf16() else "fp32"


def optimizer_here(wanted: str) -> str:
    """The optimizer, or plain AdamW where there is no CUDA for bitsandbytes' ones."""
    return wanted if torch.cuda.is_available() else "adamw_torch"


def quantisation(settings: Training) -> BitsAndBytesConfig:
    """bitsandbytes' 4-bit settings of a QLoRA recipe."""
    wanted = settings.precision if settings.compute_dtype == "auto" else settings.compute_dtype
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=settings.quantisation,
        bnb_4bit_use_double_quant=settings.double_quantisation,
        bnb_4bit_compute_dtype=DTYPES[precision_here(wanted)],
    )


def load(base: Base, settings: Training | None = None) -> tuple[Any, PreTrainedTokenizerBase]:
    """The base and its tokenizer; without settings, a frozen base in the precision that the device is fast in.

    A frozen base is held in 16 bits where it is trained in them, or in 4; adapters stay in float32 (PEFT). All weights
    of a full fine-tuning are float32: in bfloat16 a small step would round to none.
    """
    settings = settings or Training()
    options: dict[str, Any] = {"dtype": DTYPES[precision_here(settings.precision)]}
    if settings.method == "full":
        options["dtype"] = torch.float32
    if settings.method == "qlora":
        options |= {"quantization_config": quantisation(settings), "device_map": {"": PartialState().device}}
    model = AutoModelForCausalLM.from_pretrained(base.path, **options)
    keep_trainable(model)
    return model, AutoTokenizer.from_pretrained(base.path)


def keep_trainable(model: Any) -> None:
    """Keep bitsandbytes (0.50) from repacking 4-bit layers for inference the first time they run without gradients.

    On a CPU with AVX-512 BF16 an evaluation would do that for good, and no gradient passes a repacked layer: a run that
    is evaluated on its way would learn almost nothing from then on. Widths that are no multiple of 64 would fail.
    """
    for layer in model.modules():
        if hasattr(layer, "support_avx512bf16_for_cpu"):
            layer.support_avx512bf16_for_cpu = False


def add_tokens(model: Any, tokenizer: PreTrainedTokenizerBase, settings: SftSettings) -> None:
    """Add the new special tokens, resize the embeddings for them, and let the named one end an answer."""
    if not settings.special_tokens:
        return
    tokenizer.add_special_tokens({"additional_special_tokens": settings.special_tokens})
    if len(tokenizer) > model.get_input_embeddings().weight.shape[0]:
        torch.manual_seed(settings.seed)  # a resumed run must begin from the same new rows
        model.resize_token_embeddings(len(tokenizer))
    if settings.eos_token:
        tokenizer.eos_token = settings.eos_token
        model.config.eos_token_id = model.generation_config.eos_token_id = tokenizer.eos_token_id


def lora(model: Any, settings: Training) -> LoraConfig | None:
    """PEFT's settings of the adapter, or None where all weights are trained."""
    if settings.method == "full":
        return None
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=target_modules(settings.target_modules, model.config),
    )
