"""The language of the messages that a person reads: Korean, or English behind `--lang en` or an English LANG."""

import os
import sys


def _chosen() -> str:
    argv = sys.argv[1:]
    for i, arg in enumerate(argv):
        if arg.startswith("--lang="):
            return arg.removeprefix("--lang=")
        if arg == "--lang" and i + 1 < len(argv):
            return argv[i + 1]
    return "en" if os.environ.get("LANG", "").startswith("en") else "ko"


def say(ko: str, en: str) -> str:
    """The text in the reader's language.

    Help texts are made at import, before any option is parsed, so the choice is read from the command line itself.
    """
    return en if _chosen() == "en" else ko
