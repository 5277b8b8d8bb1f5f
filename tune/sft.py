"""Supervised fine-tuning on conversations: Trainer and PEFT, loss on the assistant's tokens.

The recipe reads top to bottom in `fit`. Checkpoints are kept under the run's folder, so a run that was stopped goes on
from the last one when the same command is given again.
"""

import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import PreTrainedTokenizerBase, TrainerCallback, TrainingArguments, set_seed
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import get_last_checkpoint
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from personas.bases import Base
from personas.lang import say
from personas.memory import give_back_memory
from tune.data import Record
from tune.device import Memory, memory_now, memory_since
from tune.examples import Example, encode_all, refuse_unmarked
from tune.faults import StopAtNan, disk_explained, memory_explained
from tune.model import add_tokens, load, lora, optimizer_here, precision_here
from tune.packing import SharedPrefixCollator, can_pack, shared_prefix
from tune.settings import SftSettings
from tune.start import start_options
from tune.trainer import LabelTrainer, is_zero3, with_adapter
from tune.watch import Trim

_CPU_BATCH = 4  # records at a time

__all__ = ["LabelTrainer", "Trained", "fit", "load", "train"]


@dataclass(frozen=True)
class Trained:
    """A trained model in memory: an adapter on its base (PEFT), or all weights."""

    model: Any
    tokenizer: PreTrainedTokenizerBase
    steps: int
    seconds: float
    scale: float
    memory: Memory
    validation: dict[str, float] = field(default_factory=dict)


def _split(examples: list[Example], share: float, seed: int) -> tuple[list[Example], list[Example]]:
    """Training and validation examples; the validation ones choose the best checkpoint."""
    held = max(1, int(len(examples) * share)) if share and len(examples) > 1 else 0
    order = torch.randperm(len(examples), generator=torch.Generator().manual_seed(seed)).tolist()
    return [examples[i] for i in order[held:]], [examples[i] for i in order[:held]]


def _collator(
    model: Any, tokenizer: PreTrainedTokenizerBase, examples: list[Example], settings: SftSettings
) -> SharedPrefixCollator | DataCollatorForLanguageModeling:
    """One row a batch where it is wanted and the model can; else a row a record, padded."""
    longest = max(len(example["input_ids"]) for example in examples)
    if not settings.packing or not can_pack(model.config, longest):
        return DataCollatorForLanguageModeling(pad_token_id=tokenizer.pad_token_id)
    return SharedPrefixCollator(shared_prefix(examples))


def _config(settings: SftSettings, folder: Path, validate: bool) -> TrainingArguments:
    precision = precision_here(settings.precision)
    pieces = _pieces(settings.batch_size)
    config = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=settings.batch_size // pieces,
        per_device_eval_batch_size=settings.batch_size,
        gradient_accumulation_steps=settings.gradient_accumulation * pieces,
        num_train_epochs=settings.epochs,
        max_steps=settings.max_steps,
        learning_rate=settings.learning_rate,
        lr_scheduler_type=settings.schedule,
        warmup_steps=settings.warmup_steps,
        weight_decay=settings.weight_decay,
        optim=optimizer_here(settings.optimizer),
        gradient_checkpointing=settings.gradient_checkpointing,
        logging_steps=settings.log_every,
        save_steps=settings.save_every,
        save_total_limit=settings.keep,
        eval_strategy="steps" if validate else "no",
        eval_steps=settings.eval_every or settings.save_every,
        load_best_model_at_end=validate,
        metric_for_best_model=f"eval_{settings.best_metric}" if validate else None,
        greater_is_better=settings.best_metric == "accuracy",
        prediction_loss_only=True,
        logging_nan_inf_filter=False,
        remove_unused_columns=False,
        bf16=precision == "bf16",
        fp16=precision == "fp16",
        use_cpu=not torch.cuda.is_available(),
        ddp_find_unused_parameters=False,
        seed=settings.seed,
        report_to=settings.tracker,
        disable_tqdm=not sys.stderr.isatty(),  # a log is no place for a moving bar
        dataloader_pin_memory=torch.cuda.is_available(),
    )
    # PEFT's adapters under ZeRO-3 need the reentrant way (TRL issue 2514)
    config.gradient_checkpointing_kwargs = {"use_reentrant": is_zero3(config)}
    config._n_gpu = min(config.n_gpu, 1)  # several GPUs are used by several processes, never by threads of one
    return config


def _pieces(batch: int) -> int:
    """In how many passes a batch is worked off: on a CPU larger ones are no faster, and take the memory of all."""
    return 1 if torch.cuda.is_available() or batch % _CPU_BATCH else batch // _CPU_BATCH


def last_checkpoint(folder: Path) -> str | None:
    """The newest whole checkpoint; what a kill left half-written is removed (the trainer writes its state last)."""
    while folder.is_dir() and (checkpoint := get_last_checkpoint(str(folder))):
        if (Path(checkpoint) / TRAINER_STATE_NAME).is_file():
            return str(checkpoint)
        shutil.rmtree(checkpoint)
    return None


def _shrink(trainer: LabelTrainer, scales: list[float]) -> tuple[float, dict[str, float]]:
    """Scale the adapter's update by the factor with the least validation loss, in place; the factor and its scores.

    A small adapter on little data overshoots; going part of the way back to the base is the cheapest cure
    (Wortsman et al., "Robust fine-tuning of zero-shot models", 2022, for full weights).
    """
    factors = [p for name, p in trainer.model.named_parameters() if "lora_B" in name or "lora_embedding_B" in name]

    def rescale(by: float) -> None:
        for factor in factors:
            factor.data.mul_(by)

    found: dict[float, dict[str, float]] = {}
    current = 1.0
    for scale in scales:
        rescale(scale / current)
        current = scale
        found[scale] = trainer.evaluate()
    best = min(found, key=lambda scale: found[scale]["eval_loss"])
    rescale(best / current)
    names = ("loss", "accuracy", "perplexity")
    return best, {f"validation_{name}": round(found[best][f"eval_{name}"], 4) for name in names}


def _prepared(base: Base, settings: SftSettings) -> tuple[Any, PreTrainedTokenizerBase]:
    model, tokenizer = load(base, settings)
    refuse_unmarked(base, tokenizer)
    add_tokens(model, tokenizer, settings)
    return model, tokenizer


def fit(
    base: Base,
    records: list[Record],
    system_prompt: str,
    settings: SftSettings,
    folder: Path,
    callbacks: Sequence[TrainerCallback] = (),
) -> tuple[LabelTrainer, Trained]:
    """`train`, and the trainer that did it, for processes that save together."""
    set_seed(settings.seed)  # of the adapter's first values, which are made before the Trainer seeds
    model, tokenizer = _prepared(base, settings)
    examples = encode_all(records, tokenizer, system_prompt, settings)
    if longer := len(records) - len(examples):
        limit = settings.max_length
        print(
            say(
                f"{limit} 토큰보다 긴 기록 {longer}개를 뺍니다",
                f"leaving out {longer} records longer than {limit} tokens",
            )
        )
    training, validation = _split(examples, settings.validation_share, settings.seed)
    args = _config(settings, folder, validate=bool(validation))
    give_back_memory()  # what reading a tokenizer of 262,144 words leaves: 315 MB
    trainer = LabelTrainer(
        model=with_adapter(model, lora(model, settings), args, start_options(settings, folder.parent)),
        processing_class=tokenizer,
        args=args,
        data_collator=_collator(model, tokenizer, examples, settings),
        train_dataset=Dataset.from_list(training),
        eval_dataset=Dataset.from_list(validation) if validation else None,
        callbacks=[StopAtNan(settings), Trim(), *callbacks],
    )
    before = memory_now()
    with memory_explained(settings), disk_explained(folder):
        result = trainer.train(resume_from_checkpoint=last_checkpoint(folder))
    scale, scores = _shrink(trainer, settings.scales) if validation else (1.0, {})
    memory, seconds = memory_since(before), result.metrics["train_runtime"]
    return trainer, Trained(trainer.model, tokenizer, result.global_step, seconds, scale, memory, scores)


def train(
    base: Base,
    records: list[Record],
    system_prompt: str,
    settings: SftSettings,
    folder: Path,
    callbacks: Sequence[TrainerCallback] = (),
) -> Trained:
    """Train one adapter, or all weights.

    Args:
        base: a prepared base model.
        records: conversations; a system prompt of their own goes before the given one.
        system_prompt: put in front of the others, as when served; none if empty.
        settings: the resolved recipe.
        folder: for checkpoints; those that are there are gone on from. Beside it lies the adapter of `start_from`.
        callbacks: told of every step and log.

    Raises:
        DataError: a record longer than `max_length`, or a template without generation marks.
        TrainingError: the loss is no number any more, or memory or disk ran out; says which setting to change.
    """
    return fit(base, records, system_prompt, settings, folder, callbacks)[1]
