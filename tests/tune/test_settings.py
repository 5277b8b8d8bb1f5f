import pytest

from personas.schema import EMBEDDED_BASE
from tune.settings import PRESETS, SettingsError, SftSettings, default_preset, load_settings, preset_names


@pytest.mark.parametrize("preset", preset_names())
def test_preset_is_valid_and_says_how_to_run_it(preset: str) -> None:
    load_settings(preset, [])
    header = (PRESETS / f"{preset}.yaml").read_text(encoding="utf-8").splitlines()
    assert header[0].startswith("# tune persona")
    assert header[0].endswith(f"--preset {preset}")
    assert header[1].startswith("# Source: ")


def test_persona_preset_is_the_specified_recipe() -> None:
    settings = load_settings("persona", [])
    assert (settings.epochs, settings.learning_rate, settings.schedule) == (10, 1e-4, "cosine")
    assert settings.batch_size * settings.gradient_accumulation == 16


@pytest.mark.parametrize(("base", "preset"), [(EMBEDDED_BASE, "embedded"), ("org/name", "persona"), ("/x", "persona")])
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
        ("max_steps=5", "max_steps", 5),
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
    ],
)
def test_bad_override_is_refused(override: str, named: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings("embedded", [override])
    assert named in caught.value.message


def test_all_faults_at_once() -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings("embedded", ["rank=0", "rnak=8", "epochs=-1"])
    fields = [line.split(": ")[1] for line in caught.value.message.splitlines()]
    assert sorted(fields) == ["epochs", "rank", "rnak"]
    assert "learning_rate" in caught.value.hint


def test_every_field_has_a_valid_default() -> None:
    assert SftSettings.model_validate(SftSettings().model_dump()) == SftSettings()
