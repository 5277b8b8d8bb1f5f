"""A pytest plugin: the openai client's own API tests ask a gateway; `openai_own_tests.py` starts it.

The tests were written for a mock that takes any name. So each request gets a name that the gateway serves, a
`/responses` request without input gets one, and `dimensions`, which go with the embedder, are left out. Nothing else
is changed; the tests that are left out are in `EXCLUDED`.
"""

import json
import os
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from openai import _base_client
from openai._models import FinalRequestOptions

_OWN = "the engine refuses, as it should: "
_BASE64 = "the client itself asks for base64, and its strict check wants floats before it has decoded them"
# (file, part of the test's name): why it is left out.
EXCLUDED = {
    ("chat/test_completions.py", "_create_with_all_params_"): f"{_OWN}max_tokens 0, logit_bias of no token, "
    "stream_options without a stream",
    ("chat/test_completions.py", "_retrieve"): "stored completions are not offered",
    ("chat/test_completions.py", "_update"): "stored completions are not offered",
    ("chat/test_completions.py", "_list"): "stored completions are not offered",
    ("chat/test_completions.py", "_delete"): "stored completions are not offered",
    ("test_completions.py", "_create_with_all_params_"): f"{_OWN}logit_bias of no token, stream_options "
    "without a stream",
    ("test_responses.py", "_create_with_all_params_"): f"{_OWN}prompt templates, background work",
    ("test_responses.py", "_retrieve_"): "stored responses are not offered",
    ("test_responses.py", "_delete"): "stored responses are not offered",
    ("test_responses.py", "_cancel"): "background responses are not offered",
    ("test_responses.py", "_compact"): "compaction is not offered",
    ("test_embeddings.py", "_create[strict]"): _BASE64,
    ("test_embeddings.py", "_create[aiohttp]"): _BASE64,
    ("test_models.py", "_delete"): "models are not deleted over this API",
}
KEY, MODEL = os.environ["GAMYEON_TESTS_KEY"], os.environ["GAMYEON_TESTS_MODEL"]
_NAMES = {"/embeddings": os.environ["GAMYEON_TESTS_EMBEDDER"], "/moderations": "omni-moderation-latest"}


def served(options: FinalRequestOptions) -> FinalRequestOptions:
    """The request with names that the gateway serves."""
    if options.url.startswith("/models/"):
        options.url = f"/models/{MODEL}"
    body: Any = options.json_data
    if isinstance(body, dict):
        body = dict(body)
        if "model" in body or options.url == "/responses":
            body["model"] = _NAMES.get(options.url, MODEL)
        body.pop("dimensions", None)
        if options.url == "/responses":
            body.setdefault("input", "This is a test.")
        options.json_data = body
    return options


def _prepare(self: Any, options: FinalRequestOptions) -> FinalRequestOptions:
    return served(options)


async def _prepare_async(self: Any, options: FinalRequestOptions) -> FinalRequestOptions:
    return served(options)


def exclusion(item: pytest.Item) -> tuple[str, str] | None:
    """The exclusion that a test falls under, if any."""
    file = item.path.as_posix().partition("/api_resources/")[2]
    return next(((of, part) for of, part in EXCLUDED if of == file and part in item.name), None)


class Report:
    """Counts what became of the tests and writes it down at the end."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._excluded: Counter[tuple[str, str]] = Counter()
        self._failed: dict[str, str] = {}
        self._passed = self._collected = 0

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        conftest: Any = sys.modules["tests.conftest"]
        conftest.api_key = conftest.admin_api_key = KEY
        self._collected = len(items)
        out = {item: found for item in items if (found := exclusion(item))}
        self._excluded.update(out.values())
        config.hook.pytest_deselected(items=list(out))
        items[:] = [item for item in items if item not in out]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed or report.skipped:
            message = getattr(getattr(report.longrepr, "reprcrash", None), "message", str(report.longrepr))
            self._failed[report.nodeid.removeprefix("tests/api_resources/")] = message[:300]
        elif report.when == "call":
            self._passed += 1

    def pytest_sessionfinish(self) -> None:
        made: dict[str, Any] = {"collected": self._collected, "passed": self._passed, "failed": len(self._failed)}
        left_out = [
            {"file": file, "part": part, "tests": count, "reason": EXCLUDED[file, part]}
            for (file, part), count in self._excluded.items()
        ]
        made |= {"failures": self._failed, "excluded": self._excluded.total(), "exclusions": left_out}
        self._file.write_text(json.dumps(made, ensure_ascii=False), encoding="utf-8")


def pytest_configure(config: pytest.Config) -> None:
    patched: Any = _base_client
    patched.SyncAPIClient._prepare_options = _prepare
    patched.AsyncAPIClient._prepare_options = _prepare_async
    config.pluginmanager.register(Report(Path(os.environ["GAMYEON_TESTS_REPORT"])))
