"""What the command lines share: options, and errors as two lines with a non-zero exit; a traceback with `--debug`."""

import logging
import sys
from typing import Annotated

import typer

from personas.errors import GamyeonError
from personas.lang import say


def make_app(help_text: str) -> typer.Typer:
    """A command-line program with `--debug` and `--lang`."""
    app = typer.Typer(
        help=help_text,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )

    @app.callback()
    def _options(
        debug: Annotated[
            bool, typer.Option(help=say("오류의 traceback을 보입니다", "show the traceback of an error"))
        ] = False,
        lang: Annotated[str, typer.Option(help="ko | en")] = "ko",
    ) -> None:
        """Read elsewhere: `--lang` by `personas.lang`, `--debug` by `run`."""

    return app


def hush_bitsandbytes() -> None:
    """Drop one warning of bitsandbytes: it asks for a package that only makes its 4-bit products faster.

    It is given whenever TRL or PEFT is loaded on a CPU with AVX-512 BF16, whether anything is in 4 bits or not.
    """
    logger = logging.getLogger("bitsandbytes.backends.cpu.ops")
    logger.addFilter(lambda record: "gemm_4bit_forward" not in str(record.msg))


def run(app: typer.Typer) -> None:
    """Run the program; our errors become a message and the next command, exit code 1."""
    hush_bitsandbytes()
    try:
        app()
    except GamyeonError as error:
        if "--debug" in sys.argv:
            raise
        print(say("오류", "error") + f": {error.message}", file=sys.stderr)
        if error.hint:
            print(f"→ {error.hint}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print(say("멈췄습니다", "stopped"), file=sys.stderr)
        sys.exit(130)
