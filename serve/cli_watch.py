"""`serve status` and `serve top`: what a running gateway says of itself over HTTP."""

import os
import re
import time
from collections import defaultdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from personas.errors import GamyeonError
from personas.lang import say

if TYPE_CHECKING:
    from rich.table import Table

Url = Annotated[str, typer.Option(help=say("게이트웨이 주소", "the gateway's address"))]
_SAMPLE = re.compile(r"^gamyeon_(\w+?)(?:\{([^}]*)\})? ([0-9.e+-]+)$", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
Samples = dict[str, list[tuple[dict[str, str], float]]]


def _address(url: str) -> str:
    from serve.settings import Settings

    settings = Settings()
    return url.rstrip("/").removesuffix("/v1") or f"http://{settings.host}:{settings.port}"


def _get(url: str, path: str) -> str:
    import httpx

    key = os.environ.get("GAMYEON_API_KEY", "")
    try:
        reply = httpx.get(url + path, headers={"authorization": f"Bearer {key}"} if key else {}, timeout=10)
    except httpx.TransportError as error:
        raise GamyeonError(say(f"{url}에 게이트웨이가 없습니다", f"no gateway at {url}"), "serve up") from error
    if reply.status_code in (401, 403):
        raise GamyeonError(
            say("관리자 키가 필요합니다", "an admin key is needed"),
            "GAMYEON_API_KEY=$(serve keys create me --scope admin --json | jq -r .key)",
        )
    return reply.text


def status(url: Url = "") -> None:
    import json

    from rich.console import Console
    from rich.table import Table

    found: dict[str, Any] = json.loads(_get(_address(url), "/admin/status"))
    engine, table = found["engine"], Table(show_header=False)
    table.add_row(say("엔진", "engine"), f"{engine['state']} {engine['percent']}% {engine['text']}")
    table.add_row(say("재시작", "restarts"), str(engine["restarts"]))
    for backend in found["backends"]:
        work = say("처리 중", "at work")
        table.add_row(backend["url"], f"{work} {backend['in_flight']}, failures {backend['failures']}")
    table.add_row(say("API 키", "API keys"), say("필요", "required") if found["keys"] else say("없음", "none"))
    for name, version in found["live"].items():
        table.add_row(name, f"v{version}" if version else "-")
    Console().print(table)


def top(
    url: Url = "",
    seconds: Annotated[float, typer.Option(min=0.2, help=say("갱신 주기", "between refreshes"))] = 2.0,
    count: Annotated[int, typer.Option(min=0, help=say("몇 번 (0: 계속)", "how often (0: until Ctrl-C)"))] = 0,
) -> None:
    from rich.live import Live

    address = _address(url)
    before, shown = _samples(_get(address, "/metrics")), 0
    with Live(_table(before, before, seconds)) as live:
        while not count or shown < count:
            time.sleep(seconds)
            now = _samples(_get(address, "/metrics"))
            live.update(_table(before, now, seconds), refresh=True)
            before, shown = now, shown + 1


def _samples(text: str) -> Samples:
    found: Samples = defaultdict(list)
    for name, labels, value in _SAMPLE.findall(text):
        found[name].append((dict(_LABEL.findall(labels)), float(value)))
    return found


def _sum(samples: Samples, name: str, **labels: str) -> float:
    return sum(v for found, v in samples[name] if all(found.get(k) == label for k, label in labels.items()))


def _table(before: Samples, now: Samples, seconds: float) -> "Table":
    """Rates over the last interval, a row a model."""
    from rich.table import Table

    def rate(name: str, **labels: str) -> float:
        return (_sum(now, name, **labels) - _sum(before, name, **labels)) / seconds

    def mean_ms(name: str, model: str) -> str:
        count = _sum(now, name + "_count", model=model) - _sum(before, name + "_count", model=model)
        total = _sum(now, name + "_sum", model=model) - _sum(before, name + "_sum", model=model)
        return f"{1000 * total / count:.1f}" if count else "-"

    at_work, queued = _sum(now, "in_flight"), _sum(now, "engine_waiting")
    table = Table("model", "req/s", "tok/s", "first ms", "ms/token", "errors/s", title=f"{at_work:.0f} + {queued:.0f}")
    for model in sorted({labels["model"] for labels, _ in now["requests_total"]}):
        good = rate("requests_total", model=model, status="200")
        bad = rate("requests_total", model=model) - good
        tokens = rate("tokens_total", model=model, kind="completion")
        first, each = mean_ms("first_token_seconds", model), mean_ms("token_seconds", model)
        table.add_row(model or "-", f"{good + bad:.1f}", f"{tokens:.1f}", first, each, f"{bad:.1f}")
    return table
