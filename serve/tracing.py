"""OpenTelemetry traces, by setting: one span a request and one below it for each stage.

The stages' times are noted anyway; spans are made from them when the request has ended, so that tracing costs the hot
path one span and nothing a chunk. The engine gets the request's `traceparent`.
"""

import time

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.trace import SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from serve.call import Call

_CONTEXT = TraceContextTextMapPropagator()


class Tracing:
    """Spans of requests, sent in batches by a thread.

    Args:
        endpoint: where OTLP over HTTP is taken, as `http://localhost:4318/v1/traces`.
        exporter: takes the spans instead (tests).
    """

    def __init__(self, endpoint: str, exporter: SpanExporter | None = None) -> None:
        self._provider = TracerProvider(resource=Resource.create({"service.name": "gamyeon"}))
        self._provider.add_span_processor(BatchSpanProcessor(exporter or OTLPSpanExporter(endpoint=endpoint)))
        self._tracer = self._provider.get_tracer("serve")

    def begin(self, call: Call, headers: dict[bytes, bytes]) -> None:
        """Open the request's span, below the client's where it sent one."""
        given = headers.get(b"traceparent", b"").decode("latin-1")
        above = _CONTEXT.extract({"traceparent": given}) if given else None
        call.span = self._tracer.start_span(
            f"POST {call.route}", above, SpanKind.SERVER, start_time=_nanoseconds(call.began)
        )
        carrier: dict[str, str] = {}
        _CONTEXT.inject(carrier, trace.set_span_in_context(call.span))
        call.extra += "".join(f"{name}: {value}\r\n" for name, value in carrier.items())

    def end(self, call: Call) -> None:
        """Close it, with what became of the request and a span for each stage."""
        span, reply = call.span, call.reply
        if span is None:
            return
        span.set_attributes(
            {
                "gen_ai.request.model": call.model,
                "gen_ai.usage.input_tokens": reply.prompt_tokens,
                "gen_ai.usage.output_tokens": reply.completion_tokens,
                "http.response.status_code": reply.status,
                "gamyeon.request_id": call.id,
            }
        )
        if reply.status >= 500:
            span.set_status(Status(StatusCode.ERROR))
        began, above = call.began, trace.set_span_in_context(span)
        for name, ended in call.stages:
            stage = self._tracer.start_span(name, above, start_time=_nanoseconds(began))
            stage.end(_nanoseconds(ended))
            began = ended
        span.end()

    def close(self) -> None:
        """Send what is left."""
        self._provider.shutdown()


_SINCE_1970 = time.time_ns() - time.monotonic_ns()


def _nanoseconds(monotonic: float) -> int:
    """A time of the monotonic clock (seconds) as nanoseconds since 1970."""
    return _SINCE_1970 + int(monotonic * 1e9)
