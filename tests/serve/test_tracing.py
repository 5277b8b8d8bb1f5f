"""Traces: one span a request, one a stage, below the client's and above the engine's."""

import json
import re
from pathlib import Path

from aiohttp import web
from gateway_fakes import CHAT, echo, run, served
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from serve.metrics import Metrics
from serve.tracing import Tracing

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def test_spans_of_a_request() -> None:
    exporter = InMemorySpanExporter()
    sent: list[str] = []

    async def engine(request: web.Request) -> web.Response:
        sent.append(request.headers["traceparent"])
        return await echo(request)

    async def test() -> None:
        async with served(engine) as s:
            tracing = Tracing("", exporter)
            s.app.begin = tracing.begin
            s.app.records.append(tracing.end)
            body = {**CHAT, "model": "ironman"}
            await s.client.post("/v1/chat/completions", json=body, headers={"traceparent": PARENT})
            await s.client.post(
                "/v1/chat/completions", json={**CHAT, "model": "nobody"}, headers={"traceparent": "bad"}
            )
            tracing.close()

    run(test)
    spans = exporter.get_finished_spans()
    root = next(span for span in spans if span.name == "POST /v1/chat/completions")
    assert [span.name for span in spans[:5]] == ["prompt", "examples", "prepare", "engine", "reply"]
    assert root.attributes
    assert root.attributes["gen_ai.request.model"] == "ironman"
    assert root.attributes["gen_ai.usage.output_tokens"] == 5
    assert format(root.context.trace_id, "032x") == PARENT.split("-")[1]
    assert sent[0].split("-")[2] == format(root.context.span_id, "016x")
    for stage in spans[:5]:
        assert stage.start_time
        assert stage.end_time
        assert root.start_time
        assert root.start_time <= stage.start_time <= stage.end_time
    assert "안녕" not in str([span.to_json() for span in spans])


def test_the_dashboard_asks_for_metrics_that_exist() -> None:
    text = (Path(__file__).parents[2] / "docs" / "grafana.json").read_text()
    asked = set(
        re.findall(r"gamyeon_[a-z_]+", " ".join(t["expr"] for p in json.loads(text)["panels"] for t in p["targets"]))
    )
    shown = set()
    for family in Metrics()._registry.collect():
        suffixes = {"counter": ("_total",), "histogram": ("_bucket",)}.get(family.type, ("",))
        shown |= {family.name + suffix for suffix in suffixes}
    assert asked == shown
