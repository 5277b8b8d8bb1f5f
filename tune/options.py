"""Options that the commands after training share."""

import os
from pathlib import Path
from typing import Annotated

import typer

from personas.lang import say

WHAT = say(
    "ironman@v1 | 페르소나 | 실행 | 체크포인트 | PEFT 폴더", "ironman@v1 | persona | run | checkpoint | PEFT folder"
)
Name = Annotated[str, typer.Argument(metavar="ADAPTER", help=WHAT)]
Checkpoint = Annotated[
    int | None, typer.Option(help=say("실행의 체크포인트 번호 (예: 300)", "step of a run's checkpoint, such as 300"))
]
BaseSpec = Annotated[
    str, typer.Option("--base", help=say("베이스 (어댑터에 적힌 것 대신)", "base, instead of the one it names"))
]
Out = Annotated[Path, typer.Option("--out", "-o", help=say("만들 폴더 (아직 없어야 합니다)", "folder to make"))]
Temperature = Annotated[float, typer.Option(help=say("0이면 항상 가장 그럴듯한 토큰", "0: always the likeliest token"))]
MaxTokens = Annotated[int, typer.Option(help=say("답의 최대 토큰 수", "tokens of a reply, at most"))]
Penalty = Annotated[float, typer.Option(help=say("반복 벌점, 2.0까지", "up to 2.0"))]


def offline() -> None:
    """Nothing may ask a hub from now on: the base is here."""
    os.environ["HF_HUB_OFFLINE"] = "1"
