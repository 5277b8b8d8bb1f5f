import json
from pathlib import Path
from typing import Any

import pytest
import torch
from fixtures_tiny import make_tiny, record
from safetensors.torch import load_file

from personas.adapters import WEIGHTS_FILE, AdapterStore
from personas.bases import Base, prepare_base
from personas.home import Home
from personas.registry import Registry
from tune.data import DataError
from tune.evaluate import held_out_scores
from tune.examples import encode
from tune.faults import TrainingError, memory_explained
from tune.publish import publish, round_to_half
from tune.settings import SftSettings
from tune.sft import Trained, load, train

SYSTEM = "너는 토니"
RECORDS = [
    record("안녕?", "그래."),
    record("누구?", "토니."),
    record("또?", "응.", "왜?", "그냥."),
    record("밥?", "먹자."),
]
PLAIN = SftSettings(
    rank=4,
    batch_size=2,
    learning_rate=1e-2,
    schedule="constant",
    validation_share=0,
    log_every=1,
    save_every=1,
    max_length=256,
)


@pytest.fixture(scope="module")
def base(tiny_source: Path, tmp_path_factory: pytest.TempPathFactory) -> Base:
    """The tiny Llama with the plain Korean template."""
    return prepare_base(str(tiny_source), Home(tmp_path_factory.mktemp("home")))


def run(base: Base, folder: Path, **changes: Any) -> Trained:
    return train(base, RECORDS, SYSTEM, PLAIN.model_copy(update=changes), folder)


def trained_values(trained: Trained) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in trained.model.named_parameters() if p.requires_grad}


def losses(checkpoint: Path) -> list[float]:
    history = json.loads((checkpoint / "trainer_state.json").read_text())["log_history"]
    return [entry["loss"] for entry in history if "loss" in entry]


def test_mask_covers_the_replies_and_eos_alone(base: Base) -> None:
    _, tokenizer = load(base)
    encoded = tokenizer.apply_chat_template(
        RECORDS[2].conversation(SYSTEM), tokenize=True, return_dict=True, return_assistant_tokens_mask=True
    )
    spans: list[list[int]] = [[]]
    for number, mask in zip(encoded["input_ids"], encoded["assistant_masks"], strict=True):
        if mask:
            spans[-1].append(number)
        elif spans[-1]:
            spans.append([])
    assert [tokenizer.decode(span) for span in spans if span] == ["응.</s>", "그냥.</s>"]


def test_trains_and_goes_on_where_it_stopped(base: Base, tmp_path: Path) -> None:
    whole = run(base, tmp_path / "whole", max_steps=4)
    assert whole.steps == 4
    fall = losses(tmp_path / "whole" / "checkpoint-4")
    assert len(fall) == 4
    assert fall[-1] < fall[0]

    run(base, tmp_path / "parts", max_steps=2)
    assert sorted(path.name for path in (tmp_path / "parts").glob("checkpoint-*")) == ["checkpoint-1", "checkpoint-2"]
    second = (tmp_path / "parts" / "checkpoint-2" / WEIGHTS_FILE).read_bytes()
    parts = run(base, tmp_path / "parts", max_steps=4)
    assert parts.steps == 4
    assert sorted(path.name for path in (tmp_path / "parts").glob("checkpoint-*")) == ["checkpoint-3", "checkpoint-4"]
    assert second != (tmp_path / "parts" / "checkpoint-4" / WEIGHTS_FILE).read_bytes()
    assert losses(tmp_path / "parts" / "checkpoint-4") == pytest.approx(fall, abs=1e-3)
    one, other = trained_values(whole), trained_values(parts)
    assert one.keys() == other.keys()
    assert all(torch.allclose(one[name], other[name], rtol=0, atol=1e-5) for name in one)


def test_goes_on_past_a_checkpoint_that_a_kill_left_half_written(base: Base, tmp_path: Path) -> None:
    run(base, tmp_path, max_steps=1)
    (tmp_path / "checkpoint-2").mkdir()
    assert run(base, tmp_path, max_steps=2).steps == 2


def test_a_batch_worked_off_in_pieces_trains_the_same(
    base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tune.sft._CPU_BATCH", 4)
    whole = run(base, tmp_path / "whole", batch_size=4, max_steps=3)
    monkeypatch.setattr("tune.sft._CPU_BATCH", 2)
    pieces = run(base, tmp_path / "pieces", batch_size=4, max_steps=3)
    assert (whole.steps, pieces.steps) == (3, 3)
    assert losses(tmp_path / "pieces" / "checkpoint-3") == pytest.approx(
        losses(tmp_path / "whole" / "checkpoint-3"), rel=1e-3
    )


def test_records_with_system_prompts_of_their_own_train_packed_as_padded(base: Base, tmp_path: Path) -> None:
    own = [
        one.model_copy(update={"system": text}) for one, text in zip(RECORDS, ("짧게", "너는 A", "", ""), strict=True)
    ]
    _, tokenizer = load(base)
    starts = [tokenizer.decode(encode(one, tokenizer, SYSTEM)["input_ids"]) for one in own]
    assert [text in start for text, start in zip(("짧게", "너는 A", SYSTEM, SYSTEM), starts, strict=True)] == [True] * 4
    settings = PLAIN.model_copy(update={"batch_size": 4, "max_steps": 3, "dropout": 0})
    fall = {}
    for packing in (True, False):
        folder = tmp_path / str(packing)
        train(base, own, SYSTEM, settings.model_copy(update={"packing": packing}), folder)
        fall[packing] = losses(folder / "checkpoint-3")
    assert fall[True] == pytest.approx(fall[False], rel=1e-3)


def test_validation_keeps_the_best(base: Base, tmp_path: Path) -> None:
    assert run(base, tmp_path, max_steps=2, validation_share=0.25).steps == 2
    state = json.loads((tmp_path / "checkpoint-2" / "trainer_state.json").read_text())
    assert state["best_metric"] == min(entry["eval_loss"] for entry in state["log_history"] if "eval_loss" in entry)


def test_too_long_record_is_refused(base: Base, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"'안녕\?…' has .* tokens \(max_length 16\)") as caught:
        run(base, tmp_path, max_length=16)
    assert caught.value.hint.startswith("--set max_length=")
    assert list(tmp_path.glob("checkpoint-*")) == []


def test_template_without_marks_is_refused(home: Home, tmp_path: Path) -> None:
    template = "{% for message in messages %}{{ message.content }}{% endfor %}"
    base = prepare_base(str(make_tiny(tmp_path / "unmarked", chat_template=template)), home)
    with pytest.raises(DataError, match="generation marks") as caught:
        run(base, tmp_path / "run")
    assert "chat_template.jinja" in caught.value.hint


def test_scores_and_publishing(base: Base, home: Home, tmp_path: Path) -> None:
    trained = run(base, tmp_path / "checkpoints", max_steps=12, save_every=100)
    round_to_half(trained.model)
    scores = held_out_scores(trained.model, trained.tokenizer, RECORDS, SYSTEM)
    assert scores["loss_ratio"] < 1
    assert scores["tuned_perplexity"] < scores["base_perplexity"]
    assert scores["tuned_loss_per_character"] < scores["base_loss_per_character"]
    assert scores["held_out_records"] == len(RECORDS)

    fields = {"persona": "stark", "recipe": {}, "data_sha256": "0" * 64, "records": len(RECORDS), "scores": scores}
    manifest = publish(trained.model, fields, base, home, tmp_path)
    store, registry = AdapterStore(home.adapters), Registry(home.database)
    assert manifest.id == "stark@v1"
    assert registry.live("stark") is None  # that is for the gate to say
    assert store.verify("stark", 1, base) == manifest
    assert (manifest.rank, manifest.records, manifest.scores) == (4, 4, scores)
    tensors = load_file(store.folder("stark", 1) / WEIGHTS_FILE)
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float16}
    values = sorted(trained_values(trained).items())
    assert len(values) == len(tensors)
    for (_, value), (_, tensor) in zip(values, sorted(tensors.items()), strict=True):
        assert torch.equal(value, tensor.float())


def test_a_diverging_run_says_which_setting_to_change(base: Base, tmp_path: Path) -> None:
    with pytest.raises(TrainingError) as caught:
        run(base, tmp_path, learning_rate=1e30, max_steps=4)
    assert caught.value.hint == "--set learning_rate=1e+29"


def test_running_out_of_memory_says_which_settings_save_some() -> None:
    with pytest.raises(TrainingError) as caught, memory_explained(PLAIN.model_copy(update={"batch_size": 8})):
        torch.empty(2**60, dtype=torch.uint8)
    assert caught.value.hint == "--set batch_size=4 --set gradient_accumulation=2"
    with pytest.raises(RuntimeError, match="inconsistent"), memory_explained(PLAIN):
        torch.ones(2) @ torch.ones(3)
    with pytest.raises(TrainingError) as caught, memory_explained(PLAIN.model_copy(update={"batch_size": 1})):
        raise torch.OutOfMemoryError
    assert "gradient_checkpointing=true" in caught.value.hint
