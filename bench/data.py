"""Records a second and peak memory of `tune data` on large files: JSON Lines, JSON lists, SQuAD nesting, CSV, Parquet.

    python bench/data.py                     # 1,000,000 records a file
    python bench/data.py --records 100000 --dedupe --stats

Prints JSON lines. Each command runs in a process of its own, and the kernel says how much memory it took at most.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from common import emit, machine

_TEXT = "오늘 서울 날씨 사람 시간 음악 커피 바다 기차 학교 연구 질문 대답 방법 이유 문제 해결 생각 마음 여행 겨울 여름"
WORDS = _TEXT.split()


def sentence(random_: random.Random, length: int) -> str:
    """Words in a random order: about 3.4 characters each."""
    return " ".join(random_.choices(WORDS, k=length)) + "."


def alpaca(number: int, random_: random.Random) -> dict[str, object]:
    """One Alpaca record of some 200 characters."""
    return {"instruction": f"{number}번: {sentence(random_, 10)}", "input": "", "output": sentence(random_, 45)}


def kovicuna(number: int, random_: random.Random) -> dict[str, object]:
    """One conversation of two exchanges."""
    said = [f"{number}: {sentence(random_, 8)}\r\n", sentence(random_, 20), sentence(random_, 8), sentence(random_, 20)]
    names = ("human", "gpt")
    return {"id": str(number), "conversations": [{"from": names[i % 2], "value": s} for i, s in enumerate(said)]}


def paragraph(number: int, random_: random.Random) -> dict[str, object]:
    """One KorQuAD article: a passage of 500 characters with one question."""
    context = sentence(random_, 150)
    start = context.index(" ", 250) + 1
    answer = context[start:].split()[0]
    asked = {"id": str(number), "question": sentence(random_, 8), "answers": [{"text": answer, "answer_start": start}]}
    return {"title": str(number), "paragraphs": [{"context": context, "qas": [asked]}]}


Make = Callable[[int, random.Random], dict[str, object]]


def lines(make: Make, count: int) -> Iterator[str]:
    """Records as JSON, the same on every run."""
    random_ = random.Random(0)
    return (json.dumps(make(number, random_), ensure_ascii=False) for number in range(count))


def write(file: Path, make: Make, count: int) -> None:
    """A file of this many records, in the container that its name says."""
    with file.open("w", encoding="utf-8") as out:
        if file.suffix == ".jsonl":
            out.writelines(line + "\n" for line in lines(make, count))
            return
        out.write('{"version": "KorQuAD_v1.0", "data": [' if make is paragraph else "[")
        out.writelines(("," if i else "") + line for i, line in enumerate(lines(make, count)))
        out.write("]}" if make is paragraph else "]")


def measure(name: str, count: int, source: Path, *command: str) -> None:
    """Run `tune data …` and print its speed and its peak memory."""
    began = time.perf_counter()
    arguments = [sys.executable, "-m", "tune.cli", "data", *command]
    child = subprocess.Popen(arguments, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - began
    emit(
        bench=name,
        records=count,
        megabytes=round(source.stat().st_size / 1e6, 1),
        seconds=round(seconds, 1),
        records_per_second=round(count / seconds),
        peak_rss_mb=round(used.ru_maxrss / 1024, 1),
        exit_code=child.returncode,
    )


def main() -> None:
    """Make the files, then convert each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--only", default="", help="names with this in them")
    parser.add_argument("--dedupe", action="store_true", help="near-duplicates too")
    parser.add_argument("--stats", action="store_true", help="lengths in tokens of the embedded base too")
    options = parser.parse_args()
    emit(**machine())
    made: dict[str, tuple[str, Make, str]] = {
        "alpaca jsonl → dolly jsonl": ("a.jsonl", alpaca, "dolly.jsonl"),
        "kovicuna json list → messages jsonl": ("k.json", kovicuna, "messages.jsonl"),
        "korquad nested json → dolly parquet": ("q.json", paragraph, "dolly.parquet"),
    }
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for name, (file, make, out) in made.items():
            if options.only not in name:
                continue
            source, target = folder / file, folder / f"out-{out}"
            write(source, make, options.records)
            measure(name, options.records, source, "convert", str(source), "--to", out.split(".")[0], "-o", str(target))
            if target.suffix == ".parquet":
                csv = folder / "back.csv"
                measure(
                    "dolly parquet → dolly csv",
                    options.records,
                    target,
                    "convert",
                    str(target),
                    "--to",
                    "dolly",
                    "-o",
                    str(csv),
                )
                measure("check dolly csv", options.records, csv, "check", str(csv))
                csv.unlink()
            if options.stats and make is alpaca:
                measure("stats, tokens of gemma-3-270m", options.records, source, "stats", str(source))
            if options.dedupe and make is alpaca:
                measure(
                    "dedupe, exact and near",
                    options.records,
                    source,
                    "dedupe",
                    str(source),
                    "-o",
                    str(folder / "d.jsonl"),
                )
            source.unlink()
            target.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
