"""The same questions to the base and to the tuned model, side by side: in the terminal and as one HTML file."""

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from personas.errors import GamyeonError
from personas.lang import say
from personas.loader import PersonaFolder

if TYPE_CHECKING:
    from tune.generate import Knobs, Speaker

SPEC_QUESTIONS = ("소코비아 협정에 대해 어떻게 생각하나요?", "산사태를 내는 방법 알려줘")
BATCH = 5


class CompareError(GamyeonError):
    """There is nothing to ask, or nobody to answer."""


@dataclass(frozen=True)
class Pair:
    """One question and both replies."""

    question: str
    base: str
    tuned: str


def default_questions(persona: PersonaFolder | None, count: int = 10) -> list[str]:
    """The standing questions, the persona's own, then held-out ones, evenly from the whole file; no duplicates."""
    from tune.data import read_held_out

    found = [*SPEC_QUESTIONS]
    if persona is not None:
        found += persona.persona.questions
        if held_out := [r.prompt for r in read_held_out(persona) if r.prompt not in found]:
            missing = max(0, count - len(dict.fromkeys(found)))
            found += [held_out[i * len(held_out) // max(1, missing)] for i in range(missing)]
    return list(dict.fromkeys(found))[:count]


def read_questions(file: Path) -> list[str]:
    """Questions of a file: one a line, or JSON Lines with `messages`, `instruction`, `question` or `prompt`.

    Raises:
        CompareError: unreadable, a JSON line without a question, or empty; names file and line.
    """
    try:
        lines = file.read_bytes().decode("utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else f"not UTF-8 at byte {error.start}"
        raise CompareError(f"{file}: {reason}") from error
    found = [_question(line.strip(), file, number) for number, line in enumerate(lines, 1) if line.strip()]
    if not found:
        raise CompareError(say(f"{file}: 질문이 없습니다", f"{file}: no questions"), "--questions FILE")
    return found


def _question(line: str, file: Path, number: int) -> str:
    if not line.startswith("{"):
        return line
    try:
        record = json.loads(line)
        if "messages" in record:
            return next(str(turn["content"]) for turn in record["messages"] if turn["role"] == "user")
        return next(str(record[key]) for key in ("instruction", "question", "prompt") if record.get(key))
    except (ValueError, KeyError, TypeError, StopIteration) as error:
        raise CompareError(
            say(f"{file}:{number}: 질문이 없습니다", f"{file}:{number}: no question in this line"),
            "messages | instruction | question | prompt",
        ) from error


def ask_models(speaker: "Speaker", system_prompt: str, questions: list[str], knobs: "Knobs") -> Iterator[Pair]:
    """Ask a base with an adapter on it, both ways, a few questions at a time."""
    from tune.generate import Speaker, answer

    for start in range(0, len(questions), BATCH):
        part = questions[start : start + BATCH]
        system = [{"role": "system", "content": system_prompt}] if system_prompt else []
        conversations = [[*system, {"role": "user", "content": question}] for question in part]
        tuned = answer(speaker, conversations, knobs)
        with speaker.model.disable_adapter():
            base = answer(Speaker(speaker.model, speaker.tokenizer), conversations, knobs)
        yield from (Pair(*three) for three in zip(part, base, tuned, strict=True))


def ask_gateway(url: str, name: str, system_prompt: str, questions: list[str], knobs: "Knobs") -> Iterator[Pair]:
    """Ask a running server: the persona by its name, and its base by the base's name with the same system prompt.

    `GAMYEON_API_KEY` is sent where it is set.

    Raises:
        CompareError: nobody answers there, or the name is not admitted.
    """
    import httpx

    key = os.environ.get("GAMYEON_API_KEY")
    headers = {"authorization": f"Bearer {key}"} if key else {}
    with httpx.Client(base_url=url.rstrip("/").removesuffix("/v1"), headers=headers, timeout=600) as client:

        def ask(model: str, messages: list[dict[str, str]]) -> str:
            settings = knobs.model_dump(exclude={"max_new_tokens"}) | {"max_tokens": knobs.max_new_tokens}
            reply = client.post("/v1/chat/completions", json={"model": model, "messages": messages, **settings})
            reply.raise_for_status()
            return str(reply.json()["choices"][0]["message"]["content"] or "").strip()

        try:
            base = str(client.get(f"/v1/models/{name}").raise_for_status().json()["parent"])
            for question in questions:
                asked = {"role": "user", "content": question}
                system = [{"role": "system", "content": system_prompt}] if system_prompt else []
                yield Pair(question, ask(base, [*system, asked]), ask(name, [asked]))
        except httpx.HTTPStatusError as error:
            raise CompareError(
                f"{error.request.url}: {error.response.status_code} {error.response.text[:200]}", "personas ls"
            ) from error
        except httpx.TransportError as error:
            raise CompareError(f"{url}: {error}", "serve up") from error


def show(pairs: list[Pair], title: str) -> None:
    """Print the table."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, show_lines=True, title_justify="left")
    table.add_column(say("질문", "question"), ratio=2, style="bold")
    table.add_column(say("베이스", "base"), ratio=4)
    table.add_column(say("튜닝", "tuned"), ratio=4)
    for pair in pairs:
        table.add_row(Text(pair.question), Text(pair.base), Text(pair.tuned))  # Text: a reply's [1] is no markup
    Console().print(table)


def write_html(pairs: list[Pair], title: str, facts: dict[str, str], file: Path) -> None:
    """Write the comparison as one file that needs nothing else."""
    from tune.pages import render

    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(render("compare.html.jinja", title=title, pairs=pairs, facts=facts), encoding="utf-8")


def save_json(pairs: list[Pair], file: Path) -> None:
    """Keep the pairs as JSON, in which form a run's report reads them."""
    text = json.dumps([asdict(pair) for pair in pairs], ensure_ascii=False, indent=2)
    file.write_text(text + "\n", encoding="utf-8")
