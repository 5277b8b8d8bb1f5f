"""`serve keys`, `serve usage`: written to and read from the database, so that they work while nothing runs."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from personas.errors import GamyeonError
from personas.lang import say

if TYPE_CHECKING:
    from serve.access import KeyStore

keys = typer.Typer(
    help=say("API 키를 만들고, 보고, 없앱니다", "Create, list and revoke API keys"),
    no_args_is_help=True,
    rich_markup_mode=None,
)
Json = Annotated[bool, typer.Option("--json", help=say("한 줄에 JSON 하나", "one JSON object a line"))]


def _database() -> Path:
    from personas.home import Home

    return Home.from_env().database


def _store() -> "KeyStore":
    from serve.access import KeyStore

    return KeyStore(_database())


@keys.command("create", help=say("새 키를 만들어 한 번만 보여 줍니다", "Make a key and show it this once"))
def create(
    name: Annotated[str, typer.Argument(help=say("누구의 키인지", "whose key it is"))],
    scope: Annotated[list[str], typer.Option(help="chat | documents | admin")] = ["chat"],  # noqa: B006
    requests_per_minute: Annotated[int, typer.Option(min=0, help=say("0: 제한 없음", "0: no limit"))] = 0,
    tokens_per_minute: Annotated[int, typer.Option(min=0, help=say("0: 제한 없음", "0: no limit"))] = 0,
    concurrency: Annotated[int, typer.Option(min=0, help=say("동시 요청 수 (0: 제한 없음)", "0: no limit"))] = 0,
    persona: Annotated[
        list[str] | None, typer.Option(help=say("이 페르소나만 허용 (여러 번)", "only these personas (repeat)"))
    ] = None,
    as_json: Json = False,
) -> None:
    from serve.access import SCOPES, Limits

    if unknown := set(scope) - set(SCOPES):
        raise GamyeonError(
            say(f"알 수 없는 범위: {', '.join(unknown)}", f"unknown scope: {', '.join(unknown)}"),
            f"--scope {' | '.join(SCOPES)}",
        )
    limits = Limits(
        requests_per_minute or None, tokens_per_minute or None, concurrency or None, tuple(persona) if persona else None
    )
    secret, key = _store().create(name, frozenset(scope), limits)
    if as_json:
        print(json.dumps({**key.shown(), "key": secret}, ensure_ascii=False))
        return
    print(secret)
    print(say("지금 적어 두세요. 다시 볼 수 없습니다.", "Write it down now; it cannot be shown again."))


@keys.command("ls", help=say("키 목록 (값은 보이지 않습니다)", "List keys, without their values"))
def ls(as_json: Json = False) -> None:
    rows = [key.shown() for key in _store().all().values()]
    if as_json:
        for row in rows:
            print(json.dumps(row, ensure_ascii=False))
        return
    for row in rows:
        row["scopes"], row["limits"] = json.dumps(row["scopes"]), json.dumps(row["limits"])
    _print_table(["id", "name", "scopes", "limits", "created", "revoked"], rows)


@keys.command("revoke", help=say("키를 없앱니다 (1초 안에 효력)", "Revoke a key, in effect within a second"))
def revoke(key_id: Annotated[str, typer.Argument(help=say("serve keys ls의 id", "id of serve keys ls"))]) -> None:
    if not _store().revoke(key_id):
        raise GamyeonError(say(f"쓰이는 키가 아닙니다: {key_id}", f"no such key in use: {key_id}"), "serve keys ls")
    print(say(f"✓ {key_id} 폐기", f"✓ {key_id} revoked"))


def usage(
    days: Annotated[int, typer.Option(min=1, max=3660, help=say("며칠 동안", "of how many days"))] = 30,
    as_json: Json = False,
) -> None:
    from serve.usage import Usage

    _store().close()
    rows = Usage(_database()).rows(days)
    if as_json:
        for row in rows:
            print(json.dumps(row, ensure_ascii=False))
        return
    columns = ["day", "name", "persona", "version", "requests", "errors", "prompt_tokens", "completion_tokens"]
    _print_table(columns, rows)


def _print_table(columns: list[str], rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(*columns)
    for row in rows:
        table.add_row(*("" if row[c] is None else str(row[c]) for c in columns))
    Console().print(table)
