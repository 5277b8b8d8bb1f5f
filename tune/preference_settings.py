"""The settings of DPO and KTO, light enough to be read before torch is loaded."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tune.preset_files import is_embedded, preset_values
from tune.settings import Tracker, load_as

DpoLoss = Literal["sigmoid", "ipo"]
KtoLoss = Literal["kto", "apo_zero_unpaired"]


class PreferenceSettings(BaseModel):
    """Settings of DPO and KTO; names are PEFT's, TRL's and the Trainer's own. LoRA's are for a base without adapter."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    method: Literal["dpo", "kto"] = "dpo"
    loss: Literal["sigmoid", "ipo", "kto", "apo_zero_unpaired"] = Field("sigmoid", description="TRL's loss_type")
    beta: float = Field(0.1, gt=0, description="how close to the reference it stays; IPO's tau")
    desirable_weight: float = Field(1.0, gt=0, description="KTO: of liked answers")
    undesirable_weight: float = Field(1.0, gt=0, description="KTO: of disliked answers")
    qlora: bool = Field(False, description="the base in nf4")
    compute_dtype: Literal["auto", "bf16", "fp16", "fp32"] = Field("auto", description="of qlora's products")
    rank: int = Field(16, ge=1, le=512)
    alpha: int = Field(16, ge=1)
    dropout: float = Field(0.05, ge=0, lt=1)
    target_modules: str | list[str] = "all-linear"
    batch_size: int = Field(4, ge=1)
    gradient_accumulation: int = Field(1, ge=1)
    epochs: float = Field(3, gt=0)
    max_steps: int = Field(-1, description="-1: as many as the epochs need")
    learning_rate: float = Field(5e-6, gt=0)
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_steps: int = Field(0, ge=0)
    weight_decay: float = Field(0.0, ge=0)
    optimizer: str = Field("adamw_torch", description="on a GPU; adamw_torch on a CPU")
    max_prompt_length: int = Field(1024, ge=8)
    max_length: int = Field(1536, ge=16, description="tokens of prompt and answer together")
    gradient_checkpointing: bool = False
    log_every: int = Field(1, ge=1)
    save_every: int = Field(50, ge=1)
    keep: int = Field(2, ge=1, description="checkpoints")
    tracker: Tracker = "none"
    seed: int = 42

    @model_validator(mode="after")
    def _agree(self) -> "PreferenceSettings":
        own = {"dpo": ("sigmoid", "ipo"), "kto": ("kto", "apo_zero_unpaired")}[self.method]
        if self.loss not in own:
            raise ValueError(f"loss {self.loss} is not one of {self.method}: {', '.join(own)}")
        if self.method == "kto" and self.loss == "kto" and self.batch_size < 2:
            raise ValueError("batch_size must be 2 or more: KTO estimates its KL term within a batch")
        if self.max_prompt_length >= self.max_length:
            raise ValueError("max_prompt_length must be less than max_length")
        return self


def default_preference_preset(base: str) -> str:
    """Small steps for the embedded base, SPEC's DPO preset for any other."""
    return "embedded-dpo" if is_embedded(base) else "dolly-dpo"


def load_preference_settings(preset: str, method: Literal["dpo", "kto"], overrides: list[str]) -> PreferenceSettings:
    """A preset with `key=value` overrides, for DPO or KTO.

    Raises:
        SettingsError: every fault at once, each with its field.
    """
    wanted = [*(["method=kto", "loss=kto"] if method == "kto" else []), *overrides]
    return load_as(PreferenceSettings, preset, preset_values(preset, wanted))
