"""`tune persona`, top to bottom: data, base, training, evaluation, publishing.

Heavy imports stand where they are needed, so that bad data is reported before torch is loaded.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from personas.adapters import AdapterStore, Manifest
from personas.bases import Base, prepare_base
from personas.home import Home
from personas.lang import say
from personas.loader import PersonaFolder
from personas.memory import keep_freed_memory
from personas.registry import Registry
from tune.data import Record, data_hash, read_records
from tune.settings import SftSettings

if TYPE_CHECKING:
    from tune.sft import Trained

RUN_FILE = "run.json"


def tune_persona(folder: PersonaFolder, settings: SftSettings, home: Home) -> Manifest:
    """Train a persona on its data, score it on its held-out set, publish it as its next version and make it live.

    A run is known by its base, data, settings and system prompt: the same command goes on where it was stopped.
    """
    persona = folder.persona
    records = read_records(folder.data_files)
    held_out = read_records([folder.eval_file]) if folder.eval_file.is_file() else []
    base = prepare_base(persona.base, home, print)
    run = _run_folder(home, persona.name, base, records, settings, persona.system_prompt)
    print(say(f"기록 {len(records)}개로 {persona.name} 튜닝", f"tuning {persona.name} on {len(records)} records"))
    print(f"→ {run}")
    os.environ["HF_HUB_OFFLINE"] = "1"  # the base is here; nothing may ask a hub from now on

    keep_freed_memory()
    from tune.evaluate import held_out_scores
    from tune.publish import publish, round_to_half
    from tune.sft import train

    trained = train(base, records, persona.system_prompt, settings, run / "checkpoints")
    round_to_half(trained.model)
    scores = {"steps": float(trained.steps), "train_seconds": round(trained.seconds, 1), "scale": trained.scale}
    if held_out:
        scores |= held_out_scores(trained.model, trained.tokenizer, held_out, persona.system_prompt)
    _write_record(run, persona.name, base, len(records), trained, scores)
    store, registry = AdapterStore(home.adapters), Registry(home.database)
    return publish(trained.model, persona.name, records, settings, scores, base, store, registry, run / "adapter")


def _run_folder(
    home: Home, name: str, base: Base, records: list[Record], settings: SftSettings, system_prompt: str
) -> Path:
    key = f"{base.fingerprint}{data_hash(records)}{settings.model_dump_json()}{system_prompt}"
    run = home.runs / f"{name}-{hashlib.sha256(key.encode()).hexdigest()[:10]}"
    run.mkdir(exist_ok=True)
    (run / "settings.json").write_text(settings.model_dump_json(indent=2))
    return run


def _write_record(
    run: Path, persona: str, base: Base, records: int, trained: "Trained", scores: dict[str, float]
) -> None:
    """What `tune report` tells of a run; memory in bytes."""
    record = {
        "persona": persona,
        "base": base.spec,
        "records": records,
        "seconds": trained.seconds,
        **trained.memory.as_dict(),
        "scores": scores,
    }
    (run / RUN_FILE).write_text(json.dumps(record, indent=2, ensure_ascii=False))
