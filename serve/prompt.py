"""What a persona adds to a request: its model name, its system prompt and its default sampling. Pure functions."""

from typing import Any

from personas.schema import Persona
from serve.errors import BadRequest

Payload = dict[str, Any]
_VLLM_ONLY = {"top_k", "min_p", "repetition_penalty"}
# The client's names for one knob: any of them given means that the persona's default stays out.
_ALSO = {"max_tokens": ("max_completion_tokens",)}


def _text(content: Any) -> str:
    """The text of a system message: a string, or a list of text parts."""
    if isinstance(content, str):
        return content
    if isinstance(content, list) and all(isinstance(p, dict) and isinstance(p.get("text"), str) for p in content):
        return "\n".join(part["text"] for part in content)
    raise BadRequest("the content of a system message must be text", param="messages")


def said_text(content: Any) -> str:
    """The text of what somebody said: a string, or the text parts of a list; pictures and the like say nothing."""
    if isinstance(content, list):
        texts = [part.get("text") for part in content if isinstance(part, dict)]
        return "\n".join(text for text in texts if isinstance(text, str))
    return content if isinstance(content, str) else ""


def with_system_prompt(messages: Any, system_prompt: str) -> list[Any]:
    """Messages that begin with the persona's system prompt; the client's own system text follows it in one message.

    Raises:
        BadRequest: messages is not a list of objects, or a system message without text.
    """
    if not isinstance(messages, list) or not all(isinstance(m, dict) for m in messages):
        raise BadRequest("messages must be a list of objects", param="messages")
    own = [_text(m.get("content")) for m in messages if m.get("role") in ("system", "developer")]
    rest = [m for m in messages if m.get("role") not in ("system", "developer")]
    return [{"role": "system", "content": "\n\n".join([system_prompt, *own])}, *rest]


def for_persona(payload: Payload, persona: Persona, engine_model: str, route: str, vllm: bool = True) -> Payload:
    """The payload that the engine gets for a request to a persona; the given one is left as it was.

    The client's own values always win over the persona's defaults. `stop` strings of both are joined. An engine
    that may not be vLLM gets no defaults that only vLLM knows.
    """
    wanted = {
        key: value
        for key, value in persona.sampling  # a loop over the model: `model_dump` costs more than all the rest here
        if value is not None
        and payload.get(key) is None
        and key != "stop"
        and (vllm or key not in _VLLM_ONLY)
        and not any(payload.get(other) is not None for other in _ALSO.get(key, ()))
    }
    stops = persona.sampling.stop
    made = {**payload, **wanted, "model": engine_model}
    if route == "/v1/responses":  # the Responses API has no stop strings, and its own names for two fields
        return _for_responses(made, payload, persona.system_prompt)
    if stops:
        own = payload.get("stop") or []
        made["stop"] = [*([own] if isinstance(own, str) else own), *stops]
    if "messages" in payload:
        made["messages"] = with_system_prompt(payload["messages"], persona.system_prompt)
    return made


def _for_responses(made: Payload, payload: Payload, system_prompt: str) -> Payload:
    own = payload.get("instructions")
    if own is not None and not isinstance(own, str):
        raise BadRequest("instructions must be text", param="instructions")
    limit = made.pop("max_tokens", None)
    if limit is not None and payload.get("max_output_tokens") is None:
        made["max_output_tokens"] = limit
    made["instructions"] = f"{system_prompt}\n\n{own}" if own else system_prompt
    return made
