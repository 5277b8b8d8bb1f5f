"""SPEC section 3: every template, its text, and what of it the model learns to say."""

import json
from pathlib import Path
from typing import Any

import pytest
from fixtures_tiny import make_tiny
from transformers import AutoTokenizer

from personas.bases import base_name, prepare_base
from personas.chat_templates import TEMPLATES, fit_template, split_spec, template_names
from personas.errors import BaseModelError
from personas.home import Home

CHAT = [
    {"role": "system", "content": "시스템"},
    {"role": "user", "content": "안녕?"},
    {"role": "assistant", "content": "그래."},
    {"role": "user", "content": "밥은?"},
    {"role": "assistant", "content": "먹었어."},
]
TEXTS = {
    "korean_qa": "<s>시스템\n\n### 질문:\n안녕?\n\n### 답변:\n그래.</s>\n\n"
    "### 질문:\n밥은?\n\n### 답변:\n먹었어.</s>\n\n",
    "solar": "<s>### System:\n시스템\n\n### User:\n안녕?\n\n### Assistant:\n그래.</s>\n\n"
    "### User:\n밥은?\n\n### Assistant:\n먹었어.</s>\n\n",
    "mistral": "<s>[INST] 시스템\n\n안녕? [/INST] 그래.</s>[INST] 밥은? [/INST] 먹었어.</s>",
    "chatml": "<|im_start|>system\n시스템<|im_end|>\n<|im_start|>user\n안녕?<|im_end|>\n"
    "<|im_start|>assistant\n그래.<|im_end|>\n"
    "<|im_start|>user\n밥은?<|im_end|>\n<|im_start|>assistant\n먹었어.<|im_end|>\n",
    "llama3": "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n시스템<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\n안녕?<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n그래.<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\n밥은?<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n먹었어.<|eot_id|>",
    "special_tokens": "<|prompt|>시스템\n\n안녕?<|assistant|>그래.</s><|prompt|>밥은?<|assistant|>먹었어.</s>",
    "korean_alpaca": "<s>아래에는 할 일을 설명하는 지시와 그에 딸린 입력이 있습니다. 지시에 알맞은 답을 쓰세요.\n\n"
    "### instruction:\n안녕?\n\n### input:\n시스템\n\n### output:\n그래.</s>\n\n"
    "아래에는 할 일을 설명하는 지시와 그에 딸린 입력이 있습니다. 지시에 알맞은 답을 쓰세요.\n\n"
    "### instruction:\n밥은?\n\n### input:\n시스템\n\n### output:\n먹었어.</s>\n\n",
}


@pytest.fixture(scope="module")
def tokenizer(tiny_source: Path) -> Any:
    return AutoTokenizer.from_pretrained(tiny_source)


def test_every_template_is_tested() -> None:
    assert template_names() == sorted(TEXTS)


@pytest.mark.parametrize("name", TEXTS)
def test_text_and_what_is_said(name: str, tokenizer: Any) -> None:
    template = (TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8")
    assert tokenizer.apply_chat_template(CHAT, chat_template=template, tokenize=False) == TEXTS[name]
    made = tokenizer.apply_chat_template(
        CHAT, chat_template=template, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
    )
    said = tokenizer.decode([i for i, m in zip(made["input_ids"], made["assistant_masks"], strict=True) if m])
    end = {"llama3": "<|eot_id|>", "chatml": "<|im_end|>"}.get(name, "</s>")
    assert said == f"그래.{end}먹었어.{end}"


def test_the_context_of_a_record_is_the_input_of_korean_alpaca(tokenizer: Any) -> None:
    template = (TEMPLATES / "korean_alpaca.jinja").read_text(encoding="utf-8")
    asked = [{"role": "user", "content": "한 문장으로 줄이세요.\n\n봄이다.\n\n꽃이 피었다."}]
    for system, held in (("", ""), ("시스템", "시스템\n\n")):
        chat = [{"role": "system", "content": system}] * bool(system) + asked
        text = tokenizer.apply_chat_template(chat, chat_template=template, tokenize=False, add_generation_prompt=True)
        assert text.endswith(
            f"### instruction:\n한 문장으로 줄이세요.\n\n### input:\n{held}봄이다.\n\n꽃이 피었다.\n\n### output:\n"
        )


@pytest.mark.parametrize("name", TEXTS)
def test_the_prompt_is_where_the_answer_begins(name: str, tokenizer: Any) -> None:
    template = (TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8")
    asked = tokenizer.apply_chat_template(CHAT[:4], chat_template=template, tokenize=False, add_generation_prompt=True)
    answer = TEXTS[name].removeprefix(asked)
    assert answer != TEXTS[name]
    assert answer.lstrip(" ").startswith("먹었어.")  # Mistral's space belongs to the answer's first word piece


@pytest.mark.parametrize(
    ("spec", "template"),
    [
        ("upstage/SOLAR-10.7B-v1.0", "solar"),
        ("EleutherAI/polyglot-ko-5.8b", "korean_qa"),
        ("mistralai/Mixtral-8x7B-v0.1", "mistral"),
        ("mistralai/Mistral-7B-v0.1", "mistral"),
        ("Qwen/Qwen2-7B", "chatml"),
        ("unsloth/Meta-Llama-3.1-8B", "llama3"),
        ("meta-llama/Llama-2-13b-hf", "korean_qa"),
        ("meta-llama/Llama-2-13b-hf#korean_alpaca", "korean_alpaca"),
    ],
)
def test_a_base_without_a_template_gets_its_familys(spec: str, template: str, tokenizer: Any) -> None:
    assert fit_template(spec, tokenizer) == (TEMPLATES / f"{template}.jinja").read_text(encoding="utf-8")


def test_the_named_template_makes_a_base_of_its_own(tiny_source: Path, tmp_path: Path) -> None:
    home = Home(tmp_path)
    plain, named = prepare_base(str(tiny_source), home), prepare_base(f"{tiny_source}#solar", home)
    assert named.name == f"{plain.name}--solar"
    assert named.weights_sha256 == plain.weights_sha256
    assert named.fingerprint != plain.fingerprint
    assert base_name(named.spec) == named.name


def test_llama3_stops_at_the_end_of_a_turn(tmp_path: Path) -> None:
    base = prepare_base(f"{make_tiny(tmp_path / 'llama', llama3=True)}#llama3", Home(tmp_path / "home"))
    stops = json.loads((base.path / "generation_config.json").read_text())["eos_token_id"]
    assert AutoTokenizer.from_pretrained(base.path).convert_tokens_to_ids("<|eot_id|>") in stops


def test_an_unknown_template_is_refused_with_the_known_ones() -> None:
    with pytest.raises(BaseModelError) as caught:
        split_spec("org/name#nope")
    assert "org/name#chatml|korean_alpaca|korean_qa" in caught.value.hint
