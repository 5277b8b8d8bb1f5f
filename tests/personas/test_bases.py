import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from fixtures_tiny import make_tiny
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from personas.bases import Base, base_name, find_base, prepare_base
from personas.chat_templates import TEMPLATES
from personas.errors import BaseModelError
from personas.home import Home

MESSAGES = [{"role": "user", "content": "안녕?"}, {"role": "assistant", "content": "그래."}]


@pytest.fixture
def source(tiny_source: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model that a test may change."""
    return Path(shutil.copytree(tiny_source, tmp_path / "llama"))


def llama3_template(kind: str) -> str:
    import trl

    return (Path(trl.__file__).parent / "chat_templates" / f"{kind}.jinja").read_text()


def spoken(base: Base) -> tuple[list[str], str]:
    """All tokens of a short conversation, and the text under the assistant's mask."""
    tokenizer = AutoTokenizer.from_pretrained(base.path)
    encoded = tokenizer.apply_chat_template(
        MESSAGES, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
    )
    marked = [i for i, mask in zip(encoded["input_ids"], encoded["assistant_masks"], strict=True) if mask]
    return tokenizer.convert_ids_to_tokens(encoded["input_ids"]), tokenizer.decode(marked)


def test_prepared_folder(source: Path, home: Home) -> None:
    steps: list[str] = []
    base = prepare_base(str(source), home, steps.append)
    assert base.path == home.models / base.name == home.models / base_name(str(source))
    weights = base.path / "model.safetensors"
    assert weights.is_symlink()
    assert weights.resolve() == (source / "model.safetensors").resolve()
    assert AutoTokenizer.from_pretrained(base.path).chat_template == (TEMPLATES / "korean_qa.jinja").read_text()
    tokens, marked = spoken(base)
    assert tokens[0] == "<s>"
    assert tokens.count("<s>") == 1
    assert marked == "그래.</s>"
    record = json.loads((base.path / "gamyeon.json").read_text())
    assert (record["spec"], record["name"]) == (str(source), base.name)
    assert {len(record[key]) for key in record if key.endswith("sha256")} == {64}
    stops = json.loads((base.path / "generation_config.json").read_text())["eos_token_id"]
    assert AutoTokenizer.from_pretrained(base.path).convert_ids_to_tokens(stops) == ["</s>"]
    assert len(steps) == 2
    assert find_base(str(source), home) == base
    AutoModelForCausalLM.from_pretrained(base.path)


def test_second_call_does_nothing(source: Path, home: Home) -> None:
    base = prepare_base(str(source), home)
    before = {path: path.lstat().st_mtime_ns for path in base.path.iterdir()}
    steps: list[str] = []
    assert prepare_base(str(source), home, steps.append) == base
    assert steps == []
    assert {path: path.lstat().st_mtime_ns for path in base.path.iterdir()} == before


def test_leftover_of_a_kill_is_not_taken_for_whole(source: Path, home: Home) -> None:
    base = prepare_base(str(source), home)
    half = home.models / ".staging" / f"{base.name}-999999999-abc" / base.name
    half.parent.mkdir(parents=True)
    base.path.rename(half)
    assert find_base(str(source), home) is None
    again = prepare_base(str(source), home)
    assert again == base
    assert (again.path / "model.safetensors").is_symlink()
    assert list((home.models / ".staging").iterdir()) == []


def no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def no_tokenizer(folder: Path) -> None:
    for file in folder.glob("tokenizer*"):
        file.unlink()


@pytest.mark.parametrize("spoil", [no_config, no_weights, no_tokenizer])
def test_incomplete_folder_is_refused(source: Path, home: Home, spoil: Callable[[Path], None]) -> None:
    spoil(source)
    with pytest.raises(BaseModelError, match=str(source)):
        prepare_base(str(source), home)
    assert find_base(str(source), home) is None
    assert list((home.models / ".staging").iterdir()) == []


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("embedded:gpt-5", "no embedded model 'embedded:gpt-5'"),
        ("not a hub id!", "'not a hub id!' is neither a folder nor a hub id"),
        ("/no/such/folder", "neither a folder nor a hub id"),
        ("a/b/c", "neither a folder nor a hub id"),
    ],
)
def test_unknown_spec_is_refused(home: Home, spec: str, message: str) -> None:
    with pytest.raises(BaseModelError, match=message) as caught:
        prepare_base(spec, home)
    assert caught.value.hint
    assert find_base(spec, home) is None


def test_fingerprint_is_of_weights_template_and_tokenizer(source: Path, home: Home, tmp_path: Path) -> None:
    first = prepare_base(str(source), home)
    copy = prepare_base(str(shutil.copytree(source, tmp_path / "copy")), home)
    other = prepare_base(str(make_tiny(tmp_path / "other", seed=1)), home)
    template = prepare_base(str(make_tiny(tmp_path / "template", chat_template="{{ messages }}")), home)
    assert first.fingerprint == copy.fingerprint
    assert len({first.fingerprint, other.fingerprint, template.fingerprint}) == 3
    assert (other.template_sha256, other.tokenizer_sha256) == (first.template_sha256, first.tokenizer_sha256)
    assert template.weights_sha256 == first.weights_sha256


def test_fingerprint_changes_when_the_folders_weights_are_replaced(source: Path, home: Home, tmp_path: Path) -> None:
    before = prepare_base(str(source), home)
    shutil.copyfile(make_tiny(tmp_path / "other", seed=1) / "model.safetensors", source / "model.safetensors")
    assert prepare_base(str(source), home).fingerprint != before.fingerprint


def test_pickle_weights_are_converted(source: Path, home: Home) -> None:
    weights = load_file(source / "model.safetensors")
    torch.save(weights, source / "pytorch_model.bin")
    (source / "model.safetensors").unlink()
    base = prepare_base(str(source), home)
    made = load_file(base.path / "model.safetensors")
    assert not (base.path / "model.safetensors").is_symlink()
    assert not list(base.path.glob("*.bin"))
    name = "model.layers.0.self_attn.q_proj.weight"
    assert torch.equal(made[name], weights[name].to(torch.bfloat16))
    assert spoken(base)[1] == "그래.</s>"


def test_llama3_template_gets_its_marked_twin(home: Home, tmp_path: Path) -> None:
    own, twin = llama3_template("llama3"), llama3_template("llama3_training")
    source = make_tiny(tmp_path / "llama3", chat_template=own, llama3=True)
    base = prepare_base(str(source), home)
    tokenizer = AutoTokenizer.from_pretrained(base.path)
    assert tokenizer.chat_template == twin
    tokens, marked = spoken(base)
    assert tokens[0] == "<|begin_of_text|>"
    assert tokens.count("<|begin_of_text|>") == 1
    assert marked == "그래.<|eot_id|>"
    stops = json.loads((base.path / "generation_config.json").read_text())["eos_token_id"]
    assert tokenizer.convert_ids_to_tokens(stops) == ["</s>", "<|eot_id|>"]
    assert AutoTokenizer.from_pretrained(source).apply_chat_template(MESSAGES, tokenize=False) == (
        tokenizer.apply_chat_template(MESSAGES, tokenize=False)
    )


def test_unknown_template_is_kept(home: Home, tmp_path: Path) -> None:
    own = "{% for message in messages %}{{ message.content }}{% endfor %}"
    base = prepare_base(str(make_tiny(tmp_path / "own", chat_template=own)), home)
    assert AutoTokenizer.from_pretrained(base.path).chat_template == own
