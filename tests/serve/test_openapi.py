"""schemathesis on the OpenAPI document, with good and bad data, over a fake engine; NUL bytes are among its ideas."""

import asyncio
import json
import os
import re
import subprocess
import sys
from pathlib import Path

from gateway_fakes import bearer, echo, make_key, run, served

from personas.home import Home
from serve.app import ROUTES
from serve.openapi import document
from serve.routes.generate import ROUTES as GENERATING

EXAMPLES = os.environ.get("GAMYEON_FUZZ_EXAMPLES", "30")  # for each operation; 10,000 cases need about 500


def test_schemathesis_finds_no_undeclared_answer(home: Home, tmp_path: Path) -> None:
    make_key(home)  # keys are in use; schemathesis finds and revokes those of the table, even the one it works with
    examples = EXAMPLES

    async def test() -> None:
        async with served(echo) as s:
            admin = s.app._access.own_key("fuzz", frozenset(("chat", "documents", "admin")))
            assert (await s.client.get("/openapi.json")).json()["openapi"] == "3.1.0"
            program = Path(sys.executable).with_name("schemathesis")
            checks = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
            command = [
                str(program), "run", f"http://127.0.0.1:{s.port}/openapi.json", "--mode", "all",
                "--max-examples", examples,
                "--phases", "examples,coverage,fuzzing", "--checks", checks, "--request-timeout", "10", "--seed", "7",
                "--header", f"Authorization: Bearer {admin}", "--no-color",
            ]  # fmt: skip
            done = await asyncio.to_thread(
                subprocess.run, command, capture_output=True, text=True, cwd=tmp_path, check=False
            )
            assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-500:]
            print(done.stdout[-2500:])
            cases = re.search(r"([\d,]+) generated", done.stdout)
            assert cases
            assert int(cases[1].replace(",", "")) > 100
            alive = await s.client.get("/v1/models", headers=bearer(admin))
            assert alive.status_code == 200

    run(test, 3000)


def test_every_route_is_in_the_document() -> None:
    paths = document(["ironman"])["paths"]
    written = {(path, method) for path, entry in paths.items() for method in entry if method != "parameters"}
    served_ = {(path, "post") for path in GENERATING}
    for route in ROUTES:
        assert route.methods
        path = route.path.replace(":path}", "}")
        served_ |= {(path, method.lower()) for method in route.methods - {"HEAD"}}
    assert written == served_ - {("/openapi.json", "get")}


def test_nul_bytes_everywhere(home: Home) -> None:
    admin = make_key(home, "chat", "admin")

    async def test() -> None:
        async with served(echo) as s:
            headers = bearer(admin)
            for body in ({"name": "a\0b"}, {"name": "x", "scopes": ["chat\0"]}, {"name": "x", "personas": ["\0"]}):
                assert (await s.client.post("/admin/keys", json=body, headers=headers)).status_code in (201, 400)
            for path in ("/v1/models/%00", "/admin/keys/%00", "/admin/usage?days=%00", "/%00"):
                assert (await s.client.get(path, headers=headers)).status_code in (400, 404, 405)
            chat = json.dumps({"model": "ironman", "messages": [{"role": "user\0", "content": "\0"}]})
            assert (await s.client.post("/v1/chat/completions", content=chat, headers=headers)).status_code == 200

    run(test)
