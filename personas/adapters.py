"""The adapter store: immutable folders `<persona>@v<N>`, each with a manifest, verified before it is served.

vLLM's filesystem resolver reads the same folders, so a published version needs no load call. A folder is written
under `.staging` and renamed in one step; it is never changed afterwards.
"""

import json
import re
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from personas.bases import Base, describe
from personas.errors import AdapterError
from personas.files import sha256_of, staged, sync, sync_folder
from personas.lang import say
from personas.schema import NAME

MANIFEST_FILE = "manifest.json"
WEIGHTS_FILE = "adapter_model.safetensors"
CONFIG_FILE = "adapter_config.json"
_FOLDER = re.compile(rf"({NAME})@v([1-9][0-9]{{0,5}})")


class Manifest(BaseModel):
    """What an adapter is: its base, its recipe, its data and its scores."""

    model_config = ConfigDict(extra="forbid")

    persona: str
    version: int = Field(ge=1)
    created: datetime
    base: dict[str, str] = Field(description="name and hashes of the base it was trained on")
    rank: int
    recipe: dict[str, Any]
    data_sha256: str
    records: int
    scores: dict[str, float]
    files: dict[str, str] = Field(description="sha256 by file name")

    @property
    def id(self) -> str:
        return version_id(self.persona, self.version)


def version_id(persona: str, version: int) -> str:
    """The public name of a version: `ironman@v3`."""
    return f"{persona}@v{version}"


def parse_version_id(name: str) -> tuple[str, int] | None:
    """(persona, version) of a public version name, or None if it is not one."""
    match = _FOLDER.fullmatch(name)
    return (match[1], int(match[2])) if match else None


def read_manifest(folder: Path) -> Manifest:
    """The manifest of an adapter folder.

    Raises:
        AdapterError: missing or faulty.
    """
    file = folder / MANIFEST_FILE
    try:
        return Manifest.model_validate_json(file.read_bytes())
    except OSError as error:
        raise AdapterError(f"{file}: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors()[0]
        raise AdapterError(f"{file}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error


class AdapterStore:
    """Published adapters below one folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def folder(self, persona: str, version: int) -> Path:
        return self.root / version_id(persona, version)

    def existing(self, persona: str, version: int) -> Path:
        """A version's folder.

        Raises:
            AdapterError: not in the store; says what is.
        """
        folder = self.folder(persona, version)
        if not folder.is_dir():
            name = folder.name
            stored = ", ".join(version_id(*v) for v in self.versions()) or say("없음", "none")
            raise AdapterError(
                say(f"{name}이(가) 없습니다 (있는 것: {stored})", f"no {name} (stored: {stored})"),
                f"personas versions {persona}",
            )
        return folder

    def versions(self, persona: str | None = None) -> list[tuple[str, int]]:
        """Every whole (persona, version) in the store, in order."""
        found = [parse_version_id(p.name) for p in self.root.iterdir() if (p / MANIFEST_FILE).is_file()]
        return sorted(v for v in found if v and persona in (None, v[0]))

    def publish(self, source: Path, manifest: dict[str, Any], base: Base) -> Manifest:
        """Copy an adapter folder into the store as the persona's next version, in one step.

        Args:
            source: a PEFT folder (`adapter_config.json`, `adapter_model.safetensors`).
            manifest: `Manifest`'s fields except version, created, base and files, which are filled in here.
            base: the prepared base that it was trained on.

        Raises:
            AdapterError: not a LoRA adapter in safetensors, or weights that are not finite numbers.
        """
        check_weights(source)
        with staged(self.root, str(manifest["persona"])) as staging:
            for name in (CONFIG_FILE, WEIGHTS_FILE):
                shutil.copyfile(source / name, staging / name)
            _set_base_name(staging / CONFIG_FILE, base.name)
            files = {name: sha256_of(staging / name) for name in (CONFIG_FILE, WEIGHTS_FILE)}
            made = {"version": 1, "created": datetime.now(UTC), "base": describe(base), "files": files}
            return self._place(staging, Manifest.model_validate({**manifest, **made}))

    def install(self, shipped: Path) -> Manifest | None:
        """Copy a shipped adapter into the store unless the same weights are already there.

        Returns:
            The manifest of the version made, or None where nothing was to be done.
        """
        manifest = read_manifest(shipped)
        verify_files(shipped, manifest)
        if self.find(shipped) is not None:
            return None
        with staged(self.root, manifest.persona) as staging:
            for name in (CONFIG_FILE, WEIGHTS_FILE):
                shutil.copyfile(shipped / name, staging / name)
            return self._place(staging, manifest)

    def find(self, shipped: Path) -> int | None:
        """The version in the store that has a shipped adapter's weights, or None."""
        manifest = read_manifest(shipped)
        weights = manifest.files[WEIGHTS_FILE]
        stored = (read_manifest(self.folder(p, v)) for p, v in self.versions(manifest.persona))
        return next((m.version for m in stored if m.files[WEIGHTS_FILE] == weights), None)

    def _place(self, staging: Path, manifest: Manifest) -> Manifest:
        """Give a staged folder the persona's next version number and rename it into the store."""
        version = max((v for _, v in self.versions(manifest.persona)), default=0)
        while True:
            version += 1
            numbered = manifest.model_copy(update={"version": version})
            (staging / MANIFEST_FILE).write_text(numbered.model_dump_json(indent=2) + "\n")
            sync_folder(staging)
            folder = self.folder(manifest.persona, version)
            try:
                staging.rename(folder)
            except OSError:
                if not folder.exists():
                    raise
                continue  # taken by another process just now, or by a folder that is not ours
            sync(self.root)
            return numbered

    def verify(self, persona: str, version: int, base: Base) -> Manifest:
        """Check that a version is whole and was trained on exactly this base.

        Raises:
            AdapterError: not there, damaged, or trained on another base, template or tokenizer; says what differs.
        """
        folder = self.folder(persona, version)
        manifest = read_manifest(folder)
        verify_files(folder, manifest)
        check_base(manifest, base)
        return manifest


def check_base(manifest: Manifest, base: Base) -> None:
    """Compare the base that an adapter was trained on with this one.

    Raises:
        AdapterError: weights, template or tokenizer differ; says which.
    """
    if differs := base_differences(manifest.base, base):
        raise AdapterError(
            say(
                f"{manifest.id}은(는) 다른 베이스로 튜닝되었습니다: ",
                f"{manifest.id} was trained on another base: ",
            )
            + differs,
            f"tune persona {manifest.persona}",
        )


def base_differences(recorded: dict[str, str], base: Base) -> str:
    """What a base differs in from a record of one, as `name old ≠ new, …`; empty where nothing does."""
    now = describe(base)
    differs = [key for key in now if recorded.get(key) != now[key]]
    return ", ".join(f"{key} {recorded.get(key, '?')[:12]} ≠ {now[key][:12]}" for key in differs)


def verify_files(folder: Path, manifest: Manifest) -> None:
    """Compare an adapter folder's files with the hashes in its manifest.

    Raises:
        AdapterError: a file is missing or changed.
    """
    for name, expected in manifest.files.items():
        file = folder / name
        if not file.is_file() or sha256_of(file) != expected:
            raise AdapterError(
                say(f"{file}: 없거나 내용이 바뀌었습니다", f"{file}: missing or changed since it was published"),
                f"tune persona {manifest.persona}",
            )


def check_weights(folder: Path) -> None:
    """Refuse anything but a LoRA adapter of finite safetensors values.

    Raises:
        AdapterError: says which file and why.
    """
    import torch
    from safetensors import SafetensorError, safe_open

    if not (folder / CONFIG_FILE).is_file():
        raise AdapterError(say(f"{folder}: {CONFIG_FILE}이 없습니다", f"{folder}: no {CONFIG_FILE}"))
    file = folder / WEIGHTS_FILE
    if not file.is_file():
        found = ", ".join(sorted(p.name for p in folder.glob("adapter_model.*"))) or say("없음", "none")
        raise AdapterError(
            say(
                f"{file}이 없습니다 (있는 것: {found}); safetensors만 받습니다",
                f"no {file} (found: {found}); safetensors only",
            )
        )
    try:
        with safe_open(file, framework="pt") as tensors:
            for key in tensors.keys():  # noqa: SIM118 - safe_open is not a mapping
                if not torch.isfinite(tensors.get_tensor(key)).all():
                    raise AdapterError(say(f"{file}: {key}에 NaN이나 Inf가 있습니다", f"{file}: NaN or Inf in {key}"))
    except SafetensorError as error:
        raise AdapterError(f"{file}: {error}") from error


def _set_base_name(config_file: Path, base_name: str) -> None:
    """Write the base's name as vLLM's resolver compares it: character for character with `--model`."""
    try:
        config = json.loads(config_file.read_text())
    except ValueError as error:
        raise AdapterError(f"{config_file}: {error}") from error
    if config.get("peft_type") != "LORA":
        raise AdapterError(f"{config_file}: peft_type {config.get('peft_type')!r}, not 'LORA'")
    config["base_model_name_or_path"] = base_name
    config_file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
