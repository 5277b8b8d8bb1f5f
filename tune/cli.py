"""`tune`: from a persona's data to a live adapter."""

import hashlib
import os
from typing import TYPE_CHECKING, Annotated

import typer

from personas.console import make_app, run
from personas.lang import say
from tune import after_cli

if TYPE_CHECKING:
    from personas.home import Home
    from personas.loader import PersonaFolder
    from tune.settings import SftSettings

app = make_app(
    say("페르소나를 튜닝합니다: 데이터 → LoRA 어댑터 → 바로 서비스", "Tune personas: data → LoRA adapter → live")
)


@app.command(
    help=say(
        "학습하고 평가해서 다음 버전으로 발행합니다. 곧바로 서비스됩니다",
        "Train, evaluate, publish as the next version; live at once",
    )
)
def persona(
    name: Annotated[str, typer.Argument(help=say("페르소나 이름 (`personas ls`)", "persona name (`personas ls`)"))],
    preset: Annotated[str, typer.Option(help=say("프리셋 이름 (`tune presets`)", "preset name (`tune presets`)"))] = "",
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help=say("설정 하나를 바꿉니다", "override a setting")),
    ] = None,
) -> None:
    """Train NAME on its data by SFT with LoRA, evaluate, publish as the next version and make it live."""
    from filelock import FileLock, Timeout

    from personas.home import Home
    from personas.loader import find_persona
    from tune.settings import default_preset, load_settings

    folder = find_persona(name)
    settings = load_settings(preset or default_preset(folder.persona.base), overrides or [])
    home = Home.from_env()
    try:
        with FileLock(home.runs / f".{name}.lock", timeout=0):
            _tune(folder, settings, home)
    except Timeout:
        raise typer.BadParameter(
            say(f"'{name}' 튜닝이 이미 돌고 있습니다", f"'{name}' is being tuned already")
        ) from None


def _tune(folder: "PersonaFolder", settings: "SftSettings", home: "Home") -> None:
    from personas.adapters import AdapterStore
    from personas.bases import prepare_base
    from personas.memory import keep_freed_memory
    from personas.registry import Registry
    from tune.data import data_hash, read_records

    persona_ = folder.persona
    records = read_records(folder.data_files)
    held_out = read_records([folder.eval_file]) if folder.eval_file.is_file() else []
    base = prepare_base(persona_.base, home, print)
    key = f"{base.fingerprint}{data_hash(records)}{settings.model_dump_json()}{persona_.system_prompt}"
    run_folder = home.runs / f"{persona_.name}-{hashlib.sha256(key.encode()).hexdigest()[:10]}"
    print(say(f"기록 {len(records)}개로 {persona_.name} 튜닝", f"tuning {persona_.name} on {len(records)} records"))
    print(f"→ {run_folder}")
    os.environ["HF_HUB_OFFLINE"] = "1"  # the base is here; nothing may ask a hub from now on

    keep_freed_memory()
    from tune.evaluate import held_out_scores
    from tune.publish import publish, round_to_half
    from tune.sft import train

    run_folder.mkdir(exist_ok=True)
    (run_folder / "settings.json").write_text(settings.model_dump_json(indent=2))
    trained = train(base, records, persona_.system_prompt, settings, run_folder / "checkpoints")
    round_to_half(trained.model)
    scores = {"steps": float(trained.steps), "train_seconds": round(trained.seconds, 1), "scale": trained.scale}
    if held_out:
        scores |= held_out_scores(trained.model, trained.tokenizer, held_out, persona_.system_prompt)
    store, registry = AdapterStore(home.adapters), Registry(home.database)
    manifest = publish(
        trained.model, persona_.name, records, settings, scores, base, store, registry, run_folder / "adapter"
    )
    for score, value in scores.items():
        print(f"  {score:28} {value:g}")
    print(
        say(
            f"{manifest.id}이(가) 이제 '{persona_.name}'(으)로 답합니다",
            f"{manifest.id} now answers as '{persona_.name}'",
        )
    )


@app.command(help=say("프리셋과 그 출처를 보입니다", "List the presets with their sources"))
def presets() -> None:
    """List the presets with their commands and sources."""
    from tune.settings import PRESETS, preset_names

    for preset in preset_names():
        header = [line[2:] for line in (PRESETS / f"{preset}.yaml").read_text().splitlines() if line.startswith("# ")]
        print(preset, *header, sep="\n  ")


after_cli.register(app)


def main() -> None:
    run(app)


if __name__ == "__main__":
    main()
