"""Fifteen ways to break in, and what comes back. What the engine was asked is kept, so that nothing slips through."""

import asyncio
import json
import logging
import statistics
import time
from typing import Any

import pytest
from aiohttp import web
from fixtures_tiny import hand_base, make_adapter, manifest_fields
from gateway_fakes import CHAT, ENGINE_KEY, bearer, echo, make_key, raw, run, served

from personas.adapters import AdapterStore
from personas.errors import AdapterError
from personas.home import Home
from personas.registry import Registry


class Recorder:
    """An engine that remembers what it was asked."""

    def __init__(self) -> None:
        self.paths: list[str] = []
        self.bodies: list[dict[str, Any]] = []

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.paths.append(request.raw_path)
        self.bodies.append(json.loads(await request.read() or b"{}"))
        return await echo(request)


def http(path: str, body: bytes = b"", method: str = "POST", extra: str = "") -> bytes:
    head = f"{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{extra}"
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body


@pytest.mark.parametrize(
    "path",
    [
        # 1 raw engine routes, 2 load and unload
        "/tokenize", "/detokenize", "/pooling", "/invocations", "/server_info", "/reset_prefix_cache", "/sleep",
        "/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/collective_rpc", "/version", "/docs",
        # 3 //v1, 4 %2e%2e
        "//v1/chat/completions", "/v1//chat/completions", "/v1/chat/completions/", "/v1/../tokenize",
        "/v1/%2e%2e/tokenize", "/v1/chat/completions/%2e%2e/%2e%2e/load_lora_adapter", "/v1/chat%2fcompletions",
        "/V1/chat/completions", "/v1/chat/completions;x", "http://127.0.0.1/tokenize", "/v1/chat/completions%00",
    ],
)  # fmt: skip
def test_1_to_4_only_the_listed_routes_reach_the_engine(path: str) -> None:
    engine = Recorder()

    async def test() -> None:
        async with served(engine.handle) as s:
            for method in ("POST", "GET"):
                status = int((await raw(s.port, http(path, json.dumps(CHAT).encode(), method))).split(b" ")[1])
                assert status in (400, 404, 405), status
        assert engine.paths == []

    run(test)


@pytest.mark.parametrize(
    "model",
    [
        "../adapters/ironman@v1", "..", "ironman/../../x", "ironman@v1/../v2", "/etc/passwd", "ironman@v-1",
        "ironman@v1e3", "ironman@v01", "ironman@v9999999999999999999999", "Ironman", "ironman\u0000", "ironman ",
        "아이언맨", "x" * 100_000, "%2e%2e/ironman", "ironman@v\u0661", "", "gemma-3-270m/", ".staging",
    ],
)  # fmt: skip
def test_5_adapter_names_with_paths(model: str) -> None:
    engine = Recorder()

    async def test() -> None:
        async with served(engine.handle) as s:
            reply = await s.client.post("/v1/chat/completions", json={**CHAT, "model": model})
            assert reply.status_code == 404
            assert len(reply.text) < 500
            listed = await s.client.get("/v1/models/" + model[:200].replace("/", "%2f").replace("\u0000", "%00"))
            assert listed.status_code == 404
        assert engine.bodies == []

    run(test)


def test_6_base_urls_set_by_a_client_change_nothing() -> None:
    engine = Recorder()
    wishes = {
        "api_base": "http://169.254.169.254/",
        "base_url": "http://evil/",
        "api_key": "x",
        "engine_url": "http://evil",
    }

    async def test() -> None:
        async with served(engine.handle) as s:
            headers = {"x-engine-url": "http://evil/", "x-forwarded-host": "evil", "x-original-url": "/tokenize"}
            for model in ("gemma-3-270m", "ironman"):
                reply = await s.client.post(
                    "/v1/chat/completions", json={**CHAT, **wishes, "model": model}, headers=headers
                )
                assert reply.status_code == 200
        assert engine.paths == ["/v1/chat/completions"] * 2

    run(test)


@pytest.mark.parametrize(
    "asks",
    [
        {"n": 16384}, {"n": "16384"}, {"n": 33.0}, {"best_of": 10**9}, {"n": 10**30}, {"prompt": ["x"] * 33},
        {"n": 8, "prompt": ["x"] * 5}, {"prompt": [[1, 2]] * 40},
    ],
)  # fmt: skip
def test_7_sixteen_thousand_answers(asks: dict[str, Any]) -> None:
    engine = Recorder()

    async def test() -> None:
        async with served(engine.handle) as s:
            for model in ("gemma-3-270m", "ironman"):
                reply = await s.client.post("/v1/completions", json={"model": model, "prompt": "x", **asks})
                assert (reply.status_code, reply.json()["error"]["param"]) == (400, "n")
            fine = await s.client.post("/v1/completions", json={"model": "gemma-3-270m", "prompt": [1] * 3000, "n": 2})
            assert fine.status_code == 200
        assert len(engine.bodies) == 1

    run(test)


def test_8_a_prompt_of_ten_megabytes() -> None:
    engine = Recorder()

    async def test() -> None:
        async with served(engine.handle) as s:
            big = json.dumps({**CHAT, "x": "가" * 4_000_000}).encode()
            reply = await s.client.post("/v1/chat/completions", content=big)
            assert reply.status_code == 413

            async def unannounced() -> Any:
                for _ in range(200):
                    yield b" " * 65536

            reply = await s.client.post("/v1/chat/completions", content=unannounced())
            assert reply.status_code == 413
        assert engine.bodies == []

    run(test)


DEEP = 10_000


@pytest.mark.parametrize(
    "body",
    [
        # 9 depth, 10 surrogates, 11 NaN
        b'{"model":"M","messages":' + b"[" * DEEP + b"]" * DEEP + b"}",
        b'{"model":"M","x":' + b'{"a":' * DEEP + b"1" + b"}" * DEEP + b"}",
        b'{"model":"M","messages":[{"role":"user","content":"\\ud800"}]}',
        b'{"model":"M","messages":[{"role":"user","content":"\\udc00\\ud800"}]}',
        b'{"model":"M","temperature":NaN}', b'{"model":"M","temperature":-Infinity}', b'{"model":"M","top_p":1e999}',
        b'{"model":"M","x":"\xed\xa0\x80"}', b'\xef\xbb\xbf{"model":"M"}', '{"model":"M"}'.encode("utf-16"),
        b'{"model":"M"', b'{"model":"M"}{"model":"M"}', b"", b"\x00", b"null",
    ],
)  # fmt: skip
def test_9_to_11_json_that_parsers_disagree_on(body: bytes) -> None:
    engine = Recorder()

    async def test() -> None:
        async with served(engine.handle) as s:
            reply = await s.client.post("/v1/chat/completions", content=body.replace(b"M", b"ironman"))
            assert reply.status_code == 400, reply.text
            plain = await s.client.post("/v1/chat/completions", content=body.replace(b"M", b"gemma-3-270m"))
            assert plain.status_code in (200, 400)  # to the base, text goes on as it is; the engine reads it
            assert (await s.client.post("/v1/chat/completions", json=CHAT)).status_code == 200

    run(test)


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"../x","model":"gemma-3-270m","messages":[]}',
        b'{"model":"gemma-3-270m","messages":[],"model":"../x"}',
        b'{"mod\\u0065l":"../x","model":"gemma-3-270m","messages":[]}',
        b'{"model":"gemma-3-270m","messages":[],"mod\\u0065l":"../x"}',
        b'{"model":"gemma-3-270m","messages":[],"n":1,"n":16384}',
    ],
)  # fmt: skip
def test_12_duplicate_keys(body: bytes) -> None:
    engine = Recorder()

    async def test() -> None:
        async with served(engine.handle) as s:
            await s.client.post("/v1/chat/completions", content=body)
        for got in engine.bodies:
            assert got["model"] == "gemma-3-270m"
            assert got.get("n", 1) == 1

    run(test)


def test_13_smuggled_headers() -> None:
    engine = Recorder()
    body = json.dumps(CHAT).encode()
    hidden = http("/v1/load_lora_adapter", b"{}")
    start = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n"
    attacks = [
        start + b"content-length: %d\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n" % len(body) + hidden,
        start + b"content-length: %d\r\ncontent-length: 0\r\n\r\n" % len(body) + body + hidden,
        start + b"content-length: +%d\r\n\r\n" % len(body) + body,
        start + b"transfer-encoding: xchunked\r\n\r\n0\r\n\r\n" + hidden,
        start + b"transfer-encoding : chunked\r\n\r\n0\r\n\r\n" + hidden,
        start + b"x: y\nauthorization: z\r\ncontent-length: 0\r\n\r\n",
        start + b"x: " + b"y" * 200_000 + b"\r\n\r\n",
        start + b"x: y\r\n" * 20_000 + b"\r\n",
        b"POST /v1/chat/completions HTTP/9.9\r\n\r\n",
    ]

    async def test() -> None:
        async with served(engine.handle) as s:
            for attack in attacks:
                got = await raw(s.port, attack, 2)
                assert b" 200 " not in got.split(b"\r\n", 1)[0], attack[:150]
            header = "x-request-id: a\r\nauthorization: Bearer stolen\r\n"
            assert b" 200 " in await raw(s.port, http("/v1/chat/completions", body, extra=header))
        assert set(engine.paths) <= {"/v1/chat/completions"}
        assert all(b.get("model") == "gemma-3-270m" for b in engine.bodies)

    run(test)


def test_14_guessing_keys(home: Home) -> None:
    """A guess is compared as a hash, so its time says nothing; guesses become slow, and the right key does not."""
    secret = make_key(home)

    async def test() -> None:
        async with served(echo) as s:

            async def timed(key: str) -> float:
                began = time.perf_counter()
                await s.client.get("/v1/models", headers=bearer(key))
                return time.perf_counter() - began

            first = await timed("gy-guess")
            later = [await timed(secret[:-1] + end) for end in "abcdefg"]
            good = [await timed(secret) for _ in range(5)]
            assert later[-1] > 1.5 > 0.5 > first
            assert statistics.median(good) < 0.1
            flood = await asyncio.gather(*(s.client.get("/v1/models", headers=bearer(f"gy-{n}")) for n in range(150)))
            assert {r.status_code for r in flood} <= {401, 429}
            assert 429 in {r.status_code for r in flood}
            for odd in ("", "Basic " + secret, secret, "bearer", "Bearer  " + secret, "Bearer " + secret + "\u00e9"):
                reply = await s.client.get("/v1/models", headers={"authorization": odd.encode("latin-1")})  # type: ignore[dict-item]
                assert reply.status_code in (401, 429)

    run(test)


def test_15a_pickled_adapters(home: Home) -> None:
    store = AdapterStore(home.adapters)
    source = make_adapter(home.root / "a")
    (source / "adapter_model.safetensors").rename(source / "adapter_model.bin")
    with pytest.raises(AdapterError):
        store.publish(source, manifest_fields(), hand_base())


def test_15a_weights_that_are_not_numbers(home: Home) -> None:
    source = make_adapter(home.root / "a", value=float("nan"))
    with pytest.raises(AdapterError, match="NaN"):
        AdapterStore(home.adapters).publish(source, manifest_fields(), hand_base())


@pytest.mark.parametrize(("rank", "status"), [(16, 200), (32, 409)])
def test_15b_a_rank_that_the_engine_does_not_take(
    home: Home, monkeypatch: pytest.MonkeyPatch, rank: int, status: int
) -> None:
    monkeypatch.setattr("serve.catalog.find_base", lambda *_: hand_base())
    fields = {**manifest_fields("ironman"), "rank": rank}
    manifest = AdapterStore(home.adapters).publish(make_adapter(home.root / "a"), fields, hand_base())
    registry = Registry(home.database)
    registry.add("ironman", manifest.version)
    registry.close()

    async def test() -> None:
        async with served(echo) as s:
            reply = await s.client.post("/v1/chat/completions", json={**CHAT, "model": manifest.id})
            assert reply.status_code == status
            if status == 409:
                assert "GAMYEON_MAX_LORA_RANK=32" in reply.json()["error"]["message"]

    run(test)


@pytest.mark.parametrize("other", [{"weights": "e" * 64}, {"template": "e" * 64}, {"name": "elsewhere"}])
def test_15b_foreign_adapters(home: Home, other: dict[str, str]) -> None:
    store = AdapterStore(home.adapters)
    manifest = store.publish(make_adapter(home.root / "a"), manifest_fields(), hand_base())
    store.verify("stark", manifest.version, hand_base())
    with pytest.raises(AdapterError):
        store.verify("stark", manifest.version, hand_base(**other))


def test_15c_secrets_stay_in(home: Home, caplog: pytest.LogCaptureFixture) -> None:
    secret, admin = make_key(home), make_key(home, "admin")
    seen: list[str] = []

    async def broken(request: web.Request) -> web.Response:
        assert request.transport
        if "whole" in await request.text():
            return await echo(request)
        request.transport.abort()
        return web.Response()

    async def test() -> None:
        async with served(broken, log_requests=True) as s:
            for body in (
                {**CHAT, "whole": 1, "messages": [{"role": "user", "content": "주민번호 비밀이야기"}]},
                CHAT,
                {},
            ):
                reply = await s.client.post("/v1/chat/completions", json=body, headers=bearer(secret))
                if reply.status_code != 200:
                    seen.append(reply.text)
                seen.append(str(reply.headers))
            for path in ("/metrics", "/admin/keys", "/admin/usage", "/admin/status", "/openapi.json", "/nothing"):
                seen.append((await s.client.get(path, headers=bearer(admin))).text)
            seen.append((await s.client.get("/v1/models", headers=bearer("gy-" + "q" * 43))).text)

    with caplog.at_level(logging.DEBUG):
        run(test)
    seen.append(caplog.text)
    for text in seen:
        for word in (secret, admin, ENGINE_KEY, "비밀이야기", "q" * 43, "Traceback"):
            assert word not in text
    assert '"status": 200' in caplog.text


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"}, {"origin": "null"}, {"host": "evil.example"}, {"host": "evil.example:8000"},
        {"host": "127.0.0.1.evil.example"}, {"origin": "http://[::1"},
    ],
)  # fmt: skip
def test_a_web_page_cannot_use_a_gateway_without_keys(headers: dict[str, str]) -> None:
    engine = Recorder()

    async def test() -> None:
        async with served(engine.handle) as s:
            for path in ("/v1/chat/completions", "/admin/keys"):
                reply = await s.client.post(path, content=json.dumps({**CHAT, "name": "x"}), headers=headers)
                assert reply.status_code == 403
                assert not [name for name in reply.headers if name.startswith("access-control")]
            reply = await s.client.options(
                "/v1/chat/completions", headers={**headers, "access-control-request-method": "POST"}
            )
            assert reply.status_code in (403, 405)
            local = await s.client.post("/v1/chat/completions", json=CHAT, headers={"origin": "http://localhost:7860"})
            assert local.status_code == 200

    run(test)


def test_an_unregistered_version_is_not_served_even_when_its_folder_is_there(home: Home) -> None:
    Registry(home.database).close()
    (home.adapters / "ironman@v9").mkdir(parents=True)
    engine = Recorder()

    async def test() -> None:
        async with served(engine.handle) as s:
            reply = await s.client.post("/v1/chat/completions", json={**CHAT, "model": "ironman@v9"})
            assert reply.status_code == 404
        assert engine.bodies == []

    run(test)
