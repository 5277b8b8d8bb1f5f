"""One request to a model, from admission to its last byte, and what may hook into it."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from serve.access import Key
from serve.catalog import Target
from serve.upstream import Filter, Reply


@dataclass
class Call:
    """What is known of a request. Times are of `time.monotonic`
    (uvloop's own clock counts whole milliseconds). `stages`: name and time of each stage's end.

    `payload` is what the engine gets, with the persona's prompt and sampling; a hook may change it. It is None for a
    request to the bare base, whose bytes go on as they are. `asked` is the client's own JSON.
    """

    id: str
    route: str
    began: float
    key: Key | None = None
    name: str = ""
    target: Target | None = None
    asked: dict[str, Any] | None = None
    payload: dict[str, Any] | None = None
    stream: bool = False
    filters: list[Filter] = field(default_factory=list)
    reply: Reply = field(default_factory=Reply)
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    stages: list[tuple[str, float]] = field(default_factory=list)
    context: dict[str, Any] = field(default_factory=dict)
    extra: str = ""  # header lines for the engine
    span: Any = None  # OpenTelemetry's, where traces are on
    abort: Callable[[], None] | None = None

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
