"""Preset files: YAML whose header is the exact command and the source of its values."""

from pathlib import Path
from typing import Any

import yaml

from personas.errors import GamyeonError
from personas.lang import say
from personas.schema import EMBEDDED_BASE

PRESETS = Path(__file__).parent / "presets"


class SettingsError(GamyeonError):
    """A preset or an override is faulty."""


def preset_names(command: str = "") -> list[str]:
    """Names of the shipped presets, of one command (`sft`, `persona`, `dpo`, …) or of all."""
    return sorted(f.stem for f in PRESETS.glob("*.yaml") if command in ("", preset_header(f.stem)[0].split()[1]))


def preset_header(name: str) -> list[str]:
    """The lines of a preset's header: the command, then the source."""
    lines = _file(name).read_text(encoding="utf-8").splitlines()
    return [line.removeprefix("#").strip() for line in lines if line.startswith("#")]


def preset_text(name: str) -> str:
    """A preset's file as it is."""
    return _file(name).read_text(encoding="utf-8")


def default_preset(base: str) -> str:
    """The preset for a base where none is named: small steps for the embedded one, SPEC's persona preset else."""
    return "embedded" if is_embedded(base) else "persona"


def is_embedded(base: str) -> bool:
    """Whether a base is the embedded one, with whatever template (`#TEMPLATE`)."""
    return base.partition("#")[0] == EMBEDDED_BASE


def preset_values(name: str, overrides: list[str]) -> dict[str, Any]:
    """A preset's values with `key=value` overrides, not checked yet.

    Raises:
        SettingsError: no such preset, or an override that cannot be read.
    """
    values: dict[str, Any] = yaml.safe_load(_file(name).read_text(encoding="utf-8"))
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals:
            raise SettingsError(f"--set {override}: KEY=VALUE")
        try:
            values[key] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise SettingsError(f"--set {override}: {error}") from error
    return values


def _file(name: str) -> Path:
    file = PRESETS / f"{name}.yaml"
    if not file.is_file():
        names = "|".join(sorted(f.stem for f in PRESETS.glob("*.yaml")))
        raise SettingsError(say(f"'{name}' 프리셋이 없습니다", f"no preset '{name}'"), f"--preset {names}")
    return file
