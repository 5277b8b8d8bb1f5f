"""Direct preference optimisation on pairs (Rafailov et al., 2023), or IPO's loss (Azar et al., 2023), by TRL."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import TrainerCallback
from trl import DPOConfig, DPOTrainer

from personas.bases import Base
from tune.faults import StopAtNan
from tune.preference import (
    CachedReferences,
    Pair,
    Preferred,
    checked_ids,
    fit,
    load_policy,
    trainer_options,
)
from tune.preference_settings import PreferenceSettings


class _Trainer(CachedReferences, DPOTrainer):  # type: ignore[misc]
    """TRL's, on token ids and with cached references."""


def _row(pair: Pair, tokenizer: Any, system_prompt: str, settings: PreferenceSettings) -> dict[str, list[int]]:
    prompt, (chosen, rejected) = checked_ids(pair, tokenizer, system_prompt, settings)
    return {"prompt_ids": prompt, "chosen_ids": chosen, "rejected_ids": rejected}


def train_dpo(
    base: Base,
    adapter: Path | None,
    pairs: list[Pair],
    system_prompt: str,
    settings: PreferenceSettings,
    folder: Path,
    callbacks: Sequence[TrainerCallback] = (),
) -> Preferred:
    """Train an adapter to prefer `chosen` over `rejected`.

    Args:
        base: a prepared base model.
        adapter: the live version's folder, which is both the beginning and the reference; None: the bare base.
        pairs: what to prefer.
        system_prompt: put in front of each conversation, as when served.
        settings: the resolved recipe.
        folder: for checkpoints and reference log-probabilities; what is there is gone on from.
        callbacks: told of every step and log.

    Raises:
        DataError: a pair longer than the settings allow.
        TrainingError: the loss diverged, or memory ran out.
    """
    model, tokenizer = load_policy(base, adapter, settings)
    dataset = Dataset.from_list([_row(pair, tokenizer, system_prompt, settings) for pair in pairs])
    trainer = _Trainer(
        folder,
        model=model,
        processing_class=tokenizer,
        args=DPOConfig(**trainer_options(settings, folder), loss_type=[settings.loss]),
        train_dataset=dataset,
        eval_dataset=dataset,
        callbacks=[StopAtNan(settings), *callbacks],
    )
    return fit(trainer, "dpo", settings, folder)
