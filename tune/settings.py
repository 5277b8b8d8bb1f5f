"""The settings of a recipe: a preset file, then overrides; contradictions are refused before anything is loaded."""

from collections.abc import Iterator
from typing import Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from tune.preset_files import PRESETS, SettingsError, default_preset, preset_names, preset_values

__all__ = ["PRESETS", "SettingsError", "SftSettings", "default_preset", "load_settings", "preset_names"]

Tracker = Literal["none", "tensorboard", "wandb", "trackio"]


def unused(method: str) -> tuple[str, ...]:
    """Settings that a method gives no meaning."""
    adapter = ("rank", "alpha", "dropout", "target_modules", "scales", "start_from") if method == "full" else ()
    quantised = ("quantisation", "compute_dtype", "double_quantisation") if method != "qlora" else ()
    return adapter + quantised


class Training(BaseModel):
    """What every recipe trains with; names are PEFT's and the Trainer's own where they have one."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    method: Literal["lora", "qlora", "full"] = "lora"
    template: str = Field("", description="a chat template by name; empty: the base's own or its family's")
    rank: int = Field(16, ge=1, le=512)
    alpha: int = Field(16, ge=1)
    dropout: float = Field(0.0, ge=0, lt=1)
    target_modules: str | list[str] = Field("all-linear", description="or a list, or `family` (tune/families.py)")
    quantisation: Literal["nf4", "fp4"] = Field("nf4", description="of the frozen base in qlora")
    compute_dtype: Literal["auto", "bf16", "fp16", "fp32"] = Field("auto", description="of qlora's products")
    double_quantisation: bool = False
    precision: Literal["auto", "bf16", "fp16", "fp32"] = Field("auto", description="auto: bf16 where it is fast")
    optimizer: Literal["adamw_torch", "adamw_8bit", "paged_adamw_32bit"] = Field(
        "adamw_torch", description="adamw_torch where there is no CUDA"
    )
    batch_size: int = Field(4, ge=1, description="records a step on one device")
    gradient_accumulation: int = Field(1, ge=1)
    epochs: float = Field(3, gt=0)
    max_steps: int = Field(-1, ge=-1, description="-1: as many as the epochs need")
    learning_rate: float = Field(1e-4, gt=0)
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_steps: int = Field(0, ge=0)
    weight_decay: float = Field(0.0, ge=0)
    max_length: int = Field(1024, ge=16, description="tokens; longer records are refused, not cut")
    drop_longer: bool = Field(False, description="leave longer records out instead, and say how many")
    gradient_checkpointing: bool = False
    log_every: int = Field(10, ge=1, description="steps")
    save_every: int = Field(100, ge=1, description="steps between checkpoints")
    keep: int = Field(2, ge=1, description="checkpoints kept, the best among them")
    seed: int = 42
    tracker: Tracker = "none"

    def contradictions(self) -> Iterator[str]:
        """Pairs of settings that cannot both be meant."""
        yield from self._not_with(f"method={self.method}", *unused(self.method))
        if 0 < self.max_steps <= self.warmup_steps:
            yield f"warmup_steps={self.warmup_steps} and max_steps={self.max_steps}: the warm-up would never end"
        if self.max_steps == 0:
            yield "max_steps=0: -1 for as many as the epochs need"

    def _not_with(self, other: str, *names: str) -> Iterator[str]:
        """A complaint for each setting that was changed though `other` gives it no meaning."""
        for name in names:
            value = getattr(self, name, None)
            if name in type(self).model_fields and value != type(self).model_fields[name].default:
                yield f"{other} and {name}={value}: leave out one"

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        if found := list(self.contradictions()):
            raise ValueError("; ".join(found))
        return self


S = TypeVar("S", bound=BaseModel)


class SftSettings(Training):
    """Settings of supervised fine-tuning."""

    validation_share: float = Field(0.05, ge=0, lt=0.5, description="of the training records, for the best checkpoint")
    eval_every: int | None = Field(None, ge=1, description="steps; none: when a checkpoint is saved")
    best_metric: Literal["loss", "accuracy"] = Field("loss", description="on validation; accuracy is next-token")
    scales: list[float] = Field([1.0], description="factors of the adapter's update; the best on validation is taken")
    start_from: str = Field("", description="adapter to go on from: NAME, NAME@vN, a run or a folder; new if empty")
    special_tokens: list[str] = Field([], description="new tokens; the embeddings are resized")
    eos_token: str = Field("", description="which of the new tokens ends an answer")
    packing: bool = Field(True, description="one row a batch, shared beginnings written once, where the device can")

    def contradictions(self) -> Iterator[str]:
        """Pairs of settings that cannot both be meant."""
        yield from super().contradictions()
        if not self.validation_share:
            yield from self._not_with("validation_share=0", "scales", "best_metric", "eval_every")
        if self.eval_every and self.save_every % self.eval_every:
            yield f"save_every={self.save_every} and eval_every={self.eval_every}: not a multiple of it"
        if self.eos_token and self.eos_token not in self.special_tokens:
            yield f"eos_token={self.eos_token} and special_tokens={self.special_tokens}: not among them"
        if self.special_tokens and self.method != "full" and "embed_tokens" not in self.target_modules:
            yield f"special_tokens and target_modules={self.target_modules}: new rows need embed_tokens to be trained"

    @property
    def gives_whole_model(self) -> bool:
        """Whether the result is a model: all weights are trained, or embeddings that a LoRA server cannot take."""
        targets = [] if isinstance(self.target_modules, str) else self.target_modules
        trained_words = any(name in ("embed_tokens", "embed_in", "lm_head", "embed_out") for name in targets)
        return self.method == "full" or bool(self.special_tokens) or trained_words


def load_settings(preset: str, overrides: list[str]) -> SftSettings:
    """A preset with `key=value` overrides; what it says for another method than the one wanted is left out.

    Raises:
        SettingsError: every fault at once, each with its field.
    """
    values = preset_values(preset, overrides)
    given = {override.partition("=")[0] for override in overrides}
    left_out = {*unused(str(values.get("method", "lora")))} - given
    return load_as(SftSettings, preset, {name: value for name, value in values.items() if name not in left_out})


def load_as(kind: type[S], preset: str, values: dict[str, Any]) -> S:
    """A preset's values as the settings of a recipe; raises as `load_settings` does."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        lines = [
            ": ".join(filter(None, (preset, ".".join(map(str, e["loc"])), e["msg"].removeprefix("Value error, "))))
            for e in error.errors()
        ]
        raise SettingsError("\n".join(lines), "--set " + " | ".join(kind.model_fields)) from error
