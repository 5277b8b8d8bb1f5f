"""The device that trains: what it multiplies fast, and how much of its memory a run took."""

import resource
from dataclasses import asdict, dataclass
from typing import Any

import psutil
import torch


@dataclass(frozen=True)
class Memory:
    """Bytes: of the whole device, held when training began (the model), and at the peak."""

    device: str
    device_memory: int
    memory_before: int
    memory_peak: int

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def supports_bf16() -> bool:
    """Whether the device multiplies bfloat16 faster than float32: recent GPUs, and CPUs with AVX-512 BF16 or AMX."""
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported())
    return bool(torch.cpu._is_avx512_bf16_supported())


def memory_now() -> int:
    """Bytes that this process holds on the device that trains."""
    if torch.cuda.is_available():
        return int(torch.cuda.memory_reserved())
    return int(psutil.Process().memory_info().rss)


def memory_since(before: int) -> Memory:
    """What the run took, `before` being `memory_now()` at its begin."""
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        return Memory(properties.name, properties.total_memory, before, torch.cuda.max_memory_reserved())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB (getrusage(2))
    return Memory("cpu", psutil.virtual_memory().total, before, peak)
