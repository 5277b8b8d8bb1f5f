import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import tune.formats  # noqa: F401
from tune.data_tools.reader import Fault, Source
from tune.formats.base import FORMATS, DataError, Example, Options, format_named, recognise

HUMAN, GPT = {"from": "human", "value": "하나\r\n둘?"}, {"from": "gpt", "value": "셋.\r\n"}
USER, ASSISTANT = {"role": "user", "content": "하나?"}, {"role": "assistant", "content": "둘."}
SYSTEM = {"role": "system", "content": "짧게."}


def write(file: Path, *records: Any) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(json.dumps(one, ensure_ascii=False) for one in records), encoding="utf-8")
    return file


def read(file: Path, format_: str = "", **options: Any) -> list[Example]:
    made = list(Source([file], format_, Options(**options)).read())
    assert [str(one) for one in made if isinstance(one, Fault)] == []
    return [one for one in made if isinstance(one, Example)]


def faults(file: Path, format_: str = "", **options: Any) -> list[str]:
    return [str(one) for one in Source([file], format_, Options(**options)).read() if isinstance(one, Fault)]


def said(example: Example) -> list[str]:
    return [turn["content"] for turn in example.turns]


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_every_format_reads_its_example_and_is_recognised(name: str, tmp_path: Path) -> None:
    format_ = FORMATS[name]
    if format_.files is None:
        found = recognise([format_.example] * 3, tmp_path / "x.jsonl")
        assert found is not None
        assert found.name == name
    (example,) = read(write(tmp_path / "x.jsonl", format_.example), name)
    assert example.turns[-1]["role"] == "assistant"


@pytest.mark.parametrize(
    ("file", "category"),
    [("kor_alpaca.json", "open_qa"), ("korean_safe_conversation.json", "safe"), ("ironman.json", "persona")],
)
def test_alpaca_is_told_apart_by_its_file(tmp_path: Path, file: str, category: str) -> None:
    path = tmp_path / file
    path.write_text(json.dumps([{"instruction": "하나?", "input": "", "output": "둘."}]))
    (example,) = read(path)
    assert (example.category, said(example), example.context) == (category, ["하나?", "둘."], "")


def test_alpaca_in_a_persona_folder_is_the_personas(tmp_path: Path) -> None:
    (tmp_path / "persona.yaml").touch()
    (example,) = read(write(tmp_path / "data" / "mine.jsonl", {"instruction": "하나?", "output": "둘."}))
    assert example.category == "persona"


def test_alpaca_input_history_system(tmp_path: Path) -> None:
    row = {"instruction": "가", "input": "나", "output": "다", "history": [["앞", "뒤"]], "system": "짧게"}
    (example,) = read(write(tmp_path / "a.jsonl", row))
    assert (said(example), example.context, example.system) == (["앞", "뒤", "가", "다"], "나", "짧게")
    assert example.messages()[2] == {"role": "user", "content": "가\n\n나"}


def test_kovicuna_human_asks_and_gpt_answers(tmp_path: Path) -> None:
    (example,) = read(write(tmp_path / "k.jsonl", {"id": "1", "conversations": [HUMAN, GPT, HUMAN, GPT]}))
    assert said(example) == ["하나\n둘?", "셋.", "하나\n둘?", "셋."]
    assert [turn["role"] for turn in example.turns] == ["user", "assistant"] * 2
    assert example.category == "open_qa"


def test_sharegpt_odds_and_ends(tmp_path: Path) -> None:
    ragged = {"conversations": [{"from": "system", "value": "짧게."}, GPT, HUMAN, GPT, HUMAN]}
    (example,) = read(write(tmp_path / "a.jsonl", ragged))
    assert (example.system, said(example)) == ("짧게.", ["하나\n둘?", "셋."])
    bad = [{"conversations": c} for c in ([], [HUMAN], [HUMAN, HUMAN, GPT], [{"from": "bot", "value": "x"}], "x")]
    found = faults(write(tmp_path / "b.jsonl", {"conversations": [HUMAN, GPT]}, *bad))
    assert [line.split(": ")[0].split(":")[-1] for line in found] == ["2", "3", "4", "5", "6"]
    assert all(": conversations" in line for line in found)


def test_openai_content_parts(tmp_path: Path) -> None:
    parts = {"role": "user", "content": [{"type": "text", "text": "하나"}, {"type": "text", "text": "둘?"}]}
    image = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}
    file = write(tmp_path / "a.jsonl", {"messages": [parts, ASSISTANT]})
    assert said(read(file)[0]) == ["하나\n둘?", "둘."]
    file = write(tmp_path / "b.jsonl", {"messages": [parts, ASSISTANT]}, {"messages": [image, ASSISTANT]})
    assert faults(file) == [f"{file}:2: messages.0.content: not a string"]


@pytest.mark.parametrize(
    ("alias", "name"), [("kovicuna", "sharegpt"), ("koalpaca", "alpaca"), ("safe", "korean_safe_conversation")]
)
def test_formats_are_known_by_the_names_of_their_data(alias: str, name: str) -> None:
    assert format_named(alias).name == name


def test_messages_with_system(tmp_path: Path) -> None:
    (example,) = read(write(tmp_path / "a.jsonl", {"messages": [SYSTEM, USER, ASSISTANT], "id": 3}))
    assert (example.system, said(example)) == ("짧게.", ["하나?", "둘."])
    bad = write(tmp_path / "b.jsonl", {"messages": [USER, USER, ASSISTANT]}, {"messages": [SYSTEM, USER]})
    assert ["messages.1.role: 'user'" in faults(bad)[0], "no answer" in faults(bad)[1]] == [True, True]


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "하나?", "completion": "둘."},
        {"prompt": [SYSTEM, USER], "completion": [ASSISTANT]},
        {"prompt": "하나?", "completion": [ASSISTANT]},
    ],
)
def test_prompt_completion(tmp_path: Path, row: dict[str, Any]) -> None:
    (example,) = read(write(tmp_path / "a.jsonl", row))
    assert said(example) == ["하나?", "둘."]


WORSE = {"role": "assistant", "content": "Two."}


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "하나?", "chosen": "둘.", "rejected": "Two."},
        {"instruction": "하나?", "chosen": "둘.", "rejected": "Two."},
        {"prompt": [USER], "chosen": [ASSISTANT], "rejected": [WORSE]},
        {"prompt": "하나?", "chosen": [ASSISTANT], "rejected": WORSE},
        {"chosen": [USER, ASSISTANT], "rejected": [USER, WORSE]},
        {"instruction": "하나?", "response": "둘.", "rejected": "Two."},
    ],
)
def test_preferences_in_every_shape(tmp_path: Path, row: dict[str, Any]) -> None:
    (example,) = read(write(tmp_path / "a.jsonl", row))
    assert (said(example), example.rejected) == (["하나?", "둘."], "Two.")


def test_faulty_preferences(tmp_path: Path) -> None:
    good = {"prompt": "하나?", "chosen": "둘.", "rejected": "Two."}
    found = faults(
        write(
            tmp_path / "a.jsonl",
            good,
            {**good, "rejected": "둘."},
            {"chosen": "a", "rejected": "b"},
            {**good, "chosen": ""},
        )
    )
    assert [line.split(": ", 1)[1].split(":")[0] for line in found] == ["rejected", "prompt", "chosen"]


PASSAGE = "대한민국의 수도는 서울이다. 서울에는 한강이 흐른다."
ASKED = {"id": "1", "question": "수도는?", "answers": [{"text": "서울", "answer_start": PASSAGE.index("서울")}]}


def test_korquad_1_nested_and_one_paragraph(tmp_path: Path) -> None:
    nested = tmp_path / "KorQuAD_v1.0_train.json"
    article = {"title": "x", "paragraphs": [{"context": PASSAGE, "qas": [ASKED, ASKED]}]}
    nested.write_text(json.dumps({"version": "v1", "data": [article, article]}, ensure_ascii=False), encoding="utf-8")
    flat = write(tmp_path / "flat.jsonl", {"context": PASSAGE, "qas": [ASKED]})
    for examples, count in ((read(nested), 4), (read(flat), 1)):
        assert len(examples) == count
        assert (said(examples[0]), examples[0].context) == (["수도는?", "서울"], PASSAGE)


def test_korquad_1_bad_question_leaves_its_neighbours(tmp_path: Path) -> None:
    lost = {"question": "강은?", "answers": [{"text": "낙동강", "answer_start": 0}]}
    file = write(
        tmp_path / "a.jsonl", {"paragraphs": [{"context": PASSAGE, "qas": [ASKED, lost, {"question": "x"}, ASKED]}]}
    )
    made = list(Source([file]).read())
    assert [type(one).__name__ for one in made] == ["Example", "Fault", "Fault", "Example"]
    assert str(made[1]).startswith(f"{file}:1: paragraphs.0.qas.1.answers.0: ")
    assert "paragraphs.0.qas.2.answers" in str(made[2])


def test_a_wrong_answer_start_takes_the_nearest(tmp_path: Path) -> None:
    asked = {"question": "강은 어디에?", "answers": [{"text": "서울", "answer_start": 20}]}
    (example,) = read(write(tmp_path / "a.jsonl", {"context": PASSAGE * 40, "qas": [asked]}), max_length=200)
    assert "서울" in example.context
    assert PASSAGE[:10] in example.context


def page(answer: str, filler: int = 0) -> dict[str, Any]:
    head = "<html><head><title>t</title><script>var x = '숨김';</script></head><body>" + "<p>앞 문단이다.</p>" * filler
    body = (
        "<table><tr><th>수도</th><td>서울&nbsp;특별시 &amp; 한강</td></tr></table>" + "<li>뒤 문단이다.</li>" * filler
    )
    context = head + body + "</body></html>"
    return {
        "title": "t",
        "url": "u",
        "context": context,
        "qas": [{"id": "1", "question": "수도는?", "answer": {"text": answer, "answer_start": context.index(answer)}}],
    }


def test_korquad_2_html_is_stripped(tmp_path: Path) -> None:
    (example,) = read(write(tmp_path / "a.jsonl", page("<td>서울&nbsp;특별시 &amp; 한강</td>", 2)))
    assert example.response == "서울 특별시 & 한강"
    assert example.response in example.context
    assert [mark for mark in ("<", "숨김", "&nbsp;", "\ue000", "\ue001") if mark in example.context] == []
    assert example.context.splitlines().count("앞 문단이다.") == 2


@pytest.mark.parametrize("length", [160, 400, 1024])
def test_korquad_2_window_fits_and_holds_the_answer(tmp_path: Path, length: int) -> None:
    record = page("서울&nbsp;특별시", 8000)
    assert len(record["context"]) > 200_000
    (example,) = read(write(tmp_path / "a.jsonl", record), max_length=length)
    assert example.response == "서울 특별시"
    assert example.response in example.context
    whole = len(example.context) + len(example.instruction) + len(example.response)
    assert 0.6 * (length - 64) < whole <= length - 64
    assert {"앞 문단이다.", "뒤 문단이다."} <= set(example.context.splitlines()[1:-1])


def test_korquad_2_window_in_tokens_of_any_tokenizer(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", page("서울&nbsp;특별시", 3000))
    (example,) = read(file, max_length=500, count=lambda text: len(text.encode()))
    assert "서울 특별시" in example.context
    assert len(example.context.encode()) <= 500


def test_korquad_2_answer_in_raw_html_alone(tmp_path: Path) -> None:
    record = page("서울&nbsp;특별시")
    raw = record.pop("context")
    answer = {"text": "없는 글", "answer_start": 1, "html_answer_text": "서울&nbsp;특별시"}
    answer["html_answer_start"] = raw.index("서울&nbsp;")
    record |= {"context": "다른 글", "raw_html": raw, "qas": [{"question": "수도는?", "answer": answer}]}
    (example,) = read(write(tmp_path / "a.jsonl", record))
    assert example.response == "서울 특별시"


def test_korquad_2_answers_that_cannot_be_used(tmp_path: Path) -> None:
    record = page("서울")
    record["qas"] = [
        {"question": "수도는?", "answer": {"text": "부산", "answer_start": 0}},
        {"question": "수도는?", "answer": {"text": "<td>", "answer_start": record["context"].index("<td>")}},
    ]
    reasons = faults(write(tmp_path / "a.jsonl", record), max_length=130)
    assert ["not in its context" in reasons[0], "only markup" in reasons[1]] == [True, True]
    assert len(reasons) == 2


def test_pages_with_icons_in_private_characters(tmp_path: Path) -> None:
    record = page("서울&nbsp;특별시", 3)
    icons = "\ue000\ue001\ue002"
    record["context"] = record["context"].replace("앞 문단", f"앞{icons} 문단")
    record["qas"][0]["answer"]["answer_start"] += 3 * len(icons)
    (example,) = read(write(tmp_path / "a.jsonl", record))
    assert (example.response, example.context.splitlines()[:2]) == ("서울 특별시", ["앞 문단이다."] * 2)


def test_a_long_html_answer_is_refused(tmp_path: Path) -> None:
    record = page("서울", 100)
    record["qas"] = [{"question": "전부?", "answer": {"text": record["context"], "answer_start": 0}}]
    (reason,) = faults(write(tmp_path / "a.jsonl", record), max_length=300)
    assert "qas.0.answer: the answer alone has" in reason


INFO = {
    "al": {"file_name": "al.json", "columns": {"prompt": "q", "query": "c", "response": "a", "history": "h"}},
    "plain": {"file_name": "plain.jsonl"},
    "sg": {
        "file_name": "sub/sg.jsonl",
        "formatting": "sharegpt",
        "columns": {"messages": "talk", "system": "sys"},
        "tags": {"role_tag": "r", "content_tag": "c", "user_tag": "me", "assistant_tag": "bot", "system_tag": "s"},
    },
    "dpo": {
        "file_name": "dpo.json",
        "ranking": True,
        "columns": {"prompt": "q", "chosen": "good", "rejected": "bad"},
    },
    "sgdpo": {
        "file_name": "sgdpo.json",
        "formatting": "sharegpt",
        "ranking": True,
        "columns": {"messages": "conversations", "chosen": "chosen", "rejected": "rejected"},
    },
    "elsewhere": {"hf_hub_url": "a/b"},
}


def llama_factory(folder: Path) -> Path:
    folder.mkdir()
    (folder / "dataset_info.json").write_text(json.dumps(INFO))
    (folder / "al.json").write_text(json.dumps([{"q": "가", "c": "나", "a": "다", "h": [["앞", "뒤"]]}]))
    write(folder / "plain.jsonl", {"instruction": "가", "input": "나", "output": "다"})
    write(folder / "sub" / "sg.jsonl", {"talk": [{"r": "me", "c": "가"}, {"r": "bot", "c": "다"}], "sys": "짧게"})
    (folder / "dpo.json").write_text(json.dumps([{"q": "가", "good": "다", "bad": "c"}]))
    said_last = {"chosen": {"from": "gpt", "value": "다"}, "rejected": {"from": "gpt", "value": "c"}}
    rows = [{"conversations": [{"from": "human", "value": "가"}], **said_last}]
    (folder / "sgdpo.json").write_text(json.dumps(rows))
    return folder


@pytest.mark.parametrize("named", ["", "dataset_info.json"])
def test_llama_factory_folder(tmp_path: Path, named: str) -> None:
    source = Source([llama_factory(tmp_path / "data") / named])
    examples = [one for one in source.read() if isinstance(one, Example)]
    assert [said(one)[-2:] for one in examples] == [["가", "다"]] * 5
    assert [one.context for one in examples] == ["나", "나", "", "", ""]
    assert [one.rejected for one in examples] == ["", "", "", "c", "c"]
    assert (said(examples[0])[:2], examples[2].system) == (["앞", "뒤"], "짧게")
    assert len(source.notes) == 1
    assert "elsewhere" in source.notes[0]


@pytest.mark.parametrize(
    ("content", "reason"),
    [("{", "Expecting"), ('{"a": {"file_name": "no.json"}}', "no such file"), ('{"a": {"file_name": 3}}', "file_name")],
)
def test_faulty_dataset_info(tmp_path: Path, content: str, reason: str) -> None:
    (tmp_path / "dataset_info.json").write_text(content)
    (fault,) = faults(tmp_path)
    assert reason in fault


def test_csv_tsv_parquet_and_folders(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('instruction,input,output\n"하나, 둘?",,"세\n넷"\n다섯?,여섯,일곱\n', "utf-8-sig")
    (tmp_path / "b.tsv").write_text("prompt\tcompletion\n하나?\t둘.\n", "utf-8")
    (tmp_path / "README.md").write_text("# not data")
    rows = [{"messages": [USER, ASSISTANT], "extra": None}] * 3000
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "c.parquet", row_group_size=500)
    examples = read(tmp_path)
    assert [said(one) for one in examples[:3]] == [["하나, 둘?", "세\n넷"], ["다섯?", "일곱"], ["하나?", "둘."]]
    assert len(examples) == 3003


def test_csv_cells_of_json(tmp_path: Path) -> None:
    cell = json.dumps([USER, ASSISTANT], ensure_ascii=False).replace('"', '""')
    (tmp_path / "a.csv").write_text(f'messages\n"{cell}"\n', "utf-8")
    assert said(read(tmp_path / "a.csv")[0]) == ["하나?", "둘."]


def test_named_format_wins_and_an_unknown_one_is_named(tmp_path: Path) -> None:
    both = {"instruction": "가", "output": "나", "response": "다"}
    file = write(tmp_path / "a.jsonl", both)
    assert [read(file, name)[0].response for name in ("alpaca", "dolly")] == ["나", "다"]
    with pytest.raises(DataError) as caught:
        list(Source([file], "alpacca").read())
    assert "alpaca" in caught.value.hint


def test_no_format_fits(tmp_path: Path) -> None:
    (reason,) = faults(write(tmp_path / "a.jsonl", {"foo": 1, "bar": 2}))
    assert "foo, bar" in reason
