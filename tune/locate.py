"""Finds what a command line names: a stored version, a persona's live version, a run, a checkpoint, a PEFT folder."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from personas.adapters import (
    CONFIG_FILE,
    AdapterStore,
    Manifest,
    base_differences,
    check_base,
    check_weights,
    parse_version_id,
    read_manifest,
    verify_files,
    version_id,
)
from personas.bases import EMBEDDED, EMBEDDED_NAME, RECORD_FILE, Base, describe, prepare_base
from personas.errors import AdapterError, BaseModelError
from personas.files import sha256_of
from personas.home import Home
from personas.lang import say
from personas.registry import Registry
from personas.schema import is_name
from tune.runs import PROMPT_FILE, exact_run, find_run, persona_of_run, read_json

STATE_FILE = "trainer_state.json"
TOKENIZER_FILE = "tokenizer_config.json"


@dataclass(frozen=True)
class Adapter:
    """An adapter folder, and what is known of where it came from."""

    name: str
    folder: Path
    manifest: Manifest | None = None
    run: Path | None = None
    persona: str = ""

    @property
    def config(self) -> dict[str, Any]:
        """PEFT's settings of it."""
        return dict(json.loads((self.folder / CONFIG_FILE).read_text()))

    @property
    def system_prompt(self) -> str | None:
        """The system prompt that it was trained with; None where that was not kept."""
        return kept_prompt(self.folder, *([self.run] if self.run else []))

    @property
    def has_tokenizer(self) -> bool:
        return (self.folder / TOKENIZER_FILE).is_file()


def find_adapter(text: str, home: Home, checkpoint: int | None = None) -> Adapter:
    """What `text` names: `ironman@v1`, `ironman` (the live version), a run, a checkpoint, a PEFT folder.

    A run goes by its name, its folder, or the name that it was made for: the last one of a persona without a live
    version, or of an output folder that is not there (any more).

    Args:
        checkpoint: the step of a run's checkpoint; the run's finished adapter, or else its best checkpoint, if None.

    Raises:
        AdapterError: nothing of that name, no such checkpoint, or not a whole LoRA adapter in safetensors.
    """
    run = exact_run(text, home) if checkpoint is None else find_run(text, home)
    if checkpoint is not None and run is None:
        raise AdapterError(say(f"{text}은(는) 실행이 아닙니다", f"{text} is not a run"), "tune runs")
    if run is not None:
        found = _of_run(run, checkpoint)
    elif parse_version_id(text) is not None:
        found = _stored(text, home)
    elif is_name(text) and (live := Registry(home.database).live(text)) is not None:
        found = _stored(version_id(text, live), home)
    elif not Path(text).expanduser().is_dir() and (run := find_run(text, home)) is not None:
        found = _of_run(run, None)
    else:
        found = _of_folder(Path(text).expanduser())
    check_weights(found.folder)
    if found.manifest is not None:
        verify_files(found.folder, found.manifest)
    return found


def kept_prompt(*folders: Path) -> str | None:
    """The system prompt that training left in the first of these folders that has one, or None."""
    files = (folder / PROMPT_FILE for folder in folders)
    return next((file.read_text(encoding="utf-8") for file in files if file.is_file()), None)


def checkpoints(run: Path) -> dict[int, Path]:
    """A run's whole checkpoints by step, oldest first."""
    found = {int(p.name.rpartition("-")[2]): p for p in (run / "checkpoints").glob("checkpoint-[0-9]*")}
    return {step: found[step] for step in sorted(found) if (found[step] / STATE_FILE).is_file()}


def _of_run(run: Path, checkpoint: int | None) -> Adapter:
    saved = checkpoints(run)
    if checkpoint is None and (run / "adapter" / CONFIG_FILE).is_file():
        folder = run / "adapter"
    elif checkpoint is None and saved:
        newest = saved[max(saved)]
        best = Path(read_json(newest / STATE_FILE).get("best_model_checkpoint") or newest)
        folder = next((p for p in saved.values() if p.name == best.name), newest)
    elif checkpoint in saved:
        folder = saved[checkpoint]
    else:
        steps = ", ".join(map(str, saved)) or say("없음", "none")
        raise AdapterError(
            say(f"{run.name}: 체크포인트가 없습니다 (있는 것: {steps})", f"{run.name}: no such checkpoint ({steps})"),
            f"--checkpoint {max(saved)}" if saved else "tune persona",
        )
    return Adapter(f"{run.name}/{folder.name}", folder, None, run, persona_of_run(run))


def _stored(name: str, home: Home) -> Adapter:
    parsed = parse_version_id(name)
    assert parsed is not None
    folder = AdapterStore(home.adapters).existing(*parsed)
    return Adapter(name, folder, read_manifest(folder), None, parsed[0])


def _of_folder(folder: Path) -> Adapter:
    if not folder.is_dir():
        raise AdapterError(
            say(
                f"'{folder}'은(는) 버전도, 페르소나도, 실행도, 폴더도 아닙니다",
                f"'{folder}' is no version, no persona with a live version, no run and no folder",
            ),
            "personas ls",
        )
    folder = folder.resolve()
    has_manifest = (folder / "manifest.json").is_file()
    manifest = read_manifest(folder) if has_manifest else None
    in_run = folder.parent.name == "checkpoints"
    run = folder.parent.parent if in_run else None
    persona = manifest.persona if manifest else persona_of_run(run) if run else ""
    return Adapter(f"{run.name}/{folder.name}" if run else folder.name, folder, manifest, run, persona)


def base_of(adapter: Adapter, home: Home, spec: str = "", report: Callable[[str], None] = print) -> Base:
    """The prepared base of an adapter, or the one that `spec` names.

    Raises:
        AdapterError: its manifest names another base than this one; says what differs.
        BaseModelError: the base is not here and cannot be made ready.
    """
    if not spec:
        base = _named_base(adapter, home, report)
    else:
        base, named = prepare_base(spec, home, report), _prepared(adapter, home)
        if adapter.manifest is None and named is not None and (differs := base_differences(describe(named), base)):
            raise AdapterError(
                say(
                    f"{adapter.name}은(는) 다른 베이스로 튜닝되었습니다: ",
                    f"{adapter.name} was trained on another base: ",
                )
                + differs,
                say("--base 없이", "leave out --base"),
            )
    if adapter.manifest is not None:
        check_base(adapter.manifest, base)
    return base


def _prepared(adapter: Adapter, home: Home) -> Base | None:
    """The prepared base that `adapter_config.json` names by name, path or hub id; None where it is not here."""
    name = str(adapter.config.get("base_model_name_or_path") or "")
    for folder in (home.models / name.replace("/", "--"), Path(name), home.models / Path(name).name):
        if name and (folder / RECORD_FILE).is_file():
            return Base(**json.loads((folder / RECORD_FILE).read_text()), path=folder)
    return None


def _named_base(adapter: Adapter, home: Home, report: Callable[[str], None]) -> Base:
    """The base that an adapter was made for, made ready now if it can be."""
    if found := _prepared(adapter, home):
        return found
    name = str(adapter.config.get("base_model_name_or_path") or "")
    if Path(name).name == EMBEDDED_NAME:
        return prepare_base(EMBEDDED + EMBEDDED_NAME, home, report)
    if not name or (Path(name).is_absolute() and not Path(name).is_dir()):
        raise BaseModelError(
            say(f"{adapter.name}의 베이스가 여기 없습니다: {name}", f"the base of {adapter.name} is not here: {name}"),
            "--base embedded:NAME | FOLDER | org/name",
        )
    return prepare_base(name, home, report)


def lineage(adapter: Adapter, base: Base) -> dict[str, Any]:
    """Where a model made from an adapter comes from; names and hashes, never a path of this machine."""
    known = adapter.manifest
    return {
        "adapter": adapter.name,
        "adapter_sha256": sha256_of(adapter.folder / "adapter_model.safetensors"),
        "persona": adapter.persona,
        "rank": adapter.config.get("r"),
        "base": base_lineage(base),
        "recipe": known.recipe if known else read_json((adapter.run or adapter.folder) / "settings.json"),
        "records": known.records if known else None,
        "data_sha256": known.data_sha256 if known else None,
        "scores": known.scores if known else {},
    }


def base_lineage(base: Base) -> dict[str, str]:
    """A base's public name and hashes: a hub id or `embedded:NAME` as it is, a local folder by its name alone."""
    spec = base.name if Path(base.spec).expanduser().is_absolute() or Path(base.spec).is_dir() else base.spec
    return {
        "spec": spec,
        "name": base.name,
        "weights_sha256": base.weights_sha256,
        "template_sha256": base.template_sha256,
        "tokenizer_sha256": base.tokenizer_sha256,
    }
