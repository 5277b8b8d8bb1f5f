"""`serve`: engine, gateway and, when asked, the chat page, until Ctrl-C."""

import asyncio
import logging
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from personas.console import make_app, run
from personas.errors import GamyeonError
from personas.lang import say
from serve.feedback_cli import app as feedback_app

if TYPE_CHECKING:
    import uvicorn

    from serve.engine import Status
    from serve.settings import Settings

app = make_app(say("페르소나를 OpenAI 호환 주소로 서비스합니다", "Serve personas at an OpenAI-compatible address"))
app.add_typer(feedback_app, name="feedback")


@app.command(
    help=say("엔진과 게이트웨이를 엽니다. Ctrl-C로 모두 멈춥니다", "Start engine and gateway; Ctrl-C stops everything")
)
def up(
    page: Annotated[bool, typer.Option(help=say("채팅 페이지도 엽니다", "open the chat page too"))] = False,
    host: Annotated[str, typer.Option(help=say("게이트웨이 주소", "the gateway's address"))] = "",
    port: Annotated[
        int, typer.Option(help=say("게이트웨이 포트 (0: 빈 포트)", "the gateway's port (0: a free one)"))
    ] = -1,
    page_port: Annotated[
        int, typer.Option(help=say("페이지 포트 (0: 빈 포트)", "the page's port (0: a free one)"))
    ] = -1,
    base: Annotated[str, typer.Option(help=say("베이스 모델", "the base model"))] = "",
) -> None:
    """Start engine and gateway (and the page with --page); Ctrl-C stops everything."""
    from serve.settings import Settings

    given: dict[str, Any] = {"host": host, "port": port, "page_port": page_port, "base": base}
    settings = Settings(**{key: value for key, value in given.items() if value not in ("", -1)})
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    asyncio.run(_serve(settings, page))


def _listen(host: str, port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
    except OSError as error:
        sock.close()
        raise GamyeonError(
            say(f"{host}:{port}를 열 수 없습니다: {error.strerror}", f"cannot open {host}:{port}: {error.strerror}"),
            say(
                "다른 포트로: serve up --port 8001 --page-port 7861",
                "another port: serve up --port 8001 --page-port 7861",
            ),
        ) from error
    return sock


def _install_adapters(settings: "Settings") -> None:
    from personas.adapters import AdapterStore
    from personas.loader import load_personas
    from personas.registry import Registry
    from personas.shipped import install_shipped

    registry = Registry(settings.home.database)
    for manifest in install_shipped(load_personas(), AdapterStore(settings.home.adapters), registry):
        print(say(f"✓ 어댑터 {manifest.id} 설치", f"✓ adapter {manifest.id} installed"))
    registry.close()


def _server(config: "uvicorn.Config") -> "uvicorn.Server":
    """A server that leaves the signals to us: uvicorn's own handlers end the process before the page is stopped."""
    import uvicorn

    class Server(uvicorn.Server):
        @contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield

    server = Server(config)
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, server.handle_exit, number, None)
    return server


async def _serve(settings: "Settings", page: bool) -> None:
    import uvicorn

    from serve.app import make_app as make_gateway
    from serve.engine import make_engine

    gateway_socket = _listen(settings.host, settings.port)
    address = f"http://{settings.host}:{gateway_socket.getsockname()[1]}"
    _install_adapters(settings)
    engine = make_engine(settings, _show)
    config = uvicorn.Config(make_gateway(settings, engine), log_level="warning", timeout_graceful_shutdown=5)
    server = _server(config)
    print(say(f"✓ API   {address}/v1", f"✓ API   {address}/v1"), flush=True)
    child = await _open_page(settings, address) if page else None
    try:
        await server.serve(sockets=[gateway_socket])
    finally:
        if child and child.returncode is None:
            child.terminate()
            await child.wait()
        print(say("모두 멈췄습니다", "everything has stopped"), flush=True)


async def _open_page(settings: "Settings", address: str) -> asyncio.subprocess.Process:
    """Start the page in a process of its own; it talks to the gateway over HTTP only."""
    page_socket = _listen("127.0.0.1", settings.page_port)
    port = page_socket.getsockname()[1]
    page_socket.close()
    command = [sys.executable, "-m", "ui.cli", "--gateway", address, "--port", str(port)]
    command += ["--lang", say("ko", "en"), "--with-parent"]
    return await asyncio.create_subprocess_exec(*command, start_new_session=True)


def _show(status: "Status") -> None:
    mark = {"ready": "✓", "failed": "✗"}.get(status.state, "…")
    print(f"{mark} " + say("엔진", "engine") + f" {status.percent:3d}% {status.text}", flush=True)


def main() -> None:
    run(app)


if __name__ == "__main__":
    main()
