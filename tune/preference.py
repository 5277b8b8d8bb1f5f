"""What DPO and KTO share: preference records, their token ids, the adapter they go on from, cached references.

Reference: TRL copies the adapter that it is given into a frozen one named `ref` and takes its log-probabilities as
the reference, so the model is given with the live adapter loaded trainable, without `peft_config` and `ref_model`.
Without an adapter, TRL's reference is the base with the new adapter switched off.
"""

import hashlib
import json
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model
from pydantic import BaseModel, ConfigDict, Field
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, PreTrainedTokenizerBase

from personas.bases import Base
from personas.lang import say
from tune.data import DataError, Record, Turn
from tune.device import Memory, memory_now, memory_since, supports_bf16
from tune.examples import IGNORED, encode
from tune.faults import disk_explained, memory_explained
from tune.model import DTYPES, keep_trainable, optimizer_here, precision_here
from tune.preference_settings import PreferenceSettings
from tune.sft import last_checkpoint


class Pair(BaseModel):
    """Two answers to one conversation; the last turn of `messages` is the user's."""

    model_config = ConfigDict(extra="forbid")

    messages: list[Turn] = Field(min_length=1)
    chosen: str = Field(min_length=1)
    rejected: str = Field(min_length=1)
    source: str = ""

    @property
    def answers(self) -> list[str]:
        return [self.chosen, self.rejected]


class Judged(BaseModel):
    """One answer that was liked or not."""

    model_config = ConfigDict(extra="forbid")

    messages: list[Turn] = Field(min_length=1)
    answer: str = Field(min_length=1)
    good: bool
    source: str = ""

    @property
    def answers(self) -> list[str]:
        return [self.answer]


def fingerprint(records: Iterable[BaseModel]) -> str:
    """Hex sha256 of preference records."""
    digest = hashlib.sha256()
    for record in records:
        digest.update(record.model_dump_json().encode() + b"\n")
    return digest.hexdigest()


def split_ids(
    messages: list[Turn], answer: str, tokenizer: PreTrainedTokenizerBase, system_prompt: str
) -> tuple[list[int], list[int]]:
    """Token ids of the prompt and of the answer with the token that ends it, exactly as SFT and the engine have them.

    TRL's own tokenizing would add what the template puts after the end of an answer, which nobody ever generates.
    """
    said = [*messages, Turn(role="assistant", content=answer)]
    example = encode(Record(category="preference", messages=said), tokenizer, system_prompt)
    end = max(i for i, label in enumerate(example["labels"]) if label != IGNORED) + 1
    begin = end
    while begin and example["labels"][begin - 1] != IGNORED:
        begin -= 1
    return example["input_ids"][:begin], example["input_ids"][begin:end]


def checked_ids(
    one: Pair | Judged, tokenizer: PreTrainedTokenizerBase, system_prompt: str, settings: PreferenceSettings
) -> tuple[list[int], list[list[int]]]:
    """Token ids of the prompt and of each answer.

    Raises:
        DataError: the prompt or the whole is longer than the settings allow.
    """
    pairs = [split_ids(one.messages, answer, tokenizer, system_prompt) for answer in one.answers]
    prompt, answers = pairs[0][0], [answer for _, answer in pairs]
    for field, length, limit in (
        ("max_prompt_length", len(prompt), settings.max_prompt_length),
        ("max_length", len(prompt) + max(map(len, answers)), settings.max_length),
    ):
        if length > limit:
            start = one.messages[-1].content
            raise DataError(
                say(
                    f"'{start[:40]}…'로 시작하는 기록이 {length} 토큰입니다 ({field} {limit})",
                    f"the record that begins '{start[:40]}…' has {length} tokens ({field} {limit})",
                ),
                f"--set {field}={length}",
            )
    return prompt, answers


def refuse_longer(
    base: Base, records: Iterable[Pair | Judged], system_prompt: str, settings: PreferenceSettings
) -> None:
    """Refuse a record that is too long, by the tokenizer alone; raises as `checked_ids` does."""
    tokenizer = AutoTokenizer.from_pretrained(base.path)
    for one in records:
        checked_ids(one, tokenizer, system_prompt, settings)


def load_policy(base: Base, adapter: Path | None, settings: PreferenceSettings) -> tuple[PeftModel, Any]:
    """The base with the live adapter on it, trainable, or with a new one; and its tokenizer."""
    dtype = torch.bfloat16 if supports_bf16() else torch.float32
    compute = DTYPES[precision_here(settings.compute_dtype)]
    quantized = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=compute)
    options: dict[str, Any] = {"quantization_config": quantized} if settings.qlora else {}
    model = AutoModelForCausalLM.from_pretrained(base.path, dtype=dtype, **options)
    keep_trainable(model)
    tokenizer = AutoTokenizer.from_pretrained(base.path)
    if adapter is not None:
        policy = PeftModel.from_pretrained(model, str(adapter), is_trainable=True)
        # the store writes a name there, which PEFT would look for as a folder or at the hub whenever it saves
        policy.peft_config["default"].base_model_name_or_path = str(base.path)
        return policy, tokenizer
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=settings.target_modules,
    )
    return get_peft_model(model, config), tokenizer


class CachedReferences:
    """A trainer's reference log-probabilities in a file beside its checkpoints: computed once for rows and model.

    TRL keeps its cache beside the data set's own files, and one that was made in memory has none.
    """

    def __init__(self, references: Path, **options: Any) -> None:
        self.references = references
        super().__init__(**options)
        self._drop_reference_adapter()

    def _prepare_dataset(self, dataset: Dataset, *_: Any) -> Dataset:
        return dataset  # token ids already; for KTO with the mismatched answers of its KL term

    def _drop_reference_adapter(self) -> None:
        """Take the frozen copy off as soon as its log-probabilities are known.

        It would lie in every checkpoint beside the trained adapter, and the Trainer, finding its folder there,
        would load that one alone and begin anew from the live adapter.
        """
        if "ref" in self.model.peft_config:  # type: ignore[attr-defined]
            self.model.delete_adapter("ref")  # type: ignore[attr-defined]

    def _precompute_ref_logps(self, dataset: Dataset, name: str, batch_size: int) -> Dataset:
        rows = hashlib.sha256(json.dumps(dataset.to_list(), sort_keys=True).encode())
        rows.update(f"{self._precompute_model_hash}{batch_size}".encode())  # type: ignore[attr-defined]
        file = self.references / f"references-{rows.hexdigest()[:16]}.json"
        if file.is_file():
            for column, values in json.loads(file.read_text()).items():
                dataset = dataset.add_column(column, values)
            return dataset
        made = super()._precompute_ref_logps(dataset, name, batch_size)  # type: ignore[misc]
        columns = {column: list(made[column]) for column in made.column_names if column.startswith("ref_")}
        self.references.mkdir(parents=True, exist_ok=True)
        staged = file.with_suffix(f".{os.getpid()}")
        staged.write_text(json.dumps(columns))
        staged.replace(file)
        return made


@dataclass(frozen=True)
class Preferred:
    """An adapter trained on preferences, in memory on its base, and its scores."""

    model: PeftModel
    tokenizer: PreTrainedTokenizerBase
    scores: dict[str, float]
    seconds: float
    memory: Memory


def trainer_options(settings: PreferenceSettings, folder: Path) -> dict[str, Any]:
    """Arguments that DPOConfig and KTOConfig share."""
    return {
        "output_dir": str(folder),
        "per_device_train_batch_size": settings.batch_size,
        "per_device_eval_batch_size": settings.batch_size,
        "gradient_accumulation_steps": settings.gradient_accumulation,
        "num_train_epochs": settings.epochs,
        "max_steps": settings.max_steps,
        "learning_rate": settings.learning_rate,
        "lr_scheduler_type": settings.schedule,
        "warmup_steps": settings.warmup_steps,
        "weight_decay": settings.weight_decay,
        "optim": optimizer_here(settings.optimizer),
        "max_length": settings.max_length,
        "beta": settings.beta,
        "precompute_ref_log_probs": True,
        "gradient_checkpointing": settings.gradient_checkpointing,
        "logging_steps": settings.log_every,
        "save_steps": settings.save_every,
        "save_total_limit": settings.keep,
        "logging_nan_inf_filter": False,
        "bf16": supports_bf16(),
        "use_cpu": not torch.cuda.is_available(),
        "seed": settings.seed,
        "report_to": settings.tracker,
        "dataloader_pin_memory": torch.cuda.is_available(),
        "disable_tqdm": not sys.stderr.isatty(),  # a log is no place for a moving bar
    }


def fit(trainer: Any, kind: Literal["dpo", "kto"], settings: PreferenceSettings, folder: Path) -> Preferred:
    """Train from the last checkpoint in `folder`, and gather the scores on the records that it learns from.

    These are margin and accuracy of rewards, and the loss.
    """
    before = memory_now()
    with memory_explained(settings), disk_explained(folder):
        result = trainer.train(resume_from_checkpoint=last_checkpoint(folder))
        after = trainer.evaluate()
    seconds = result.metrics["train_runtime"]
    scores = {"steps": float(result.global_step), "train_seconds": round(seconds, 1)}
    for name in ("rewards/margins", "rewards/accuracies", "rewards/chosen", "rewards/rejected", "loss"):
        if (value := after.get(f"eval_{name}")) is not None:
            scores[f"{kind}_{name.removeprefix('rewards/')}"] = round(float(value), 4)
    return Preferred(trainer.model, trainer.processing_class, scores, seconds, memory_since(before))
