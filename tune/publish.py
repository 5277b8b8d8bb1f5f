"""From a trained adapter to a version: 16-bit weights, scores, one rename."""

import json
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

from personas.adapters import CONFIG_FILE, WEIGHTS_FILE, AdapterStore, Manifest
from personas.bases import Base
from personas.home import Home
from personas.registry import Registry


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


def publish(model: PeftModel, fields: dict[str, Any], base: Base, home: Home, run: Path) -> Manifest:
    """Publish the adapter as the next version of the persona that `fields` names; what lives stays live.

    Args:
        fields: persona, recipe, data_sha256, records, scores.
        run: the run's folder.
    """
    folder = run / "adapter"
    save_half(model, folder)
    rank = json.loads((folder / CONFIG_FILE).read_text())["r"]
    manifest = AdapterStore(home.adapters).publish(folder, {"rank": rank, **fields}, base)
    Registry(home.database).add(manifest.persona, manifest.version)
    return manifest
