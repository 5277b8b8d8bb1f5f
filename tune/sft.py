"""Supervised fine-tuning of a LoRA adapter on a persona's conversations: TRL and PEFT, loss on the assistant's tokens.

The recipe reads top to bottom in `train`. Checkpoints are kept under the run's folder, so a run that was stopped
goes on from the last one when the same command is given again.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import get_last_checkpoint
from trl import SFTConfig, SFTTrainer
from trl.chat_template_utils import has_generation_markers

from personas.bases import Base
from personas.lang import say
from tune.data import DataError, Record
from tune.device import Memory, memory_now, memory_since, supports_bf16
from tune.examples import Example, encode
from tune.faults import StopAtNan, memory_explained
from tune.loss import LabelLoss, add_label_loss, has_plain_frozen_head
from tune.packing import SharedPrefixCollator, can_pack, shared_prefix
from tune.settings import SftSettings


@dataclass(frozen=True)
class Trained:
    """A trained adapter in memory, on its base."""

    model: PeftModel
    tokenizer: PreTrainedTokenizerBase
    steps: int
    seconds: float
    scale: float
    memory: Memory


class LabelTrainer(SFTTrainer):  # type: ignore[misc]
    """TRL's trainer with the loss of `tune.loss` where the output layer is frozen; the loss is the same.

    TRL also skips the tokens without a label, but on GPUs with Triton alone, and computes every entropy.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        bare = self.model.get_base_model() if isinstance(self.model, PeftModel) else self.model
        self._own_loss = has_plain_frozen_head(bare)
        add_label_loss(bare)

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        if not self._own_loss:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        made: LabelLoss = model(**inputs, label_loss=True)
        mode = "train" if self.model.training else "eval"
        self._metrics[mode]["mean_token_accuracy"].append((made.right / made.tokens).item())
        loss = made.loss / (made.tokens if num_items_in_batch is None else num_items_in_batch)
        if num_items_in_batch is not None:  # it counts the tokens of every process, and DDP averages over them
            loss = loss * self.accelerator.num_processes
        return (loss, None) if return_outputs else loss


def load(base: Base) -> tuple[Any, PreTrainedTokenizerBase]:
    """The base in bfloat16 where the device is fast in it, else in float32, and its tokenizer.

    Adapters stay in float32 either way (PEFT).
    """
    model = AutoModelForCausalLM.from_pretrained(base.path, dtype=torch.bfloat16 if supports_bf16() else torch.float32)
    return model, AutoTokenizer.from_pretrained(base.path)


def _split(examples: list[Example], share: float, seed: int) -> tuple[list[Example], list[Example]]:
    """Training and validation examples; the validation ones choose the best epoch."""
    held = int(len(examples) * share)
    order = torch.randperm(len(examples), generator=torch.Generator().manual_seed(seed)).tolist()
    return [examples[i] for i in order[held:]], [examples[i] for i in order[:held]]


def _encode_all(
    records: list[Record], tokenizer: PreTrainedTokenizerBase, system_prompt: str, limit: int
) -> list[Example]:
    examples = [encode(record, tokenizer, system_prompt) for record in records]
    for record, example in zip(records, examples, strict=True):
        if (length := len(example["input_ids"])) > limit:
            start = record.prompt[:40]
            raise DataError(
                say(
                    f"'{start}…'로 시작하는 기록이 {length} 토큰입니다 (max_length {limit})",
                    f"the record that begins '{start}…' has {length} tokens (max_length {limit})",
                ),
                f"--set max_length={length}",
            )
    return examples


def _collator(model: Any, examples: list[Example]) -> SharedPrefixCollator | None:
    """One row a batch where the model can; else None, for TRL's padded one."""
    if not can_pack(model.config, max(len(example["input_ids"]) for example in examples)):
        return None
    return SharedPrefixCollator(shared_prefix(examples))


def _config(settings: SftSettings, folder: Path, validate: bool) -> SFTConfig:
    return SFTConfig(
        output_dir=str(folder),
        per_device_train_batch_size=settings.batch_size,
        per_device_eval_batch_size=settings.batch_size,
        gradient_accumulation_steps=settings.gradient_accumulation,
        num_train_epochs=settings.epochs,
        max_steps=settings.max_steps,
        learning_rate=settings.learning_rate,
        lr_scheduler_type=settings.schedule,
        warmup_steps=settings.warmup_steps,
        weight_decay=settings.weight_decay,
        max_length=settings.max_length,
        gradient_checkpointing=settings.gradient_checkpointing,
        logging_steps=settings.log_every,
        save_steps=settings.save_every,
        save_total_limit=2,
        eval_strategy="steps" if validate else "no",
        eval_steps=settings.save_every,
        load_best_model_at_end=validate,
        metric_for_best_model="eval_loss" if validate else None,
        prediction_loss_only=True,
        logging_nan_inf_filter=False,
        train_sampling_strategy="group_by_length",
        dataset_kwargs={"skip_prepare_dataset": True},
        remove_unused_columns=False,
        bf16=supports_bf16(),
        use_cpu=not torch.cuda.is_available(),
        seed=settings.seed,
        report_to="none",
        dataloader_pin_memory=torch.cuda.is_available(),
    )


def _last_checkpoint(folder: Path) -> str | None:
    """The newest whole checkpoint; what a kill left half-written is removed (the trainer writes its state last)."""
    while folder.is_dir() and (checkpoint := get_last_checkpoint(str(folder))):
        if (Path(checkpoint) / TRAINER_STATE_NAME).is_file():
            return str(checkpoint)
        shutil.rmtree(checkpoint)
    return None


def _shrink(trainer: SFTTrainer, scales: list[float]) -> float:
    """Scale the adapter's update by the factor with the least validation loss, in place; returns the factor.

    A small adapter on little data overshoots; going part of the way back to the base is the cheapest cure
    (Wortsman et al., "Robust fine-tuning of zero-shot models", 2022, for full weights).
    """
    factors = [p for name, p in trainer.model.named_parameters() if "lora_B" in name]

    def rescale(by: float) -> None:
        for factor in factors:
            factor.data.mul_(by)

    losses: dict[float, float] = {}
    current = 1.0
    for scale in scales:
        rescale(scale / current)
        current = scale
        losses[scale] = trainer.evaluate()["eval_loss"]
    best = min(losses, key=lambda scale: losses[scale], default=1.0)
    rescale(best / current)
    return best


def train(base: Base, records: list[Record], system_prompt: str, settings: SftSettings, folder: Path) -> Trained:
    """Train one adapter.

    Args:
        base: a prepared base model.
        records: conversations without a system message.
        system_prompt: put in front of each, as when served.
        settings: the resolved recipe.
        folder: for checkpoints; those that are there are gone on from.

    Raises:
        DataError: a record longer than `max_length`, or a template without generation marks.
    """
    model, tokenizer = load(base)
    if not has_generation_markers(tokenizer.chat_template):
        raise DataError(
            say(
                f"{base.name}의 대화 템플릿에 generation 표시가 없습니다",
                f"no generation marks in {base.name}'s template",
            ),
            say(f"{base.path}/chat_template.jinja에 표시를 넣으세요", f"add them in {base.path}/chat_template.jinja"),
        )
    examples = _encode_all(records, tokenizer, system_prompt, settings.max_length)
    training, validation = _split(examples, settings.validation_share, settings.seed)
    trainer = LabelTrainer(
        model=model,
        processing_class=tokenizer,
        args=_config(settings, folder, validate=bool(validation)),
        data_collator=_collator(model, examples),
        train_dataset=Dataset.from_list(training),
        eval_dataset=Dataset.from_list(validation) if validation else None,
        callbacks=[StopAtNan(settings)],
        peft_config=LoraConfig(
            task_type="CAUSAL_LM",
            r=settings.rank,
            lora_alpha=settings.alpha,
            lora_dropout=settings.dropout,
            target_modules=settings.target_modules,
        ),
    )
    before = memory_now()
    with memory_explained(settings):
        result = trainer.train(resume_from_checkpoint=_last_checkpoint(folder))
    scale = _shrink(trainer, settings.scales) if validation else 1.0
    return Trained(
        trainer.model, tokenizer, result.global_step, result.metrics["train_runtime"], scale, memory_since(before)
    )
