"""DPO and KTO on the tiny model: what the reference is, that it is cached, and that preferences are learnt."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from fixtures_tiny import record

from personas.bases import Base, prepare_base
from personas.home import Home
from tune.data import DataError, Turn
from tune.dpo import train_dpo
from tune.kto import train_kto
from tune.preference import Judged, Pair, load_policy, split_ids
from tune.preference_settings import (
    PreferenceSettings,
    default_preference_preset,
    load_preference_settings,
)
from tune.preset_files import preset_names, preset_text
from tune.publish import round_to_half, save_half
from tune.runs import Stopped, progress
from tune.settings import SettingsError, SftSettings
from tune.sft import train
from tune.watch import Watch

SYSTEM = "너는 토니"


def said(*texts: str) -> list[Turn]:
    return [Turn(role=("user", "assistant")[i % 2], content=text) for i, text in enumerate(texts)]  # type: ignore[arg-type]


PAIRS = [
    Pair(messages=said("안녕?"), chosen="그래.", rejected="Hello."),
    Pair(messages=said("누구?"), chosen="토니.", rejected="I am Tony."),
    Pair(messages=said("또?", "응.", "왜?"), chosen="그냥.", rejected="Just so."),
    Pair(messages=said("밥?"), chosen="먹자.", rejected="Let us eat."),
]
JUDGED = [
    judged
    for pair in PAIRS
    for judged in (
        Judged(messages=pair.messages, answer=pair.chosen, good=True),
        Judged(messages=pair.messages, answer=pair.rejected, good=False),
    )
]
DPO = PreferenceSettings(
    rank=4, batch_size=2, epochs=6, learning_rate=5e-3, schedule="constant", dropout=0,
    max_prompt_length=200, max_length=400, save_every=4,
)  # fmt: skip
KTO = DPO.model_copy(update={"method": "kto", "loss": "kto"})


@pytest.fixture(scope="module")
def base(tiny_source: Path, tmp_path_factory: pytest.TempPathFactory) -> Base:
    return prepare_base(str(tiny_source), Home(tmp_path_factory.mktemp("home")))


@pytest.fixture(scope="module")
def adapter(base: Base, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SFT adapter, as a live version is."""
    folder = tmp_path_factory.mktemp("sft")
    settings = SftSettings(rank=4, max_steps=8, learning_rate=1e-2, validation_share=0, save_every=100)
    trained = train(base, [record("안녕?", "그래."), record("밥?", "먹자.")] * 2, SYSTEM, settings, folder / "run")
    round_to_half(trained.model)
    save_half(trained.model, folder / "adapter")
    return folder / "adapter"


def answer_nats(model: Any, tokenizer: Any, pair: Pair, answer: str) -> float:
    prompt, ids = split_ids(pair.messages, answer, tokenizer, SYSTEM)
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1].float()
    return float(-logits.log_softmax(-1).gather(1, torch.tensor(ids)[:, None]).sum())


def test_token_ids_are_those_of_training_and_end_with_the_stop_token(base: Base) -> None:
    _, tokenizer = load_policy(base, None, DPO)
    prompt, ids = split_ids(PAIRS[2].messages, "그냥.", tokenizer, SYSTEM)
    assert tokenizer.decode(ids) == "그냥.</s>"
    asked = [{"role": "system", "content": SYSTEM}, *(turn.model_dump() for turn in PAIRS[2].messages)]
    assert prompt == tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_dict=True)["input_ids"]


@pytest.mark.parametrize("loss", ["sigmoid", "ipo"])
def test_dpo_goes_on_from_the_live_adapter_which_is_its_reference(
    base: Base, adapter: Path, tmp_path: Path, loss: str
) -> None:
    live, tokenizer = load_policy(base, adapter, DPO)
    expected = [-answer_nats(live, tokenizer, pair, pair.chosen) for pair in PAIRS]
    settings = DPO.model_copy(update={"loss": loss, "max_steps": 12})
    made = train_dpo(base, adapter, PAIRS, SYSTEM, settings, tmp_path)
    (file,) = tmp_path.glob("references-*.json")
    references = json.loads(file.read_text())
    assert references["ref_chosen_logps"] == pytest.approx(expected, rel=1e-3)
    assert made.scores["dpo_margins"] > 0
    assert made.scores["dpo_accuracies"] == 1.0
    assert made.scores["steps"] == 12
    assert list(made.model.peft_config) == ["default"]
    before = sum(answer_nats(live, tokenizer, p, p.rejected) - answer_nats(live, tokenizer, p, p.chosen) for p in PAIRS)
    after = sum(
        answer_nats(made.model, tokenizer, p, p.rejected) - answer_nats(made.model, tokenizer, p, p.chosen)
        for p in PAIRS
    )
    assert after > before


def test_references_are_computed_once_and_a_stopped_run_goes_on(
    base: Base, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train_dpo(base, adapter, PAIRS, SYSTEM, DPO.model_copy(update={"max_steps": 8}), tmp_path / "whole")
    train_dpo(base, adapter, PAIRS, SYSTEM, DPO.model_copy(update={"max_steps": 4}), tmp_path / "parts")

    def refuse(*_: Any) -> None:
        raise AssertionError("computed again")

    monkeypatch.setattr("trl.DPOTrainer.compute_ref_log_probs", refuse)
    parts = train_dpo(base, adapter, PAIRS, SYSTEM, DPO.model_copy(update={"max_steps": 8}), tmp_path / "parts")
    assert parts.scores["steps"] == 8
    assert parts.scores["dpo_margins"] == pytest.approx(whole.scores["dpo_margins"], abs=0.02)


def test_a_run_that_is_asked_to_stop_leaves_a_checkpoint_and_goes_on(base: Base, tmp_path: Path) -> None:
    settings, folder = DPO.model_copy(update={"max_steps": 3}), tmp_path / "checkpoints"
    (tmp_path / "stop").touch()
    with pytest.raises(Stopped, match="stopped at step 1 of 3"):
        train_dpo(base, None, PAIRS, SYSTEM, settings, folder, [Watch(tmp_path)])
    assert (folder / "checkpoint-1" / "trainer_state.json").is_file()
    (tmp_path / "stop").unlink()
    made = train_dpo(base, None, PAIRS, SYSTEM, settings, folder, [Watch(tmp_path)])
    assert progress(tmp_path)["step"] == made.scores["steps"] == 3
    assert made.seconds > 0
    assert made.memory.memory_peak > 0


def test_dpo_on_a_bare_base_makes_a_new_adapter(base: Base, tmp_path: Path) -> None:
    made = train_dpo(base, None, PAIRS, SYSTEM, DPO.model_copy(update={"max_steps": 6}), tmp_path)
    assert made.scores["dpo_margins"] > 0


@pytest.mark.parametrize("loss", ["kto", "apo_zero_unpaired"])
def test_kto_learns_from_single_thumbs(base: Base, adapter: Path, tmp_path: Path, loss: str) -> None:
    live, tokenizer = load_policy(base, adapter, KTO)
    settings = KTO.model_copy(update={"loss": loss, "max_steps": 16})
    made = train_kto(base, adapter, JUDGED, SYSTEM, settings, tmp_path)
    assert made.scores["kto_chosen"] > made.scores["kto_rejected"]
    bad = [pair.rejected for pair in PAIRS]
    before = sum(answer_nats(live, tokenizer, p, b) for p, b in zip(PAIRS, bad, strict=True))
    assert sum(answer_nats(made.model, tokenizer, p, b) for p, b in zip(PAIRS, bad, strict=True)) > before
    assert len(list(tmp_path.glob("references-*.json"))) == 1


def test_too_long_and_too_few_are_refused(base: Base, tmp_path: Path) -> None:
    for changes, field in (({"max_prompt_length": 20}, "max_prompt_length"), ({"max_length": 201}, "max_length")):
        pairs = [*PAIRS, Pair(messages=said("길게"), chosen="가" * 80, rejected="나")]
        with pytest.raises(DataError, match=field):
            train_dpo(base, None, pairs, SYSTEM, DPO.model_copy(update=changes), tmp_path)
    with pytest.raises(DataError, match="two judged"):
        train_kto(base, None, JUDGED[:1], SYSTEM, KTO, tmp_path)


def test_presets_and_what_they_contradict() -> None:
    spec = load_preference_settings("dolly-dpo", "dpo", [])
    assert spec.tracker == "none"  # no run needs a package that is not installed; the header says SPEC's wandb
    assert "--tracker wandb" in preset_text("dolly-dpo")
    assert (spec.beta, spec.max_prompt_length, spec.max_length, spec.warmup_steps) == (0.1, 1024, 1536, 100)
    assert (spec.rank, spec.alpha, spec.dropout, spec.epochs, spec.keep) == (16, 16, 0.05, 6, 8)
    assert (spec.qlora, spec.compute_dtype) == (True, "fp16")
    assert (spec.batch_size, spec.gradient_accumulation, spec.learning_rate) == (4, 4, 5e-5)
    assert preset_names("dpo") == ["dolly-dpo", "embedded-dpo"]
    for name in preset_names("dpo"):
        assert load_preference_settings(name, "kto", []).loss == "kto"
        assert re.match(rf"# tune dpo NAME --preset {name}( --tracker wandb)?\n# Source: ", preset_text(name))
    assert load_preference_settings("dolly-dpo", "dpo", ["loss=ipo", "beta=0.5"]).loss == "ipo"
    for named in ("embedded:gemma-3-270m", "embedded:gemma-3-270m#chatml"):
        assert default_preference_preset(named) == "embedded-dpo"
    for override in ("loss=kto", "beta=0", "typo=1", "max_length=512", "beta"):
        with pytest.raises(SettingsError):
            load_preference_settings("dolly-dpo", "dpo", [override])
    with pytest.raises(SettingsError, match="batch_size"):
        load_preference_settings("dolly-dpo", "kto", ["batch_size=1"])
    with pytest.raises(SettingsError, match="nosuch"):
        load_preference_settings("nosuch", "dpo", [])
