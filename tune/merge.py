"""Merges an adapter into its base: one folder that transformers and vLLM load, with the same outputs.

What can go wrong silently is looked at here: embeddings that are tied to the output layer are untied where the adapter
touches either (merging would change both), embeddings that were resized for new tokens are resized first, and the
logits before and after are compared before anything is written.
"""

import json
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModelForCausalLM
from safetensors import SafetensorError, safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from personas.adapters import WEIGHTS_FILE
from personas.bases import Base
from personas.errors import AdapterError, GamyeonError
from personas.files import staged, sync, sync_folder
from personas.lang import say
from tune.locate import Adapter, lineage
from tune.runs import PROMPT_FILE

LINEAGE_FILE = "lineage.json"
_KEPT = ("LICENSE*", "NOTICE*")
TOLERANCE = {torch.float32: 1e-4}
HALF_TOLERANCE = 0.1  # of 16-bit arithmetic alone: 0.036 was seen on Gemma 3 270M in bfloat16


class MergeError(GamyeonError):
    """A merge or a blend cannot be made or written."""


@contextmanager
def whole_folder(out: Path, size: int) -> Iterator[Path]:
    """A staging folder that becomes `out` in one step when the block ends well.

    Args:
        out: must not be there yet.
        size: bytes that will be written, about.

    Raises:
        MergeError: `out` is there, or the disk has no room for it, before or while it is written.
    """
    if out.exists():
        raise MergeError(say(f"{out}이(가) 이미 있습니다", f"{out} exists"), say("다른 -o로", "choose another -o"))
    out.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(out.parent).free
    if free < size:
        raise _no_room(out, f"{size / 1e9:.2f} GB > {free / 1e9:.2f} GB")
    try:
        with staged(out.parent, out.name) as staging:
            made = staging / "made"
            made.mkdir()
            yield made
            sync_folder(made)
            made.rename(out)
            sync(out.parent)
    except OSError as error:
        raise _no_room(out, error.strerror or str(error)) from error
    except SafetensorError as error:
        if "I/O error" not in str(error):
            raise
        raise _no_room(out, str(error)) from error
    finally:
        staging_root = out.parent / ".staging"
        if staging_root.is_dir() and not any(staging_root.iterdir()):
            staging_root.rmdir()


def _no_room(out: Path, reason: str) -> MergeError:
    return MergeError(
        say(f"{out}에 쓸 수 없습니다: {reason}", f"cannot write {out}: {reason}"),
        say("자리를 비우거나 다른 디스크에 -o", "make room, or -o on another disk"),
    )


def _embedding_names(model: Any) -> tuple[str, ...]:
    """The last names of the input and output embedding modules (`embed_tokens`, `lm_head`)."""
    both = (model.get_input_embeddings(), model.get_output_embeddings())
    return tuple(name.rpartition(".")[2] for name, module in model.named_modules() if any(module is m for m in both))


def _vocabulary(shapes: dict[str, list[int]], names: tuple[str, ...]) -> int | None:
    """Rows of the embeddings that an adapter was trained with, or None where it does not touch them."""
    for key, shape in shapes.items():
        if not any(f".{name}." in key for name in names):
            continue
        if "lora_embedding_A" in key:
            return shape[1]
        if not any(part in key for part in ("lora_embedding_B", "lora_A", "lora_magnitude", "token_adapter")):
            output_side = key.endswith("lora_B.weight") or key.endswith(".weight")
            if output_side and not (key.endswith("lora_B.weight") and f".{names[0]}." in key):
                return shape[0]
    return None


def _fit_vocabulary(model: Any, adapter: Adapter, shapes: dict[str, list[int]]) -> None:
    """Resize the embeddings as the adapter's were, and untie them where merging would change both sides."""
    names = _embedding_names(model)
    rows, has = _vocabulary(shapes, names), model.get_input_embeddings().weight.shape[0]
    if rows is not None and rows != has:
        if not adapter.has_tokenizer:
            raise AdapterError(
                say(
                    f"{adapter.name}의 어휘는 {rows}개, 베이스는 {has}개이고 어댑터에 토크나이저가 없습니다",
                    f"{adapter.name} has a vocabulary of {rows}, the base {has}, and the adapter brings no tokenizer",
                )
            )
        model.resize_token_embeddings(rows, mean_resizing=False)
    touched = any(f".{name}." in key for key in shapes for name in names)
    given, made = model.get_input_embeddings(), model.get_output_embeddings()
    if touched and given.weight is made.weight and not adapter.config.get("ensure_weight_tying"):
        made.weight = torch.nn.Parameter(given.weight.detach().clone())
        model.config.tie_word_embeddings = False


def apply_adapter(model: Any, adapter: Adapter) -> PeftModelForCausalLM:
    """A base model in memory with an adapter on it, every tensor of the adapter in its place.

    Raises:
        AdapterError: the adapter was made for a model of another shape; says what differs.
    """
    with safe_open(adapter.folder / WEIGHTS_FILE, framework="pt") as tensors:
        shapes = {key: list(tensors.get_slice(key).get_shape()) for key in tensors.keys()}  # noqa: SIM118
    _fit_vocabulary(model, adapter, shapes)
    config = PeftConfig.from_pretrained(str(adapter.folder))
    config.inference_mode = True
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Model has `tie_word_embeddings=True`")  # seen to in _fit_vocabulary
            peft = PeftModelForCausalLM(model, config)
            result = peft.load_adapter(str(adapter.folder), "default", is_trainable=False)
    except (RuntimeError, ValueError, KeyError) as error:
        raise _misfit(adapter, _differences(str(error))) from error
    # PEFT saves a resized embedding that is also in `modules_to_save` twice, the second time under a name of its own
    twice = [
        k for k in result.unexpected_keys if ".modules_to_save." in k and k.replace(".modules_to_save", "") in shapes
    ]
    unknown = [key for key in result.unexpected_keys if key not in twice]
    astray = [f"+ {key}" for key in unknown] + [f"- {key}" for key in result.missing_keys]
    if astray:
        raise _misfit(adapter, astray)
    return peft.eval()


def _differences(text: str) -> list[str]:
    """The lines of a PyTorch or PEFT error that name what differs."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return [line for line in lines if "mismatch" in line] or lines[:1]


def _misfit(adapter: Adapter, differences: list[str]) -> AdapterError:
    shown = "\n  ".join(differences[:3])
    more = f"\n  (+{len(differences) - 3})" if len(differences) > 3 else ""
    return AdapterError(
        say(f"{adapter.name}은(는) 이 베이스에 맞지 않습니다:", f"{adapter.name} does not fit this base:")
        + f"\n  {shown}{more}",
        "--base embedded:NAME | FOLDER | org/name",
    )


def load_tokenizer(adapter: Adapter, base: Base) -> PreTrainedTokenizerBase:
    """The adapter's own tokenizer where it brings one (new tokens), or else the base's."""
    return AutoTokenizer.from_pretrained(adapter.folder if adapter.has_tokenizer else base.path)


@torch.no_grad()
def _probe(model: Any) -> torch.Tensor:
    """Logits (2, 32, vocabulary) of fixed random tokens."""
    size = min(model.get_input_embeddings().weight.shape[0], 1 << 15)
    ids = torch.randint(0, size, (2, 32), generator=torch.Generator().manual_seed(0))
    return model(input_ids=ids).logits.float()  # type: ignore[no-any-return]


def relative_difference(one: torch.Tensor, other: torch.Tensor) -> float:
    """Norm of the difference over the norm of the first."""
    return float((one - other).norm() / one.norm())


def merge(adapter: Adapter, base: Base, out: Path, dtype: str = "auto", report: Callable[[str], None] = print) -> float:
    """Write an adapter merged into its base.

    Args:
        out: a folder that is not there yet; it appears whole or not at all.
        dtype: of the weights: `auto` (the base's own), float32, bfloat16 or float16.

    Returns:
        The relative difference between the logits of base + adapter and of the merged model.

    Raises:
        AdapterError: the adapter does not fit the base.
        MergeError: the outputs would differ, or the folder cannot be written.
    """
    report(say(f"{base.name} + {adapter.name} 올리는 중", f"loading {base.name} + {adapter.name}"))
    model = AutoModelForCausalLM.from_pretrained(base.path, dtype=dtype if dtype == "auto" else getattr(torch, dtype))
    kind = model.dtype
    peft = apply_adapter(model, adapter)
    before = _probe(peft)
    merged = peft.merge_and_unload(safe_merge=True)
    difference = relative_difference(before, _probe(merged))
    if not difference <= TOLERANCE.get(kind, HALF_TOLERANCE):
        raise MergeError(
            say(
                f"병합한 모델의 출력이 다릅니다 (상대 차이 {difference:.2g})",
                f"the merged model answers differently (relative difference {difference:.2g})",
            ),
            "--dtype float32",
        )
    report(say(f"{out}에 쓰는 중", f"writing {out}"))
    size = sum(p.numel() * p.element_size() for p in merged.parameters())
    with whole_folder(out, size) as made:
        _write(merged, load_tokenizer(adapter, base), base, made)
        if adapter.system_prompt is not None:
            (made / PROMPT_FILE).write_text(adapter.system_prompt, encoding="utf-8")
        facts = {"kind": "merge", **lineage(adapter, base), "logit_difference": difference}
        (made / LINEAGE_FILE).write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return difference


def _write(model: Any, tokenizer: PreTrainedTokenizerBase, base: Base, made: Path) -> None:
    """Weights, settings, tokenizer, stop tokens and the base's licence."""
    stops = model.generation_config.eos_token_id
    stops = stops if isinstance(stops, list) else [stops]
    model.generation_config.eos_token_id = list(dict.fromkeys([*stops, tokenizer.eos_token_id]))
    model.config._name_or_path = ""
    model.save_pretrained(made)
    tokenizer.save_pretrained(made)
    for pattern in _KEPT:
        for file in base.path.glob(pattern):
            shutil.copyfile(file, made / file.name)
