"""`ui`: the chat page alone, for a gateway that runs elsewhere."""

import os
import signal
import sys
import threading
from typing import Annotated

import typer

KOREAN = not os.environ.get("LANG", "").startswith("en")


def run(
    gateway: Annotated[str, typer.Option(help="게이트웨이 주소 / the gateway's address")] = "http://127.0.0.1:8000",
    host: Annotated[str, typer.Option(help="페이지 주소 / the page's address")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="페이지 포트 / the page's port")] = 7860,
    key_env: Annotated[
        str, typer.Option(help="API 키가 든 환경 변수 / environment variable of the key")
    ] = "GAMYEON_API_KEY",
    lang: Annotated[str, typer.Option(help="ko | en")] = "ko" if KOREAN else "en",
    with_parent: Annotated[bool, typer.Option(hidden=True)] = False,
) -> None:
    """채팅 페이지를 엽니다 / open the chat page."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # nothing leaves this machine
    from ui.app import launch, make_page
    from ui.client import Gateway
    from ui.texts import EN, KO

    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    page = make_page(
        Gateway(gateway.rstrip("/").removesuffix("/v1"), os.environ.get(key_env) or "none"), EN if lang == "en" else KO
    )
    try:
        address = launch(page, host, port)
    except OSError:
        print(f"{host}:{port}: 열 수 없습니다 / cannot be opened\n→ ui --port {port + 1}", file=sys.stderr)
        raise typer.Exit(1) from None
    print(f"✓ {'페이지' if lang == 'ko' else 'page'} {address}", flush=True)
    parent = os.getppid()
    while not stopped.wait(1.0):
        if with_parent and os.getppid() != parent:  # `serve up --page` was killed
            break
    page.close(verbose=False)


def main() -> None:
    typer.run(run)


if __name__ == "__main__":
    main()
