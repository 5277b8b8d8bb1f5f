"""Speed and memory of supervised fine-tuning: ours, TRL's trainer with its defaults, and LLaMA-Factory.

    python bench/training.py [--records 96] [--rounds 2] [--llamafactory PYTHON]

Each contender trains the same LoRA (rank 16, all linear layers), batches of 8 of the same Iron Man records, the records
once through, in a process of its own, in turns. JSON lines: samples/s, peak memory, and the loss a token on held-out
replies after training, which must agree within 1 %.
"""

import argparse
import json
import multiprocessing
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import emit, machine

BATCH = 8
RATE = 1e-4


def train_ours(base: Any, records: list[Any], system_prompt: str, folder: Path) -> tuple[Any, Any]:
    from personas.memory import keep_freed_memory
    from tune.settings import SftSettings
    from tune.sft import train

    keep_freed_memory()
    settings = SftSettings(
        batch_size=BATCH, epochs=1, learning_rate=RATE, alpha=32, max_length=512, validation_share=0, save_every=10**6
    )
    trained = train(base, records, system_prompt, settings, folder)
    return trained.model, trained.seconds


def train_trl(base: Any, records: list[Any], system_prompt: str, folder: Path) -> tuple[Any, Any]:
    from datasets import Dataset
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer

    trainer = SFTTrainer(
        model=str(base.path),
        args=SFTConfig(
            output_dir=str(folder),
            per_device_train_batch_size=BATCH,
            num_train_epochs=1,
            learning_rate=RATE,
            lr_scheduler_type="cosine",
            assistant_only_loss=True,
            use_cpu=True,
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
        ),
        train_dataset=Dataset.from_list([{"messages": r.conversation(system_prompt)} for r in records]),
        peft_config=LoraConfig(task_type="CAUSAL_LM", r=16, lora_alpha=32, target_modules="all-linear"),
    )
    return trainer.model, trainer.train().metrics["train_runtime"]


def train_llamafactory(base: Any, records: list[Any], system_prompt: str, folder: Path) -> tuple[Any, Any]:
    """LLaMA-Factory's own command line in its own environment; its adapter is then loaded here."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    data = [{"messages": r.conversation(system_prompt)} for r in records]
    (folder / "iron.json").write_text(json.dumps(data, ensure_ascii=False))
    tags = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
    info = {"file_name": "iron.json", "formatting": "sharegpt", "columns": {"messages": "messages"}}
    (folder / "dataset_info.json").write_text(json.dumps({"iron": {**info, "tags": {**tags, "system_tag": "system"}}}))
    options: dict[str, Any] = {
        "model_name_or_path": str(base.path), "stage": "sft", "do_train": True, "finetuning_type": "lora",
        "lora_rank": 16, "lora_alpha": 32, "lora_target": "all", "dataset": "iron", "dataset_dir": str(folder),
        "output_dir": str(folder / "out"), "per_device_train_batch_size": BATCH, "num_train_epochs": 1,
        "gradient_accumulation_steps": 1, "learning_rate": RATE, "lr_scheduler_type": "cosine", "cutoff_len": 512,
        "bf16": True, "use_cpu": True, "report_to": "none", "save_strategy": "no", "overwrite_cache": True,
        "preprocessing_num_workers": 1, "dataloader_num_workers": 0,
    }  # fmt: skip
    (folder / "run.yaml").write_text(json.dumps(options))  # 0.9.5 cannot read a file that ends in .json
    command = [os.environ["LLAMAFACTORY_PYTHON"], "-m", "llamafactory.cli", "train", str(folder / "run.yaml")]
    clean = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    made = subprocess.run(command, env={**clean, "DISABLE_VERSION_CHECK": "1"}, capture_output=True, text=True)
    if made.returncode:
        raise SystemExit(made.stderr[-2000:])
    seconds = json.loads((folder / "out" / "train_results.json").read_text())["train_runtime"]
    return PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base.path), folder / "out"), seconds


TRAINERS = {"ours": train_ours, "trl": train_trl, "llamafactory": train_llamafactory}


def prepare() -> None:
    """Prepare the base in a process of its own, so that no contender's peak holds it."""
    from personas.bases import prepare_base
    from personas.home import Home
    from personas.loader import find_persona

    prepare_base(find_persona("ironman").persona.base, Home.from_env())


def run_one(name: str, count: int) -> None:
    """In a process of its own: train, then score on held-out replies in float32."""
    import torch
    from transformers import AutoTokenizer

    from personas.bases import prepare_base
    from personas.home import Home
    from personas.loader import find_persona
    from tune.data import read_records
    from tune.evaluate import reply_losses

    folder = find_persona("ironman")
    base = prepare_base(folder.persona.base, Home.from_env())
    records = read_records(folder.data_files)
    every = len(records) // count
    with tempfile.TemporaryDirectory() as scratch:
        model, seconds = TRAINERS[name](base, records[::every][:count], folder.persona.system_prompt, Path(scratch))
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    model.to(torch.float32).eval()
    held_out = read_records([folder.eval_file])[:20]
    tokenizer = AutoTokenizer.from_pretrained(base.path)
    nats, tokens, _ = reply_losses(model, tokenizer, held_out, folder.persona.system_prompt, name)
    print("RESULT", json.dumps({"samples_per_s": count / seconds, "peak_mb": peak / 1024, "loss": nats / tokens}))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--records", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--llamafactory", help="the Python of an environment with llamafactory", default="")
    parser.add_argument("--one", help=argparse.SUPPRESS, default="")
    options = parser.parse_args()
    if options.one:
        run_one(options.one, options.records)
        return
    names = ["ours", "trl"] + (["llamafactory"] if options.llamafactory else [])
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "LLAMAFACTORY_PYTHON": options.llamafactory}
    emit(bench="tune", **machine(), records=options.records, batch=BATCH)
    preparing = multiprocessing.get_context("spawn").Process(target=prepare)
    preparing.start()
    preparing.join()
    results: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for number in range(options.rounds):
        for name in names:
            began = time.perf_counter()
            command = [sys.executable, __file__, "--one", name, "--records", str(options.records)]
            made = subprocess.run(command, env=environment, capture_output=True, text=True)
            line = next((x for x in made.stdout.splitlines() if x.startswith("RESULT ")), None)
            if line is None:
                raise SystemExit(f"{name}: {made.stderr[-3000:]}")
            results[name].append(json.loads(line.removeprefix("RESULT ")))
            emit(round=number, name=name, wall_s=round(time.perf_counter() - began, 1), **results[name][-1])
    medians = {
        name: {key: statistics.median(r[key] for r in rows) for key in rows[0]} for name, rows in results.items()
    }
    for name in names[1:]:
        emit(
            against=name,
            speed_ratio=round(medians["ours"]["samples_per_s"] / medians[name]["samples_per_s"], 2),
            memory_ratio=round(medians["ours"]["peak_mb"] / medians[name]["peak_mb"], 3),
            loss_ratio=round(medians["ours"]["loss"] / medians[name]["loss"], 4),
        )


if __name__ == "__main__":
    main()
