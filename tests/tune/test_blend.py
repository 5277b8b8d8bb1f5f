import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from fixtures_families import logits_of, make_family, make_lora
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from personas.adapters import AdapterStore
from personas.bases import Base, prepare_base
from personas.home import Home
from personas.registry import Registry
from tune.blend import Mix, blend_adapters, blend_models, model_config, moe_config, read_config, store_blend
from tune.locate import find_adapter
from tune.merge import MergeError, apply_adapter, relative_difference

pytestmark = pytest.mark.filterwarnings("ignore:`torch_dtype` is deprecated", "ignore::DeprecationWarning")


def quiet(_: str) -> None:
    pass


def weights(folder: Path, name: str = "model.layers.0.mlp.up_proj.weight") -> torch.Tensor:
    return load_file(folder / "model.safetensors")[name].float()


@pytest.fixture
def three(tmp_path: Path) -> list[Path]:
    """A base and two models near it, in a folder whose name mergekit would take apart."""
    base = make_family(tmp_path / "v@1+x" / "base", "llama")
    found = [base]
    for seed in (1, 2):
        model = AutoModelForCausalLM.from_pretrained(base)
        torch.manual_seed(seed)
        for parameter in model.parameters():
            parameter.data += 0.02 * torch.randn_like(parameter)
        folder = base.parent / f"tuned{seed}"
        model.save_pretrained(folder)
        AutoTokenizer.from_pretrained(base).save_pretrained(folder)
        found.append(folder)
    return found


def test_slerp_goes_the_way_from_one_to_the_other(three: list[Path], tmp_path: Path) -> None:
    _, one, other = three
    for t in (0.0, 0.5, 1.0):
        blend_models(model_config([one, other], None, Mix("slerp", [0.5, 0.5], t=t)), tmp_path / f"{t}", {}, 0, quiet)
    assert torch.allclose(weights(tmp_path / "0.0"), weights(one), atol=1e-6)
    assert torch.allclose(weights(tmp_path / "1.0"), weights(other), atol=1e-6)
    a, b, half = (weights(f).flatten() for f in (one, other, tmp_path / "0.5"))
    cosine = torch.nn.functional.cosine_similarity
    assert cosine(half, a, dim=0).item() == pytest.approx(cosine(half, b, dim=0).item(), abs=0.01)
    assert AutoTokenizer.from_pretrained(tmp_path / "0.5").eos_token == "</s>"
    assert not any(str(tmp_path) in p.read_text() for p in (tmp_path / "0.5").glob("*.json"))


def test_dare_ties_keeps_all_of_one_model_at_density_one(three: list[Path], tmp_path: Path) -> None:
    base, one, other = three
    config = model_config([one], base, Mix("dare_ties", [1.0], density=1.0))
    blend_models(config, tmp_path / "same", {}, 0, quiet)
    assert torch.allclose(weights(tmp_path / "same"), weights(one), atol=1e-5)
    config = model_config([one, other], base, Mix("dare_ties", [0.5, 0.5], density=0.5))
    blend_models(config, tmp_path / "mixed", {}, 3, quiet)
    blend_models(config, tmp_path / "again", {}, 3, quiet)
    assert torch.equal(weights(tmp_path / "mixed"), weights(tmp_path / "again"))  # the seed decides
    changed = (weights(tmp_path / "mixed") != weights(base)).float().mean()
    assert 0.3 < changed < 0.9  # dropped and elected: neither nothing nor everything


def test_moe_of_two_fields(three: list[Path], tmp_path: Path) -> None:
    base, one, other = three
    config = moe_config([(one, ["요리 방법"]), (other, ["적분 공식"])], base, "hidden", 2)
    blend_models(config, tmp_path / "moe", {"kind": "blend"}, 0, quiet)
    settings = json.loads((tmp_path / "moe" / "config.json").read_text())
    assert (settings["model_type"], settings["num_local_experts"]) == ("mixtral", 2)
    with safe_open(tmp_path / "moe" / "model.safetensors", "pt") as tensors:
        names = set(tensors.keys())
        assert "model.layers.0.block_sparse_moe.gate.weight" in names  # as checkpoints have it, for other engines
        expert = tensors.get_tensor("model.layers.1.block_sparse_moe.experts.1.w3.weight")
    assert torch.equal(expert.float(), weights(other, "model.layers.1.mlp.up_proj.weight"))
    assert torch.isfinite(logits_of(AutoModelForCausalLM.from_pretrained(tmp_path / "moe"))).all()


@pytest.mark.parametrize("kind", ["merge", "moe"])
def test_yaml_as_people_share_it(kind: str, tmp_path: Path) -> None:
    one, other = (make_family(tmp_path / f"m{i}", "mistral", seed=i) for i in (1, 2))
    merge: dict[str, Any] = {
        "slices": [{"sources": [{"model": str(m), "layer_range": [0, 2]} for m in (one, other)]}],
        "merge_method": "slerp",
        "base_model": str(one),
        "parameters": {"t": [{"filter": "self_attn", "value": [0, 1]}, {"value": 0.5}]},
        "dtype": "bfloat16",
    }
    experts = [{"source_model": str(m), "positive_prompts": [p]} for m, p in ((one, "요리"), (other, "수학 문제"))]
    moe = {"base_model": str(one), "gate_mode": "cheap_embed", "experts": experts}
    (tmp_path / "it.yaml").write_text(yaml.safe_dump({"merge": merge, "moe": moe}[kind], allow_unicode=True))
    blend_models(read_config(tmp_path / "it.yaml"), tmp_path / "out", {}, 0, quiet)
    assert logits_of(AutoModelForCausalLM.from_pretrained(tmp_path / "out")).shape[-1] > 200


def test_refusals_say_why_and_write_nothing(three: list[Path], tmp_path: Path) -> None:
    base, one, other = three
    with pytest.raises(MergeError, match="slerp blends two models, not 3"):
        model_config(three, None, Mix("slerp", [1.0] * 3))
    with pytest.raises(MergeError, match="dare_ties needs --base"):
        model_config([one, other], None, Mix("dare_ties", [0.5, 0.5]))
    with pytest.raises(MergeError, match=r"mergekit: Your positive and negative prompts are identical"):
        blend_models(moe_config([(one, ["x"]), (other, ["x"])], base, "hidden", 2), tmp_path / "no", {}, 0, quiet)
    wide = make_family(tmp_path / "wide", "llama", intermediate_size=128)
    with pytest.raises(MergeError, match="mergekit: "):
        blend_models(model_config([one, wide], None, Mix("slerp", [0.5, 0.5])), tmp_path / "no", {}, 0, quiet)
    (tmp_path / "bad.yaml").write_text("models: [")
    with pytest.raises(MergeError, match=r"bad\.yaml"):
        read_config(tmp_path / "bad.yaml")
    assert not (tmp_path / "no").exists()


@pytest.fixture
def base(home: Home, tmp_path: Path) -> Base:
    return prepare_base(str(make_family(tmp_path / "base", "llama")), home)


@pytest.mark.parametrize("method", ["svd", "cat", "linear", "ties", "dare_ties", "dare_linear", "ties_svd"])
def test_adapters_become_an_adapter(method: str, base: Base, home: Home, tmp_path: Path) -> None:
    adapters = [find_adapter(str(make_lora(tmp_path / f"a{i}", base.path, seed=i)), home) for i in (1, 2)]
    recipe = blend_adapters(adapters, base, Mix(method, [0.7, 0.3], rank=8), tmp_path / "out", quiet)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "adapter_config.json", "adapter_model.safetensors", "lineage.json",
    ]  # fmt: skip
    assert recipe["rank"] == {"svd": 8, "cat": 8, "ties_svd": 8}.get(method, 4)
    blended = find_adapter(str(tmp_path / "out"), home)
    model = apply_adapter(AutoModelForCausalLM.from_pretrained(base.path), blended)
    if method not in ("svd", "cat"):
        assert torch.isfinite(logits_of(model)).all()
        return
    name = "base_model.model.model.layers.0.self_attn.q_proj"
    wanted = sum(
        w * _delta(load_file(a.folder / "adapter_model.safetensors"), name, 2.0)
        for w, a in zip((0.7, 0.3), adapters, strict=True)
    )
    scale = blended.config["lora_alpha"] / blended.config["r"]
    made = _delta(load_file(blended.folder / "adapter_model.safetensors"), name, scale)
    assert relative_difference(wanted, made) < 2e-3  # both are exact but for float16


def _delta(tensors: dict[str, torch.Tensor], name: str, scale: float) -> torch.Tensor:
    up, down = tensors[f"{name}.lora_B.weight"].float(), tensors[f"{name}.lora_A.weight"].float()
    return scale * up @ down


def test_adapters_of_two_ranks_need_svd_and_the_result_is_a_version(base: Base, home: Home, tmp_path: Path) -> None:
    adapters = [find_adapter(str(make_lora(tmp_path / f"a{r}", base.path, rank=r)), home) for r in (2, 4)]
    with pytest.raises(MergeError, match="same r") as caught:
        blend_adapters(adapters, base, Mix("linear", [0.5, 0.5]), tmp_path / "out", quiet)
    assert caught.value.hint == "--method svd"
    recipe = blend_adapters(adapters, base, Mix("svd", [0.5, 0.5]), tmp_path / "out", quiet)
    manifest = store_blend(tmp_path / "out", "stark", adapters, recipe, base, home, live=False)
    registry = Registry(home.database)
    assert (manifest.id, manifest.rank, registry.live("stark")) == ("stark@v1", 4, None)
    assert AdapterStore(home.adapters).verify("stark", 1, base) == manifest
    assert store_blend(tmp_path / "out", "stark", adapters, recipe, base, home, live=True).version == 2
    assert registry.live("stark") == 2
