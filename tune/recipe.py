"""`tune persona` and `tune sft`, top to bottom: data, base, training, evaluation, and what comes of it.

Heavy imports stand where they are needed, so that bad data is reported before torch is loaded. A plan is made first
(data read, base prepared, settings checked against both), so that a detached run fails in front of its user's eyes.
"""

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from personas.adapters import AdapterStore
from personas.bases import Base, prepare_base
from personas.home import Home
from personas.lang import say
from personas.loader import PersonaFolder
from personas.memory import keep_freed_memory
from personas.registry import Registry
from personas.shipped import install_shipped
from tune.data import Record, data_hash, read_held_out, read_records
from tune.families import refuse_unservable
from tune.preset_files import SettingsError
from tune.remember import remembered
from tune.runs import PROMPT_FILE, RUN_FILE
from tune.settings import SftSettings
from tune.start import find_start, fingerprint, keep_start

if TYPE_CHECKING:
    from tune.launch import Launch
    from tune.loop import Outcome
    from tune.sft import Trained


@dataclass(frozen=True)
class Plan:
    """Everything that training needs, checked; `run` is its folder, known by base, data, settings and prompt."""

    name: str
    base: Base
    records: list[Record]
    held_out: list[Record]
    system_prompt: str
    settings: SftSettings
    run: Path


def plan_persona(folder: PersonaFolder, settings: SftSettings, home: Home) -> Plan:
    """What `tune persona` is going to do.

    Raises:
        DataError: bad records, or one longer than `max_length`.
        SettingsError: the result could not be served as this persona.
        BaseModelError: the base is not there or cannot be prepared.
    """
    persona = folder.persona
    _refuse_whole_model(settings, persona.name)
    refuse_rank(settings.rank)
    records = read_records(folder.training_files)
    held_out = read_held_out(folder)
    base = prepare_base(persona.base, home, print)
    refuse_unservable(base)
    install_shipped({persona.name: folder}, AdapterStore(home.adapters), Registry(home.database))
    records = remembered(records, folder, home, taught=True)
    held_out = remembered(held_out, folder, home)
    return _plan(persona.name, base, records, held_out, persona.system_prompt, settings, home)


def plan_sft(
    data: list[Path],
    evaluation: list[Path],
    spec: str,
    system_prompt: str,
    settings: SftSettings,
    out: Path,
    home: Home,
) -> Plan:
    """What `tune sft` is going to do; raises as `plan_persona` does, and where `out` is there already."""
    if out.exists():
        raise SettingsError(say(f"{out}이(가) 이미 있습니다", f"{out} exists"), say("다른 -o로", "choose another -o"))
    records = read_records(data, own_system=True)
    held_out = read_records(evaluation, own_system=True) if evaluation else []
    named = f"{spec}#{settings.template}" if settings.template and "#" not in spec else spec
    return _plan(out.name, prepare_base(named, home, print), records, held_out, system_prompt, settings, home)


def _plan(
    name: str,
    base: Base,
    records: list[Record],
    held_out: list[Record],
    system_prompt: str,
    settings: SftSettings,
    home: Home,
) -> Plan:
    refuse_missing_tracker(settings.tracker)
    from tune.examples import refuse_unfit

    refuse_unfit(base, records, system_prompt, settings)
    start = find_start(settings, base, home)
    if start:  # a manifest tells where a version comes from, never a path of this machine
        settings = settings.model_copy(update={"start_from": start.name})
    parts = [base.fingerprint, data_hash(records), settings.model_dump_json(), system_prompt, fingerprint(start)]
    key = "".join(parts)
    run = home.runs / f"{name}-{hashlib.sha256(key.encode()).hexdigest()[:10]}"
    run.mkdir(exist_ok=True)
    keep_start(start, run)
    (run / "settings.json").write_text(settings.model_dump_json(indent=2))
    return Plan(name, base, records, held_out, system_prompt, settings, run)


def _refuse_whole_model(settings: SftSettings, name: str) -> None:
    if settings.gives_whole_model:
        raise SettingsError(
            say(
                "페르소나는 LoRA 어댑터여야 합니다: method=full과 special_tokens, 학습된 임베딩은 모델 전체를 만듭니다",
                "a persona is a LoRA adapter: method=full, special_tokens and trained embeddings give a whole model",
            ),
            f"tune sft personas/{name}/data/*.jsonl --base BASE -o OUT",
        )
    if settings.template:
        raise SettingsError(
            f"template={settings.template}: "
            + say("persona.yaml의 base에 적습니다", "belongs to base in persona.yaml"),
            f"base: BASE#{settings.template}",
        )


def refuse_rank(rank: int) -> None:
    """Refuse an adapter that the engine would not take."""
    limit = int(os.environ.get("GAMYEON_MAX_LORA_RANK", "16"))  # the gateway's setting and its default
    if rank > limit:
        raise SettingsError(
            say(
                f"rank={rank}은(는) 엔진의 한도 GAMYEON_MAX_LORA_RANK={limit}보다 큽니다",
                f"rank={rank} is above the engine's limit, GAMYEON_MAX_LORA_RANK={limit}",
            ),
            f"--set rank={limit} | GAMYEON_MAX_LORA_RANK={rank} (tune & serve)",
        )


def refuse_missing_tracker(name: str) -> None:
    """Say what to install where a tracker's package is not there; none is always there."""
    from importlib.util import find_spec

    if name != "none" and find_spec(name) is None:
        raise SettingsError(
            say(f"tracker={name}: 설치되어 있지 않습니다", f"tracker={name} is not installed"), f"uv pip install {name}"
        )


def carry_out_persona(
    folder: PersonaFolder, plan: Plan, home: Home, launch: "Launch | None" = None, *, force: bool = False
) -> "Outcome":
    """Train, score, publish, and let the version live if the gate lets it; goes on where the plan was stopped."""
    trained = _trained(plan, launch)
    from tune.loop import pass_gate
    from tune.publish import publish, round_to_half

    round_to_half(trained.model)
    fields: dict[str, Any] = {
        "persona": plan.name,
        "recipe": {"name": "sft", **plan.settings.model_dump()},
        "data_sha256": data_hash(plan.records),
        "records": len(plan.records),
        "scores": _scores(plan, trained),
    }
    candidate = publish(trained.model, fields, plan.base, home, plan.run)
    return pass_gate(folder, candidate, trained.model, trained.tokenizer, plan.base, home, force=force)


def carry_out_sft(plan: Plan, out: Path, launch: "Launch | None" = None) -> dict[str, float]:
    """Train, score, and write the adapter, or the whole model, to `out` in one step; returns the scores."""
    trained = _trained(plan, launch)
    from tune.results import round_as_written, write_result

    round_as_written(trained.model, plan.base, plan.settings)
    scores = _scores(plan, trained)
    write_result(trained, plan.base, plan.settings, scores, plan.run, out)
    return scores


def _trained(plan: Plan, launch: "Launch | None") -> "Trained":
    count = len(plan.records)
    print(say(f"기록 {count}개로 {plan.name} 튜닝", f"tuning {plan.name} on {count} records"))
    print(f"→ {plan.run}")
    (plan.run / PROMPT_FILE).write_text(plan.system_prompt, encoding="utf-8")
    os.environ["HF_HUB_OFFLINE"] = "1"  # the base is here; nothing may ask a hub from now on
    keep_freed_memory()
    from tune.launch import Launch, train_in

    return train_in(launch or Launch(), plan.base, plan.records, plan.system_prompt, plan.settings, plan.run)


def _scores(plan: Plan, trained: "Trained") -> dict[str, float]:
    """The run's scores, kept in its record."""
    from tune.evaluate import held_out_scores
    from tune.model import load

    scores = {"steps": float(trained.steps), "train_seconds": round(trained.seconds, 1), "scale": trained.scale}
    scores |= trained.validation
    if plan.held_out:
        untuned = load(plan.base)[0] if plan.settings.method == "full" else None
        scores |= held_out_scores(trained.model, trained.tokenizer, plan.held_out, plan.system_prompt, untuned)
    record: dict[str, Any] = {
        "persona": plan.name,
        "base": plan.base.spec,
        "records": len(plan.records),
        "seconds": trained.seconds,
        **trained.memory.as_dict(),
        "scores": scores,
    }
    (plan.run / RUN_FILE).write_text(json.dumps(record, indent=2, ensure_ascii=False))
    return scores
