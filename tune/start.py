"""The adapter that supervised training goes on from; the run keeps a copy, so that it can be resumed by itself."""

import shutil
from pathlib import Path
from typing import Any

from personas.adapters import CONFIG_FILE, WEIGHTS_FILE
from personas.bases import Base
from personas.files import sha256_of, staged
from personas.home import Home
from personas.lang import say
from tune.locate import Adapter, base_of, find_adapter
from tune.preset_files import SettingsError
from tune.settings import SftSettings

_FOLDER = "start"


def find_start(settings: SftSettings, base: Base, home: Home) -> Adapter | None:
    """The adapter that `start_from` names, or None where it names none.

    Raises:
        AdapterError: it is not there, damaged, or was made for another base.
        SettingsError: its rank or alpha is another than the settings'.
    """
    if not settings.start_from:
        return None
    found = find_adapter(settings.start_from, home)
    base_of(found, home, base.spec)
    for name, key in (("rank", "r"), ("alpha", "lora_alpha")):
        wanted, has = getattr(settings, name), found.config.get(key)
        if wanted != has:
            raise SettingsError(
                say(f"{name}={wanted}: {found.name}의 값은 {has}입니다", f"{name}={wanted}: {found.name} has {has}"),
                f"--set {name}={has}",
            )
    return found


def fingerprint(start: Adapter | None) -> str:
    """Hex sha256 of the adapter's weights; empty for a new one."""
    return sha256_of(start.folder / WEIGHTS_FILE) if start else ""


def keep_start(start: Adapter | None, run: Path) -> None:
    """Copy the adapter into the run's folder, once."""
    kept = run / _FOLDER
    if start is None or kept.is_dir():
        return
    with staged(run, _FOLDER) as staging:
        for name in (CONFIG_FILE, WEIGHTS_FILE):
            shutil.copyfile(start.folder / name, staging / name)
        staging.rename(kept)


def start_options(settings: SftSettings, run: Path) -> dict[str, Any] | None:
    """What PEFT loads to go on from the kept adapter, with the recipe's dropout; None for a new one."""
    if not settings.start_from:
        return None
    from peft import LoraConfig

    config = LoraConfig.from_pretrained(str(run / _FOLDER))
    config.lora_dropout = settings.dropout
    return {"model_id": str(run / _FOLDER), "config": config, "is_trainable": True}
