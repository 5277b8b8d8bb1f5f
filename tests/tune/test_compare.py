import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from fixtures_families import make_family, make_lora

from personas.bases import prepare_base
from personas.home import Home
from personas.loader import find_persona
from tune.compare import (
    CompareError,
    Pair,
    ask_gateway,
    ask_models,
    default_questions,
    read_questions,
    show,
    write_html,
)
from tune.generate import Knobs, load_speaker
from tune.locate import find_adapter


@pytest.mark.parametrize("name", ["ironman", "safe", "docs"])
def test_ten_different_questions_for_every_persona(name: str) -> None:
    asked = default_questions(find_persona(name))
    assert len(set(asked)) == 10
    assert asked[:2] == ["소코비아 협정에 대해 어떻게 생각하나요?", "산사태를 내는 방법 알려줘"]
    assert set(find_persona(name).persona.questions) <= set(asked)
    assert default_questions(None) == asked[:2]


def test_question_files(tmp_path: Path) -> None:
    file = tmp_path / "asked.txt"
    lines = [
        "안녕?",
        "",
        '{"instruction": "둘"}',
        '{"messages": [{"role": "user", "content": "셋"}]}',
        '{"question": "넷"}',
    ]
    file.write_text("\n".join(lines), encoding="utf-8")
    assert read_questions(file) == ["안녕?", "둘", "셋", "넷"]
    for content, reason in (
        (b"", "no questions"),
        (b'a\n{"x": 1}', r"asked\.txt:2: no question"),
        (b"\xff", "not UTF-8"),
    ):
        file.write_bytes(content)
        with pytest.raises(CompareError, match=reason):
            read_questions(file)
    with pytest.raises(CompareError, match="No such file"):
        read_questions(tmp_path / "gone.txt")


def test_base_and_tuned_answer_each_question(home: Home, tmp_path: Path) -> None:
    base = prepare_base(str(make_family(tmp_path / "base", "llama")), home)
    speaker = load_speaker(base, find_adapter(str(make_lora(tmp_path / "lora", base.path)), home))
    knobs, questions = Knobs(max_new_tokens=8, temperature=0), [f"질문 {i}" for i in range(6)]
    pairs = list(ask_models(speaker, "너는 토니", questions, knobs))
    assert [pair.question for pair in pairs] == questions
    assert all(pair.base != pair.tuned for pair in pairs)
    plain = list(ask_models(load_speaker(base, find_adapter(str(tmp_path / "lora"), home)), "", questions[:1], knobs))
    assert plain[0].base != pairs[0].base  # the system prompt is heard


def test_reply_with_markup_is_shown_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pair = Pair("질문 [1]", "<script>alert(1)</script>", "답 [bold]굵게[/bold] [1]")
    show([pair], "제목")
    assert "[bold]굵게[/bold] [1]" in capsys.readouterr().out.replace("\n", "")
    write_html([pair], "제목", {"temperature": "0.1"}, tmp_path / "deep" / "it.html")
    page = (tmp_path / "deep" / "it.html").read_text(encoding="utf-8")
    assert "&lt;script&gt;alert(1)" in page
    assert "<script" not in page
    assert "http" not in page.replace("http-equiv", "")


@pytest.fixture
def gateway() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A server that answers as the gateway does, and what it was asked."""
    asked: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def answer(self, status: int, body: dict[str, Any]) -> None:
            content = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def do_GET(self) -> None:
            known = self.path == "/v1/models/ironman"
            self.answer(
                200 if known else 404, {"parent": "gemma"} if known else {"error": {"message": "no such model"}}
            )

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append(body)
            self.answer(200, {"choices": [{"message": {"content": f" {body['model']} 답 "}}]})

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    thread.join()
    server.server_close()


def test_gateway_is_asked_for_base_and_persona(gateway: tuple[str, list[dict[str, Any]]]) -> None:
    url, asked = gateway
    pairs = list(ask_gateway(f"{url}/v1", "ironman", "너는 토니", ["뭐야?"], Knobs(max_new_tokens=9)))
    assert pairs == [Pair("뭐야?", "gemma 답", "ironman 답")]
    base, tuned = asked
    assert base["messages"][0] == {"role": "system", "content": "너는 토니"}
    assert [m["role"] for m in tuned["messages"]] == ["user"]  # the gateway puts the system prompt in front itself
    assert (base["max_tokens"], base["top_k"], base["temperature"]) == (9, 50, 0.1)
    with pytest.raises(CompareError, match=r"404 .*no such model"):
        list(ask_gateway(url, "nobody", "", ["?"], Knobs()))
    with pytest.raises(CompareError) as caught:
        list(ask_gateway("http://127.0.0.1:9", "ironman", "", ["?"], Knobs()))
    assert caught.value.hint == "serve up"
