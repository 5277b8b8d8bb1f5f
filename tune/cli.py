"""`tune`: from a persona's data to a live adapter."""

from typing import Annotated

import typer

from personas.console import make_app, run
from personas.lang import say
from tune import after_cli, loop_cli
from tune.data_cli import app as data_app

app = make_app(
    say("페르소나를 튜닝합니다: 데이터 → LoRA 어댑터 → 바로 서비스", "Tune personas: data → LoRA adapter → live")
)
app.add_typer(data_app, name="data")


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
    from tune.recipe import tune_persona
    from tune.settings import default_preset, load_settings

    folder = find_persona(name)
    settings = load_settings(preset or default_preset(folder.persona.base), overrides or [])
    home = Home.from_env()
    try:
        with FileLock(home.runs / f".{name}.lock", timeout=0):
            manifest = tune_persona(folder, settings, home)
    except Timeout:
        raise typer.BadParameter(
            say(f"'{name}' 튜닝이 이미 돌고 있습니다", f"'{name}' is being tuned already")
        ) from None
    for score, value in manifest.scores.items():
        print(f"  {score:28} {value:g}")
    print(say(f"{manifest.id}이(가) 이제 '{name}'(으)로 답합니다", f"{manifest.id} now answers as '{name}'"))


@app.command(help=say("프리셋과 그 출처를 보입니다", "List the presets with their sources"))
def presets() -> None:
    """List the presets with their commands and sources."""
    from tune.preference_settings import PREFERENCE_PRESETS
    from tune.settings import PRESETS

    for file in [*sorted(PRESETS.glob("*.yaml")), *sorted(PREFERENCE_PRESETS.glob("*.yaml"))]:
        header = [line[2:] for line in file.read_text().splitlines() if line.startswith("# ")]
        print(file.stem, *header, sep="\n  ")


loop_cli.mount(app)
after_cli.register(app)


def main() -> None:
    run(app)


if __name__ == "__main__":
    main()
