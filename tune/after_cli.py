"""What comes after training: `tune merge | blend | publish | report | compare | chat`."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from personas.lang import say

if TYPE_CHECKING:
    from personas.home import Home
    from personas.loader import PersonaFolder
    from tune.compare import Pair
    from tune.generate import Knobs
    from tune.locate import Adapter

_WHAT = say(
    "ironman@v1 | 페르소나 | 실행 | 체크포인트 | PEFT 폴더", "ironman@v1 | persona | run | checkpoint | PEFT folder"
)
Name = Annotated[str, typer.Argument(metavar="ADAPTER", help=_WHAT)]
Checkpoint = Annotated[
    int | None, typer.Option(help=say("실행의 체크포인트 번호 (예: 300)", "step of a run's checkpoint, such as 300"))
]
BaseSpec = Annotated[
    str, typer.Option("--base", help=say("베이스 (어댑터에 적힌 것 대신)", "base, instead of the one it names"))
]
Out = Annotated[Path, typer.Option("--out", "-o", help=say("만들 폴더 (아직 없어야 합니다)", "folder to make"))]
Temperature = Annotated[float, typer.Option(help=say("0이면 항상 가장 그럴듯한 토큰", "0: always the likeliest token"))]
MaxTokens = Annotated[int, typer.Option(help=say("답의 최대 토큰 수", "tokens of a reply, at most"))]
Penalty = Annotated[float, typer.Option(help=say("반복 벌점, 2.0까지", "up to 2.0"))]


def register(app: typer.Typer) -> None:
    """Add these commands to `tune`."""
    for command, text in (
        (merge, say("어댑터를 베이스에 병합합니다", "Merge an adapter into its base")),
        (blend, say("모델이나 어댑터를 섞습니다 (mergekit, PEFT)", "Blend models or adapters (mergekit, PEFT)")),
        (publish, say("허브에 올립니다 (기본은 비공개)", "Publish to the Hub, private by default")),
        (report, say("실행 보고서를 HTML과 그림으로 만듭니다", "Report a run as HTML and a picture")),
        (compare, say("튜닝 전과 후의 답을 나란히 보입니다", "Replies before and after tuning, side by side")),
        (chat, say("터미널에서 바로 대화합니다", "Chat in the terminal")),
    ):
        app.command(help=text)(command)


def _offline() -> None:
    os.environ["HF_HUB_OFFLINE"] = "1"  # the base is here; nothing may ask a hub from now on


def merge(
    name: Name,
    out: Out,
    checkpoint: Checkpoint = None,
    base: BaseSpec = "",
    dtype: Annotated[str, typer.Option(help="auto | float32 | bfloat16 | float16")] = "auto",
) -> None:
    """Merge ADAPTER into its base; the folder loads with transformers and vLLM."""
    from personas.home import Home
    from tune.locate import base_of, find_adapter

    home = Home.from_env()
    if dtype not in ("auto", "float32", "bfloat16", "float16"):
        raise typer.BadParameter("auto | float32 | bfloat16 | float16", param_hint="--dtype")
    adapter = find_adapter(name, home, checkpoint)
    prepared = base_of(adapter, home, base)
    _offline()
    from tune.merge import merge as make

    difference = make(adapter, prepared, out.resolve(), dtype)
    print(
        f"✓ {out} " + say(f"(로짓의 상대 차이 {difference:.1e})", f"(relative difference of logits {difference:.1e})")
    )
    print(f"→ tune publish {out} --repo org/name | vllm serve {out}")


def blend(
    out: Out,
    names: Annotated[list[str] | None, typer.Argument(metavar="MODEL|ADAPTER…", help=_WHAT)] = None,
    config: Annotated[Path | None, typer.Option(help=say("mergekit YAML", "mergekit YAML"))] = None,
    method: Annotated[str, typer.Option(help="slerp | dare_ties | ties | linear | moe | svd | cat | …")] = "",
    weight: Annotated[list[float] | None, typer.Option(help=say("이름마다 하나씩", "one for each name"))] = None,
    t: Annotated[float, typer.Option(help=say("slerp: 둘째 모델의 몫", "slerp: share of the second model"))] = 0.5,
    density: Annotated[float, typer.Option(help=say("ties, dare: 남길 몫", "ties, dare: share that is kept"))] = 0.5,
    rank: Annotated[int | None, typer.Option(help=say("svd: 결과의 랭크", "svd: rank of the result"))] = None,
    base: BaseSpec = "",
    prompt: Annotated[
        list[str] | None,
        typer.Option(help=say("moe: 모델마다 '질문;질문'", "moe: 'question;question' for each model")),
    ] = None,
    gate: Annotated[str, typer.Option(help="moe: hidden | cheap_embed | random")] = "hidden",
    experts_per_token: Annotated[int, typer.Option(help="moe")] = 2,
    seed: Annotated[int, typer.Option(help="dare, moe")] = 0,
    persona: Annotated[
        str, typer.Option(help=say("어댑터: 이 페르소나의 다음 버전으로", "adapters: publish as its next version"))
    ] = "",
    live: Annotated[bool, typer.Option(help=say("그 버전을 바로 서비스", "make that version live"))] = False,
) -> None:
    """Blend adapters of one base into an adapter, or whole models into a model."""
    from personas.home import Home
    from tune.blend import Mix
    from tune.merge import MergeError

    home, given = Home.from_env(), names or []
    if config is None and len(given) < 2:
        raise MergeError(
            say("둘 이상을 섞습니다", "name two or more to blend"), "tune blend A B -o OUT | --config FILE"
        )
    weights = weight or [1 / len(given)] * len(given)
    if config is None and len(weights) != len(given):
        raise MergeError(f"--weight: {len(weights)} ≠ {len(given)}", "--weight 0.5 --weight 0.5")
    mix = Mix(method, weights, density, t, rank, seed)
    if config is not None:
        _blend_config(config, out, mix)
    elif _are_adapters(given, home):
        _blend_adapters(given, mix, base, out, home, persona, live)
    else:
        _blend_models(given, mix, base, out, home, prompt or [], gate, experts_per_token)


def _blend_config(file: Path, out: Path, mix: Any) -> None:
    from tune.blend import blend_models, read_config

    config = read_config(file)
    method = config.get("merge_method", "moe")
    blend_models(config, out.resolve(), {"kind": "blend", "recipe": {"name": "blend", "method": method}}, mix.seed)
    print(f"✓ {out}")


def _are_adapters(names: list[str], home: "Home") -> bool:
    """Whether the names are adapters: no folder among them is a whole model."""
    from tune.locate import find_run

    return not any(
        (Path(name).expanduser() / "config.json").is_file() or ("/" in name and find_run(name, home) is None)
        for name in names
        if not (Path(name).expanduser() / "adapter_config.json").is_file()
    )


def _blend_adapters(names: list[str], mix: Any, base: str, out: Path, home: "Home", persona: str, live: bool) -> None:
    from dataclasses import replace

    from personas.errors import AdapterError
    from tune.blend import blend_adapters, store_blend
    from tune.locate import base_of, find_adapter

    adapters = [find_adapter(name, home) for name in names]
    bases = [base_of(adapter, home, base) for adapter in adapters]
    if astray := next((i for i, other in enumerate(bases) if other.fingerprint != bases[0].fingerprint), 0):
        raise AdapterError(
            say("베이스가 서로 다릅니다: ", "they have different bases: ")
            + f"{adapters[0].name} {bases[0].name}, {adapters[astray].name} {bases[astray].name}",
            "tune merge, tune blend --method dare_ties",
        )
    _offline()
    recipe = blend_adapters(adapters, bases[0], replace(mix, method=mix.method or "svd"), out.resolve())
    print(f"✓ {out} (rank {recipe['rank']})")
    if persona:
        manifest = store_blend(out, persona, adapters, recipe, bases[0], home, live)
        print(f"✓ {manifest.id}" + (say(" (서비스 중)", " (live)") if live else ""))


def _blend_models(
    names: list[str], mix: Any, base: str, out: Path, home: "Home", prompts: list[str], gate: str, per_token: int
) -> None:
    from dataclasses import replace

    from personas.bases import prepare_base
    from tune.blend import blend_models, model_config, moe_config
    from tune.merge import MergeError

    models = [_model(name, home) for name in names]
    ground = _model(base, home) if base else None
    mix = replace(mix, method=mix.method or "slerp")
    if mix.method == "moe":
        if len(prompts) != len(models) and gate != "random":
            raise MergeError(f"--prompt: {len(prompts)} ≠ {len(models)}", "--prompt '질문;질문' --prompt '…'")
        fields = [[p.strip() for p in text.split(";") if p.strip()] for text in prompts] or [[""]] * len(models)
        config = moe_config(list(zip(models, fields, strict=True)), ground or models[0], gate, per_token)
    else:
        config = model_config(models, ground, mix)
    _offline()
    recipe = {"name": "blend", "method": mix.method, "sources": [m.name for m in models], "weights": mix.weights}
    facts: dict[str, Any] = {"kind": "blend", "recipe": recipe}
    if base:
        from tune.locate import base_lineage

        facts["base"] = base_lineage(prepare_base(base, home, print))
    blend_models(config, out.resolve(), facts, mix.seed)
    print(f"✓ {out}")


def _model(name: str, home: "Home") -> Path:
    """A whole model's folder: as given, or the prepared one of a base."""
    from personas.bases import prepare_base

    folder = Path(name).expanduser()
    return folder.resolve() if (folder / "config.json").is_file() else prepare_base(name, home, print).path


def publish(
    name: Annotated[str, typer.Argument(metavar="ADAPTER|FOLDER", help=_WHAT)],
    repo: Annotated[str, typer.Option(help="org/name")],
    public: Annotated[bool, typer.Option(help=say("공개 저장소로", "a public repository"))] = False,
    license_: Annotated[str, typer.Option("--license", help="gemma | llama3 | apache-2.0 | …")] = "",
    checkpoint: Checkpoint = None,
    base: BaseSpec = "",
) -> None:
    """Publish ADAPTER or a model's FOLDER to the Hub with a model card. The token: HF_TOKEN or `hf auth login`."""
    from personas.home import Home
    from tune.hub import of_adapter, of_folder
    from tune.hub import publish as upload
    from tune.locate import base_of, find_adapter

    home, folder = Home.from_env(), Path(name).expanduser()
    if (folder / "config.json").is_file():
        source = of_folder(folder.resolve())
    else:
        adapter = find_adapter(name, home, checkpoint)
        source = of_adapter(adapter, base_of(adapter, home, base))
    print(f"✓ {upload(source, repo, license_, public)}")


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


def _ask(
    adapter: "Adapter", persona: "PersonaFolder | None", questions: list[str], knobs: "Knobs", home: "Home", base: str
) -> "list[Pair]":
    from rich.progress import track

    from personas.memory import keep_freed_memory
    from tune.locate import base_of

    prepared = base_of(adapter, home, base)
    _offline()
    keep_freed_memory()
    from tune.compare import ask_models
    from tune.generate import load_speaker

    speaker = load_speaker(prepared, adapter)
    prompt = persona.persona.system_prompt if persona else ""
    pairs = ask_models(speaker, prompt, questions, knobs)
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

    home = Home.from_env()
    adapter = find = None
    knobs = _knobs(temperature, top_p, top_k, repetition_penalty, max_tokens, seed)
    if not gateway:
        from tune.locate import find_adapter as find

        adapter = find(name, home, checkpoint)
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
    name: Annotated[str, typer.Argument(metavar="ADAPTER|FOLDER", help=_WHAT)],
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
    from tune.locate import base_of, find_adapter

    home, folder = Home.from_env(), Path(name).expanduser()
    keep_freed_memory()
    knobs = _knobs(temperature, top_p, top_k, repetition_penalty, max_tokens, 0)
    persona = None
    if (folder / "config.json").is_file():
        _offline()
        from tune.generate import load_folder

        speaker = load_folder(folder)
    else:
        adapter = find_adapter(name, home, checkpoint)
        persona = _persona(adapter.persona)
        prepared = base_of(adapter, home, base)
        _offline()
        from tune.generate import load_speaker

        speaker = load_speaker(prepared, adapter)
    _talk(speaker, persona.persona.system_prompt if persona else "", knobs)


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
