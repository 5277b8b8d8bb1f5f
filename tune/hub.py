"""Publishes an adapter or a model folder to the Hugging Face Hub, with a card that says where it comes from.

Only named kinds of files go up: never optimizer states, pickles or a trainer's arguments, which hold paths of this
machine. The token comes from the environment or the login cache through `huggingface_hub`, goes into request headers
alone, and every file is searched for it, and for anything that looks like one, before it is sent.
"""

import json
import re
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from personas.adapters import CONFIG_FILE, MANIFEST_FILE, WEIGHTS_FILE
from personas.bases import EMBEDDED, EMBEDDED_NAME, Base
from personas.errors import GamyeonError, PersonaError
from personas.files import sha256_of
from personas.lang import say
from tune.locate import Adapter, kept_prompt, lineage
from tune.pages import render
from tune.runs import read_json

UPLOADED = ("*.safetensors", "*.safetensors.index.json", "*.jinja", "*.model", "LICENSE*", "NOTICE*", "README.md")
JSON_FILES = (
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "vocab.json", "preprocessor_config.json", "processor_config.json", "lineage.json",
    CONFIG_FILE, MANIFEST_FILE,
)  # fmt: skip
TEXT_FILES = ("vocab.txt", "merges.txt")
EMBEDDED_HUB_ID = "google/gemma-3-270m"  # what the embedded package was quantised from
LICENCES = {"gemma": "gemma", "llama-2": "llama2", "llama-3.1": "llama3.1", "llama-3": "llama3"}
_SECRET = re.compile(rb"\bhf_[A-Za-z0-9]{20,}")
_BUSY = (408, 429, 500, 502, 503, 504)
WAITS = (1.0, 2.0, 4.0, 8.0)
T = TypeVar("T")


class HubError(GamyeonError):
    """Something cannot be published."""


@dataclass(frozen=True)
class Source:
    """What is published: a folder, and what its card says."""

    folder: Path
    name: str
    kind: str
    base_id: str
    facts: dict[str, Any]
    config: dict[str, Any] = field(default_factory=dict)
    template: Path | None = None
    system_prompt: str = ""


def hub_id(spec: str) -> str:
    """The public id of a base: of the embedded one, the repository that it was made from."""
    return EMBEDDED_HUB_ID if spec == EMBEDDED + EMBEDDED_NAME else spec


def of_adapter(adapter: Adapter, base: Base) -> Source:
    """An adapter as something to publish; its base is named by its public id, so that others can load it."""
    from personas.loader import find_persona

    facts = lineage(adapter, base)
    try:
        own = find_persona(adapter.persona).persona.system_prompt if adapter.persona else ""
    except PersonaError:
        own = ""
    kept = adapter.system_prompt
    prompt = own if kept is None else kept
    base_id = hub_id(facts["base"]["spec"])
    config = {**adapter.config, "base_model_name_or_path": base_id}
    template = base.path / "chat_template.jinja"
    return Source(adapter.folder, adapter.name, "adapter", base_id, facts, config, template, prompt)


def of_folder(folder: Path) -> Source:
    """A whole model's folder, such as a merged or blended one.

    Raises:
        HubError: no model is in it, or its weights are pickles alone.
    """
    if not (folder / "config.json").is_file():
        raise HubError(
            say(f"{folder}: 모델도 어댑터도 아닙니다", f"{folder}: neither a model nor an adapter"),
            "tune publish ironman@v1 | RUN | FOLDER",
        )
    if not list(folder.glob("*.safetensors")):
        raise HubError(say(f"{folder}: safetensors 가중치가 없습니다", f"{folder}: no weights in safetensors"))
    facts = read_json(folder / "lineage.json")
    base = dict(facts.get("base") or {})
    return Source(
        folder, folder.name, facts.get("kind", "model"), hub_id(str(base.get("spec", ""))), facts,
        system_prompt=kept_prompt(folder) or "",
    )  # fmt: skip


def guess_licence(base_id: str) -> str:
    """The Hub's name of a base's licence where its own name tells it; `other` elsewhere."""
    name = base_id.lower().replace("_", "-").replace("meta-llama-3", "llama-3")
    return next((licence for part, licence in LICENCES.items() if part in name), "other")


def card(source: Source, repo: str, licence: str) -> str:
    """The model card: metadata that the Hub reads, then lineage, scores, recipe and use."""
    from huggingface_hub import EvalResult, ModelCardData

    facts, scores = source.facts, dict(source.facts.get("scores") or {})
    known = {k: v for k, v in scores.items() if k not in ("steps", "train_seconds", "scale", "held_out_records")}
    results = [
        EvalResult("text-generation", "gamyeon-held-out", f"{facts.get('persona') or source.name} held-out", k, v)
        for k, v in known.items()
    ]
    adapter = source.kind == "adapter"
    data = ModelCardData(
        language="ko",
        license=licence,
        license_name="base-model-terms" if licence == "other" else None,
        library_name="peft" if adapter else "transformers",
        pipeline_tag="text-generation",
        base_model=source.base_id or None,
        base_model_relation=("adapter" if adapter else "merge" if source.kind == "blend" else "finetune")
        if source.base_id
        else None,
        tags=["gamyeon", "korean", "persona", *(["lora"] if adapter else [])],
        model_name=repo.rpartition("/")[2],
        eval_results=results or None,
    )
    body = render(
        "card.md.jinja",
        name=source.name, kind=source.kind, repo=repo, short=repo.rpartition("/")[2], base=source.base_id,
        rank=facts.get("rank"), lineage=_flat(facts), scores=scores, recipe=dict(facts.get("recipe") or {}),
        licence=licence, system_prompt=source.system_prompt, template_note=adapter,
    )  # fmt: skip
    return f"---\n{data.to_yaml()}\n---\n\n{body}"


def _flat(facts: dict[str, Any]) -> dict[str, Any]:
    """The lineage as one table's rows, without what the card shows elsewhere."""
    rows = {k: v for k, v in facts.items() if k not in ("scores", "recipe", "base", "kind") and v not in (None, "", [])}
    return {**rows, **{f"base {k}": v for k, v in dict(facts.get("base") or {}).items()}}


def gather(source: Source, repo: str, licence: str, made: Path) -> list[str]:
    """Copy what is published into `made` and add the card; returns the names of files that stay behind."""
    left: list[str] = []
    for file in sorted(source.folder.iterdir()):
        wanted = file.name in (*JSON_FILES, *TEXT_FILES) or any(file.match(p) for p in UPLOADED)
        if file.is_file() and wanted:
            shutil.copyfile(file, made / file.name)
        else:
            left.append(file.name)
    if source.kind == "adapter":
        (made / CONFIG_FILE).write_text(json.dumps(source.config, indent=2, sort_keys=True) + "\n")
        _renew_manifest(made)
        if source.template and source.template.is_file():
            shutil.copyfile(source.template, made / "chat_template.jinja")
    (made / "README.md").write_text(card(source, repo, licence), encoding="utf-8")
    return left


def _renew_manifest(made: Path) -> None:
    """Keep the manifest true: the settings name the base by its public id now."""
    file = made / MANIFEST_FILE
    if file.is_file():
        manifest = json.loads(file.read_text())
        manifest["files"] = {name: sha256_of(made / name) for name in (CONFIG_FILE, WEIGHTS_FILE)}
        file.write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n")


def check_secrets(folder: Path, token: str) -> None:
    """Refuse to publish a token.

    Raises:
        HubError: a file holds this token, or something that looks like one.
    """
    for file in sorted(folder.iterdir()):
        if file.suffix == ".safetensors":
            continue
        content = file.read_bytes()
        if token.encode() in content or _SECRET.search(content):
            raise HubError(
                say(f"{file.name}에 토큰이 들어 있어 올리지 않습니다", f"{file.name} holds a token: nothing was sent"),
                say("토큰을 지우고, 허브에서 폐기하세요", "remove it, and revoke it at the hub"),
            )


def publish(
    source: Source, repo: str, licence: str = "", public: bool = False, report: Callable[[str], None] = print
) -> str:
    """Create the repository if need be, private unless asked otherwise, and upload the folder.

    Returns:
        The address of the commit.

    Raises:
        HubError: no token, a bad name, a repository that is public although it was to be private, or a hub that
            still refuses after five attempts.
    """
    from huggingface_hub import HfApi, get_token

    token = get_token()
    if not token:
        raise HubError(say("허브 토큰이 없습니다", "no hub token"), "hf auth login | export HF_TOKEN")
    api = HfApi(token=token, library_name="gamyeon")
    with tempfile.TemporaryDirectory(prefix="gamyeon-publish-") as temporary:
        made = Path(temporary)
        left = gather(source, repo, licence or guess_licence(source.base_id), made)
        if left:
            report(say("올리지 않는 것: ", "not uploaded: ") + ", ".join(left))
        check_secrets(made, token)
        patiently(lambda: api.create_repo(repo, private=not public, exist_ok=True), repo, token, report)
        info = patiently(lambda: api.repo_info(repo), repo, token, report)
        if not public and not info.private:
            raise HubError(
                say(f"{repo}은(는) 이미 공개되어 있습니다", f"{repo} is public already"),
                say("--public을 주거나 허브에서 비공개로 바꾸세요", "--public, or make it private at the hub"),
            )
        size = sum(file.stat().st_size for file in made.iterdir())
        report(say(f"{repo}에 {size / 1e6:.1f} MB 올리는 중", f"uploading {size / 1e6:.1f} MB to {repo}"))
        message = f"Publish {source.name}"
        done = patiently(
            lambda: api.upload_folder(repo_id=repo, folder_path=made, commit_message=message), repo, token, report
        )
    return str(done.commit_url)


def patiently(call: Callable[[], T], repo: str, token: str, report: Callable[[str], None]) -> T:
    """Call the hub; a busy one or a broken line is tried again after 1, 2, 4 and 8 seconds.

    An upload that is tried again sends only what the hub does not have yet.

    Raises:
        HubError: refused, or still failing; the token is never in the message.
    """
    import httpx2
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    for wait in (*WAITS, None):
        try:
            return call()
        except OfflineModeIsEnabled as error:
            raise HubError(
                say("HF_HUB_OFFLINE이 켜져 있습니다", "HF_HUB_OFFLINE is set"), "unset HF_HUB_OFFLINE"
            ) from error
        except HFValidationError as error:
            raise HubError(f"--repo {repo}: {error}", "--repo org/name") from error
        except HfHubHTTPError as error:
            status = error.response.status_code
            reason = f"{status} {error.server_message or ''}".strip()
            if status not in _BUSY or wait is None:
                raise _refused(repo, reason.replace(token, "***"), status) from None
        except (httpx2.TransportError, OSError) as error:
            reason = (str(error) or type(error).__name__).replace(token, "***")
            if wait is None:
                raise _refused(repo, reason, 0) from None
        report(say(f"{reason}; {wait:g}초 뒤에 다시", f"{reason}; again in {wait:g} s"))
        time.sleep(wait)
    raise AssertionError


def _refused(repo: str, reason: str, status: int) -> HubError:
    hints = {
        401: say("토큰이 맞는지 확인하세요: hf auth whoami", "check the token: hf auth whoami"),
        403: say("이 토큰에 쓰기 권한이 있어야 합니다", "the token needs the right to write there"),
    }
    return HubError(
        say(f"{repo}: 허브가 거절했습니다: {reason}", f"{repo}: the hub refused: {reason}"),
        hints.get(status, say("같은 명령을 다시 하면 이어서 올립니다", "the same command goes on where it stopped")),
    )
