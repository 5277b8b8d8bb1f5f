"""A persona's file, such as `ironman.json`: Alpaca's shape; known by the persona's name or its data folder."""

from pathlib import Path

from personas.loader import SETTINGS_FILE, personas_root
from tune.formats.alpaca import Alpaca
from tune.formats.base import Format, has, register


class PersonaRow(Alpaca):
    """One exchange of category `persona`."""

    category_here = "persona"


def _of_a_persona(path: Path) -> bool:
    named = personas_root() / path.stem.lower() / SETTINGS_FILE
    return named.is_file() or (path.parent.parent / SETTINGS_FILE).is_file()


register(
    Format(
        name="persona",
        title="ironman.json",
        row=PersonaRow,
        accepts=has("instruction", "output"),
        example={
            "instruction": "소코비아 협정을 어떻게 생각해요?",
            "input": "",
            "output": "책임 없는 힘은 사고야.",
        },
        files=_of_a_persona,
    )
)
