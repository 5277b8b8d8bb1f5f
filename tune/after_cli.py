"""What comes after training: `tune merge | blend | publish | report | compare | chat`."""

from pathlib import Path
from typing import Annotated

import typer

from personas.lang import say
from tune.ask_cli import chat, compare, report
from tune.blend_cli import blend
from tune.options import WHAT, BaseSpec, Checkpoint, Name, Out, offline


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
    offline()
    from tune.merge import merge as make

    difference = make(adapter, prepared, out.resolve(), dtype)
    print(
        f"✓ {out} " + say(f"(로짓의 상대 차이 {difference:.1e})", f"(relative difference of logits {difference:.1e})")
    )
    print(f"→ tune publish {out} --repo org/name | serve up --base {out}")


def publish(
    name: Annotated[str, typer.Argument(metavar="ADAPTER|FOLDER", help=WHAT)],
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
