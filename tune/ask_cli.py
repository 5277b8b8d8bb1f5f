"""`tune report | compare | chat`: look at a run, and hear what it made."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from personas.lang import say
from tune.options import WHAT, BaseSpec, Checkpoint, MaxTokens, Name, Penalty, Temperature, offline

if TYPE_CHECKING:
    from personas.home import Home
    from personas.loader import PersonaFolder
    from tune.compare import Pair
    from tune.generate import Knobs
    from tune.locate import Adapter


def report(
    name: Annotated[str, typer.Argument(metavar="RUN", help=say("실행 이름이나 폴더", "a run's name or folder"))],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help=say("HTML 파일 (기본: 실행 폴더)", "HTML file (the run's folder)")),
    ] = None,
    png: Annotated[
        Path | None, typer.Option(help=say("그림 파일 (기본: HTML 옆)", "picture (beside the HTML)"))
    ] = None,
    samples: Annotated[
        int,
        typer.Option(help=say("대답 예시 수 (한 번 만들면 실행 폴더에 둡니다)", "replies to show; kept with the run")),
    ] = 3,
    max_tokens: MaxTokens = 120,
) -> None:
    """Report RUN: curves, memory, time, settings, scores and samples."""
    from personas.home import Home
    from tune.report import read_run, write_html, write_png

    home = Home.from_env()
    run = read_run(name, home)
    page = out or run.folder / "report.html"
    picture = png or page.with_suffix(".png")
    if samples and not run.samples:
        _make_samples(run.folder, home, samples, max_tokens)
        run = read_run(name, home)
    write_html(run, page)
    write_png(run, picture)
    print(f"✓ {page}\n✓ {picture}")


def _make_samples(run: Path, home: "Home", count: int, max_tokens: int) -> None:
    """Let base and tuned answer, and keep that with the run; a run whose base is not here is reported without."""
    from personas.errors import GamyeonError
    from tune.compare import default_questions, save_json
    from tune.generate import Knobs
    from tune.locate import find_adapter

    try:
        adapter = find_adapter(str(run), home)
        persona = _persona(adapter.persona)
        pairs = _ask(adapter, persona, default_questions(persona, count), Knobs(max_new_tokens=max_tokens), home, "")
    except GamyeonError as error:
        print(say("예시 없이: ", "without samples: ") + error.message)
        return
    save_json(pairs, run / "samples.json")


def _persona(name: str) -> "PersonaFolder | None":
    from personas.errors import PersonaError
    from personas.loader import find_persona

    try:
        return find_persona(name) if name else None
    except PersonaError:
        return None


def _prompt(kept: str | None, persona: "PersonaFolder | None") -> str:
    """The system prompt: that of the training where it was kept, or else the persona's, or none."""
    own = persona.persona.system_prompt if persona else ""
    return own if kept is None else kept


def _ask(
    adapter: "Adapter", persona: "PersonaFolder | None", questions: list[str], knobs: "Knobs", home: "Home", base: str
) -> "list[Pair]":
    from rich.progress import track

    from personas.memory import keep_freed_memory
    from tune.locate import base_of

    prepared = base_of(adapter, home, base)
    offline()
    keep_freed_memory()
    from tune.compare import ask_models
    from tune.generate import load_speaker

    speaker = load_speaker(prepared, adapter)
    pairs = ask_models(speaker, _prompt(adapter.system_prompt, persona), questions, knobs)
    return list(track(pairs, description=say("묻는 중", "asking"), total=len(questions)))


def compare(
    name: Name,
    questions: Annotated[
        Path | None, typer.Option(help=say("질문 파일: 줄마다 하나, 또는 JSONL", "one a line, or JSON Lines"))
    ] = None,
    html: Annotated[Path | None, typer.Option(help=say("HTML로도 저장", "write HTML, too"))] = None,
    gateway: Annotated[
        str, typer.Option(help=say("도는 서버에 묻습니다 (http://…)", "ask a running server (http://…)"))
    ] = "",
    count: Annotated[int, typer.Option(help=say("기본 질문의 수", "how many of the default questions"))] = 10,
    checkpoint: Checkpoint = None,
    base: BaseSpec = "",
    temperature: Temperature = 0.1,
    top_p: Annotated[float, typer.Option()] = 0.95,
    top_k: Annotated[int, typer.Option()] = 50,
    repetition_penalty: Penalty = 1.1,
    max_tokens: MaxTokens = 256,
    seed: Annotated[int, typer.Option()] = 0,
) -> None:
    """Ask base and ADAPTER the same questions and show the replies side by side."""
    from personas.home import Home
    from tune.compare import ask_gateway, default_questions, read_questions, show, write_html
    from tune.locate import find_adapter

    home = Home.from_env()
    knobs = _knobs(temperature, top_p, top_k, repetition_penalty, max_tokens, seed)
    adapter = None if gateway else find_adapter(name, home, checkpoint)
    persona = _persona(adapter.persona if adapter else name.partition("@")[0])
    asked = read_questions(questions) if questions else default_questions(persona, count)
    if adapter is None:
        prompt = persona.persona.system_prompt if persona else ""
        pairs = list(ask_gateway(gateway, name, prompt, asked, knobs))
    else:
        pairs = _ask(adapter, persona, asked, knobs, home, base)
    title = say(
        f"튜닝 전과 후: {adapter.name if adapter else name}", f"Before and after: {adapter.name if adapter else name}"
    )
    show(pairs, title)
    if html:
        facts = {"adapter": adapter.name if adapter else f"{gateway} {name}"}
        facts |= {key: str(value) for key, value in knobs.model_dump().items()}
        write_html(pairs, title, facts, html)
        print(f"✓ {html}")


def _knobs(temperature: float, top_p: float, top_k: int, penalty: float, max_tokens: int, seed: int) -> "Knobs":
    from pydantic import ValidationError

    from tune.generate import Knobs

    values = {"temperature": temperature, "top_p": top_p, "top_k": top_k, "seed": seed}
    try:
        return Knobs.model_validate({**values, "repetition_penalty": penalty, "max_new_tokens": max_tokens})
    except ValidationError as error:
        first = error.errors()[0]
        raise typer.BadParameter(first["msg"], param_hint=f"--{str(first['loc'][0]).replace('_', '-')}") from error


def chat(
    name: Annotated[str, typer.Argument(metavar="ADAPTER|FOLDER", help=WHAT)],
    checkpoint: Checkpoint = None,
    base: BaseSpec = "",
    temperature: Temperature = 0.1,
    top_p: Annotated[float, typer.Option()] = 0.95,
    top_k: Annotated[int, typer.Option()] = 50,
    repetition_penalty: Penalty = 1.1,
    max_tokens: MaxTokens = 512,
) -> None:
    """Talk to ADAPTER, or to a merged model's FOLDER, in the terminal; replies appear as they are written."""
    from personas.home import Home
    from personas.memory import keep_freed_memory
    from tune.locate import base_of, find_adapter, kept_prompt

    home, folder = Home.from_env(), Path(name).expanduser()
    keep_freed_memory()
    knobs = _knobs(temperature, top_p, top_k, repetition_penalty, max_tokens, 0)
    if (folder / "config.json").is_file():
        offline()
        from tune.generate import load_folder

        speaker, prompt = load_folder(folder), kept_prompt(folder) or ""
    else:
        adapter = find_adapter(name, home, checkpoint)
        prompt = _prompt(adapter.system_prompt, _persona(adapter.persona))
        prepared = base_of(adapter, home, base)
        offline()
        from tune.generate import load_speaker

        speaker = load_speaker(prepared, adapter)
    _talk(speaker, prompt, knobs)


def _talk(speaker: Any, system_prompt: str, knobs: "Knobs") -> None:
    """Read a line, stream the reply, remember both; an empty line or the end of input ends it."""
    from tune.generate import stream

    messages = [{"role": "system", "content": system_prompt}] if system_prompt else []
    while True:
        try:
            line = input("› ").strip()
        except EOFError:
            return
        if not line:
            return
        messages.append({"role": "user", "content": line})
        reply = ""
        for piece in stream(speaker, messages, knobs):
            reply += piece
            print(piece, end="", flush=True)
        print()
        messages.append({"role": "assistant", "content": reply.strip()})
