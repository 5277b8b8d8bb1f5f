"""`serve`: engine, gateway and, when asked, the chat page, until Ctrl-C."""

import asyncio
import logging
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from personas.console import make_app, run
from personas.errors import GamyeonError
from personas.lang import say
from serve.cli_keys import keys, usage
from serve.cli_watch import status, top
from serve.feedback_cli import app as feedback_app
from serve.moderation_cli import app as moderation_app

if TYPE_CHECKING:
    from serve.engine import Status
    from serve.settings import Settings

app = make_app(say("페르소나를 OpenAI 호환 주소로 서비스합니다", "Serve personas at an OpenAI-compatible address"))


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
    _log_requests()
    _refuse_open_door(settings)
    import uvloop

    uvloop.run(_serve(settings, page))


app.add_typer(keys, name="keys")
app.add_typer(feedback_app, name="feedback")
app.add_typer(moderation_app, name="moderation")
app.command(help=say("키와 페르소나별 사용량", "Usage by key and persona"))(usage)
app.command(help=say("게이트웨이와 엔진의 상태", "State of gateway and engine"))(status)
app.command(help=say("요청, 토큰, 지연을 계속 보여 줍니다", "Requests, tokens and latency, live"))(top)


def _log_requests() -> None:
    """Lines that are JSON and nothing else, for programs that collect them."""
    requests = logging.getLogger("serve.requests")
    requests.setLevel(logging.INFO)
    requests.propagate = False
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    requests.addHandler(handler)


def _install_adapters(settings: "Settings") -> None:
    from personas.adapters import AdapterStore
    from personas.loader import load_personas
    from personas.registry import Registry
    from personas.shipped import install_shipped

    registry = Registry(settings.home.database)
    for manifest in install_shipped(load_personas(), AdapterStore(settings.home.adapters), registry):
        print(say(f"✓ 어댑터 {manifest.id} 설치", f"✓ adapter {manifest.id} installed"))
    registry.close()


def _refuse_open_door(settings: "Settings") -> None:
    """An address that others can reach needs keys first."""
    from serve.access import KeyStore
    from serve.settings import is_loopback

    if is_loopback(settings.host):
        return
    if all(key.revoked for key in KeyStore(settings.home.database).all().values()):
        raise GamyeonError(
            say(
                f"{settings.host}는 다른 컴퓨터에서도 열리는 주소라 API 키가 있어야 합니다",
                f"{settings.host} can be reached from other machines, so API keys are needed",
            ),
            "serve keys create NAME",
        )


async def _serve(settings: "Settings", page: bool) -> None:
    from serve.app import make_app as make_gateway
    from serve.engine import make_engine
    from serve.http import listen, make_config, make_server

    gateway_socket = listen(settings.host, settings.port)
    address = f"http://{settings.host}:{gateway_socket.getsockname()[1]}"
    _install_adapters(settings)
    gateway = make_gateway(settings, make_engine(settings, _show))
    server = make_server(make_config(gateway, settings))
    print(say(f"✓ API   {address}/v1", f"✓ API   {address}/v1"), flush=True)
    child = await _open_page(settings, address, gateway.page_key()) if page else None
    try:
        await server.serve(sockets=[gateway_socket])
    finally:
        if child and child.returncode is None:
            child.terminate()
            await child.wait()
        print(say("모두 멈췄습니다", "everything has stopped"), flush=True)


async def _open_page(settings: "Settings", address: str, key: str) -> asyncio.subprocess.Process:
    """Start the page in a process of its own; it talks to the gateway over HTTP only."""
    from serve.http import listen
    from serve.settings import child_environment

    page_socket = listen("127.0.0.1", settings.page_port)
    port = page_socket.getsockname()[1]
    page_socket.close()
    command = [sys.executable, "-m", "ui.cli", "--gateway", address, "--port", str(port)]
    command += ["--lang", say("ko", "en"), "--with-parent"]
    environment = child_environment({"GAMYEON_API_KEY": key})
    return await asyncio.create_subprocess_exec(*command, env=environment, start_new_session=True)


def _show(status: "Status") -> None:
    mark = {"ready": "✓", "failed": "✗"}.get(status.state, "…")
    print(f"{mark} " + say("엔진", "engine") + f" {status.percent:3d}% {status.text}", flush=True)


def main() -> None:
    run(app)


if __name__ == "__main__":
    main()
