"""Kahneman-Tversky optimisation on single thumbs (Ethayarajh et al., 2024), by TRL."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import TrainerCallback
from trl import KTOConfig, KTOTrainer

from personas.bases import Base
from personas.lang import say
from tune.data import DataError
from tune.faults import StopAtNan
from tune.preference import (
    CachedReferences,
    Judged,
    Preferred,
    checked_ids,
    fit,
    load_policy,
    trainer_options,
)
from tune.preference_settings import PreferenceSettings


class _Trainer(CachedReferences, KTOTrainer):  # type: ignore[misc]
    """TRL's, on token ids and with cached references."""


def _with_mismatched(rows: list[dict[str, Any]], batch_size: int) -> list[dict[str, Any]]:
    """Each row with its neighbour's answer within its batch, for the KL term, as TRL pairs them."""
    made = []
    for begin in range(0, len(rows), batch_size):
        batch = rows[begin : begin + batch_size]
        made += [{**row, "KL_completion_ids": batch[i - 1]["completion_ids"]} for i, row in enumerate(batch)]
    return made


def train_kto(
    base: Base,
    adapter: Path | None,
    judged: list[Judged],
    system_prompt: str,
    settings: PreferenceSettings,
    folder: Path,
    callbacks: Sequence[TrainerCallback] = (),
) -> Preferred:
    """Train an adapter towards liked answers and away from disliked ones; arguments and errors as `train_dpo`'s.

    Raises:
        DataError: too few answers for a batch, or one longer than the settings allow.
        TrainingError: the loss diverged, or memory ran out.
    """
    if len(judged) < 2:
        raise DataError(say("KTO에는 평가가 둘 이상 필요합니다", "KTO needs two judged answers or more"), "tune learn")
    model, tokenizer = load_policy(base, adapter, settings)
    rows = []
    for one in judged:
        prompt, (answer,) = checked_ids(one, tokenizer, system_prompt, settings)
        rows.append({"prompt_ids": prompt, "completion_ids": answer, "label": one.good})
    if settings.loss == "kto":
        rows = _with_mismatched(rows, settings.batch_size)
    dataset = Dataset.from_list(rows)
    weights = {"desirable_weight": settings.desirable_weight, "undesirable_weight": settings.undesirable_weight}
    trainer = _Trainer(
        folder,
        model=model,
        processing_class=tokenizer,
        args=KTOConfig(**trainer_options(settings, folder), loss_type=settings.loss, **weights),
        train_dataset=dataset,
        eval_dataset=dataset,
        callbacks=[StopAtNan(settings), *callbacks],
    )
    return fit(trainer, "kto", settings, folder)
