import json
import resource
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from fixtures_families import FAMILIES, logits_of, make_family, make_lora
from transformers import AutoModelForCausalLM, AutoTokenizer

from personas.bases import Base, prepare_base
from personas.errors import AdapterError
from personas.home import Home
from tune.locate import base_of, find_adapter
from tune.merge import MergeError, apply_adapter, merge, relative_difference

pytestmark = pytest.mark.filterwarnings(
    "ignore:The following (rank|alpha)_pattern keys",
    "ignore:Model has `tie_word_embeddings=True`",
    "ignore:Setting `save_embedding_layers`",
)


def quiet(_: str) -> None:
    pass


def both(base: Base, adapter_folder: Path, home: Home, out: Path, **options: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of base + adapter, and of the merged folder read back."""
    adapter = find_adapter(str(adapter_folder), home)
    merge(adapter, base, out, report=quiet, **options)
    together = apply_adapter(AutoModelForCausalLM.from_pretrained(base.path), adapter)
    return logits_of(together), logits_of(AutoModelForCausalLM.from_pretrained(out))


@pytest.mark.parametrize("family", FAMILIES)
def test_merged_answers_as_base_with_adapter(family: str, home: Home, tmp_path: Path) -> None:
    source = make_family(tmp_path / family, family)
    base = prepare_base(str(source), home)
    together, merged = both(base, make_lora(tmp_path / "lora", source), home, tmp_path / "out")
    untuned = logits_of(AutoModelForCausalLM.from_pretrained(source))
    assert (together - untuned).abs().max() > 0.1  # the adapter does something
    assert torch.allclose(together, merged, rtol=0, atol=1e-5)
    assert AutoTokenizer.from_pretrained(tmp_path / "out").chat_template
    facts = json.loads((tmp_path / "out" / "lineage.json").read_text())
    assert facts["base"]["weights_sha256"] == base.weights_sha256
    assert not [p for p in (tmp_path / "out").glob("*.json") if str(tmp_path) in p.read_text()]
    assert not (tmp_path / ".staging").exists()


@pytest.mark.parametrize(
    "config",
    [
        {"target_modules": ["embed_tokens", "lm_head", "q_proj", "v_proj"]},
        {"target_modules": ["lm_head", "q_proj"]},
        {"modules_to_save": ["embed_tokens"]},
        {"modules_to_save": ["lm_head"]},
        {"use_dora": True, "use_rslora": True},
    ],
    ids=lambda c: "-".join(f"{k}={v}" for k, v in c.items()),
)
@pytest.mark.parametrize("words", [None, ["<|prompt|>", "<|assistant|>", "<|endofanswer|>"]], ids=["same", "resized"])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_embeddings(config: dict[str, Any], words: list[str] | None, tied: bool, home: Home, tmp_path: Path) -> None:
    source = make_family(tmp_path / "base", "llama", tie_word_embeddings=tied)
    base = prepare_base(str(source), home)
    lora = make_lora(tmp_path / "lora", source, words=words, **config)
    together, merged = both(base, lora, home, tmp_path / "out")
    assert torch.allclose(together, merged, rtol=0, atol=1e-5)
    rows = json.loads((base.path / "config.json").read_text())["vocab_size"] + len(words or [])
    assert merged.shape[-1] == rows
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert len(tokenizer) == rows
    if words:
        assert tokenizer.encode(words[2], add_special_tokens=False) == [rows - 1]


def test_half_precision_is_close(home: Home, tmp_path: Path) -> None:
    source = make_family(tmp_path / "base", "gemma3_text")
    together, merged = both(
        prepare_base(str(source), home), make_lora(tmp_path / "lora", source), home, tmp_path / "out", dtype="bfloat16"
    )
    assert 1e-5 < relative_difference(together, merged) < 0.05
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "bfloat16"


def test_other_base_is_refused_and_says_what_differs(home: Home, tmp_path: Path) -> None:
    lora = make_lora(tmp_path / "lora", make_family(tmp_path / "llama", "llama"))
    adapter = find_adapter(str(lora), home)
    wide = prepare_base(str(make_family(tmp_path / "wide", "llama", intermediate_size=128)), home)
    with pytest.raises(AdapterError, match=r"does not fit this base:\n  .*size mismatch for .*proj") as caught:
        merge(adapter, wide, tmp_path / "out", report=quiet)
    assert "--base" in caught.value.hint
    neox = prepare_base(str(make_family(tmp_path / "neox", "gpt_neox")), home)
    with pytest.raises(AdapterError, match="q_proj"):
        merge(adapter, neox, tmp_path / "out", report=quiet)
    assert not (tmp_path / "out").exists()


def test_base_of_the_same_shape_but_other_weights_is_refused(home: Home, tmp_path: Path) -> None:
    own = prepare_base(str(make_family(tmp_path / "one", "llama", seed=1)), home)
    other = make_family(tmp_path / "two", "llama", seed=2)
    adapter = find_adapter(str(make_lora(tmp_path / "lora", own.path)), home)
    with pytest.raises(
        AdapterError, match=f"another base: name {own.name[:12]}.* weights_sha256 {own.weights_sha256[:12]}"
    ):
        base_of(adapter, home, str(other), quiet)


def test_deeper_adapter_is_refused(home: Home, tmp_path: Path) -> None:
    source = make_family(tmp_path / "base", "llama")
    lora = make_lora(tmp_path / "lora", source)
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 1}))
    with pytest.raises(AdapterError, match=r"\+ .*layers\.1\."):
        merge(find_adapter(str(lora), home), prepare_base(str(source), home), tmp_path / "out", report=quiet)


def test_pickled_adapter_is_refused(home: Home, tmp_path: Path) -> None:
    lora = make_lora(tmp_path / "lora", make_family(tmp_path / "base", "llama"))
    (lora / "adapter_model.safetensors").rename(lora / "adapter_model.bin")
    with pytest.raises(AdapterError, match="safetensors only"):
        find_adapter(str(lora), home)


@pytest.fixture
def small_files() -> Iterator[None]:
    """No file may grow past 100 kB: writing fails as on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_failed_write_leaves_nothing(
    home: Home, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make_family(tmp_path / "base", "llama")
    base, lora = prepare_base(str(source), home), make_lora(tmp_path / "lora", source)
    adapter = find_adapter(str(lora), home)
    request.getfixturevalue("small_files")
    with pytest.raises(MergeError, match="cannot write"):
        merge(adapter, base, tmp_path / "out" / "merged", report=quiet)
    assert list((tmp_path / "out").iterdir()) == []
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(MergeError, match=r"cannot write .*0\.00 GB"):
        merge(adapter, base, tmp_path / "out" / "merged", report=quiet)


def test_existing_folder_is_left_alone(home: Home, tmp_path: Path) -> None:
    source = make_family(tmp_path / "base", "llama")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(MergeError, match="exists"):
        merge(
            find_adapter(str(make_lora(tmp_path / "lora", source)), home),
            prepare_base(str(source), home),
            tmp_path / "out",
            report=quiet,
        )
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["mine.txt"]


def test_base_is_found_from_the_adapter(home: Home, tmp_path: Path) -> None:
    source = make_family(tmp_path / "base", "llama")
    prepared = prepare_base(str(source), home)
    by_path = make_lora(tmp_path / "one", prepared.path)
    assert base_of(find_adapter(str(by_path), home), home) == prepared
    config = json.loads((by_path / "adapter_config.json").read_text())
    for name in (prepared.name, f"/gone/models/{prepared.name}"):
        (by_path / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": name}))
        assert base_of(find_adapter(str(by_path), home), home) == prepared
