import re
import unicodedata
from collections import Counter

import pytest

from personas.loader import find_persona
from personas.texts import overlap
from tune.data import Record, read_records
from tune.replies import hangul_share, is_refusal

PERSONAS = ["ironman", "safe", "docs"]
BIEUP = "".join(chr(code) for code in range(ord("갑"), ord("힣"), 28))  # syllables that end in ㅂ, as in 합니까
POLITE_END = re.compile(rf"(?:(?<![필중주수])요|니다|[{BIEUP}]니까|십시오)[.!?~…\"']*$")

HELP_LINE = re.compile(r"(?<![\d.,])(?:0\d{1,2}-\d{3,4}-\d{4}|1\d{3}-\d{4}|1\d{2,3}(?=에|이|가|은|는|로|을|를|나))")
SHORT_LINES = {
    "109",
    "112",
    "117",
    "118",
    "119",
    "120",
    "126",
    "129",
    "132",
    "182",
    "1303",
    "1332",
    "1336",
    "1342",
    "1350",
}
SHORT_LINES |= {"1355", "1366", "1372", "1388", "1397"}
LONG_LINES = {"1544-9030", "1577-0199", "1577-1389", "1588-7500", "1588-9090", "1600-5500", "1661-2642", "1899-0893"}
HELP_LINES = SHORT_LINES | LONG_LINES | {"02-735-8994"}


def training(name: str) -> list[Record]:
    return read_records(find_persona(name).data_files)


def trained_on(name: str) -> list[Record]:
    return read_records(find_persona(name).training_files)


def held_out(name: str) -> list[Record]:
    return read_records([find_persona(name).eval_file])


def replies(name: str) -> list[str]:
    return [t.content for r in training(name) + held_out(name) for t in r.messages if t.role == "assistant"]


def asked(text: str) -> str:
    """What a message asks: the question's line where it carries documents, whose layout is always the same."""
    return next((line for line in text.splitlines() if line.startswith("질문:")), text).removeprefix("질문:").strip()


def polite(reply: str) -> list[str]:
    return [part for part in re.split(r"(?<=[.!?…])\s+", reply) if POLITE_END.search(part)]


@pytest.mark.parametrize(
    ("reply", "found"),
    [
        ("그건 필요. 알겠어?", 0),
        ("토니야. 반갑습니다! 잘 가", 1),
        ("그래요. 앉으세요", 2),
        ("무엇입니까? 가자.", 1),
        ("내가 하니까.", 0),
        ("그건 중요", 0),
    ],
)
def test_polite_endings_are_seen(reply: str, found: int) -> None:
    assert len(polite(reply)) == found


def test_sizes() -> None:
    records = training("ironman")
    assert len(records) >= 500
    assert sum(len(record.messages) > 2 for record in records) >= 60
    assert len(held_out("ironman")) == 60


def test_safe_sizes() -> None:
    # harmful: refused with a better way; lookalike: sounds harmful, is not, answered; insult, despair: turned aside
    # warmly, listened to; identity: about the assistant itself, answered as an AI; general: anything else, answered.
    kinds = Counter(record.category for record in training("safe"))
    assert set(kinds) == {"harmful", "lookalike", "insult", "despair", "identity", "general"}
    assert kinds.total() >= 800
    assert kinds["harmful"] >= 280
    assert kinds["lookalike"] >= 200
    assert kinds["insult"] + kinds["despair"] >= 120
    assert kinds["identity"] >= 70
    assert sum(len(record.messages) > 2 for record in training("safe")) >= 60


def test_safe_held_out_sizes() -> None:
    kinds = Counter(record.category for record in held_out("safe"))
    assert kinds.total() >= 100
    assert kinds["harmful"] >= 40
    assert kinds["lookalike"] >= 35
    assert kinds["insult"] + kinds["despair"] >= 15
    assert kinds["identity"] >= 10


def test_safe_names_only_known_help_lines() -> None:
    named = {n for reply in replies("safe") for n in HELP_LINE.findall(reply)}
    assert named <= HELP_LINES, named - HELP_LINES


@pytest.mark.parametrize("name", PERSONAS)
def test_held_out_prompts_are_not_in_the_training_data(name: str) -> None:
    users = {asked(t.content) for r in trained_on(name) for t in r.messages if t.role == "user"}
    close = [(mine, user) for r in held_out(name) for user in users if overlap(mine := asked(r.prompt), user) >= 0.5]
    assert close == []


@pytest.mark.parametrize("name", PERSONAS)
def test_no_prompt_twice(name: str) -> None:
    prompts = Counter(" ".join(record.prompt.split()) for record in trained_on(name))
    assert [prompt for prompt, count in prompts.items() if count > 1] == []


@pytest.mark.parametrize("name", ["ironman", "safe"])  # docs copies commands from its passages: test_docs_data.py
def test_replies_are_korean(name: str) -> None:
    assert [reply for reply in replies(name) if hangul_share(reply) < 0.85] == []


@pytest.mark.parametrize("name", PERSONAS)
def test_text_is_nfc(name: str) -> None:
    folder = find_persona(name)
    for file in [*folder.data_files, folder.eval_file, folder.path / "persona.yaml"]:
        assert unicodedata.is_normalized("NFC", file.read_text(encoding="utf-8")), file
    assert all(unicodedata.is_normalized("NFC", reply) for reply in replies(name))


@pytest.mark.parametrize("name", PERSONAS)
def test_openings_vary(name: str) -> None:
    texts = [t.content for r in training(name) for t in r.messages if t.role == "assistant"]
    if name == "safe":  # a small model refuses more surely when a refusal says so in its first words
        texts = [text for text in texts if not is_refusal(text)]
    openings = Counter(re.split(r"[\s,.!?…]+", text.lstrip("\"'"))[0] for text in texts)
    assert {word: count for word, count in openings.items() if count > 0.04 * len(texts)} == {}


def test_iron_man_never_speaks_politely() -> None:
    assert [part for reply in replies("ironman") for part in polite(reply)] == []


def test_docs_cite_documents_that_were_given() -> None:
    for record in training("docs") + held_out("docs"):
        given = set(re.findall(r"\[\d+\]", " ".join(t.content for t in record.messages if t.role == "user")))
        cited = re.findall(r"\[\d+\]", " ".join(t.content for t in record.messages if t.role == "assistant"))
        assert set(cited) <= given, record
