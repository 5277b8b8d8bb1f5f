"""One request to a model, from admission to its last byte, and what may hook into it."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from starlette.types import Send

from personas.example_memory import Exchange
from personas.schema import Persona
from serve.access import Key
from serve.catalog import Target
from serve.relay import Filter, Reply


@dataclass
class Call:
    """What is known of a request. Times are of `time.monotonic`
    (uvloop's own clock counts whole milliseconds). `stages`: name and time of each stage's end.

    `wraps`: each is put around the ASGI `send`. `answer`: answers in the relay's place (the guard). `drifts`: what the
    guard turned back. `strip_usage`: the usage event is asked for by us, not by the client.

    `payload` is what the engine gets, with the persona's prompt and sampling; a hook may change it. It is None for a
    request to the bare base, whose bytes go on as they are. `asked` is the client's own JSON.
    """

    id: str
    route: str
    began: float
    key: Key | None = None
    client: str = ""
    asked_user: str = ""  # the request's own `user` field
    name: str = ""
    target: Target | None = None
    asked: dict[str, Any] | None = None
    payload: dict[str, Any] | None = None
    stream: bool = False
    filters: list[Filter] = field(default_factory=list)
    redirected: Persona | None = None  # a policy lets this one answer in the asked one's place
    examples: list[Exchange] = field(default_factory=list)  # that the model is shown
    settled: bool = False  # what the reply says is known already; the engine gives its form alone
    wraps: list[Callable[[Send], Send]] = field(default_factory=list)
    answer: Callable[[Send], Awaitable[None]] | None = None
    drifts: list[str] = field(default_factory=list)
    strip_usage: bool = False
    reply: Reply = field(default_factory=Reply)
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    stages: list[tuple[str, float]] = field(default_factory=list)
    context: dict[str, Any] = field(default_factory=dict)
    extra: str = ""  # header lines for the engine
    span: Any = None  # OpenTelemetry's, where traces are on
    abort: Callable[[], None] | None = None

    @property
    def user(self) -> str:
        """Who asks: the request's `user` field, else the key that it came with, else the client's address."""
        return self.asked_user or (self.key.id if self.key else self.client)

    @property
    def model(self) -> str:
        """The resolved name (`ironman@v3`, or the persona's without a version), "" before it is known."""
        if self.target is None:
            return ""
        if self.target.persona is None or self.target.version is not None:
            return self.target.engine_model
        return self.target.persona.name


Hook = Callable[[Call], Awaitable[None]]
"""Runs between the persona's prompt and the engine, in the order of `Generate.hooks`: it may change `payload`, add to
`filters` (which see the reply) or raise an `ApiError`."""
Record = Callable[[Call], None]
"""Runs when a request has ended, however it ended; it must not wait."""
