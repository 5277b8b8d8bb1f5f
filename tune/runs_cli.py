"""`tune runs | log | stop | resume`, for runs that outlive a terminal, and `tune presets | families`."""

from typing import Annotated

import typer

from personas.lang import say

RunName = Annotated[str, typer.Argument(metavar="NAME", help=say("실행 이름 (`tune runs`)", "run (`tune runs`)"))]


def runs() -> None:
    """List the runs: name, state, step, loss, start."""
    from rich.console import Console
    from rich.table import Table

    from personas.home import Home
    from tune.runs import all_runs, progress, read_job, state

    titles = say("이름 상태 걸음 손실 시작", "name state step loss started").split()
    table = Table(*titles, box=None)
    for run in all_runs(Home.from_env()):
        job, told, now = read_job(run), progress(run), state(run)
        assert job is not None
        step = f"{told['step']}/{told['steps']}" if told else "-"
        loss = f"{float(told['loss']):.3f}" if "loss" in told else "-"
        reason = f"{now}: {job.error.splitlines()[0][:60]}" if now == "failed" else now
        table.add_row(run.name, reason, step, loss, job.started.astimezone().strftime("%m-%d %H:%M"))
    Console().print(table)


def log(
    name: RunName,
    keep_on: Annotated[bool, typer.Option("-f", "--follow", help=say("끝날 때까지 따라갑니다", "follow it"))] = False,
) -> None:
    """Print the log of a detached run."""
    from personas.home import Home
    from tune.runs import find, follow

    for text in follow(find(Home.from_env(), name), keep_on):
        print(text, end="", flush=True)


def stop(
    name: RunName,
    wait: Annotated[float, typer.Option(help=say("기다릴 초", "seconds to wait"))] = 600,
) -> None:
    """Ask a run to write a checkpoint and end."""
    from personas.home import Home
    from tune.runs import RunError, find, progress
    from tune.runs import stop as ask_to_stop

    run = find(Home.from_env(), name)
    print(say("다음 걸음이 끝나면 체크포인트를 쓰고 멈춥니다…", "it stops after this step, checkpoint first…"))
    if not ask_to_stop(run, wait):
        raise RunError(
            say(f"{wait:g}초가 지나도 돌고 있습니다", f"still running after {wait:g} s"), f"tune log {run.name} -f"
        )
    told = progress(run)
    print(f"{run.name}: {told.get('step', 0)}/{told.get('steps', '?')}\n→ tune resume {run.name}")


def resume(
    name: RunName,
    detach: Annotated[bool, typer.Option("--detach", help=say("뒤에서", "in the background"))] = False,
) -> None:
    """Go on with a run from its last checkpoint, by the command that it was started with."""
    import os
    import sys

    from personas.home import Home
    from tune.runs import RunError, find, read_job

    run = find(Home.from_env(), name)
    job = read_job(run)
    assert job is not None
    if job.alive:
        raise RunError(say(f"{run.name}은(는) 돌고 있습니다", f"{run.name} is running"), f"tune log {run.name} -f")
    os.chdir(job.cwd)
    again = [*job.argv, *(["--detach"] if detach else [])]
    os.execv(sys.executable, [sys.executable, "-m", "tune.cli", *again])  # noqa: S606


def presets_table() -> None:
    """List the presets: method, rank, rate, epochs or steps, and the command."""
    from rich.console import Console
    from rich.table import Table

    from tune.preset_files import preset_header, preset_names, preset_values

    table = Table(*say("이름 방법 rank lr 길이 명령", "name method rank lr length command").split(), box=None)
    for name in preset_names():
        values = preset_values(name, [])
        steps = f"{values['max_steps']} steps" if "max_steps" in values else f"{values.get('epochs', 3)} epochs"
        method = str(values.get("method", "lora"))
        rank = "-" if method == "full" else str(values.get("rank", 16))
        table.add_row(name, method, rank, f"{values['learning_rate']:g}", steps, preset_header(name)[0])
    Console().print(table)
    print("→ tune presets show NAME")


def presets_show(name: Annotated[str, typer.Argument(metavar="NAME")]) -> None:
    """Print a preset's file: its command, its source and its values."""
    from tune.preset_files import preset_text

    print(preset_text(name), end="")


def families() -> None:
    """List the model families: templates, LoRA targets, and whether vLLM serves the adapter."""
    from rich.console import Console
    from rich.table import Table

    from tune.families import FAMILIES, WITHOUT_LORA

    table = Table("model_type", *say("모델 템플릿 대상 vLLM", "models templates targets vLLM").split(), box=None)
    for name, family in FAMILIES.items():
        table.add_row(name, family.models, family.template, " ".join(family.targets), "LoRA")
    Console().print(table)
    print(say("병합해야 서비스됩니다: ", "served merged only: ") + ", ".join(sorted(WITHOUT_LORA)))


def register(app: typer.Typer) -> None:
    """Add these commands to `tune`."""
    app.command(help=say("실행 목록", "List the runs"))(runs)
    app.command(help=say("실행의 로그 (-f: 따라가기)", "A run's log (-f: follow)"))(log)
    app.command(help=say("체크포인트를 쓰고 멈춥니다", "Stop a run, checkpoint first"))(stop)
    app.command(help=say("멈춘 곳에서 이어 갑니다", "Go on where a run stopped"))(resume)
    app.command(help=say("모델 계열과 vLLM 지원", "Model families and what vLLM serves"))(families)
    presets = typer.Typer(invoke_without_command=True, rich_markup_mode=None)

    @presets.callback(help=say("프리셋 목록", "List the presets"))
    def _table(context: typer.Context) -> None:
        if context.invoked_subcommand is None:
            presets_table()

    presets.command("show", help=say("프리셋 하나를 보입니다", "Show a preset"))(presets_show)
    app.add_typer(presets, name="presets")
