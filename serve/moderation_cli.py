"""`serve moderation check | fit`: judge texts, and fit the judge to labelled examples."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from personas.lang import say

if TYPE_CHECKING:
    from personas.loader import PersonaFolder
    from serve.moderation_fit import Example

app = typer.Typer(help=say("해로운 글을 가려내는 판정기", "The judge of harmful texts"), no_args_is_help=True)
Persona = Annotated[str, typer.Option(help=say("예시를 가진 페르소나", "the persona with the examples"))]


@app.command(help=say("글이 해로운지 판정합니다", "Judge texts"))
def check(
    texts: Annotated[list[str], typer.Argument(help=say("글", "texts"))],
    persona: Persona = "safe",
) -> None:
    """Print a JSON line for each text: what it is flagged for, and the scores."""
    import asyncio

    from personas.embedder import question_embed
    from personas.loader import find_persona
    from serve.moderation import HEAD_FILE, OwnModerator

    moderator = OwnModerator(find_persona(persona).path / HEAD_FILE, question_embed)
    for text, verdict in zip(texts, asyncio.run(moderator.judge(texts)), strict=True):
        scores = {name: round(score, 3) for name, score in sorted(verdict.scores.items(), key=lambda held: -held[1])}
        print(json.dumps({"text": text, "flagged": sorted(verdict.flagged), "scores": scores}, ensure_ascii=False))


@app.command(help=say("예시로 다시 맞추고, 보류 예시로 재어 봅니다", "Fit it again, and measure on held-out ones"))
def fit(
    persona: Persona = "safe",
    write: Annotated[
        bool, typer.Option(help=say("파일에 씁니다 (없으면 재기만)", "write the file; else measure alone"))
    ] = False,
) -> None:
    """Fit to the persona's data and further examples, others' prompts as harmless ones; measure on its held-out set."""
    from personas.embedder import question_embed
    from personas.loader import find_persona, load_personas
    from serve.moderation import EXAMPLES_FILE, HEAD_FILE
    from serve.moderation_fit import fit as fitted
    from serve.moderation_fit import measure, read_examples

    own = find_persona(persona)
    others = [folder for name, folder in load_personas().items() if name != persona]
    embed = question_embed()
    files = [*own.data_files, *(file for file in [own.path / EXAMPLES_FILE] if file.is_file())]
    head, told = fitted([*read_examples(files), *_harmless(others, held_out=False)], embed)
    print(json.dumps({"fit": persona, **told}))
    print(json.dumps({"held_out": persona, **measure(head, list(read_examples([own.eval_file])), embed)}))
    print(json.dumps({"held_out": "others", **measure(head, _harmless(others, held_out=True), embed)}))
    if write:
        head.save(own.path / HEAD_FILE)
        print(say(f"✓ {own.path / HEAD_FILE}", f"✓ {own.path / HEAD_FILE}"))


def _harmless(folders: "list[PersonaFolder]", held_out: bool) -> "list[Example]":
    """Other personas' prompts, and the exchanges that all share; prompts that carry documents are nobody's words."""
    from personas.loader import personas_root
    from serve.moderation_fit import OTHERS_WEIGHT, read_examples

    files: list[Path] = [] if held_out else sorted((personas_root() / "general" / "data").glob("*.jsonl"))
    for folder in folders:
        if folder.persona.documents is None and folder.persona.name != "docs":
            files += [folder.eval_file] if held_out else folder.data_files
    return list(read_examples(files, OTHERS_WEIGHT, harmless=True))
