"""One of several training processes, started by `accelerate launch -m tune.worker RUN` (tune/launch.py)."""

import json
import sys
from dataclasses import asdict
from pathlib import Path

from personas.bases import Base
from personas.console import hush_bitsandbytes
from personas.errors import GamyeonError
from personas.memory import keep_freed_memory


def work(run: Path) -> None:
    """Train with the other processes and save together."""
    from tune.data import Record
    from tune.launch import TRAINED, WORK_FILE
    from tune.runs import Stopped
    from tune.settings import SftSettings
    from tune.sft import fit
    from tune.watch import Watch

    keep_freed_memory()
    told = json.loads((run / WORK_FILE).read_text(encoding="utf-8"))
    base = Base(**{**told["base"], "path": Path(told["base"]["path"])})
    records = [Record.model_validate(record) for record in told["records"]]
    settings = SftSettings.model_validate(told["settings"])
    try:
        trainer, trained = fit(base, records, told["system_prompt"], settings, run / "checkpoints", [Watch(run)])
    except Stopped as error:
        print(error.message)
        return
    trainer.save_model(str(run / TRAINED))
    if trainer.is_world_process_zero():
        facts = {name: getattr(trained, name) for name in ("steps", "seconds", "scale", "validation")}
        facts["memory"] = asdict(trained.memory)
        (run / TRAINED / "trained.json").write_text(json.dumps(facts))


def main() -> None:
    hush_bitsandbytes()
    try:
        work(Path(sys.argv[1]))
    except GamyeonError as error:
        print(f"{error.message}\n→ {error.hint}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
