"""The admin API, the canary in the catalog, and several gateways over one database."""

import asyncio
import json
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import httpx
import pytest
from aiohttp import web
from fixtures_loop import gateway_over, publish_versions, run

from personas.home import Home
from serve.access import KeyStore, Limits
from serve.sweep import sweep, unused

ADMIN = "/admin/personas/ironman"


async def name_of_model(request: web.Request) -> web.Response:
    return web.json_response({"model": (await request.json())["model"]})


async def ask(client: httpx.AsyncClient, user: str) -> str:
    body = {"model": "ironman", "messages": [{"role": "user", "content": "안녕"}], "user": user}
    return str((await client.post("/v1/chat/completions", json=body)).json()["model"])


def test_moves_over_http(home: Home, tmp_path: Path) -> None:
    async def test() -> None:
        registry = publish_versions(home, tmp_path, 3)
        async with gateway_over(name_of_model) as client:
            moved = await client.post(f"{ADMIN}/promote", json={"version": 2, "why": "better"})
            assert (moved.status_code, moved.json()["live"]) == (200, 2)
            moved = await client.post(f"{ADMIN}/canary", json={"version": 3, "weight": 10})
            assert moved.json()["canary"] == {"version": 3, "weight": 10}
            assert (await client.post(f"{ADMIN}/rollback", json={})).json()["canary"] is None
            assert (await client.post(f"{ADMIN}/rollback", json={"why": "worse"})).json()["live"] == 1
            assert (await client.post(f"{ADMIN}/rollback", json={})).status_code == 409
            shown = (await client.get(ADMIN)).json()
            assert [move["action"] for move in shown["history"]] == [
                "promote", "promote", "canary", "canary-end", "rollback",
            ]  # fmt: skip
            assert (shown["history"][1]["who"], shown["history"][-1]["why"]) == ("admin-api", "worse")
            differs = (await client.get(f"{ADMIN}/diff", params={"a": 1, "b": 2})).json()
            assert list(differs["differences"]) == ["created"]
        assert registry.live("ironman") == 1

    run(test)


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("promote", {"version": 9}, 404),
        ("promote", {"version": "x"}, 400),
        ("promote", {}, 400),
        ("promote", {"version": 2**70}, 400),
        ("promote", {"version": 2, "typo": 1}, 400),
        ("canary", {"version": 1, "weight": 10}, 409),
        ("canary", {"version": 2, "weight": 110}, 400),
    ],
)
def test_faults_have_openais_shape(home: Home, tmp_path: Path, path: str, body: dict[str, int], status: int) -> None:
    async def test() -> None:
        registry = publish_versions(home, tmp_path, 2)
        async with gateway_over(name_of_model) as client:
            reply = await client.post(f"{ADMIN}/{path}", json=body)
            assert reply.status_code == status
            assert set(reply.json()["error"]) == {"message", "type", "param", "code"}
            nobody = await client.post("/admin/personas/nobody/rollback", json={})
            assert nobody.status_code == 404
        assert len(registry.history("ironman")) == 1

    run(test)


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "gamyeon.example"},
        {"origin": "https://evil.example"},
    ],
)
def test_a_page_of_another_site_is_refused(home: Home, tmp_path: Path, headers: dict[str, str]) -> None:
    async def test() -> None:
        registry = publish_versions(home, tmp_path, 2)
        async with gateway_over(name_of_model) as client:
            sent = {"content-type": "application/json", **headers}
            reply = await client.post(f"{ADMIN}/promote", content=json.dumps({"version": 2}), headers=sent)
            assert (reply.status_code, reply.json()["error"]["code"]) == (403, "forbidden")
        assert registry.live("ironman") == 1

    run(test)


def test_two_gateways_agree_on_every_user(home: Home, tmp_path: Path) -> None:
    async def test() -> None:
        publish_versions(home, tmp_path, 2)
        async with gateway_over(name_of_model) as one, gateway_over(name_of_model) as other:
            await one.post(f"{ADMIN}/canary", json={"version": 2, "weight": 30})
            answers = {user: await ask(one, user) for user in map(str, range(100))}
            assert answers == {user: await ask(other, user) for user in answers}
            share = sum(model == "ironman@v2" for model in answers.values())
            assert 15 <= share <= 45
            for version in (2, 1, 2, 1):  # the very next request sees the move
                await one.post(f"{ADMIN}/promote", json={"version": version})
                assert await ask(other, "anyone") == f"ironman@v{version}"

    run(test)


def test_a_nameless_user_is_its_key(home: Home, tmp_path: Path) -> None:
    async def test() -> None:
        registry = publish_versions(home, tmp_path, 2)
        registry.canary("ironman", 2, 50.0, "test", "half")
        keys = KeyStore(home.database)
        secrets = [keys.create(str(number), frozenset({"chat"}), Limits())[0] for number in range(12)]
        keys.close()
        async with gateway_over(name_of_model) as client:
            body = {"model": "ironman", "messages": []}
            found = set()
            for key in secrets:
                replies = [
                    await client.post("/v1/chat/completions", json=body, headers={"authorization": f"Bearer {key}"})
                    for _ in range(3)
                ]
                assert len({reply.json()["model"] for reply in replies}) == 1
                found.add(replies[0].json()["model"])
            assert found == {"ironman@v1", "ironman@v2"}

    run(test)


def test_unused_versions_leave_the_engine(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve.sweep._EVERY_SECONDS", 0.05)
    monkeypatch.setattr("serve.sweep.IDLE_SECONDS", 0.0)
    loaded: list[str] = []

    async def engine(request: web.Request) -> web.Response:
        if request.path == "/v1/models":
            return web.json_response({"data": [{"id": name} for name in ["gemma-3-270m", *loaded]]})
        body = await request.json()
        if request.path == "/v1/unload_lora_adapter":
            loaded.remove(body["lora_name"])
        elif body["model"] not in loaded:
            loaded.append(body["model"])
        return web.json_response({})

    async def test() -> None:
        registry = publish_versions(home, tmp_path, 3)
        registry.canary("ironman", 3, 1, "test", "")
        async with gateway_over(engine) as client:
            for model in ("ironman@v1", "ironman@v2", "ironman@v3"):
                await client.post("/v1/chat/completions", json={"model": model, "messages": []})
            while "ironman@v2" in loaded:
                await asyncio.sleep(0.02)
            await asyncio.sleep(0.3)
            assert loaded == ["ironman@v1", "ironman@v3"]

    run(test)


def test_a_version_asked_for_just_now_is_used(home: Home, tmp_path: Path) -> None:
    from personas.adapters import AdapterStore
    from personas.loader import personas_root
    from serve.catalog import Catalog
    from serve.settings import Settings

    registry = publish_versions(home, tmp_path, 3)
    catalog = Catalog(Settings(), personas_root(), AdapterStore(home.adapters), registry)
    catalog.used["ironman@v2"] = 100.0
    loaded = ["gemma-3-270m", "ironman@v1", "ironman@v2", "ironman@v3"]
    assert unused(loaded, catalog, now=120.0) == ["ironman@v3"]
    assert unused(loaded, catalog, now=200.0) == ["ironman@v2", "ironman@v3"]


def test_a_locked_database_stops_no_reply(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    connect = sqlite3.connect
    monkeypatch.setattr("sqlite3.connect", lambda *a, **k: connect(*a, **{**k, "timeout": 1.0}))

    async def test() -> None:
        publish_versions(home, tmp_path, 2)
        async with gateway_over(name_of_model) as client:
            assert await ask(client, "u") == "ironman@v1"
            with closing(connect(home.database, isolation_level=None)) as other:
                other.execute("BEGIN IMMEDIATE")
                moving = asyncio.create_task(client.post(f"{ADMIN}/promote", json={"version": 2}))
                await asyncio.sleep(0.1)
                began = time.monotonic()
                await ask(client, "u")
                assert time.monotonic() - began < 0.5
                refused = await moving
                assert (refused.status_code, refused.json()["error"]["code"]) == (503, "database_busy")
                assert refused.headers["retry-after"]
            assert (await client.post(f"{ADMIN}/promote", json={"version": 2})).json()["live"] == 2

    run(test)


def test_the_sweep_outlives_a_fault_of_the_database(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve.sweep._EVERY_SECONDS", 0.01)
    looked = 0

    def failing(*_: object) -> list[str]:
        nonlocal looked
        looked += 1
        raise sqlite3.OperationalError("disk I/O error")

    class Fake:
        own_engine, used, ready = True, {"a": 1.0, "b": 2.0}, True
        engine: "Fake"

        async def get(self, _: str) -> bytes:
            return b'{"data": []}'

    async def test() -> None:
        monkeypatch.setattr("serve.sweep.unused", failing)
        fake = Fake()
        fake.engine = fake
        sweeping = asyncio.create_task(sweep(fake, fake))  # type: ignore[arg-type]
        await asyncio.sleep(0.2)
        assert not sweeping.done()
        assert looked > 1
        sweeping.cancel()

    run(test)
