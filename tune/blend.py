"""Blends models that were tuned on different things: whole models by mergekit, LoRA adapters by PEFT's weighted merge.

Whole models: `slerp` (two models), `dare_ties` and the other methods of mergekit with a base, and `moe`, where each
model becomes an expert. Adapters of one base give an adapter again, so the result is served like any other.
"""

import getpass
import hashlib
import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
import yaml
from pydantic import ValidationError

from personas.adapters import CONFIG_FILE, WEIGHTS_FILE, AdapterStore, Manifest
from personas.bases import Base
from personas.errors import AdapterError
from personas.home import Home
from personas.lang import say
from personas.registry import Registry
from tune.locate import Adapter, base_lineage
from tune.merge import LINEAGE_FILE, MergeError, whole_folder

ModelMethod = Literal["slerp", "dare_ties", "dare_linear", "ties", "linear", "task_arithmetic", "moe"]
AdapterMethod = Literal["svd", "linear", "cat", "ties", "dare_ties", "dare_linear", "ties_svd", "dare_ties_svd"]
_WITH_BASE = ("dare_ties", "dare_linear", "ties", "task_arithmetic")
_WITH_DENSITY = ("ties", "dare_ties", "dare_linear", "ties_svd", "dare_ties_svd")


@dataclass(frozen=True)
class Mix:
    """How much of each, and how."""

    method: str
    weights: list[float]
    density: float = 0.5
    t: float = 0.5
    rank: int | None = None
    seed: int = 0


def model_config(models: list[Path], base: Path | None, mix: Mix) -> dict[str, Any]:
    """mergekit's configuration for a blend of whole models.

    Raises:
        MergeError: the method does not fit what was given; says what is missing.
    """
    if mix.method not in get_args(ModelMethod):
        raise MergeError(f"--method {mix.method}", "--method " + " | ".join(get_args(ModelMethod)))
    if mix.method == "slerp":
        if len(models) != 2:
            raise MergeError(
                say(
                    f"slerp는 모델 둘을 섞습니다 ({len(models)}개 받음)", f"slerp blends two models, not {len(models)}"
                ),
                "--method dare_ties --base MODEL",
            )
        return {
            "merge_method": "slerp",
            "base_model": _reference(models[0]),
            "models": [{"model": _reference(model)} for model in models],
            "parameters": {"t": mix.t},
        }
    if mix.method in _WITH_BASE and base is None:
        raise MergeError(say(f"{mix.method}에는 --base가 필요합니다", f"{mix.method} needs --base"), "--base MODEL")
    entries = []
    for model, weight in zip(models, mix.weights, strict=True):
        parameters = {"weight": weight, **({"density": mix.density} if mix.method in _WITH_DENSITY else {})}
        entries.append({"model": _reference(model), "parameters": parameters})
    config: dict[str, Any] = {"merge_method": mix.method, "models": entries}
    return {**config, "base_model": _reference(base)} if base else config


def moe_config(experts: list[tuple[Path, list[str]]], base: Path, gate: str, per_token: int) -> dict[str, Any]:
    """mergekit-moe's configuration: each expert with prompts of its field."""
    return {
        "base_model": _reference(base),
        "gate_mode": gate,
        "experts_per_token": per_token,
        "experts": [{"source_model": _reference(model), "positive_prompts": prompts} for model, prompts in experts],
    }


def _reference(model: Path) -> dict[str, Any]:
    """mergekit's reference to a folder, spelt out: it reads `@` and `+` in a plain path as revision and adapter."""
    return {"model": {"path": str(model)}}


def read_config(file: Path) -> dict[str, Any]:
    """A mergekit or mergekit-moe configuration from YAML, as people share them.

    Raises:
        MergeError: unreadable, or neither of the two.
    """
    try:
        config = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise MergeError(f"{file}: {error}") from error
    if not isinstance(config, dict) or not {"merge_method", "experts"} & config.keys():
        raise MergeError(f"{file}: merge_method | experts", "https://github.com/arcee-ai/mergekit")
    return config


@contextmanager
def _mergekit_errors() -> Iterator[None]:
    """mergekit says why in its log and exits, or raises; either becomes our error."""
    said: list[str] = []
    handler = logging.Handler(logging.ERROR)
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger().addHandler(handler)
    try:
        yield
    except SystemExit as error:
        raise MergeError("mergekit: " + (said[0] if said else str(error.code))) from error
    except ValidationError as error:
        faults = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
        raise MergeError("mergekit: " + "\n".join(faults)) from error
    except (RuntimeError, ValueError, KeyError) as error:
        if isinstance(error, MergeError):
            raise
        raise MergeError(f"mergekit: {str(error).splitlines()[0] if str(error) else type(error).__name__}") from error
    finally:
        logging.getLogger().removeHandler(handler)


def blend_models(
    config: dict[str, Any], out: Path, facts: dict[str, Any], seed: int = 0, report: Callable[[str], None] = print
) -> None:
    """Blend whole models as a mergekit configuration says; the folder appears whole or not at all.

    Args:
        config: mergekit's, or mergekit-moe's where it has `experts`.
        facts: what is kept of the lineage beside the weights.

    Raises:
        MergeError: mergekit refuses, with its reason, or the folder cannot be written.
    """
    with whole_folder(out, 0) as made, _mergekit_errors():
        report(say("섞는 중", "blending"))
        if "experts" in config:
            _run_moe(config, made, seed)
        else:
            _run_merge(config, made, seed)
        _check_loads(made, tidy="experts" in config)
        (made / LINEAGE_FILE).write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _run_merge(config: dict[str, Any], made: Path, seed: int) -> None:
    from mergekit.config import MergeConfiguration
    from mergekit.merge import run_merge
    from mergekit.options import MergeOptions

    options = MergeOptions(random_seed=seed, write_model_card=False, copy_tokenizer=True, lazy_unpickle=True)
    run_merge(MergeConfiguration.model_validate(config), str(made), options)


def _run_moe(config: dict[str, Any], made: Path, seed: int) -> None:
    from mergekit.moe.config import MoEMergeConfig
    from mergekit.options import MergeOptions
    from mergekit.scripts.moe import build

    torch.manual_seed(seed)
    options = MergeOptions(random_seed=seed, write_model_card=False, copy_tokenizer=True)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    build(MoEMergeConfig.model_validate(config), str(made), options, device=device)


@torch.no_grad()
def _check_loads(made: Path, tidy: bool) -> None:
    """Load the blend and run it once: weights that are missing or not finite numbers are found here, not by a user.

    Args:
        tidy: save it again as transformers does. mergekit-moe writes the experts under transformers' own names for
            them, which other engines do not read; saving gives them the names of the family's checkpoints.
    """
    from transformers import AutoModelForCausalLM

    model, info = AutoModelForCausalLM.from_pretrained(made, dtype="auto", output_loading_info=True)
    if missing := sorted(info["missing_keys"]):
        raise MergeError(say("빠진 가중치: ", "weights are missing: ") + ", ".join(missing[:3]))
    logits = model.eval()(input_ids=torch.arange(2, 18)[None]).logits
    if not torch.isfinite(logits).all():
        raise MergeError(say("섞은 모델의 출력이 NaN입니다", "the blend answers with NaN"))
    if tidy:
        for file in made.glob("model*.safetensors*"):
            file.unlink()
        model.config._name_or_path = ""
        model._weight_conversions = None  # what loading noted: nothing to convert; saving looks the family's up again
        model.save_pretrained(made)


def blend_adapters(
    adapters: list[Adapter], base: Base, mix: Mix, out: Path, report: Callable[[str], None] = print
) -> dict[str, Any]:
    """Blend LoRA adapters of one base into one adapter folder.

    Returns:
        The recipe as a manifest keeps it.

    Raises:
        AdapterError: an adapter does not fit the base.
        MergeError: a method that is not known, or that needs adapters of one rank.
    """
    from peft import PeftModel
    from safetensors.torch import load_file, save_file
    from transformers import AutoModelForCausalLM

    if mix.method not in get_args(AdapterMethod):
        raise MergeError(f"--method {mix.method}", "--method " + " | ".join(get_args(AdapterMethod)))
    if any(adapter.has_tokenizer and adapter.config.get("modules_to_save") for adapter in adapters):
        raise MergeError(
            say("modules_to_save가 있는 어댑터는 섞을 수 없습니다", "adapters with modules_to_save cannot be blended"),
            "tune merge, tune blend --method dare_ties",
        )
    model = AutoModelForCausalLM.from_pretrained(base.path, dtype=torch.float32)
    peft: Any = None
    # not named by bare numbers: PEFT would take the `.0.` of a layer's name for adapter "0" and save nothing
    for number, adapter in enumerate(adapters):
        report(say(f"{adapter.name} 올리는 중", f"loading {adapter.name}"))
        try:
            if peft is None:
                peft = PeftModel.from_pretrained(model, str(adapter.folder), adapter_name="from0")
            else:
                peft.load_adapter(str(adapter.folder), adapter_name=f"from{number}")
        except (RuntimeError, ValueError) as error:
            raise AdapterError(f"{adapter.name}: {str(error).splitlines()[-1].strip()}") from error
    torch.manual_seed(mix.seed)
    try:
        peft.add_weighted_adapter(
            [f"from{i}" for i in range(len(adapters))], mix.weights, "blend", combination_type=mix.method,
            svd_rank=mix.rank if "svd" in mix.method else None,
            density=mix.density if mix.method in _WITH_DENSITY else None,
        )  # fmt: skip
    except ValueError as error:
        raise MergeError(str(error), "--method svd") from error
    recipe = {"name": "blend", "method": mix.method, "sources": [a.name for a in adapters], "weights": mix.weights}
    with whole_folder(out, 0) as made:
        peft.save_pretrained(str(made), selected_adapters=["blend"])
        saved = made / "blend"
        half = {key: value.to(torch.float16) for key, value in load_file(saved / WEIGHTS_FILE).items()}
        save_file(half, made / WEIGHTS_FILE, metadata={"format": "pt"})
        config = {**json.loads((saved / CONFIG_FILE).read_text()), "base_model_name_or_path": base.name}
        (made / CONFIG_FILE).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
        for file in (saved / CONFIG_FILE, saved / WEIGHTS_FILE):
            file.unlink()
        (saved / "README.md").unlink(missing_ok=True)
        saved.rmdir()
        (made / "README.md").unlink(missing_ok=True)
        facts = {"kind": "adapter", "recipe": recipe, "base": base_lineage(base)}
        (made / LINEAGE_FILE).write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return {**recipe, "rank": int(config["r"]), **({"density": mix.density} if mix.method in _WITH_DENSITY else {})}


def store_blend(
    folder: Path, persona: str, adapters: list[Adapter], recipe: dict[str, Any], base: Base, home: Home, live: bool
) -> Manifest:
    """Publish a blended adapter as a persona's next version; it answers as the persona only where `live`.

    The data of a blend are its sources' data: records are summed, and the hash is of the sources' hashes.
    """
    known = [adapter.manifest for adapter in adapters if adapter.manifest]
    hashes = [adapter.manifest.data_sha256 if adapter.manifest else adapter.name for adapter in adapters]
    fields = {
        "persona": persona,
        "rank": recipe["rank"],
        "recipe": recipe,
        "data_sha256": hashlib.sha256("\n".join(hashes).encode()).hexdigest(),
        "records": sum(manifest.records for manifest in known),
        "scores": {},
    }
    manifest = AdapterStore(home.adapters).publish(folder, fields, base)
    registry = Registry(home.database)
    registry.add(persona, manifest.version)
    if live:
        registry.promote(persona, manifest.version, who=getpass.getuser(), why="tune blend")
    return manifest
