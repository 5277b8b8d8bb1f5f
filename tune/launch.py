"""Training in several processes: `accelerate launch` of `tune.worker`, whose result is then loaded into this one.

The workers train and save together; scoring, publishing and writing stay in the one process that the user started, so
nothing there has to know of ranks.
"""

import json
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from personas.bases import Base
from personas.lang import say
from tune.data import Record
from tune.faults import TrainingError
from tune.preset_files import SettingsError
from tune.runs import STOP_FILE, Stopped
from tune.settings import SftSettings
from tune.sft import Trained, train
from tune.watch import Watch

CONFIGS = Path(__file__).parent / "accelerate"
WORK_FILE, TRAINED = "work.json", "trained"
SHARDED = ("zero3", "fsdp")


@dataclass(frozen=True)
class Launch:
    """How many processes train, and by which accelerate settings: a shipped name, a file, or '' for the usual."""

    processes: int = 1
    accelerate: str = ""

    def config(self) -> Path:
        """The accelerate file.

        Raises:
            SettingsError: no such file.
        """
        import torch

        name = self.accelerate or ("ddp" if torch.cuda.is_available() else "ddp-cpu")
        for file in (CONFIGS / f"{name}.yaml", Path(name).expanduser()):
            if file.is_file():
                return file
        shipped = "|".join(sorted(file.stem for file in CONFIGS.glob("*.yaml")))
        raise SettingsError(f"--accelerate {name}", f"--accelerate {shipped}|FILE")


def train_in(
    launch: Launch, base: Base, records: list[Record], system_prompt: str, settings: SftSettings, run: Path
) -> Trained:
    """`tune.sft.train` in this process or in several; the result is the same, in memory here.

    Raises:
        TrainingError: a process failed; its own message is above.
        Stopped: the run was asked to stop.
    """
    if launch.processes == 1:
        return train(base, records, system_prompt, settings, run / "checkpoints", [Watch(run)])
    if launch.accelerate in SHARDED and settings.scales != [1.0]:
        raise SettingsError(f"--accelerate {launch.accelerate} and scales={settings.scales}", "--set scales=[1.0]")
    work = {
        "base": asdict(base) | {"path": str(base.path)},
        "records": [record.model_dump() for record in records],
        "system_prompt": system_prompt,
        "settings": settings.model_dump(),
    }
    (run / WORK_FILE).write_text(json.dumps(work, ensure_ascii=False), encoding="utf-8")
    result = run / TRAINED / "trained.json"
    result.unlink(missing_ok=True)
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(launch.config())]
    ended = subprocess.run(
        [*command, "--num_processes", str(launch.processes), "-m", "tune.worker", str(run)], check=False
    )
    if result.is_file():
        return _loaded(base, settings, run / TRAINED, json.loads(result.read_text()))
    if (run / STOP_FILE).exists():
        raise Stopped(say("멈췄습니다", "stopped"), f"tune resume {run.name}")
    raise TrainingError(
        say(
            f"프로세스 하나가 실패했습니다 (코드 {ended.returncode})",
            f"a training process failed (code {ended.returncode})",
        ),
        say("위의 메시지를 보세요", "see its message above"),
    )


def _loaded(base: Base, settings: SftSettings, folder: Path, told: dict[str, Any]) -> Trained:
    """What the workers saved, on one device."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from tune.device import Memory
    from tune.model import add_tokens, load

    memory = Memory(**told.pop("memory"))
    if settings.method == "full":
        tokenizer = load(base, settings)[1]
        model = AutoModelForCausalLM.from_pretrained(folder)
    else:
        plain, tokenizer = load(base, settings)
        add_tokens(plain, tokenizer, settings)
        model = PeftModel.from_pretrained(plain, str(folder), is_trainable=True)
    return Trained(model, tokenizer, memory=memory, **told)
