"""What the language guard asks for: which replies it looks at, and the request for another try. Pure functions."""

from typing import Any

from personas.schema import Guard
from serve.prompt import Payload

_STEERING = "중요: 반드시 한국어(한글)로만 답합니다. 영어, 한자, 일본어 문장은 쓰지 않습니다."
# What the last try may spell: everything but Latin letters, Kana and Chinese characters.
HANGUL_ONLY = "[^A-Za-z\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]*"
COUNTED = {"include_usage": True, "continuous_usage_stats": True}
_OWN_WAY = ("tools", "response_format", "structured_outputs", "logprobs", "prompt_logprobs", "echo")


def is_plain(path: str, payload: Payload) -> bool:
    """Whether a request is for plain chat with one choice, whose text may be steered."""
    plain = path.endswith("/chat/completions") and payload.get("n") in (None, 1)
    return plain and not any(payload.get(key) for key in _OWN_WAY)


def applies(guard: Guard | None, path: str, payload: Payload) -> bool:
    """Whether a reply is guarded."""
    return guard is not None and is_plain(path, payload)


def steered(payload: Payload, good: str, attempt: int, vllm: bool, spent: int) -> Payload:
    """The request for another try: it goes on after `good`, more firmly each time."""
    system, *rest = payload["messages"]
    made = {**payload, "messages": [{**system, "content": f"{system['content']}\n\n{_STEERING}"}, *rest]}
    made["temperature"] = min(payload.get("temperature") or 0.7, 0.3)
    if isinstance(seed := payload.get("seed"), int):
        made["seed"] = seed + attempt
    made.pop("min_tokens", None)  # may not be above what is left
    for limit in ("max_tokens", "max_completion_tokens"):
        if isinstance(most := payload.get(limit), int):
            made[limit] = max(1, most - spent)
    if good.strip():
        *turns, last = made["messages"]
        begun = last["content"] if last["role"] == "assistant" and made.get("continue_final_message") else None
        before = [*turns, last] if begun is None else turns
        made["messages"] = [*before, {"role": "assistant", "content": (begun or "") + good}]
        if vllm:
            made |= {"continue_final_message": True, "add_generation_prompt": False}
    if vllm and attempt > 1:
        made["structured_outputs"] = {"regex": HANGUL_ONLY}
    return made


def added_usage(answer: dict[str, Any], first: dict[str, Any], completion: int) -> dict[str, Any]:
    """The usage of a reply that took several tries: the first one's prompt, and what all of them generated."""
    prompt = (first.get("usage") or {}).get("prompt_tokens", 0)
    return {**(answer.get("usage") or {}), "prompt_tokens": prompt, "completion_tokens": completion,
            "total_tokens": prompt + completion}  # fmt: skip
