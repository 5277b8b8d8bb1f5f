"""From a trained adapter to a live version: 16-bit weights, scores, one rename, one move of the alias."""

import getpass
from pathlib import Path

import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

from personas.adapters import WEIGHTS_FILE, AdapterStore, Manifest
from personas.bases import Base
from personas.registry import Registry
from tune.data import Record, data_hash
from tune.settings import SftSettings


def round_to_half(model: PeftModel) -> None:
    """Round the trained values to float16 in place, so that what is evaluated is what is published."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.half().to(parameter.dtype)


def save_half(model: PeftModel, folder: Path) -> None:
    """Save the adapter alone, in float16 safetensors."""
    model.save_pretrained(str(folder))
    file = folder / WEIGHTS_FILE
    save_file({k: v.to(torch.float16) for k, v in load_file(file).items()}, file, metadata={"format": "pt"})


def publish(
    model: PeftModel,
    persona: str,
    records: list[Record],
    settings: SftSettings,
    scores: dict[str, float],
    base: Base,
    store: AdapterStore,
    registry: Registry,
    folder: Path,
) -> Manifest:
    """Publish the adapter as the persona's next version and make it live."""
    save_half(model, folder)
    manifest = store.publish(
        folder,
        {
            "persona": persona,
            "rank": settings.rank,
            "recipe": {"name": "sft", **settings.model_dump()},
            "data_sha256": data_hash(records),
            "records": len(records),
            "scores": scores,
        },
        base,
    )
    registry.add(persona, manifest.version)
    registry.promote(persona, manifest.version, who=getpass.getuser(), why="tune persona")
    return manifest
