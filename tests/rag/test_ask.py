"""`rag ask` against a gateway over a fake engine: the answer, its sources, and clear faults."""

import asyncio
import json
from pathlib import Path

import pytest
from aiohttp import web
from gateway_fakes import run, served, stream_of
from typer.testing import CliRunner

from personas.home import Home
from rag.ask import ask
from rag.cli import app
from rag.errors import GatewayError
from rag.ingest import ingest
from rag.settings import RagSettings


async def engine(request: web.Request) -> web.StreamResponse:
    events = [{"choices": [{"index": 0, "delta": {"content": w}}]} for w in ("보증 기간은 ", "2년입니다. [1]")]
    return await stream_of(request, *(f"data: {json.dumps(e)}\n\n".encode() for e in events), b"data: [DONE]\n\n")


def test_an_answer_with_its_sources(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.txt").write_text("보증 기간은 구입한 날부터 2년입니다.")
    ingest([str(tmp_path / "a.txt")], "docs", home, RagSettings())

    async def test() -> None:
        async with served(engine) as at:
            monkeypatch.setenv("GAMYEON_RAG_GATEWAY_URL", f"http://127.0.0.1:{at.port}/v1")
            command = ["ask", "제품 보증 기간은 얼마인가요?", "-c", "docs", "--persona", "ironman"]
            result = await asyncio.to_thread(CliRunner().invoke, app, command)
            assert result.exit_code == 0, result.output
            assert result.output.startswith("보증 기간은 2년입니다. [1]")
            assert "* [1] a.txt p. 1" in result.output
            with pytest.raises(GatewayError, match="no collection 'nothing'"):
                await asyncio.to_thread(ask, "보증?", "nothing", "ironman", 4, RagSettings(), str)

    run(test)


def test_no_gateway() -> None:
    with pytest.raises(GatewayError, match="no gateway answers"):
        ask("보증?", "docs", "docs", 4, RagSettings(gateway_url="http://127.0.0.1:9"), str)
