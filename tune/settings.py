"""The settings of a recipe: a preset file, then overrides; contradictions are refused before anything is loaded."""

from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from personas.errors import GamyeonError
from personas.lang import say
from personas.schema import EMBEDDED_BASE

PRESETS = Path(__file__).parent / "presets"


class SettingsError(GamyeonError):
    """A preset or an override is faulty."""


class SftSettings(BaseModel):
    """Settings of supervised fine-tuning with LoRA; names are PEFT's and the Trainer's own."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    rank: int = Field(16, ge=1, le=512)
    alpha: int = Field(16, ge=1)
    dropout: float = Field(0.0, ge=0, lt=1)
    target_modules: str | list[str] = "all-linear"
    batch_size: int = Field(4, ge=1, description="records a step on one device")
    gradient_accumulation: int = Field(1, ge=1)
    epochs: float = Field(3, gt=0)
    max_steps: int = Field(-1, description="-1: as many as the epochs need")
    learning_rate: float = Field(1e-4, gt=0)
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_steps: int = Field(0, ge=0)
    weight_decay: float = Field(0.0, ge=0)
    max_length: int = Field(1024, ge=16, description="tokens; longer records are refused, not cut")
    gradient_checkpointing: bool = False
    validation_share: float = Field(0.05, ge=0, lt=0.5, description="of the training records, for the best epoch")
    scales: list[float] = Field([1.0], description="factors of the adapter's update; the best on validation is taken")
    log_every: int = Field(10, ge=1, description="steps")
    save_every: int = Field(100, ge=1, description="steps between checkpoints")
    seed: int = 42


def preset_names() -> list[str]:
    return sorted(file.stem for file in PRESETS.glob("*.yaml"))


def default_preset(base: str) -> str:
    """The preset for a base where none is named: small steps for the embedded one, SPEC's persona preset else."""
    return "embedded" if base == EMBEDDED_BASE else "persona"


def load_settings(preset: str, overrides: list[str]) -> SftSettings:
    """A preset with `key=value` overrides.

    Raises:
        SettingsError: every fault at once, each with its field.
    """
    file = PRESETS / f"{preset}.yaml"
    if not file.is_file():
        raise SettingsError(
            say(f"'{preset}' 프리셋이 없습니다", f"no preset '{preset}'"), f"--preset {'|'.join(preset_names())}"
        )
    values: dict[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8"))
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals:
            raise SettingsError(f"--set {override}: KEY=VALUE")
        try:
            values[key] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise SettingsError(f"--set {override}: {error}") from error
    try:
        return SftSettings.model_validate(values)
    except ValidationError as error:
        faults = "\n".join(f"{preset}: {'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise SettingsError(faults, "--set " + " | ".join(SftSettings.model_fields)) from error
