"""Prometheus metrics of one gateway. Labels are resolved names (`ironman@v3`), never what a client sent."""

from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import generate_latest

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_TOKEN_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1)


class Metrics:
    """Everything that is counted; the page `/metrics` is `text()`."""

    def __init__(self) -> None:
        own = self._registry = CollectorRegistry(auto_describe=False)
        self.requests = Counter("gamyeon_requests", "Requests by outcome", ["route", "model", "status"], registry=own)
        self.tokens = Counter("gamyeon_tokens", "Tokens by kind", ["model", "kind"], registry=own)
        self.first = Histogram(
            "gamyeon_first_token_seconds", "To the first event of a stream", ["model"], buckets=_SECONDS, registry=own
        )
        self.token = Histogram(
            "gamyeon_token_seconds", "Between tokens of a stream", ["model"], buckets=_TOKEN_SECONDS, registry=own
        )
        self.duration = Histogram(
            "gamyeon_request_seconds", "To the end of a reply", ["route"], buckets=_SECONDS, registry=own
        )
        self.in_flight = Gauge("gamyeon_in_flight", "Requests at work", registry=own)
        self.refused = Counter("gamyeon_refused", "Requests refused before any work", ["code"], registry=own)
        self.ready = Gauge("gamyeon_engine_ready", "1 when the engine answers", registry=own)
        self.restarts = Gauge("gamyeon_engine_restarts", "Restarts of the engine", registry=own)
        self.waiting = Gauge("gamyeon_engine_waiting", "Requests in the engine's queue", registry=own)
        self.running = Gauge("gamyeon_engine_running", "Requests that the engine works on", registry=own)
        self.backend = Gauge("gamyeon_backend_in_flight", "Requests at each engine", ["backend"], registry=own)
        self.guard_sentences = Counter(
            "gamyeon_guard_sentences", "Sentences that the language guard looked at", ["model", "drift"], registry=own
        )
        self.guard_replies = Counter(
            "gamyeon_guard_replies", "Guarded replies by outcome", ["model", "outcome"], registry=own
        )
        self.policies = Counter(
            "gamyeon_policy_findings", "What policies found", ["model", "policy", "mode"], registry=own
        )
        self.feedback = Counter("gamyeon_feedback", "Thumbs", ["persona", "version", "value"], registry=own)
        self.retrieval = Histogram(
            "gamyeon_retrieval_seconds", "To look passages up", ["persona", "found"], buckets=_SECONDS, registry=own
        )
        self._children: dict[tuple[Any, ...], Any] = {}

    def labelled(self, metric: Any, *labels: str) -> Any:
        """A metric's child, from a dictionary that is quicker than prometheus_client's own."""
        child = self._children.get((metric, labels))
        if child is None:
            child = self._children[metric, labels] = metric.labels(*labels)
        return child

    def text(self) -> bytes:
        return generate_latest(self._registry)
