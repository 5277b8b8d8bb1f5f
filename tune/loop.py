"""From preference records to a version that proves itself: DPO or KTO on the live adapter, the gate, the alias."""

import getpass
import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from personas.adapters import AdapterStore, Manifest
from personas.bases import Base, prepare_base
from personas.home import Home
from personas.lang import say
from personas.loader import PersonaFolder
from personas.memory import keep_freed_memory
from personas.registry import Registry
from personas.schema import Persona
from tune.data import DataError, Record, read_held_out
from tune.preference_settings import PreferenceSettings
from tune.recipe import refuse_missing_tracker, refuse_rank
from tune.remember import remembered
from tune.runs import PROMPT_FILE, RUN_FILE

if TYPE_CHECKING:
    from tune.gate import Measured, Verdict
    from tune.preference import Judged, Pair, Preferred


@dataclass(frozen=True)
class Outcome:
    """A published candidate, and whether it went live."""

    manifest: Manifest
    verdict: "Verdict | None"
    live: bool


@dataclass(frozen=True)
class Improvement:
    """Everything that training on preferences needs, checked; `run` is its folder.

    Attributes:
        records: pairs for DPO, judged answers for KTO, as the settings say.
        start: the live version's adapter, or None.
    """

    folder: PersonaFolder
    base: Base
    records: "list[Pair] | list[Judged]"
    start: Path | None
    settings: PreferenceSettings
    run: Path

    @property
    def name(self) -> str:
        return self.folder.persona.name


def plan_improvement(
    folder: PersonaFolder, records: "list[Pair] | list[Judged]", settings: PreferenceSettings, home: Home
) -> Improvement:
    """What `tune dpo`, `kto` and `learn` are going to do, from the live version on.

    Raises:
        DataError: there are no records, or one is longer than the settings allow.
        SettingsError: the tracker is not installed.
        BaseModelError: the base is not there or cannot be prepared.
        AdapterError: the live version is damaged, or was trained on another base.
    """
    persona = folder.persona
    if not records:
        raise DataError(
            say("배울 것이 없습니다", "there is nothing to learn from"),
            say(
                f"serve up --page: 답에 👍 👎를 누르거나 고쳐 쓰기 | tune dpo {persona.name} --data FILE",
                f"serve up --page: rate or correct some answers | tune dpo {persona.name} --data FILE",
            ),
        )
    refuse_rank(settings.rank)
    refuse_missing_tracker(settings.tracker)
    base = prepare_base(persona.base, home, print)
    store, live = AdapterStore(home.adapters), Registry(home.database).live(persona.name)
    if live is not None:
        store.verify(persona.name, live, base)
    start = None if live is None else store.folder(persona.name, live)
    from tune.preference import fingerprint, refuse_longer

    refuse_longer(base, records, persona.system_prompt, settings)
    key = f"{base.fingerprint}{start}{fingerprint(records)}{settings.model_dump_json()}{persona.system_prompt}"
    run = home.runs / f"{persona.name}-{settings.method}-{hashlib.sha256(key.encode()).hexdigest()[:10]}"
    run.mkdir(exist_ok=True)
    (run / "settings.json").write_text(settings.model_dump_json(indent=2))
    (run / PROMPT_FILE).write_text(persona.system_prompt, encoding="utf-8")
    return Improvement(folder, base, records, start, settings, run)


def carry_out(plan: Improvement, home: Home, *, force: bool = False) -> Outcome:
    """Train, publish the candidate, and let it live if the gate lets it; goes on where the plan was stopped.

    Args:
        force: go live whatever the gate says; the history records it.
    """
    os.environ["HF_HUB_OFFLINE"] = "1"  # the base is here; nothing may ask a hub from now on
    keep_freed_memory()
    print(f"→ {plan.run}")
    trained = _train(plan)
    record = {
        "persona": plan.name,
        "base": plan.base.spec,
        "records": len(plan.records),
        "seconds": trained.seconds,
        **trained.memory.as_dict(),
        "scores": trained.scores,
    }
    (plan.run / RUN_FILE).write_text(json.dumps(record, indent=2, ensure_ascii=False))
    candidate = _publish(trained, plan, home)
    return pass_gate(plan.folder, candidate, trained.model, trained.tokenizer, plan.base, home, force=force)


def _train(plan: Improvement) -> "Preferred":
    from tune.watch import Watch

    train: Any
    if plan.settings.method == "dpo":
        from tune.dpo import train_dpo as train
    else:
        from tune.kto import train_kto as train
    prompt, folder = plan.folder.persona.system_prompt, plan.run / "checkpoints"
    trained: Preferred = train(
        plan.base, plan.start, plan.records, prompt, plan.settings, folder, callbacks=[Watch(plan.run)]
    )
    return trained


def _publish(trained: "Preferred", plan: Improvement, home: Home) -> Manifest:
    from tune.preference import fingerprint
    from tune.publish import publish, round_to_half

    round_to_half(trained.model)
    begin = plan.start.name if plan.start else "base"
    fields: dict[str, Any] = {
        "persona": plan.name,
        "recipe": {"name": plan.settings.method, "from": begin, **plan.settings.model_dump()},
        "data_sha256": fingerprint(plan.records),
        "records": len(plan.records),
        "scores": trained.scores,
    }
    return publish(trained.model, fields, plan.base, home, plan.run)


def pass_gate(
    folder: PersonaFolder, candidate: Manifest, model: Any, tokenizer: Any, base: Base, home: Home, *, force: bool
) -> Outcome:
    """Measure a published candidate, `model` being its PEFT model, and make it live if the gate lets it."""
    registry = Registry(home.database)
    held_out = remembered(read_held_out(folder), folder, home)
    if not held_out:
        return settle(registry, candidate, None, force=force)
    from tune.gate import measure

    print(say("관문: 보류 질문에 답하게 합니다…", "gate: answering held-out prompts…"))
    measured = measure(model, tokenizer, held_out, folder.persona)
    found = compare(folder.persona, measured, model, tokenizer, held_out, base, home)
    return settle(registry, candidate, found, force=force)


def compare(
    persona: Persona, measured: "Measured", model: Any, tokenizer: Any, held_out: list[Record], base: Base, home: Home
) -> "Verdict":
    """The gate's word on a candidate that was measured, against the live version, whose adapter `model` is lent for.

    Args:
        persona: with its gate.
        measured: what the candidate showed.
        model: the candidate's PEFT model; the live adapter is loaded beside it where it must be measured.
        tokenizer: of both.
        held_out: the whole held-out set.
        base: the prepared base of both.
        home: the state folder; the live version's figures are kept there.
    """
    from tune.gate import choose, measure_live, verdict
    from tune.judge import share_won

    live = Registry(home.database).live(persona.name)
    if live is None:
        return verdict(measured.figures, None, persona.gate)
    store = AdapterStore(home.adapters)
    store.verify(persona.name, live, base)
    folder = store.folder(persona.name, live)

    def load() -> tuple[Any, Any]:
        if "live" not in model.peft_config:
            model.load_adapter(str(folder), "live")
        model.set_adapter("live")
        return model, tokenizer

    try:
        before = measure_live(folder, home.runs / "gate", held_out, persona, load)
    finally:
        model.set_adapter("default")
    wins = None
    if judge := persona.gate.judge:
        texts = [[text for text, _ in one.answers] for one in (measured, before)]
        chosen = choose(held_out, persona.gate.prompts)
        wins = share_won(judge, persona.system_prompt, chosen, texts[0], texts[1])
    _show(measured, before)
    return verdict(measured.figures, before.figures, persona.gate, wins)


def settle(registry: Registry, candidate: Manifest, found: "Verdict | None", *, force: bool) -> Outcome:
    """Make a candidate live if the gate lets it, or is forced to; else keep it and record why not."""
    who = getpass.getuser()
    recipe = str(candidate.recipe.get("name", "tune"))
    if found is None or found.passed:
        why = f"tune {recipe}: " + ("no held-out set, not measured" if found is None else "passed the gate")
    elif force:
        why = f"tune {recipe} --force, against the gate: {found.reason}"
    else:
        registry.refuse(candidate.persona, candidate.version, who, found.reason)
        return Outcome(candidate, found, live=False)
    registry.promote(candidate.persona, candidate.version, who, why)
    return Outcome(candidate, found, live=True)


def _show(candidate: "Measured", live: "Measured") -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("", say("후보", "candidate"), say("라이브", "live"))
    before = live.figures.scores()
    for name, value in candidate.figures.scores().items():
        table.add_row(name.removeprefix("gate_"), f"{value:g}", f"{before.get(name, float('nan')):g}")
    Console().print(table)


def tell(outcome: Outcome) -> None:
    """Say what became of a candidate."""
    name, persona = outcome.manifest.id, outcome.manifest.persona
    for score, value in outcome.manifest.scores.items():
        print(f"  {score:28} {value:g}")
    if outcome.live:
        print(say(f"✓ {name}이(가) 이제 '{persona}'(으)로 답합니다", f"✓ {name} now answers as '{persona}'"))
        return
    reasons = outcome.verdict.reasons if outcome.verdict else []
    print(say(f"✗ {name}은(는) 남겨 두지만 올리지 않습니다:", f"✗ {name} is kept, but not live:"))
    for reason in reasons:
        print(f"  - {reason}")
    print(say("→ 그래도 올리려면", "→ to make it live all the same") + f": personas promote {name}")
