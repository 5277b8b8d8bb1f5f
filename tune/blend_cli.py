"""`tune blend`: adapters of one base into an adapter, or whole models into a model."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from personas.lang import say
from tune.options import WHAT, BaseSpec, Out, offline

if TYPE_CHECKING:
    from personas.home import Home


def blend(
    out: Out,
    names: Annotated[list[str] | None, typer.Argument(metavar="MODEL|ADAPTER…", help=WHAT)] = None,
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
    from tune.runs import find_run

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
    offline()
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
    offline()
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
