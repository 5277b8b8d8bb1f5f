"""Finds persona folders and reads them; every fault is reported at once, with file and line."""

import os
import unicodedata
from dataclasses import dataclass
from pathlib import Path

import yaml
from pydantic import ValidationError

from personas.errors import PersonaError
from personas.lang import say
from personas.schema import Persona

SETTINGS_FILE = "persona.yaml"
EVAL_FILE = "eval.jsonl"
DATA_SUFFIXES = (".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet")


@dataclass(frozen=True)
class PersonaFolder:
    """A persona and the folder it was read from."""

    persona: Persona
    path: Path

    @property
    def data_files(self) -> list[Path]:
        """Its own records: every data file of `data/`, in any format that `tune data` reads, in name order."""
        return _data_files(self.path)

    @property
    def training_files(self) -> list[Path]:
        """What the persona is trained on: its own records, then those that it shares with others.

        Raises:
            PersonaError: a folder that it shares has none.
        """
        found = self.data_files
        for name in self.persona.shared_data:
            shared = _data_files(self.path.parent / name)
            if not shared:
                where = self.path.parent / name / "data"
                raise PersonaError(f"{self.path / SETTINGS_FILE}: shared_data: {where} has no data files")
            found += shared
        return found

    @property
    def eval_file(self) -> Path:
        """Held-out records."""
        return self.path / EVAL_FILE

    @property
    def shipped_adapter(self) -> Path:
        """The adapter that comes with the persona; may not exist."""
        return self.path / "adapter"


def _data_files(folder: Path) -> list[Path]:
    return sorted(file for file in (folder / "data").glob("*") if file.suffix.lower() in DATA_SUFFIXES)


def personas_root() -> Path:
    """The folder of persona folders: `GAMYEON_PERSONAS`, or the one that this package is."""
    root = os.environ.get("GAMYEON_PERSONAS")
    return Path(root).expanduser().resolve() if root else Path(__file__).parent


def _line_of(root: yaml.Node | None, location: tuple[int | str, ...]) -> int:
    """The line (1-based) in which the value at a pydantic error location begins, or its nearest parent's."""
    node, line = root, 1
    for key in location:
        if isinstance(node, yaml.MappingNode):
            found = next(((k, v) for k, v in node.value if k.value == str(key)), None)
            if found is None:
                break
            line, node = found[0].start_mark.line + 1, found[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(key, int) and key < len(node.value):
            node = node.value[key]
            line = node.start_mark.line + 1
    return line


def read_persona(file: Path) -> Persona:
    """Read one `persona.yaml`.

    Raises:
        PersonaError: the message has one line a fault, each `file:line: field: what is wrong`.
    """
    try:
        text = unicodedata.normalize("NFC", file.read_text(encoding="utf-8"))
        # BaseLoader: every scalar is text and pydantic gives it its type, so that no name is read as a date or a bool
        content, nodes = yaml.load(text, yaml.BaseLoader), yaml.compose(text, yaml.BaseLoader)  # noqa: S506
    except OSError as error:
        raise PersonaError(f"{file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise PersonaError(f"{file}:{line}: not UTF-8 at byte {error.start}") from error
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise PersonaError(f"{file}:{line}: {error.problem}") from error
    except yaml.reader.ReaderError as error:
        line = text[: error.position].count("\n") + 1
        raise PersonaError(f"{file}:{line}: {error.reason}") from error
    try:
        persona = Persona.model_validate(content)
    except ValidationError as error:
        faults = [
            f"{file}:{_line_of(nodes, e['loc'])}: {'.'.join(map(str, e['loc'])) or SETTINGS_FILE}: {e['msg']}"
            for e in error.errors()
        ]
        raise PersonaError("\n".join(faults)) from error
    if persona.name != file.parent.name:
        line = _line_of(nodes, ("name",))
        raise PersonaError(f"{file}:{line}: name: '{persona.name}' is not the folder's name '{file.parent.name}'")
    return persona


def load_personas(root: Path | None = None) -> dict[str, PersonaFolder]:
    """Every persona below `root`, by name, in name order.

    Raises:
        PersonaError: with all faults of all folders.
    """
    root = root or personas_root()
    found: dict[str, PersonaFolder] = {}
    faults: list[str] = []
    for file in sorted(root.glob(f"*/{SETTINGS_FILE}")):
        try:
            found[file.parent.name] = PersonaFolder(read_persona(file), file.parent)
        except PersonaError as error:
            faults.append(error.message)
    if faults:
        raise PersonaError("\n".join(faults), say("고친 뒤 `personas check`", "mend them, then `personas check`"))
    return found


def find_persona(name: str, root: Path | None = None) -> PersonaFolder:
    """One persona by name.

    Raises:
        PersonaError: no such folder, or its settings are faulty.
    """
    folder = (root or personas_root()) / name
    file = folder / SETTINGS_FILE
    if not file.is_file():
        raise PersonaError(
            say(f"'{name}' 페르소나가 없습니다 ({file})", f"no persona '{name}' ({file})"),
            say("`personas ls`로 이름을 확인하세요", "see the names with `personas ls`"),
        )
    return PersonaFolder(read_persona(file), folder)
