"""`personas versions | promote | canary | rollback | diff`: see versions and move between them."""

import getpass
import re
from typing import Annotated, Any

import typer

from personas.adapters import AdapterStore, Manifest, parse_version_id, read_manifest, verify_files, version_id
from personas.errors import RegistryError
from personas.home import Home
from personas.lang import say
from personas.loader import find_persona
from personas.registry import Registry

Name = Annotated[str, typer.Argument(help=say("페르소나 이름", "persona name"))]
Version = Annotated[str, typer.Argument(help="NAME@vN")]
Why = Annotated[str, typer.Option(help=say("까닭 (기록에 남습니다)", "the reason, kept in the history"))]


def mount(app: typer.Typer) -> None:
    """Add the commands to `personas`."""
    app.command(help=say("버전과 기록을 보입니다", "Show versions and history"))(versions)
    app.command(help=say("버전을 라이브로 올립니다", "Make a version live"))(promote)
    app.command(help=say("사용자 일부만 새 버전과 이야기합니다 (0%: 끝)", "Give a share of users a version; 0% ends"))(
        canary
    )
    app.command(help=say("바로 전으로 되돌립니다", "Undo the canary, or the last promotion"))(rollback)
    app.command(help=say("두 버전의 설정, 데이터, 점수를 견줍니다", "Compare settings, data and scores"))(diff)


def parse_version(text: str) -> tuple[str, int]:
    """(persona, version) of `NAME@vN`.

    Raises:
        RegistryError: not of that form.
    """
    if (found := parse_version_id(text)) is None:
        raise RegistryError(say(f"'{text}': NAME@vN 꼴이 아닙니다", f"'{text}' is not NAME@vN"), "personas ls")
    return found


def parse_weight(text: str) -> float:
    """Percent of `10%` or `10`.

    Raises:
        RegistryError: not a number.
    """
    if not re.fullmatch(r"\d{1,3}(\.\d+)?\s*%?", text.strip()):
        raise RegistryError(say(f"비율을 알 수 없습니다: '{text}'", f"not a weight: '{text}'"), "--weight 10%")
    return float(text.strip().rstrip("%"))


def checked(name: str, store: AdapterStore) -> tuple[str, int]:
    """A version whose files are whole.

    Raises:
        RegistryError: not of the form NAME@vN.
        AdapterError: not in the store, or damaged.
    """
    persona, version = parse_version(name)
    folder = store.existing(persona, version)
    verify_files(folder, read_manifest(folder))
    return persona, version


def versions(name: Name) -> None:
    """List the versions of NAME, which is live, and every move with who, when and why."""
    from rich.console import Console
    from rich.table import Table

    home = Home.from_env()
    registry, store = Registry(home.database), AdapterStore(home.adapters)
    route, table = registry.route(name), Table("", *say("버전 시각 방법 점수", "version made recipe scores").split())
    numbers = registry.versions(name)
    if not numbers:
        find_persona(name)  # which says so where it is the name that is wrong
        raise RegistryError(say(f"{name}: 버전이 없습니다", f"{name}: no version"), f"tune persona {name}")
    for version in numbers:
        mark = {route.live: "●", route.canary: f"◐ {route.weight:g}%"}.get(version, "")
        manifest = read_manifest(store.folder(name, version))
        scores = ", ".join(f"{key} {value:g}" for key, value in manifest.scores.items() if "loss" in key)
        table.add_row(
            mark, manifest.id, f"{manifest.created:%Y-%m-%d %H:%M}", str(manifest.recipe.get("name", "")), scores
        )
    moves = Table(say("언제", "when"), say("무엇", "what"), say("누가", "who"), say("왜", "why"))
    for move in registry.history(name):
        what = f"{move.action} {version_id(name, move.version)}" + (f" {move.weight:g}%" if move.weight else "")
        moves.add_row(move.at[:19].replace("T", " "), what, move.who, move.why)
    Console().print(table, moves)


def promote(version: Version, why: Why = "") -> None:
    """Make NAME@vN live in one step; running replies finish with the old version."""
    home = Home.from_env()
    persona, number = checked(version, AdapterStore(home.adapters))
    Registry(home.database).promote(persona, number, getpass.getuser(), why or "personas promote")
    print(say(f"✓ {version}이(가) 이제 '{persona}'(으)로 답합니다", f"✓ {version} now answers as '{persona}'"))


def canary(
    version: Version,
    weight: Annotated[str, typer.Option(help=say("사용자의 비율, 0%는 끝", "share of the users; 0% ends it"))],
    why: Why = "",
) -> None:
    """Let a share of the users talk to NAME@vN; a user always gets the same version."""
    home = Home.from_env()
    persona, number = checked(version, AdapterStore(home.adapters))
    percent = parse_weight(weight)
    Registry(home.database).canary(persona, number, percent, getpass.getuser(), why or "personas canary")
    print(
        say(f"✓ 사용자의 {percent:g}%가 {version}과(와) 이야기합니다", f"✓ {percent:g}% of the users get {version}")
        if percent
        else say("✓ 카나리를 끝냈습니다", "✓ the canary has ended")
    )


def rollback(name: Name, why: Why = "") -> None:
    """End the canary of NAME if there is one, else go back to the version that was live before."""
    route = Registry(Home.from_env().database).rollback(name, getpass.getuser(), why or "personas rollback")
    live = version_id(name, route.live or 0)
    print(say(f"✓ '{name}'은(는) 이제 {live}입니다", f"✓ '{name}' is {live} now"))


def differences(a: Manifest, b: Manifest) -> dict[str, tuple[Any, Any]]:
    """What differs between two versions, by dotted field: recipe settings, data, base and scores."""

    def flat(manifest: Manifest) -> dict[str, Any]:
        fields = manifest.model_dump(mode="json", exclude={"persona", "version", "files"})
        return {
            f"{key}.{inner}" if inner else key: value
            for key, group in fields.items()
            for inner, value in (group.items() if isinstance(group, dict) else [("", group)])
        }

    one, other = flat(a), flat(b)
    keys = [*one, *(key for key in other if key not in one)]
    return {key: (one.get(key), other.get(key)) for key in keys if one.get(key) != other.get(key)}


def diff(a: Version, b: Version) -> None:
    """Show what differs between two versions: settings, data, scores."""
    from rich.console import Console
    from rich.table import Table

    store = AdapterStore(Home.from_env().adapters)
    manifests = [read_manifest(store.existing(*parse_version(name))) for name in (a, b)]
    table = Table("", a, b)
    for key, values in differences(*manifests).items():
        table.add_row(key, *("-" if value is None else str(value)[:60] for value in values))
    Console().print(table)
