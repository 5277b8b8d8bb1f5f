"""Replies of several systems to the same prompts, marked blind.

    python bench/rubric.py sheet NAME=REPLIES.jsonl NAME=REPLIES.jsonl … -o SHEET.jsonl
    python bench/rubric.py join SHEET.jsonl MARKS.jsonl [-o MARKED.jsonl]

`sheet` mixes the replies (of `bench/quality.py -o`) so that nothing tells which system wrote which; the key to it goes
into SHEET.key.json. The reader writes a line `{"id": …, "mark": 0…3}` for each: 0 nonsense, 1 grammatical but beside
the point, 2 to the point, 3 to the point and unmistakably the persona. `join` prints a JSON line a system: mean mark,
share of each mark, mean of greetings, feelings and opinions; MARKED.jsonl gets each prompt with all replies and marks.
"""

import argparse
import json
import random
import statistics
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from common import emit

LIGHT = ("small_talk", "feelings", "opinion")  # categories by their beginning
Row = dict[str, Any]


def read(file: Path) -> list[Row]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def write(file: Path, rows: list[Row]) -> None:
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def key_file(sheet: Path) -> Path:
    return sheet.with_suffix(".key.json")


def asked(row: Row) -> str:
    """The prompt after what was said before it."""
    return " / ".join([*row.get("said_before", []), row["prompt"]])


def make_sheet(systems: list[str], out: Path) -> None:
    entries = []
    for system in systems:
        name, _, file = system.partition("=")
        for number, row in enumerate(read(Path(file))):
            entries.append((name, number, row))
    random.Random(20).shuffle(entries)
    write(out, [{"id": n, "prompt": asked(row), "reply": row["reply"]} for n, (_, _, row) in enumerate(entries)])
    key = [{"system": name, "number": number, "category": row["category"]} for name, number, row in entries]
    key_file(out).write_text(json.dumps(key), encoding="utf-8")
    emit(sheet=out.name, replies=len(entries))


def join(sheet: Path, marks: Path, out: Path | None) -> None:
    key = json.loads(key_file(sheet).read_text(encoding="utf-8"))
    marked = {row["id"]: row["mark"] for row in read(marks)}
    if missing := [n for n in range(len(key)) if marked.get(n) not in (0, 1, 2, 3)]:
        raise SystemExit(f"{marks}: no mark 0 to 3 for id {', '.join(map(str, missing[:10]))} ({len(missing)} in all)")
    by_system: dict[str, list[tuple[str, int]]] = defaultdict(list)
    by_prompt: dict[int, Row] = defaultdict(dict)
    for entry, row in zip(key, read(sheet), strict=True):
        by_system[entry["system"]].append((entry["category"], marked[row["id"]]))
        told = by_prompt[entry["number"]]
        told |= {"category": entry["category"], "prompt": row["prompt"]}
        told[entry["system"]] = {"reply": row["reply"], "mark": marked[row["id"]]}
    for system, held in by_system.items():
        counts = Counter(mark for _, mark in held)
        light = [mark for category, mark in held if category.startswith(LIGHT)]
        shares = {f"marked_{mark}": round(counts[mark] / len(held), 3) for mark in range(4)}
        mean = round(statistics.mean(mark for _, mark in held), 2)
        emit(system=system, replies=len(held), mean=mean, **shares, light_mean=round(statistics.mean(light), 2))
    if out:
        write(out, [by_prompt[number] for number in sorted(by_prompt)])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["sheet", "join"])
    parser.add_argument("given", nargs="+")
    parser.add_argument("-o", "--out", type=Path)
    asked = parser.parse_args()
    if asked.what == "sheet":
        make_sheet(asked.given, asked.out)
    else:
        join(Path(asked.given[0]), Path(asked.given[1]), asked.out)


if __name__ == "__main__":
    main()
