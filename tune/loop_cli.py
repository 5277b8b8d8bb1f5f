"""`tune dpo | kto | learn`: a persona's next version from preferences and feedback."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from personas.lang import say
from tune.train_cli import Detach, Force, How, Overrides, Tracker, start

if TYPE_CHECKING:
    from personas.home import Home
    from personas.loader import PersonaFolder
    from tune.learn import Lessons
    from tune.preference import Judged, Pair
    from tune.preference_settings import PreferenceSettings

Name = Annotated[str, typer.Argument(help=say("페르소나 이름 (`personas ls`)", "persona name (`personas ls`)"))]
Data = Annotated[
    list[Path] | None,
    typer.Option("--data", help=say("선호 데이터 파일들 (없으면 피드백)", "preference data files; else the feedback")),
]
Preset = Annotated[str, typer.Option(help=say("프리셋 이름", "preset name"))]
Loss = Annotated[str, typer.Option(help="dpo: sigmoid | ipo; kto: kto | apo_zero_unpaired")]
Beta = Annotated[float, typer.Option(help=say("0: 프리셋대로", "0: the preset's"))]
Qlora = Annotated[bool, typer.Option("--qlora", help=say("베이스를 nf4로", "the base in nf4"))]


def _lessons(folder: "PersonaFolder", home: "Home") -> "Lessons":
    from personas.feedback_store import FeedbackStore
    from tune.data import read_held_out
    from tune.learn import gather

    return gather(FeedbackStore(home.database).all(folder.persona.name), read_held_out(folder))


def _prefer(
    method: Literal["dpo", "kto"],
    name: str,
    data: list[Path] | None,
    preset: str,
    overrides: list[str],
    force: bool,
    detach: bool,
) -> None:
    from personas.home import Home
    from personas.loader import find_persona
    from tune.preference_data import read_judged, read_pairs
    from tune.preference_settings import default_preference_preset, load_preference_settings

    folder, home = find_persona(name), Home.from_env()
    settings = load_preference_settings(preset or default_preference_preset(folder.persona.base), method, overrides)
    records: list[Pair] | list[Judged]
    if data:
        records = read_pairs(data) if method == "dpo" else read_judged(data)
    else:
        lessons = _lessons(folder, home)
        records = lessons.pairs if method == "dpo" else lessons.judged
    _train(folder, records, settings, home, force, detach)


def _train(
    folder: "PersonaFolder",
    records: "list[Pair] | list[Judged]",
    settings: "PreferenceSettings",
    home: "Home",
    force: bool,
    detach: bool,
    argv: list[str] | None = None,
) -> None:
    from tune.loop import carry_out, plan_improvement, tell

    plan = plan_improvement(folder, records, settings, home)
    start(plan, home, How(detach=detach), lambda: tell(carry_out(plan, home, force=force)), argv)


def _flags(loss: str, beta: float, qlora: bool, tracker: str, overrides: list[str] | None) -> list[str]:
    given = [f"loss={loss}"] * bool(loss) + [f"beta={beta}"] * bool(beta) + ["qlora=true"] * qlora
    given += [f"tracker={tracker}"] * bool(tracker)
    return [*given, *(overrides or [])]


def dpo(
    name: Name,
    data: Data = None,
    preset: Preset = "",
    loss: Loss = "",
    beta: Beta = 0.0,
    qlora: Qlora = False,
    overrides: Overrides = None,
    tracker: Tracker = "",
    detach: Detach = False,
    force: Force = False,
) -> None:
    """Go on from the live version of NAME (or from its base) with pairs of a better and a worse answer."""
    _prefer("dpo", name, data, preset, _flags(loss, beta, qlora, tracker, overrides), force, detach)


def kto(
    name: Name,
    data: Data = None,
    preset: Preset = "",
    loss: Loss = "",
    beta: Beta = 0.0,
    qlora: Qlora = False,
    overrides: Overrides = None,
    tracker: Tracker = "",
    detach: Detach = False,
    force: Force = False,
) -> None:
    """Go on from the live version of NAME (or from its base) with answers that were liked or not."""
    _prefer("kto", name, data, preset, _flags(loss, beta, qlora, tracker, overrides), force, detach)


def learn(
    name: Name,
    dry_run: Annotated[bool, typer.Option("--dry-run", help=say("쓸 것만 보입니다", "only show what is used"))] = False,
    preset: Preset = "",
    overrides: Overrides = None,
    tracker: Tracker = "",
    detach: Detach = False,
    force: Force = False,
) -> None:
    """Turn feedback on NAME into pairs and judged answers, show them, and train: DPO on pairs, KTO on single thumbs."""
    from personas.home import Home
    from personas.loader import find_persona
    from tune.preference_settings import default_preference_preset, load_preference_settings

    folder, home = find_persona(name), Home.from_env()
    lessons = _lessons(folder, home)
    _show(lessons)
    if dry_run:
        return
    chosen, changes = preset or default_preference_preset(folder.persona.base), _flags("", 0, False, tracker, overrides)
    rounds: list[tuple[Literal["dpo", "kto"], Any]] = [("dpo", lessons.pairs)] if lessons.pairs else []
    if not lessons.pairs or len(lessons.judged) > 1:
        rounds.append(("kto", lessons.judged))
    settings = [load_preference_settings(chosen, method, changes) for method, _ in rounds]
    _train(folder, rounds[0][1], settings[0], home, force, detach)
    if len(rounds) > 1 and not detach:  # a detached learn comes here itself
        sets = [part for change in changes for part in ("--set", change)]
        alone = ["kto", name, "--preset", chosen, *sets, *(["--force"] * force)]
        _train(folder, rounds[1][1], settings[1], home, force, detach, alone)


def _show(lessons: "Lessons") -> None:
    from rich.console import Console
    from rich.table import Table

    counts = ", ".join(f"{source} {count}" for source, count in sorted(lessons.sources().items()))
    left = ", ".join(f"{reason} {count}" for reason, count in sorted(lessons.left_out.items()))
    print(say(f"배울 것: {counts or '없음'}", f"to learn: {counts or 'nothing'}"))
    print(say(f"쓰지 않는 것: {left or '없음'}", f"left out: {left or 'nothing'}"))
    table = Table("", say("질문", "prompt"), say("더 나은 답", "better"), say("못한 답", "worse"), show_lines=True)
    for pair in lessons.pairs[:20]:
        table.add_row(pair.source, pair.messages[-1].content[:80], pair.chosen[:120], pair.rejected[:120])
    for one in lessons.judged[:20]:
        answer = one.answer[:120]
        table.add_row(one.source, one.messages[-1].content[:80], *((answer, "") if one.good else ("", answer)))
    if table.row_count:
        Console().print(table)


def register(app: typer.Typer) -> None:
    """Add the commands to `tune`."""
    app.command(help=say("더 나은 답을 고르도록 학습합니다 (DPO, IPO)", "Learn to prefer better answers (DPO, IPO)"))(
        dpo
    )
    app.command(help=say("좋아요와 싫어요로 학습합니다 (KTO)", "Learn from single thumbs (KTO)"))(kto)
    app.command(help=say("사용자 피드백으로 다음 버전을 만듭니다", "Make the next version from users' feedback"))(learn)
