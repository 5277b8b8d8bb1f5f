"""What a persona adds to a request."""

from typing import Any

import pytest

from personas.loader import find_persona
from personas.schema import Persona, Sampling
from serve.errors import BadRequest
from serve.prompt import for_persona, with_system_prompt

PERSONA = Persona(
    name="ironman",
    title="아이언맨",
    description="-",
    greeting="-",
    system_prompt="당신은 아이언맨입니다.",
    sampling=Sampling(temperature=0.7, max_tokens=200, stop=["###"]),
)
CHAT, RESPONSES = "/v1/chat/completions", "/v1/responses"
ASK = {"role": "user", "content": "안녕"}


def test_system_prompt_comes_first() -> None:
    assert with_system_prompt([ASK], "가") == [{"role": "system", "content": "가"}, ASK]


def test_client_system_message_is_appended_not_swallowed() -> None:
    messages = [
        {"role": "system", "content": "존댓말로."},
        ASK,
        {"role": "developer", "content": [{"type": "text", "text": "짧게."}]},
    ]
    assert with_system_prompt(messages, "가") == [{"role": "system", "content": "가\n\n존댓말로.\n\n짧게."}, ASK]


@pytest.mark.parametrize("messages", [None, "안녕", ["안녕"], [{"role": "system", "content": [{"type": "image_url"}]}]])
def test_bad_messages_are_refused(messages: Any) -> None:
    with pytest.raises(BadRequest) as caught:
        with_system_prompt(messages, "가")
    assert caught.value.param == "messages"


def test_defaults_fill_what_the_client_left_out() -> None:
    payload = {"model": "ironman", "messages": [ASK], "stream": True, "unknown_field": {"a": 1}}
    made = for_persona(payload, PERSONA, "ironman@v3", CHAT)
    assert made["model"] == "ironman@v3"
    assert made["temperature"] == 0.7
    assert made["max_tokens"] == 200
    assert made["stop"] == ["###"]
    assert made["unknown_field"] == {"a": 1}
    assert payload["model"] == "ironman"
    assert payload["messages"] == [ASK]


def test_client_values_win() -> None:
    payload = {"messages": [ASK], "temperature": 0, "max_completion_tokens": 5, "stop": "끝"}
    made = for_persona(payload, PERSONA, "m", CHAT)
    assert made["temperature"] == 0
    assert "max_tokens" not in made
    assert made["stop"] == ["끝", "###"]


def test_completions_keep_their_prompt() -> None:
    made = for_persona({"prompt": "안녕"}, PERSONA, "m", "/v1/completions")
    assert made["prompt"] == "안녕"
    assert "messages" not in made


def test_responses_get_instructions_and_their_own_names() -> None:
    persona = find_persona("ironman").persona
    made = for_persona({"model": "ironman", "input": "안녕", "instructions": "짧게"}, persona, "ironman@v1", RESPONSES)
    assert made["instructions"] == f"{persona.system_prompt}\n\n짧게"
    assert made["max_output_tokens"] == persona.sampling.max_tokens
    assert not {"max_tokens", "stop", "messages"} & set(made)
    # an engine elsewhere may take other things than `input`; the prompt is there all the same
    assert for_persona({"previous_response_id": "r"}, persona, "m", RESPONSES)["instructions"] == persona.system_prompt
    with pytest.raises(BadRequest):
        for_persona({"input": "안녕", "instructions": 3}, persona, "ironman@v1", RESPONSES)
