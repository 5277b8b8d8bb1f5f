"""Keys, scopes, limits and usage, over HTTP and on the command line."""

import asyncio
import json
import sqlite3
import subprocess
import sys
import time
from typing import Any

import pytest
from aiohttp import web
from gateway_fakes import CHAT, bearer, echo, make_key, run, served, stream_of

from personas.home import Home
from serve.access import Bucket, KeyStore
from serve.cli import _refuse_open_door
from serve.settings import Settings

STREAM = {**CHAT, "stream": True}


def cli(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "serve.cli", *words], capture_output=True, text=True, check=False)


def test_a_key_is_stored_as_a_hash_alone(home: Home) -> None:
    secret = make_key(home)
    assert len(secret) > 40
    for file in home.root.glob("gamyeon.db*"):
        assert secret.encode() not in file.read_bytes()


def test_keys_are_asked_for_from_the_first_one_on(home: Home) -> None:
    async def test() -> None:
        async with served(echo) as s:
            assert (await s.client.post("/v1/chat/completions", json=CHAT)).status_code == 200
            secret = make_key(home)
            await asyncio.sleep(1.3)
            refused = await s.client.post("/v1/chat/completions", json=CHAT)
            taken = await s.client.post("/v1/chat/completions", json=CHAT, headers=bearer(secret))
            other = await s.client.post("/v1/chat/completions", json=CHAT, headers=bearer("gy-wrong"))
            open_ones = [(await s.client.get(path)).status_code for path in ("/health", "/ready")]
        assert (refused.status_code, refused.json()["error"]["code"]) == (401, "invalid_api_key")
        assert (taken.status_code, other.status_code, open_ones) == (200, 401, [200, 200])
        assert secret not in taken.json()["auth"]  # the engine gets its own key

    run(test)


def test_a_new_key_works_at_once_and_a_revoked_one_stops(home: Home) -> None:
    make_key(home)

    async def test() -> None:
        async with served(echo) as s:
            await asyncio.sleep(0.3)
            secret = make_key(home)
            assert (await s.client.get("/v1/models", headers=bearer(secret))).status_code == 200
            store = KeyStore(home.database)
            for key in store.all().values():
                store.revoke(key.id)
            store.close()
            await asyncio.sleep(1.5)
            # and with every key revoked the door stays shut
            assert (await s.client.get("/v1/models", headers=bearer(secret))).status_code == 401
            assert (await s.client.get("/v1/models")).status_code == 401

    run(test)


@pytest.mark.parametrize(
    ("scope", "path", "status"),
    [
        ("chat", "/admin/keys", 403), ("chat", "/metrics", 403), ("chat", "/v1/models", 200),
        ("documents", "/v1/models", 200), ("documents", "/admin/usage", 403), ("admin", "/admin/keys", 200),
        ("admin", "/metrics", 200), ("chat", "/v1/collections", 403), ("admin", "/v1/collections/x", 403),
    ],
)  # fmt: skip
def test_scopes(home: Home, scope: str, path: str, status: int) -> None:
    secret = make_key(home, scope)

    async def test() -> None:
        async with served(echo) as s:
            assert (await s.client.get(path, headers=bearer(secret))).status_code == status

    run(test)


def test_an_admin_key_alone_may_not_chat_and_personas_can_be_named(home: Home) -> None:
    admin, only_safe = make_key(home, "admin"), make_key(home, personas=("safe",))

    async def test() -> None:
        async with served(echo) as s:
            tried = [(admin, "gemma-3-270m"), (only_safe, "gemma-3-270m"), (only_safe, "ironman"), (only_safe, "safe")]
            got = [
                (await s.client.post("/v1/chat/completions", json={**CHAT, "model": m}, headers=bearer(k))).status_code
                for k, m in tried
            ]
            assert got == [403, 403, 403, 200]

    run(test)


def test_limits_answer_429_with_retry_after(home: Home) -> None:
    few, tokens = make_key(home, requests_per_minute=2), make_key(home, tokens_per_minute=10)

    async def test() -> None:
        async with served(echo) as s:
            for secret, good in ((few, 2), (tokens, 1)):  # echo uses 12 tokens: one request is more than a minute's
                replies = [
                    await s.client.post("/v1/chat/completions", json=CHAT, headers=bearer(secret)) for _ in range(3)
                ]
                assert [r.status_code for r in replies] == [200] * good + [429] * (3 - good)
                assert 1 <= int(replies[-1].headers["retry-after"]) <= 61
                assert replies[-1].json()["error"]["code"] == "rate_limit_exceeded"

    run(test)


def test_concurrency_is_limited_and_given_back(home: Home) -> None:
    secret = make_key(home, concurrency=2)

    async def slow(request: web.Request) -> web.Response:
        await asyncio.sleep(0.3)
        return await echo(request)

    async def test() -> None:
        async with served(slow) as s:

            async def one() -> int:
                return (await s.client.post("/v1/chat/completions", json=CHAT, headers=bearer(secret))).status_code

            assert sorted(await asyncio.gather(*(one() for _ in range(5)))) == [200, 200, 429, 429, 429]
            assert await one() == 200

    run(test)


def test_a_bucket_fills_again() -> None:
    bucket = Bucket(6000)
    bucket.take(6000)
    wait = bucket.wait()
    assert 0 < wait <= 0.02
    time.sleep(wait + 0.01)
    assert bucket.wait() == 0


def test_stream_usage_is_counted_and_its_event_is_not_shown(home: Home) -> None:
    secret = make_key(home)
    asked: list[dict[str, Any]] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        asked.append(await request.json())
        usage = b'data: {"choices":[],"usage":{"prompt_tokens":9,"total_tokens":12,"completion_tokens":3}}\n\n'
        return await stream_of(request, b'data: {"choices":[{"delta":{}}]}\n\n', usage, b"data: [DONE]\n\n", pause=0.02)

    async def test() -> None:
        async with served(handler) as s:
            for model in ("gemma-3-270m", "ironman"):
                body = {**STREAM, "model": model}
                hidden = await s.client.post("/v1/chat/completions", json=body, headers=bearer(secret))
                wanted = {**body, "stream_options": {"include_usage": True}}
                shown = await s.client.post("/v1/chat/completions", json=wanted, headers=bearer(secret))
                assert hidden.text == 'data: {"choices":[{"delta":{}}]}\n\ndata: [DONE]\n\n'
                assert shown.text.count("usage") == 1
        assert all(body["stream_options"] == {"include_usage": True} for body in asked)
        assert asked[0]["messages"] == CHAT["messages"]

    run(test)
    rows = [json.loads(line) for line in cli("usage", "--json").stdout.splitlines()]
    assert {(r["persona"], r["name"], r["requests"], r["prompt_tokens"], r["completion_tokens"]) for r in rows} == {
        ("gemma-3-270m", "test", 2, 18, 6),
        ("ironman", "test", 2, 18, 6),
    }


def test_usage_survives_a_locked_database(home: Home) -> None:
    async def test() -> None:
        async with served(echo) as s:
            locker = sqlite3.connect(home.database, isolation_level=None)
            locker.execute("BEGIN IMMEDIATE")
            began = time.monotonic()
            for model in ["gemma-3-270m", "ironman"] * 10:
                assert (await s.client.post("/v1/chat/completions", json={**CHAT, "model": model})).status_code == 200
            assert time.monotonic() - began < 2, "the hot path waited for the database"
            await asyncio.sleep(2.5)  # a flush fails meanwhile
            locker.execute("ROLLBACK")
            locker.close()

    run(test)
    counted = [json.loads(line)["requests"] for line in cli("usage", "--json").stdout.splitlines()]
    assert counted == [10, 10]


def test_the_admin_api_makes_lists_and_revokes(home: Home) -> None:
    admin = make_key(home, "admin")

    async def test() -> None:
        async with served(echo) as s:
            made = await s.client.post("/admin/keys", json={"name": "가람", "concurrency": 3}, headers=bearer(admin))
            assert made.status_code == 201
            secret, key_id = made.json()["key"], made.json()["id"]
            assert (await s.client.get("/v1/models", headers=bearer(secret))).status_code == 200
            listed = await s.client.get("/admin/keys", headers=bearer(admin))
            assert {k["name"] for k in listed.json()["data"]} == {"test", "가람"}
            assert secret not in listed.text
            assert (await s.client.delete(f"/admin/keys/{key_id}", headers=bearer(admin))).status_code == 204
            assert (await s.client.delete(f"/admin/keys/{key_id}", headers=bearer(admin))).status_code == 404
            assert (await s.client.get("/v1/models", headers=bearer(secret))).status_code == 401
            for bad in ({}, {"name": ""}, {"name": "x", "scopes": ["root"]}, {"name": "x", "concurrency": 0}):
                assert (await s.client.post("/admin/keys", json=bad, headers=bearer(admin))).status_code == 400
            assert (await s.client.get("/admin/status", headers=bearer(admin))).json()["engine"]["state"] == "ready"

    run(test)


def test_the_command_line(home: Home) -> None:
    made = json.loads(cli("keys", "create", "me", "--scope", "admin", "--persona", "safe", "--json").stdout)
    assert made["scopes"] == ["admin"]
    assert made["limits"] == {"personas": ["safe"]}
    listed = cli("keys", "ls", "--json").stdout
    assert made["key"] not in listed
    assert cli("keys", "revoke", made["id"]).returncode == 0
    again = cli("keys", "revoke", made["id"])
    assert again.returncode == 1
    assert "serve keys ls" in again.stderr
    assert cli("keys", "create", "me", "--scope", "root").returncode == 1


def test_an_open_address_needs_keys(home: Home) -> None:
    refused = cli("up", "--host", "0.0.0.0", "--port", "0")
    assert refused.returncode == 1
    assert "serve keys create" in refused.stderr
    make_key(home)
    _refuse_open_door(Settings(host="0.0.0.0"))
    _refuse_open_door(Settings(host="::1"))


def test_status_and_top_show_a_running_gateway() -> None:
    async def test() -> None:
        async with served(echo) as s:
            await s.client.post("/v1/chat/completions", json={**CHAT, "model": "ironman"})
            url = f"http://127.0.0.1:{s.port}"
            status = await asyncio.to_thread(cli, "status", "--url", url)
            top = await asyncio.to_thread(cli, "top", "--url", url, "--seconds", "0.3", "--count", "1")
        assert status.returncode == 0, status.stderr
        assert "ready" in status.stdout or "준비됨" in status.stdout
        assert "ironman" in status.stdout
        assert top.returncode == 0, top.stderr
        assert "ironman" in top.stdout

    run(test)


def test_metrics_name_versions_and_never_what_clients_sent() -> None:
    async def test() -> None:
        async with served(echo) as s:
            for model in ("ironman", "gemma-3-270m", "no-such-thing"):
                await s.client.post("/v1/chat/completions", json={**CHAT, "model": model})
            text = (await s.client.get("/metrics")).text
        for wanted in (
            'gamyeon_requests_total{model="ironman",route="/v1/chat/completions",status="200"} 1.0',
            'gamyeon_tokens_total{kind="completion",model="ironman"} 5.0',
            'gamyeon_requests_total{model="",route="/v1/chat/completions",status="404"} 1.0',
            "gamyeon_engine_ready 1.0",
        ):
            assert wanted in text
        assert "no-such-thing" not in text

    run(test)
