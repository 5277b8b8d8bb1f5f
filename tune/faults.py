"""What can go wrong in the middle of a training, as errors that say which setting to change."""

import errno
import math
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import TrainerCallback

from personas.errors import GamyeonError
from personas.lang import say
from tune.preference_settings import PreferenceSettings
from tune.settings import Training

# What safetensors (Rust's I/O error) and torch's zip writer say of a disk that is full; neither keeps errno.
_DISK_SIGNS = ("No space left", "File too large", "Disk quota", "PytorchStreamWriter failed", "unexpected pos")

_Settings = Training | PreferenceSettings


class TrainingError(GamyeonError):
    """Training cannot go on with these settings."""


class StopAtNan(TrainerCallback):  # type: ignore[misc]
    """Ends a run whose loss is no number any more; checkpoints from before stay."""

    def __init__(self, settings: _Settings) -> None:
        self._settings = settings

    def on_log(self, _args: Any, state: Any, _control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        for name in ("loss", "grad_norm"):
            if not math.isfinite(float((logs or {}).get(name, 0.0))):
                raise TrainingError(
                    say(
                        f"{state.global_step}걸음에서 {name}이(가) 발산했습니다",
                        f"{name} diverged at step {state.global_step}",
                    ),
                    f"--set learning_rate={self._settings.learning_rate / 10:g}",
                )


@contextmanager
def memory_explained(settings: _Settings) -> Iterator[None]:
    """Turn running out of memory, on a GPU or a CPU, into an error that names the settings that save some."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not _is_memory(error):
            raise
        smaller = max(1, settings.batch_size // 2)
        accumulation = settings.gradient_accumulation * settings.batch_size // smaller
        hint = f"--set batch_size={smaller} --set gradient_accumulation={accumulation}"
        if smaller == settings.batch_size:
            hint = f"--set gradient_checkpointing=true --set max_length={settings.max_length // 2}"
        raise TrainingError(say("메모리가 모자랍니다", "out of memory"), hint) from error


@contextmanager
def disk_explained(folder: Path) -> Iterator[None]:
    """Turn a checkpoint that could not be written into an error; checkpoints from before are whole and stay."""
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        if not (full or any(sign in str(error) for sign in _DISK_SIGNS)):
            raise
        free = shutil.disk_usage(folder).free / 1e9
        raise TrainingError(
            say(
                f"체크포인트를 쓸 수 없습니다 ({folder}, 남은 공간 {free:.1f} GB); 전 체크포인트는 그대로 있습니다",
                f"cannot write a checkpoint ({folder}, {free:.1f} GB free); earlier checkpoints are whole",
            ),
            say("자리를 비우고 같은 명령을 다시, 또는 --set keep=1", "make room and run it again, or --set keep=1"),
        ) from error


def _is_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "not enough memory" in str(error) or "t allocate" in str(error)
