"""`personas`: list, check, make and prepare."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from personas.console import make_app, run
from personas.errors import PersonaError
from personas.home import Home
from personas.lang import say
from personas.loader import EVAL_FILE, SETTINGS_FILE, load_personas, personas_root
from personas.schema import is_name
from personas.versions_cli import mount

app = make_app(say("페르소나를 보고, 검사하고, 만듭니다", "See, check and make personas"))
mount(app)

_NEW = """\
name: {name}
title: {name}
description: 한 줄로 소개해 주세요.
greeting: 안녕하세요!
questions:
  - 자기소개 해 주세요
system_prompt: >-
  당신은 {name}입니다. 모든 말은 한국어로 작성합니다.
sampling:
  temperature: 0.7
  top_p: 0.95
  repetition_penalty: 1.1
  max_tokens: 200
"""
_EXAMPLES = (("안녕하세요", "안녕하세요, 반가워요!"),)
_HELD_OUT = (
    ("오늘 기분이 어때요?", "좋아요! 당신의 하루는 어땠는지 궁금하네요."),
    ("요즘 잠을 잘 못 자요.", "많이 피곤하시겠어요. 자기 전에는 화면을 멀리하고 조명을 어둡게 해 보세요."),
    ("주말에 뭘 하면 좋을까요?", "날씨가 좋으면 가까운 공원을 걸어 보는 건 어떨까요?"),
    ("고마워요.", "별말씀을요. 또 필요하면 불러 주세요."),
)


def _lines(talks: Iterable[tuple[str, str]]) -> str:
    """Records of one question and one answer, as JSON Lines."""
    records = [
        {"category": "small_talk", "messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}]}
        for q, a in talks
    ]
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


@app.command(help=say("페르소나와 지금 버전을 보입니다", "List personas and their live versions"))
def ls() -> None:
    """List personas: name, title, live version, base, number of training records."""
    from rich.console import Console
    from rich.table import Table

    from personas.registry import Registry

    registry = Registry(Home.from_env().database)
    table = Table(*say("페르소나 이름 버전 베이스 기록", "persona title live base records").split())
    for name, folder in load_personas().items():
        live = registry.live(name)
        lines = [file for file in folder.data_files if file.suffix == ".jsonl"]
        others = len(folder.data_files) - len(lines)
        count = str(sum(file.read_bytes().count(b"\n") for file in lines))
        count += say(f" + 파일 {others}개", f" + {others} files") if others else ""
        table.add_row(name, folder.persona.title, f"v{live}" if live else "-", folder.persona.base, count)
    Console().print(table)


@app.command(help=say("모든 페르소나를 읽고 틀린 곳을 파일과 줄로 알립니다", "Report every fault with file and line"))
def check() -> None:
    """Read every persona and report all faults with file and line."""
    for name, folder in load_personas().items():
        print(f"✓ {name} ({folder.path}), " + say("데이터 파일", "data files") + f": {len(folder.training_files)}")


@app.command(help=say("새 페르소나 폴더를 만듭니다", "Make a persona folder to start from"))
def new(name: Annotated[str, typer.Argument(help=say("소문자, 숫자, -", "lower case, digits, -"))]) -> None:
    """Make a persona folder to start from."""
    folder: Path = personas_root() / name
    if not is_name(name):
        raise PersonaError(
            say(f"'{name[:60]}'은(는) 이름이 될 수 없습니다", f"'{name[:60]}' cannot be a name"),
            say("소문자, 숫자, -로 40자까지", "lower case letters, digits and -, up to 40"),
        )
    if folder.exists():
        raise PersonaError(
            say(f"{folder}이(가) 이미 있습니다", f"{folder} exists"), say("다른 이름으로", "choose another name")
        )
    (folder / "data").mkdir(parents=True)
    (folder / SETTINGS_FILE).write_text(_NEW.format(name=name), encoding="utf-8")
    (folder / "data" / "examples.jsonl").write_text(_lines(_EXAMPLES), encoding="utf-8")
    (folder / EVAL_FILE).write_text(_lines(_HELD_OUT), encoding="utf-8")
    print(f"✓ {folder}")
    print(f"→ {SETTINGS_FILE}, data/examples.jsonl, {EVAL_FILE} → tune persona {name}")
    print(
        say(
            f"{EVAL_FILE}의 질문은 학습 데이터와 겹치지 않게 바꿔 쓰세요. 관문이 이것으로 잽니다",
            f"replace the questions in {EVAL_FILE} by ones that are not trained on: the gate measures with them",
        )
    )


@app.command(
    help=say("베이스 모델을 서비스와 튜닝에 쓸 수 있게 준비합니다", "Make a base model ready to serve and tune")
)
def prepare(base: Annotated[str, typer.Argument(help="embedded:NAME | folder | org/name")]) -> None:
    """Make a base model ready to be served and tuned."""
    from personas.bases import prepare_base

    made = prepare_base(base, Home.from_env(), lambda text: print(text, flush=True))
    print(f"✓ {made.path} ({made.fingerprint[:12]})")


def main() -> None:
    run(app)


if __name__ == "__main__":
    main()
