"""`tune persona` and `tune sft`: the options, and a run that is locked, noted, detached or carried out."""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from personas.lang import say

if TYPE_CHECKING:
    from personas.home import Home
    from tune.loop import Improvement
    from tune.recipe import Plan
    from tune.settings import SftSettings

Preset = Annotated[str, typer.Option(help=say("프리셋 이름 (`tune presets`)", "preset name (`tune presets`)"))]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help=say("설정 하나를 바꿉니다", "override a setting")),
]
Tracker = Annotated[str, typer.Option(help="none | tensorboard | wandb | trackio")]
Processes = Annotated[
    int, typer.Option(min=1, help=say("GPU 여러 대: 프로세스 수 (accelerate launch)", "processes (accelerate launch)"))
]
Accelerate = Annotated[str, typer.Option(help="ddp | ddp-cpu | zero3 | fsdp | FILE.yaml")]
Force = Annotated[
    bool, typer.Option("--force", help=say("관문에 걸려도 올립니다 (기록됩니다)", "go live despite the gate; recorded"))
]
Detach = Annotated[
    bool, typer.Option("--detach", help=say("터미널을 닫아도 계속합니다 (`tune runs`)", "go on without the terminal"))
]


@dataclass(frozen=True)
class How:
    """How a run is started, as the command line says it."""

    processes: int = 1
    accelerate: str = ""
    detach: bool = False


def settings_of(preset: str, overrides: list[str] | None, tracker: str) -> "SftSettings":
    from tune.settings import load_settings

    return load_settings(preset, [*(overrides or []), *([f"tracker={tracker}"] if tracker else [])])


def start(
    plan: "Plan | Improvement", home: "Home", how: How, carry_out: Callable[[], None], argv: list[str] | None = None
) -> None:
    """Carry a plan out here, or start this same command again in a session of its own.

    Args:
        argv: the command that goes on with this plan, if not the whole one that was given.
    """
    from tune.runs import detach, locked, working

    argv = argv or [argument for argument in sys.argv[1:] if argument != "--detach"]
    with locked(home, plan.name):
        if not how.detach:
            with working(plan.run, argv):
                carry_out()
            return
    detach(plan.run, argv)
    print(say(f"{plan.run.name}이(가) 뒤에서 돕니다", f"{plan.run.name} runs in the background"))
    print(f"→ tune runs | tune log {plan.run.name} -f | tune stop {plan.run.name}")


def show_scores(scores: dict[str, float]) -> None:
    for score, value in scores.items():
        print(f"  {score:28} {value:g}")


def persona(
    name: Annotated[str, typer.Argument(help=say("페르소나 이름 (`personas ls`)", "persona name (`personas ls`)"))],
    preset: Preset = "",
    overrides: Overrides = None,
    tracker: Tracker = "",
    processes: Processes = 1,
    accelerate: Accelerate = "",
    detach: Detach = False,
    force: Force = False,
) -> None:
    """Train NAME on its data by SFT with LoRA, evaluate, publish as the next version; live if it passes the gate."""
    from personas.home import Home
    from personas.loader import find_persona
    from tune.recipe import carry_out_persona, plan_persona
    from tune.settings import default_preset

    folder = find_persona(name)
    own = [] if preset else [f"{key}={json.dumps(value)}" for key, value in folder.persona.tuning.items()]
    settings = settings_of(preset or default_preset(folder.persona.base), [*own, *(overrides or [])], tracker)
    home = Home.from_env()
    plan = plan_persona(folder, settings, home)

    def carry_out() -> None:
        from tune.launch import Launch
        from tune.loop import tell

        tell(carry_out_persona(folder, plan, home, Launch(processes, accelerate), force=force))

    start(plan, home, How(processes, accelerate, detach), carry_out)


def sft(
    data: Annotated[list[Path], typer.Argument(help=say("데이터 파일", "data files"))],
    base: Annotated[str, typer.Option(help="embedded:NAME | FOLDER | org/name, #TEMPLATE")],
    out: Annotated[Path, typer.Option("--out", "-o", help=say("결과 폴더 (새로)", "result folder (new)"))],
    preset: Preset = "",
    system: Annotated[
        str, typer.Option(help=say("시스템 프롬프트 (자기 것이 없는 기록에)", "system prompt, for records without one"))
    ] = "",
    evaluation: Annotated[
        list[Path] | None, typer.Option("--eval", help=say("평가 데이터 파일", "held-out data file"))
    ] = None,
    overrides: Overrides = None,
    tracker: Tracker = "",
    processes: Processes = 1,
    accelerate: Accelerate = "",
    detach: Detach = False,
) -> None:
    """Train an adapter, or a whole model, on DATA without a persona."""
    from personas.home import Home
    from tune.recipe import carry_out_sft, plan_sft
    from tune.settings import default_preset

    home = Home.from_env()
    settings = settings_of(preset or default_preset(base), overrides, tracker)
    plan = plan_sft(data, evaluation or [], base, system, settings, out.resolve(), home)

    def carry_out() -> None:
        from tune.launch import Launch

        show_scores(carry_out_sft(plan, out.resolve(), Launch(processes, accelerate)))

    start(plan, home, How(processes, accelerate, detach), carry_out)


def register(app: typer.Typer) -> None:
    """Add these commands to `tune`."""
    app.command(
        help=say(
            "학습하고 평가해서 다음 버전으로 발행합니다. 관문을 통과하면 곧바로 서비스됩니다",
            "Train, evaluate, publish as the next version; live at once if it passes the gate",
        )
    )(persona)
    app.command(
        help=say("페르소나 없이 데이터로 어댑터나 모델을 학습합니다", "Train an adapter or a model on data files")
    )(sft)
