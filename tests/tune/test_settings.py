from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from personas.schema import EMBEDDED_BASE
from tune.cli import app
from tune.preset_files import preset_header
from tune.settings import SettingsError, SftSettings, default_preset, load_settings, preset_names

SFT = [*preset_names("persona"), *preset_names("sft")]
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
NEOX = ["query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"]
# SPEC section 2, row by row; the last row gives no values, so those presets are checked for what it does say.
SPECIFIED: dict[str, dict[str, Any]] = {
    "persona": {
        "method": "lora", "target_modules": "all-linear", "batch_size": 4, "gradient_accumulation": 4,
        "schedule": "cosine", "learning_rate": 1e-4, "epochs": 10, "precision": "bf16", "log_every": 10,
        "save_every": 100,
    },
    "safe": {
        "method": "qlora", "rank": 16, "alpha": 16, "dropout": 0, "target_modules": LINEAR,
        "gradient_checkpointing": True, "seed": 3407, "max_length": 2048, "batch_size": 2, "gradient_accumulation": 4,
        "warmup_steps": 5, "max_steps": 60, "learning_rate": 2e-4, "optimizer": "adamw_8bit", "weight_decay": 0.01,
        "schedule": "linear", "log_every": 1, "precision": "auto", "packing": False,
    },
    "dolly": {
        "method": "qlora", "rank": 16, "alpha": 16, "dropout": 0.05, "quantisation": "nf4", "compute_dtype": "fp16",
        "double_quantisation": False, "batch_size": 4, "gradient_accumulation": 4, "gradient_checkpointing": True,
        "learning_rate": 5e-5, "schedule": "cosine", "epochs": 6, "save_every": 5, "log_every": 1,
        "optimizer": "paged_adamw_32bit", "warmup_steps": 100, "precision": "bf16", "keep": 8,
        "target_modules": "family",
    },
    "koalpaca": {
        "special_tokens": ["<|prompt|>", "<|assistant|>", "<|endofanswer|>"], "eos_token": "<|endofanswer|>",
        "template": "special_tokens", "rank": 256, "alpha": 512, "dropout": 0,
        "target_modules": ["embed_tokens", "lm_head", "q_proj", "v_proj"], "max_length": 512, "drop_longer": True,
        "validation_share": 0.01, "seed": 42, "batch_size": 4, "gradient_accumulation": 4, "epochs": 10,
        "weight_decay": 0.1, "warmup_steps": 100, "schedule": "cosine", "learning_rate": 5e-6, "eval_every": 100,
        "save_every": 100, "keep": 5, "best_metric": "accuracy",
    },
    "polyglot-lora": {"method": "lora", "target_modules": NEOX, "template": "korean_qa"},
    "polyglot-full": {"method": "full", "template": "korean_qa"},
    "llama-13b-lora": {"method": "lora", "target_modules": LINEAR},
    "llama2-13b-qlora": {"method": "qlora", "target_modules": LINEAR, "quantisation": "nf4"},
}  # fmt: skip


@pytest.mark.parametrize("preset", SFT)
def test_preset_is_valid_and_says_how_to_run_it(preset: str) -> None:
    load_settings(preset, [])
    command, source = preset_header(preset)[:2]
    assert command.startswith(("tune persona ", "tune sft "))
    assert f"--preset {preset}" in command
    assert source.startswith("Source: ")


@pytest.mark.parametrize("preset", SPECIFIED)
def test_preset_has_the_specified_values(preset: str) -> None:
    found = load_settings(preset, []).model_dump()
    assert {name: found[name] for name in SPECIFIED[preset]} == SPECIFIED[preset]


def test_every_shipped_preset_is_specified_but_the_embedded_one() -> None:
    assert set(SFT) == {*SPECIFIED, "embedded"}


@pytest.mark.parametrize(
    ("base", "preset"),
    [
        (EMBEDDED_BASE, "embedded"),
        (f"{EMBEDDED_BASE}#chatml", "embedded"),
        ("org/name", "persona"),
        ("org/name#solar", "persona"),
        ("/x", "persona"),
    ],
)
def test_default_preset(base: str, preset: str) -> None:
    assert default_preset(base) == preset
    assert preset in preset_names()


@pytest.mark.parametrize(
    ("override", "field", "value"),
    [
        ("rank=8", "rank", 8),
        ("learning_rate=2e-5", "learning_rate", 2e-5),
        ("target_modules=[q_proj, v_proj]", "target_modules", ["q_proj", "v_proj"]),
        ("target_modules=all-linear", "target_modules", "all-linear"),
        ("gradient_checkpointing=true", "gradient_checkpointing", True),
        ("max_steps=50", "max_steps", 50),
    ],
)
def test_override(override: str, field: str, value: object) -> None:
    plain, changed = load_settings("embedded", []).model_dump(), load_settings("embedded", [override]).model_dump()
    assert changed == {**plain, field: value}


def test_last_override_wins() -> None:
    assert load_settings("embedded", ["rank=8", "rank=4"]).rank == 4


def test_unknown_preset_names_those_that_are() -> None:
    with pytest.raises(SettingsError, match="no preset 'none'") as caught:
        load_settings("none", [])
    assert all(name in caught.value.hint for name in preset_names())


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("rnak=8", "rnak"),
        ("rank=0", "rank"),
        ("rank=many", "rank"),
        ("rank=", "rank"),
        ("rank", "--set rank: KEY=VALUE"),
        ("=8", ""),
        ("schedule=square", "schedule"),
        ("validation_share=0.7", "validation_share"),
        ("target_modules=[q_proj", "target_modules"),
        ("learning_rate=nan", "learning_rate"),
        ("learning_rate=.inf", "learning_rate"),
        ("method=prefix", "method"),
        ("optimizer=sgd", "optimizer"),
        ("max_steps=0", "max_steps"),
    ],
)
def test_bad_override_is_refused(override: str, named: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings("embedded", [override])
    assert named in caught.value.message


@pytest.mark.parametrize(
    ("preset", "overrides", "fields"),
    [
        ("persona", ["method=full", "rank=8"], ("method=full", "rank=8")),
        ("persona", ["double_quantisation=true"], ("method=lora", "double_quantisation=True")),
        ("persona", ["compute_dtype=bf16"], ("method=lora", "compute_dtype=bf16")),
        ("safe", ["max_steps=5"], ("warmup_steps=5", "max_steps=5")),
        ("persona", ["scales=[0.5, 1.0]", "validation_share=0"], ("validation_share=0", "scales=[0.5, 1.0]")),
        ("koalpaca", ["validation_share=0"], ("validation_share=0", "best_metric=accuracy")),
        ("persona", ["eval_every=30"], ("save_every=100", "eval_every=30")),
        ("persona", ["eos_token=<e>"], ("eos_token=<e>", "special_tokens=[]")),
        ("koalpaca", ["target_modules=all-linear"], ("special_tokens", "target_modules=all-linear")),
        ("polyglot-full", ["scales=[0.5, 1.0]"], ("method=full", "scales=[0.5, 1.0]")),
    ],
)
def test_contradictions_name_both_settings(preset: str, overrides: list[str], fields: tuple[str, str]) -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings(preset, overrides)
    assert all(field in caught.value.message for field in fields)


@pytest.mark.parametrize("preset", SFT)
@pytest.mark.parametrize("method", ["lora", "qlora", "full"])
def test_a_preset_gives_way_to_the_method_that_is_asked_for(preset: str, method: str) -> None:
    assert load_settings(preset, [f"method={method}"]).method == method
    if method == "full":
        with pytest.raises(SettingsError, match=r"method=full and rank=8"):
            load_settings(preset, ["method=full", "rank=8"])


def test_all_faults_at_once() -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings("embedded", ["rank=0", "rnak=8", "epochs=-1"])
    fields = [line.split(": ")[1] for line in caught.value.message.splitlines()]
    assert sorted(fields) == ["epochs", "rank", "rnak"]
    assert "learning_rate" in caught.value.hint


def test_every_field_has_a_valid_default() -> None:
    assert SftSettings.model_validate(SftSettings().model_dump()) == SftSettings()


def test_what_a_recipe_gives() -> None:
    whole = {name for name in SFT if load_settings(name, []).gives_whole_model}
    assert whole == {"koalpaca", "polyglot-full"}


def test_a_persona_says_how_it_is_tuned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "stark"
    folder.mkdir()
    (folder / "persona.yaml").write_text(
        "name: stark\ntitle: a\ndescription: a\ngreeting: a\nsystem_prompt: a\n"
        "tuning: {max_steps: 17, scales: [1.0], save_every: 3}\n"
    )
    monkeypatch.setenv("GAMYEON_PERSONAS", str(tmp_path))
    planned: list[SftSettings] = []
    monkeypatch.setattr("tune.recipe.plan_persona", lambda folder, settings, home: planned.append(settings))
    monkeypatch.setattr("tune.train_cli.start", lambda *_: None)
    for options in ([], ["--set", "save_every=5"], ["--preset", "embedded"]):
        done = CliRunner().invoke(app, ["persona", "stark", *options])
        assert done.exit_code == 0, done.output
    assert [(one.max_steps, one.scales, one.save_every) for one in planned[:2]] == [(17, [1.0], 3), (17, [1.0], 5)]
    assert planned[2] == load_settings("embedded", [])
