"""Suites that others wrote, through the gateway to the real vLLM and the embedded model."""

from collections.abc import Iterator
from typing import Any

import openai
import pytest
from conftest import Running
from langchain_core.language_models import BaseChatModel
from langchain_openai import ChatOpenAI
from langchain_tests.integration_tests import ChatModelIntegrationTests

# The suites' own warnings are not ours to mend.
pytestmark = [pytest.mark.timeout(900), pytest.mark.filterwarnings("ignore")]


@pytest.mark.asyncio(loop_scope="class")  # one loop: ChatOpenAI keeps its connections between its objects
class TestLangChain(ChatModelIntegrationTests):
    """langchain-tests' standard chat-model tests, by `ChatOpenAI`."""

    url = ""

    @pytest.fixture(autouse=True)
    def _gateway(self, running: Running) -> None:
        type(self).url = running.url

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatOpenAI

    @property
    def chat_model_params(self) -> dict[str, Any]:
        more = {"temperature": 0, "max_tokens": 60, "max_retries": 0, "stream_usage": True}
        return {"model": "ironman", "base_url": f"{self.url}/v1", "api_key": "none", **more}

    @property
    def model_override_value(self) -> str:
        return "ironman@v1"

    # Of 270 million parameters: it answers in character, and does not choose tools or fill schemas of its own accord.
    has_tool_calling = False
    has_structured_output = False
    # and it reads text alone
    supports_image_inputs = False
    supports_json_mode = False


@pytest.fixture
def client(running: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{running.url}/v1", api_key="none", timeout=120, max_retries=0) as client:
        yield client


def test_responses(client: openai.OpenAI) -> None:
    reply = client.responses.create(model="ironman", input="안녕하세요. 누구세요?", max_output_tokens=30, temperature=0)
    assert reply.output_text
    assert reply.model.startswith("ironman")
    assert reply.instructions
    assert "아이언맨" in str(reply.instructions)
    kinds: list[str] = []
    with client.responses.stream(model="ironman", input="안녕?", max_output_tokens=10) as stream:
        for event in stream:
            kinds.append(event.type)
    assert kinds[0] == "response.created"
    assert kinds[-1] in ("response.completed", "response.incomplete")


def test_unknown_fields_reach_the_engine(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "ironman", "messages": [{"role": "user", "content": "안녕"}], "max_tokens": 4}
    reply = client.chat.completions.create(**asked, extra_body={"return_token_ids": True, "no_such_field": 1})
    assert reply.choices[0].model_dump()["token_ids"]


def test_errors_are_the_clients_own(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"messages": [{"role": "user", "content": "안녕"}]}
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="nobody", **asked)
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model="ironman", messages="no list")  # type: ignore[arg-type]
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model="ironman", max_tokens=10**9, **asked)
    assert client.models.retrieve("ironman").id == "ironman"
    assert "ironman" in [model.id for model in client.models.list()]
    assert missing.value.request_id


def test_the_usage_that_a_stream_reports(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "ironman", "messages": [{"role": "user", "content": "안녕"}], "max_tokens": 6}
    plain = list(client.chat.completions.create(**asked, stream=True))
    assert not [chunk for chunk in plain if chunk.usage or not chunk.choices]
    counted = list(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    assert counted[-1].usage
    assert counted[-1].usage.completion_tokens <= 6
