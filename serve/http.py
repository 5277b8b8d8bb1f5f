"""The HTTP server: uvicorn's httptools protocol with the bounds that it lacks, on uvloop, draining when it stops."""

import asyncio
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from personas.errors import GamyeonError
from personas.lang import say
from serve.gateway import Gateway
from serve.settings import Settings

_MAX_HEADER_BYTES = 64 * 1024
_HEADER_SECONDS = 15.0


class BoundedProtocol(HttpToolsProtocol):
    """Headers are bounded in bytes and in time; `scope["state"]["abort"]` ends the connection at once."""

    _header_bytes = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)  # type: ignore[arg-type]
        self.app_state = {**self.app_state, "abort": self.transport.abort}
        self._late = self.loop.call_later(_HEADER_SECONDS, self._end_late)

    def connection_lost(self, exc: Exception | None) -> None:
        self._late.cancel()
        super().connection_lost(exc)

    def _end_late(self) -> None:
        """A client that has not sent its first request's headers by now is not one."""
        if self.cycle is None and not self.transport.is_closing():
            self.transport.abort()

    def on_message_begin(self) -> None:
        self._header_bytes = 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        self._bound(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._bound(len(name) + len(value))
        super().on_header(name, value)

    def _bound(self, size: int) -> None:
        self._header_bytes += size
        if self._header_bytes > _MAX_HEADER_BYTES:
            raise ValueError("the header is too long")  # httptools turns it into a parser error: 400


def listen(host: str, port: int) -> socket.socket:
    """A bound socket; of TCP by name, because asyncio turns Nagle's delay (44 ms a reply) off for such ones alone.

    Raises:
        GamyeonError: the address cannot be opened.
    """
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
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


def make_config(app: Gateway, settings: Settings, **more: Any) -> uvicorn.Config:
    """uvicorn's configuration of the gateway."""
    return uvicorn.Config(
        app,
        http=BoundedProtocol,
        ws="none",
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,  # a client's X-Forwarded-For is a client's word
        timeout_graceful_shutdown=settings.drain_seconds,
        timeout_keep_alive=75,  # longer than the pools of clients and proxies, which then close first
        backlog=1024,
        **more,
    )


def make_server(config: uvicorn.Config) -> uvicorn.Server:
    """A server that leaves the signals to us: uvicorn's own handlers end the process before the page is stopped."""

    class Server(uvicorn.Server):
        @contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield

    server = Server(config)
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, server.handle_exit, number, None)
    return server
