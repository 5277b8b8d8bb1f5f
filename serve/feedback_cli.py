"""`serve feedback export | erase`: what users said, and taking it back."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from personas.lang import say

app = typer.Typer(help=say("피드백을 내보내고 지웁니다", "Export and erase feedback"), no_args_is_help=True)
User = Annotated[str, typer.Option(help=say("사용자 (요청의 user)", "the user, as in the request's `user`"))]


@app.command(help=say("JSON Lines로 내보냅니다", "Write it as JSON Lines"))
def export(
    output: Annotated[Path | None, typer.Option("-o", help=say("파일 (없으면 화면)", "file; else the screen"))] = None,
    persona: Annotated[str, typer.Option(help=say("이 페르소나만", "of this persona alone"))] = "",
    user: User = "",
) -> None:
    """Write feedback, oldest first; content only where its user agreed."""
    from personas.feedback_store import FeedbackStore
    from personas.home import Home

    words = list(FeedbackStore(Home.from_env().database).all(persona or None, user or None))
    text = "".join(word.model_dump_json() + "\n" for word in words)
    if output is None:
        sys.stdout.write(text)
        return
    output.write_text(text, encoding="utf-8")
    print(say(f"✓ {len(words)}개를 {output}에 썼습니다", f"✓ {len(words)} written to {output}"))


@app.command(help=say("한 사용자의 것을 모두 지우고, 남은 것이 없는지 확인합니다", "Erase a user's and prove it"))
def erase(user: User) -> None:
    """Delete everything of a user, overwrite it on the disk and search the files for it."""
    from personas.errors import GamyeonError
    from personas.feedback_store import FeedbackStore
    from personas.home import Home

    database = Home.from_env().database
    rows, left = FeedbackStore(database).erase(user)
    if left:
        raise GamyeonError(
            say(f"{rows}개를 지웠지만 {left}개가 파일에 남아 있습니다", f"{rows} deleted, {left} still on disk"),
            say("게이트웨이를 멈추고 다시 하세요", "stop the gateways and do it again"),
        )
    print(
        say(
            f"✓ {rows}개를 지웠습니다. {database}의 바이트에 남은 것이 없습니다",
            f"✓ {rows} deleted; nothing is left in the bytes of {database}",
        )
    )
