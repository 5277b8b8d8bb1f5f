"""What `tune sft` leaves: a LoRA adapter, or a whole model where an adapter would not do, in one folder."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig

from personas.bases import Base
from personas.lang import say
from tune.locate import Adapter
from tune.merge import merge, whole_folder
from tune.publish import round_to_half, save_half
from tune.runs import PROMPT_FILE
from tune.settings import SftSettings
from tune.sft import Trained

_KEPT = ("LICENSE*", "NOTICE*")


def round_as_written(model: Any, base: Base, settings: SftSettings) -> None:
    """Round trained weights to what will be written, so that what is scored is what is there afterwards."""
    if settings.method == "full":
        model.to(AutoConfig.from_pretrained(base.path).dtype or torch.float32)
    elif not settings.gives_whole_model:
        round_to_half(model)


def write_result(
    trained: Trained, base: Base, settings: SftSettings, scores: dict[str, float], run: Path, out: Path
) -> None:
    """Write `out` in one step: weights, `settings.json`, `system_prompt.txt` and `scores.json`.

    All weights trained: the model. New tokens or trained embeddings: the adapter merged into its base, as vLLM's LoRA
    takes no new embedding rows. Else: the adapter, in float16.
    """
    if settings.method == "full":
        with whole_folder(out, _size(trained.model)) as made:
            trained.model.save_pretrained(made)
            trained.tokenizer.save_pretrained(made)
            for pattern in _KEPT:
                for file in base.path.glob(pattern):
                    shutil.copyfile(file, made / file.name)
            _write_facts(made, settings, scores, run)
    elif settings.gives_whole_model:
        folder = run / "adapter"
        trained.model.save_pretrained(str(folder))
        trained.tokenizer.save_pretrained(folder)
        merge(Adapter(run.name, folder, run=run), base, out)
        _write_facts(out, settings, scores, run)
    else:
        save_half(trained.model, run / "adapter")  # what the run's name stands for from now on
        with whole_folder(out, 0) as made:
            shutil.copytree(run / "adapter", made, dirs_exist_ok=True)
            _write_facts(made, settings, scores, run)
    print(_how_to_use(settings, base, out))


def _size(model: Any) -> int:
    return sum(p.numel() * p.element_size() for p in model.parameters())


def _write_facts(folder: Path, settings: SftSettings, scores: dict[str, float], run: Path) -> None:
    shutil.copyfile(run / PROMPT_FILE, folder / PROMPT_FILE)
    (folder / "settings.json").write_text(settings.model_dump_json(indent=2) + "\n")
    (folder / "scores.json").write_text(json.dumps(scores, indent=2) + "\n")


def _how_to_use(settings: SftSettings, base: Base, out: Path) -> str:
    if settings.gives_whole_model:
        why = say("vLLM의 LoRA는 새 임베딩을 받지 않습니다", "vLLM's LoRA takes no trained embeddings")
        reason = "method=full" if settings.method == "full" else why
        return say(f"✓ {out}: 모델 전체", f"✓ {out}: a whole model") + f" ({reason})\n→ serve up --base {out}"
    return f"✓ {out}: LoRA, {base.spec}\n→ tune merge {out} -o {out}-merged"
