"""The same recipe on every family: train, save, read back; and which of them vLLM serves."""

import ast
import json
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from fixtures_families import make_family
from fixtures_tiny import record
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from personas.adapters import CONFIG_FILE, WEIGHTS_FILE
from personas.bases import Base, prepare_base
from personas.errors import BaseModelError
from personas.home import Home
from tune.evaluate import held_out_scores
from tune.families import FAMILIES, WITHOUT_LORA, refuse_unservable, serves_lora
from tune.model import load
from tune.recipe import Plan, carry_out_sft
from tune.settings import SftSettings, load_settings

RECORDS = [
    record("안녕?", "그래."),
    record("누구?", "토니."),
    record("또?", "응.", "왜?", "그냥."),
    record("밥?", "먹자."),
]
FAST = SftSettings(
    rank=4, alpha=8, batch_size=4, learning_rate=1e-2, schedule="constant", max_steps=10, log_every=1, save_every=10,
    validation_share=0, target_modules="family", precision="fp32",
)  # fmt: skip
# family of the model, template, and the text that its turns are made of
CASES = {
    "llama 3": ("llama", "llama3", "<|start_header_id|>user<|end_header_id|>\n\n"),
    "qwen 2": ("qwen2", "chatml", "<|im_start|>user\n"),
    "mistral": ("mistral", "mistral", "[INST] "),
    "mixtral": ("mixtral", "mistral", "[INST] "),
    "solar": ("llama", "solar", "### User:\n"),
    "polyglot": ("gpt_neox", "korean_qa", "### 질문:\n"),
    "gemma 3": ("gemma3_text", "korean_qa", "### 질문:\n"),
}


def made(
    home: Home, tmp_path: Path, family: str, template: str, settings: SftSettings, **shape: int
) -> tuple[Base, Path, Plan]:
    """`tune sft` on a tiny model of a family: its base, the output folder and the plan."""
    base = prepare_base(f"{make_family(tmp_path / family, family, **shape)}#{template}", home)
    plan = Plan("tiny", base, RECORDS, RECORDS[:2], "너는 토니", settings, home.runs / "tiny-0")
    plan.run.mkdir()
    out = tmp_path / "out"
    scores = carry_out_sft(plan, out)
    assert scores == json.loads((out / "scores.json").read_text())
    assert scores["loss_ratio"] < 0.98
    assert SftSettings.model_validate_json((out / "settings.json").read_bytes()) == settings
    return base, out, plan


def logged(plan: Plan) -> list[float]:
    lines = map(json.loads, (plan.run / "progress.jsonl").read_text().splitlines())
    return [line["loss"] for line in map(dict, lines) if "loss" in line]


def ratio(model: Any, base: Base, untuned: Any = None) -> float:
    """Loss of a model that was read back, over its base's, on the records that it was scored on."""
    tokenizer = AutoTokenizer.from_pretrained(base.path)
    return held_out_scores(model, tokenizer, RECORDS[:2], "너는 토니", untuned)["loss_ratio"]


def score(out: Path) -> float:
    return float(json.loads((out / "scores.json").read_text())["loss_ratio"])


@pytest.mark.parametrize("case", CASES)
def test_lora_trains_and_reads_back(case: str, home: Home, tmp_path: Path) -> None:
    family, template, turn = CASES[case]
    base, out, plan = made(home, tmp_path, family, template, FAST)
    assert turn in AutoTokenizer.from_pretrained(base.path).apply_chat_template(
        [{"role": "user", "content": "?"}], tokenize=False
    )
    config = json.loads((out / CONFIG_FILE).read_text())
    adapted = {name.rpartition(".")[2] for name in config["target_modules"]}
    assert adapted == set(FAMILIES[family].targets)
    fell = logged(plan)
    assert fell[-1] < fell[0]
    plain = AutoModelForCausalLM.from_pretrained(base.path)
    assert ratio(PeftModel.from_pretrained(plain, str(out)), base) == pytest.approx(score(out), abs=1e-3)
    assert all(torch.isfinite(t).all() for t in load_file(out / WEIGHTS_FILE).values())


def test_qlora_trains_a_base_in_four_bits(home: Home, tmp_path: Path) -> None:
    settings = FAST.model_copy(update={"method": "qlora"})
    base, out, plan = made(home, tmp_path, "llama", "llama3", settings, intermediate_size=128)
    model, _ = load(base, settings)
    assert model.model.layers[0].mlp.up_proj.weight.dtype == torch.uint8
    assert model.config.quantization_config.bnb_4bit_quant_type == "nf4"
    assert logged(plan)[-1] < logged(plan)[0]
    assert ratio(PeftModel.from_pretrained(model, str(out)), base) == pytest.approx(score(out), abs=1e-3)


def test_an_evaluation_does_not_stop_a_base_in_four_bits_from_learning(home: Home, tmp_path: Path) -> None:
    width = 96  # no multiple of 64, which bitsandbytes' packing for inference would refuse
    base = prepare_base(f"{make_family(tmp_path / 'llama', 'llama', intermediate_size=width)}#llama3", home)
    changes = {"method": "qlora", "validation_share": 0.25, "save_every": 4, "max_steps": 4}
    losses = []
    for every in (1, 4):
        settings = FAST.model_copy(update={**changes, "eval_every": every})
        plan = Plan("tiny", base, RECORDS, RECORDS[:2], "너는 토니", settings, home.runs / f"every-{every}")
        plan.run.mkdir()
        carry_out_sft(plan, tmp_path / f"out-{every}")
        losses.append(logged(plan))
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_full_fine_tuning_gives_a_model(home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = SftSettings(
        method="full", batch_size=4, learning_rate=5e-3, schedule="constant", max_steps=6, log_every=1,
        validation_share=0, precision="fp32",
    )  # fmt: skip
    base, out, _ = made(home, tmp_path, "llama", "llama3", settings)
    assert f"a whole model (method=full)\n→ serve up --base {out}" in capsys.readouterr().out
    before, after = (AutoModelForCausalLM.from_pretrained(folder) for folder in (base.path, out))
    assert ratio(after, base, before) == pytest.approx(score(out), abs=1e-3)
    assert not torch.equal(before.lm_head.weight, after.lm_head.weight)
    assert prepare_base(str(out), home).template_sha256 == base.template_sha256  # as `serve up --base OUT` does


@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`")
def test_koalpaca_teaches_new_tokens_and_gives_a_model(
    home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = ["rank=4", "alpha=8", "max_steps=6", "warmup_steps=0", "learning_rate=2e-2", "precision=fp32",
               "log_every=1", "batch_size=4", "gradient_accumulation=1", "validation_share=0.25"]  # fmt: skip
    settings = load_settings("koalpaca", changes)
    _, out, plan = made(home, tmp_path, "llama", "special_tokens", settings)
    printed = capsys.readouterr().out
    assert "whole model" in printed
    assert f"serve up --base {out}" in printed
    tokenizer = AutoTokenizer.from_pretrained(out)
    model = AutoModelForCausalLM.from_pretrained(out)
    assert tokenizer.eos_token == "<|endofanswer|>"
    assert len(model.get_input_embeddings().weight) == len(tokenizer)
    assert model.generation_config.eos_token_id == [1, tokenizer.eos_token_id] or (
        tokenizer.eos_token_id in model.generation_config.eos_token_id
    )
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "질문"}, {"role": "assistant", "content": "답"}], tokenize=False
    )
    assert text == "<|prompt|>질문<|assistant|>답<|endofanswer|>"
    assert len(tokenizer("<|prompt|>")["input_ids"]) == 1
    scores = json.loads((out / "scores.json").read_text())
    assert {"validation_loss", "validation_accuracy", "validation_perplexity"} <= scores.keys()
    state = json.loads((plan.run / "checkpoints" / "checkpoint-6" / "trainer_state.json").read_text())
    assert state["best_metric"] is None or 0 <= state["best_metric"] <= 1


def _vllm_models() -> Path:
    spec = find_spec("vllm")
    assert spec
    assert spec.origin
    return Path(spec.origin).parent / "model_executor" / "models"


def _takes_lora(module: str, name: str) -> bool:
    """Whether a class of vLLM's models derives from SupportsLoRA, read from its source: importing takes minutes."""
    if name == "SupportsLoRA":
        return True
    place = _vllm_models() / module.replace(".", "/")
    file = place.with_suffix(".py") if place.with_suffix(".py").is_file() else place / "__init__.py"
    tree = ast.parse(file.read_text())
    bases = {n.name: n.bases for n in tree.body if isinstance(n, ast.ClassDef)}
    if name in bases:
        return any(_takes_lora(module, ast.unparse(base).partition("[")[0]) for base in bases[name])
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and name in [a.asname or a.name for a in node.names]:
            if "interfaces" in (node.module or ""):
                return name == "SupportsLoRA"
            absolute = (node.module or "").removeprefix("vllm.model_executor.models.")
            return _takes_lora(".".join(filter(None, (package, node.module))) if node.level else absolute, name)
    return False


def test_the_table_agrees_with_vllms_classes() -> None:
    tree = ast.parse((_vllm_models() / "registry.py").read_text())
    registered: dict[str, tuple[str, str]] = {}
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) in (
            "_TEXT_GENERATION_MODELS",
            "_TRANSFORMERS_SUPPORTED_MODELS",
        ):
            registered |= ast.literal_eval(node.value)
    own = {arch: place for arch, place in registered.items() if not place[0].startswith("vllm.")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # vLLM's own escapes
        without = {arch for arch, place in own.items() if not _takes_lora(*place)}
    assert without == WITHOUT_LORA
    for architecture in ("Llama", "Qwen2", "Mistral", "Mixtral", "GPTNeoX", "Gemma3", "Solar"):
        assert f"{architecture}ForCausalLM" in registered
        assert serves_lora([f"{architecture}ForCausalLM"])


def test_a_persona_on_a_family_without_lora_is_refused(home: Home, tmp_path: Path) -> None:
    base = prepare_base(str(make_family(tmp_path / "llama", "llama")), home)
    refuse_unservable(base)
    config = base.path / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"architectures": ["GPT2LMHeadModel"]}))
    with pytest.raises(BaseModelError, match="GPT2LMHeadModel") as caught:
        refuse_unservable(base)
    assert "tune merge OUT" in caught.value.hint
