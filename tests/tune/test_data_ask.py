import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from typer.testing import CliRunner

from tune.cli import app
from tune.data_tools import ask, reject
from tune.data_tools.ask import Asker, BudgetError, Endpoint, ask_all
from tune.data_tools.journal import Answer, Journal, journal_of, journal_path, key_of
from tune.formats.base import DataError, Example, exchange

KEY = "sk-very-secret"
Reply = tuple[int, dict[str, str], Any]


class Model:
    """An OpenAI-compatible server: what it was asked, and what it answers."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.times: list[float] = []
        self.keys: set[str] = set()
        self.running = self.most = 0
        self.delay = 0.0
        self.script: Callable[[int, dict[str, Any]], Reply] = lambda _, body: said(english(body))
        self.url = ""

    def asked(self) -> list[str]:
        return [body["messages"][-1]["content"] for body in self.bodies]


def english(body: dict[str, Any]) -> str:
    return "word " * (len(body["messages"][-1]["content"]) // 3 + 1)


def said(text: str, finish: str = "stop", **usage: int) -> Reply:
    usage = usage or {"prompt_tokens": 10, "completion_tokens": 5}
    return 200, {}, {"choices": [{"message": {"content": text}, "finish_reason": finish}], "usage": usage}


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Iterator[Model]:
    state, lock = Model(), threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            with lock:
                number = len(state.bodies)
                state.bodies.append(body)
                state.times.append(time.monotonic())
                state.keys.add(self.headers.get("authorization", ""))
                state.running += 1
                state.most = max(state.most, state.running)
            assert self.path == "/v1/chat/completions"
            time.sleep(state.delay)
            status, headers, content = state.script(number, body)
            data = json.dumps(content).encode()
            with lock:
                state.running -= 1
            self.send_response(status)
            for name, value in {**headers, "content-length": str(len(data))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_port}/v1"
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    yield state
    server.shutdown()
    server.server_close()
    thread.join()


def write(file: Path, count: int) -> Path:
    rows = [{"instruction": f"질문 {i}?", "output": f"대답은 {i}입니다. " + "가나다 " * 10} for i in range(count)]
    file.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    return file


def rows(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n") if line]


def run(model: Model, command: str, *arguments: Any) -> Any:
    return CliRunner().invoke(app, ["data", command, *map(str, arguments), "--model", "m", "--url", model.url])


def asked_all(model: Model, journal: Journal, count: int, **terms: Any) -> list[str]:
    """Ask `count` questions; returns the answers' texts in order of arrival."""
    texts = []

    async def work(number: int, asker: Asker) -> None:
        texts.append((await asker([{"role": "user", "content": f"q{number}"}], 10)).text)

    asyncio.run(ask_all(Endpoint("m", model.url, **terms), journal, range(count), work))
    return texts


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with journal_of(tmp_path / "out.jsonl") as opened:
        yield opened


def test_journal_gives_back_what_it_was_given(tmp_path: Path) -> None:
    file = tmp_path / "j"
    answers = {key_of("m", i): Answer(f"답\n\u2028{i}", i, 2 * i, bool(i % 2)) for i in range(5)}
    first = Journal(file)
    for key, answer in answers.items():
        first.add(key, answer)
    assert [first.get(key) for key in answers] == list(answers.values())
    first.close()
    again = Journal(file)
    assert [again.get(key) for key in answers] == list(answers.values())
    assert again.get(key_of("m", 9)) is None
    assert (again.prompt_tokens, again.completion_tokens) == (10, 20)
    again.close()


@pytest.mark.parametrize("cut", [1, 5, 40])
def test_journal_cut_by_a_kill_goes_on(tmp_path: Path, cut: int) -> None:
    file = tmp_path / "j"
    first = Journal(file)
    for i in range(3):
        first.add(key_of(i), Answer("답", 1, 1))
    first.close()
    file.write_bytes(file.read_bytes()[:-cut])
    again = Journal(file)
    assert [bool(again.get(key_of(i))) for i in range(3)] == [True, True, False]
    again.add(key_of(2), Answer("다시", 1, 1))
    again.close()
    last = Journal(file)
    assert [answer.text for i in range(3) if (answer := last.get(key_of(i)))] == ["답", "답", "다시"]
    last.close()


def test_damaged_journal_is_told(tmp_path: Path) -> None:
    (tmp_path / "j").write_text("{}\nx\n")
    with pytest.raises(DataError, match="damaged"):
        Journal(tmp_path / "j")


def test_a_full_disk_keeps_the_answers_so_far(tmp_path: Path) -> None:
    code = f"""
import resource, signal
from pathlib import Path
from tune.data_tools.journal import Answer, Journal, key_of
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
journal = Journal(Path({str(tmp_path / "j")!r}))
for i in range(99):
    journal.add(key_of(i), Answer("x" * 400, 1, 1))
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert "DataError: " in done.stderr.splitlines()[-1]
    journal = Journal(tmp_path / "j")
    kept = [i for i in range(99) if journal.get(key_of(i))]
    journal.close()
    assert len(kept) >= 8
    assert kept == list(range(len(kept)))
    assert (tmp_path / "j").read_bytes().endswith(b"\n")


def test_one_process_at_a_time(tmp_path: Path) -> None:
    with (
        FileLock(f"{journal_path(tmp_path / 'out.jsonl')}.lock"),
        pytest.raises(DataError, match="being made"),
        journal_of(tmp_path / "out.jsonl"),
    ):
        pass


def test_answers_are_concurrent_and_asked_once(model: Model, journal: Journal) -> None:
    model.delay = 0.1
    assert len(asked_all(model, journal, 20, concurrency=5)) == 20
    assert model.most == 5
    assert {text.strip() for text in asked_all(model, journal, 20)} == {"word", "word word"}
    assert len(model.bodies) == 20
    assert model.keys == {f"Bearer {KEY}"}


def test_the_same_question_at_the_same_time_is_asked_once(model: Model, journal: Journal) -> None:
    model.delay = 0.1

    async def work(_: int, asker: Asker) -> None:
        await asker([{"role": "user", "content": "q"}], 10)

    asyncio.run(ask_all(Endpoint("m", model.url), journal, range(8), work))
    assert len(model.bodies) == 1


@pytest.mark.parametrize("dated", [False, True])
def test_retry_after_is_obeyed_by_everybody(model: Model, journal: Journal, dated: bool) -> None:
    from email.utils import formatdate

    def script(number: int, body: dict[str, Any]) -> Reply:
        when = formatdate(time.time() + 2, usegmt=True) if dated else "1"
        return (429, {"retry-after": when}, {"error": {"message": "slow"}}) if number == 0 else said("a")

    model.script = script
    assert asked_all(model, journal, 6, concurrency=1) == ["a"] * 6
    assert model.times[1] - model.times[0] >= 0.95
    assert len(model.bodies) == 7


def test_rate_limit_holds_back_other_workers(model: Model, journal: Journal) -> None:
    limited = time.monotonic()

    def script(number: int, body: dict[str, Any]) -> Reply:
        nonlocal limited
        if number < 4:
            limited = time.monotonic()
            return 429, {"retry-after": "1"}, {"error": {"message": "slow"}}
        return said("a")

    model.script = script
    assert len(asked_all(model, journal, 12, concurrency=4)) == 12
    assert min(model.times[4:]) - limited >= 0.9


def test_passing_faults_are_tried_again(model: Model, journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ask, "_LONGEST", 0.05)
    model.script = lambda number, _: (503, {}, {}) if number < 3 else said("a")
    assert asked_all(model, journal, 1) == ["a"]
    assert len(model.bodies) == 4
    model.script = lambda number, _: (500, {}, {"error": {"message": "broken"}})
    with pytest.raises(DataError, match="500 broken"):
        asked_all(model, journal, 3)


@pytest.mark.parametrize(
    ("status", "message"),
    [(401, f"bad key {KEY}"), (404, "no model m"), (429, "insufficient_quota"), (400, "too long")],
)
def test_refusals_are_told_at_once_without_the_key(model: Model, journal: Journal, status: int, message: str) -> None:
    model.script = lambda *_: (status, {}, {"error": {"message": message}})
    with pytest.raises(DataError) as caught:
        asked_all(model, journal, 1)
    assert str(status) in caught.value.message
    assert KEY not in caught.value.message
    assert len(model.bodies) == 1


def test_newer_models_name_the_limit_otherwise(model: Model, journal: Journal) -> None:
    def script(_: int, body: dict[str, Any]) -> Reply:
        if "max_tokens" in body:
            return 400, {}, {"error": {"message": "Use 'max_completion_tokens' instead."}}
        return said("a")

    model.script = script
    assert asked_all(model, journal, 3, concurrency=1) == ["a"] * 3
    assert len(model.bodies) == 4


@pytest.mark.parametrize("reply", [{"choices": []}, {}, [], {"choices": [{"message": {}}]}])
def test_other_servers_are_told(model: Model, journal: Journal, reply: Any) -> None:
    model.script = lambda *_: (200, {}, reply)
    with pytest.raises(DataError, match="not an OpenAI-style answer"):
        asked_all(model, journal, 1)


def test_nobody_there(journal: Journal, monkeypatch: pytest.MonkeyPatch, model: Model) -> None:
    monkeypatch.setattr(ask, "_LONGEST", 0.01)
    model.url = "http://127.0.0.1:9/v1"
    with pytest.raises(DataError, match=r"127\.0\.0\.1:9"):
        asked_all(model, journal, 1)


@pytest.mark.parametrize("usage", [{"prompt_tokens": 10, "completion_tokens": 5}, {}])
def test_budget_is_never_gone_over(model: Model, journal: Journal, usage: dict[str, int]) -> None:
    reply = said("a" * 10)
    reply[2]["usage"] = usage
    model.script = lambda *_: reply
    model.delay = 0.02
    terms = {"price_in": 1000.0, "price_out": 2000.0}
    with pytest.raises(BudgetError):
        asked_all(model, journal, 100, budget=0.5, concurrency=8, **terms)
    first = len(model.bodies)
    spent = journal.prompt_tokens * 0.001 + journal.completion_tokens * 0.002
    assert 0.25 < spent <= 0.5
    with pytest.raises(BudgetError):  # what was spent counts when it goes on
        asked_all(model, journal, 100, budget=0.5, concurrency=8, **terms)
    asked_all(model, journal, 100, budget=50, **terms)
    assert len(model.bodies) == 100 > first


def test_reject_makes_checked_pairs(model: Model, tmp_path: Path) -> None:
    file, out = write(tmp_path / "a.jsonl", 12), tmp_path / "out.jsonl"
    result = run(model, "reject", file, "-o", out, "--price-in", 1, "--price-out", 2)
    assert result.exit_code == 0, result.output
    assert [row["instruction"] for row in rows(out)] == [f"질문 {i}?" for i in range(12)]
    assert {row["rejected"].split()[0] for row in rows(out)} == {"word"}
    assert "tokens 120 + 60 · $0.0002" in result.output
    assert model.asked()[0].startswith("대답은 ")
    assert KEY not in result.output + journal_path(out).read_text()
    assert run(model, "reject", file, "-o", tmp_path / "pairs.parquet", "--to", "preference").exit_code == 0


def test_reject_checks_every_row_and_asks_again(model: Model, tmp_path: Path) -> None:
    file, out = write(tmp_path / "a.jsonl", 6), tmp_path / "out.jsonl"
    tries: Counter[str] = Counter()

    def script(_: int, body: dict[str, Any]) -> Reply:
        text = body["messages"][-1]["content"]
        tries[text] += 1
        good = said(english(body))
        number = int(text.split("은 ")[1].split("입")[0])
        bad = {0: said(""), 1: said(text), 2: said("ok"), 3: said(english(body), "length"), 4: said("word " * 900)}
        return bad.get(number, good) if tries[text] < 3 or number == 1 else good

    model.script = script
    result = run(model, "reject", file, "-o", out)
    assert result.exit_code == 0, result.output
    assert [row["instruction"] for row in rows(out)] == [f"질문 {i}?" for i in (0, 2, 3, 4, 5)]
    assert f"{file}:2: rejected: not English" in result.output
    assert sorted(tries.values()) == [1, 3, 3, 3, 3, 3]
    assert {body["temperature"] for body in model.bodies} == {0.0, 0.7}


@pytest.mark.parametrize(
    ("text", "cut_off", "reason"),
    [
        ("The answer is Seoul, of course.", False, ""),
        ("  ", False, "empty"),
        ("정답은 서울입니다.", False, "not English"),
        ("The answer 서울입니다 정말로.", False, "not English"),
        ("答えはソウルです", False, "not English"),
        ("Yes", False, "length"),
        ("word " * 40, False, "length"),
        ("The answer is Seoul", True, "cut off"),
        ("123 !", False, "not English"),
    ],
)
def test_what_counts_as_english(text: str, cut_off: bool, reason: str) -> None:
    example = Example(exchange("수도는?", "정답은 물론 서울입니다."))
    found = reject.not_english(example, Answer(text, 1, 1, cut_off))
    assert found.startswith(reason)
    assert bool(found) == bool(reason)


def test_reject_leaves_out_answers_that_are_not_korean(model: Model, tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", 1)
    with file.open("a") as more:
        more.write('\n{"instruction": "a?", "output": "plain English"}')
    result = run(model, "reject", file, "-o", tmp_path / "out.jsonl")
    assert f"{file}:2: rejected: the answer is not Korean" in result.output
    assert len(model.bodies) == 1


def test_reject_by_another_models_answer(model: Model, tmp_path: Path) -> None:
    file, out = write(tmp_path / "a.jsonl", 2), tmp_path / "out.jsonl"
    model.script = lambda _, body: said("몰라요." if "0" in body["messages"][0]["content"] else rows(file)[1]["output"])
    result = run(model, "reject", file, "-o", out, "--kind", "answer", "--temperature", 1.5)
    assert {body["temperature"] for body in model.bodies} == {1.5}
    assert sorted(set(model.asked())) == ["질문 0?", "질문 1?"]
    assert [row["rejected"] for row in rows(out)] == ["몰라요."]
    assert "the same as the good answer" in result.output


def test_reject_killed_at_any_moment_pays_nothing_twice(model: Model, tmp_path: Path) -> None:
    count, workers = 120, 4
    file, out = write(tmp_path / "a.jsonl", count), tmp_path / "out.jsonl"
    model.delay = 0.02
    options = ["--model", "m", "--url", model.url, "--concurrency", str(workers)]
    command = [sys.executable, "-m", "tune.cli", "data", "reject", str(file), "-o", str(out), *options]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    for stop in (20, 60):
        child = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)
        while len(model.bodies) < stop:
            assert child.poll() is None, child.communicate()
            time.sleep(0.005)
        child.send_signal(signal.SIGKILL)
        child.communicate()
        assert not out.exists()
    kept = len(journal_path(out).read_bytes().split(b"\n")) - 1
    assert kept >= 60 - 2 * workers
    assert subprocess.run(command, env=environment, capture_output=True).returncode == 0
    assert len(rows(out)) == count
    again = [times for times in Counter(model.asked()).values() if times > 1]
    assert len(again) <= 2 * workers  # what was under way at the two kills, at most
    assert len(model.bodies) - count <= 2 * workers


def test_reject_budget_then_goes_on(model: Model, tmp_path: Path) -> None:
    file, out = write(tmp_path / "a.jsonl", 30), tmp_path / "out.jsonl"
    prices = ["--price-in", 100, "--price-out", 100, "--concurrency", 2]
    result = run(model, "reject", file, "-o", out, *prices, "--budget", 0.14)
    assert isinstance(result.exception, BudgetError)
    assert not out.exists()
    assert 0 < len(model.bodies) < 30
    assert run(model, "reject", file, "-o", out, *prices, "--budget", 9).exit_code == 0
    assert (len(model.bodies), len(rows(out))) == (30, 30)
    assert run(model, "reject", file, "-o", out, "--budget", 9).exit_code != 0  # there already; and no prices


def pdf(file: Path, *texts: str) -> Path:
    """A PDF of one line of Latin text a page, by hand."""
    objects = ["<< /Type /Catalog /Pages 2 0 R >>", ""]
    kids = []
    for text in texts:
        stream = f"BT /F1 10 Tf 10 700 Td ({text}) Tj ET"
        objects.append(f"<< /Length {len(stream)} >>\nstream\n{stream}\nendstream")
        font = "<< /Font << /F1 << /Type /Font /Subtype /Type1 /BaseFont /Helvetica >> >> >>"
        page = (
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 9000 800] /Contents {len(objects)} 0 R /Resources {font} >>"
        )
        objects.append(page)
        kids.append(f"{len(objects)} 0 R")
    objects[1] = f"<< /Type /Pages /Kids [{' '.join(kids)}] /Count {len(kids)} >>"
    body, places = "%PDF-1.4\n", []
    for number, one in enumerate(objects, 1):
        places.append(len(body))
        body += f"{number} 0 obj\n{one}\nendobj\n"
    table = "".join(f"{place:010d} 00000 n \n" for place in places)
    end = f"trailer << /Size {len(objects) + 1} /Root 1 0 R >>\nstartxref\n{len(body)}\n%%EOF"
    file.write_text(f"{body}xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{table}{end}")
    return file


STORY = (
    "The tower was built in 1889. It is 330 metres tall. Many people visit it every year, and most of them climb it. "
)


def test_from_pdf_keeps_answers_that_are_in_the_passage(model: Model, tmp_path: Path) -> None:
    pairs = [
        {"question": "언제 지어졌나요?", "answer": "built  in\n1889"},
        {"question": "높이는?", "answer": "500 metres"},
        {"question": "", "answer": "1889"},
        {"question": "언제 지어졌나요?", "answer": "1889"},
    ]
    model.script = lambda *_: said(f"네:\n```json\n{json.dumps(pairs)}\n```")
    out = tmp_path / "out.jsonl"
    result = run(model, "from-pdf", pdf(tmp_path / "a.pdf", STORY, "short", STORY + "Paris."), "-o", out)
    assert result.exit_code == 0, result.output
    assert [(row["instruction"], row["response"], row["category"]) for row in rows(out)] == [
        ("언제 지어졌나요?", "built in 1889", "closed_qa")
    ] * 2
    assert all(row["response"] in row["context"] for row in rows(out))
    assert [f"{tmp_path / 'a.pdf'}:{page}: not in the passage: 500 metres" in result.output for page in (1, 3)] == [
        True
    ] * 2
    assert len(model.bodies) == 2
    assert STORY[:30] in model.asked()[0]


def test_from_pdf_asks_again_where_the_reply_is_no_list(model: Model, tmp_path: Path) -> None:
    good = json.dumps([{"question": "높이는?", "answer": "330 metres"}])
    model.script = lambda number, _: said("[{not json}]" if number == 0 else good)
    out = tmp_path / "out.jsonl"
    assert run(model, "from-pdf", pdf(tmp_path / "a.pdf", STORY), "-o", out).exit_code == 0
    assert [row["response"] for row in rows(out)] == ["330 metres"]
    assert len(model.bodies) == 2


def test_from_pdf_with_files_that_cannot_be_read(model: Model, tmp_path: Path) -> None:
    (tmp_path / "bad.pdf").write_text("x")
    pdf(tmp_path / "scan.pdf", "")
    result = run(model, "from-pdf", tmp_path, tmp_path / "none.pdf", "-o", tmp_path / "out.jsonl")
    assert isinstance(result.exception, DataError)
    for name, reason in (("bad", "cannot open"), ("scan", "no text"), ("none", "cannot open")):
        assert f"{tmp_path / name}.pdf: " in result.exception.message
        assert reason in result.exception.message
    assert model.bodies == []


def test_long_pages_are_cut_at_sentences(tmp_path: Path) -> None:
    from tune.data_tools.pdf import passages

    pieces = list(passages(pdf(tmp_path / "a.pdf", STORY * 8 + "x" * 700), 300))
    assert max(len(piece.text) for piece in pieces) <= 300
    assert pieces[0].text.endswith(".")
    joined = "".join("".join(piece.text.split()) for piece in pieces)
    assert joined == "".join((STORY * 8 + "x" * 700).split())
