"""From users' feedback to preference records: what they corrected, liked and disliked, and what the guard refused."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

from pydantic import ValidationError

from personas.feedback_store import Content, Feedback
from tune.data import Record, Turn

if TYPE_CHECKING:
    from tune.preference import Judged, Pair


@dataclass(frozen=True)
class Lessons:
    """What is to be learnt, and why the rest is not."""

    pairs: "list[Pair]"
    judged: "list[Judged]"
    left_out: Counter[str]

    def sources(self) -> Counter[str]:
        """Number of records by where they come from."""
        return Counter([*(pair.source for pair in self.pairs), *(one.source for one in self.judged)])


def _turns(content: Content) -> list[Turn] | None:
    """The conversation before the answer, or None where it is none (no user's turn last, roles out of turn)."""
    try:
        said = [*content.messages, {"role": "assistant", "content": content.answer}]
        return Record.model_validate({"category": "feedback", "messages": said}).messages[:-1]
    except ValidationError:
        return None


def gather(feedback: Iterable[Feedback], held_out: Iterable[Record]) -> Lessons:
    """Make pairs and judged answers of feedback whose users agreed.

    A correction is better than what it corrects; an answer that was liked is better than one to the same conversation
    that was not; an answer is better than what the guard threw away on the way to it. Thumbs that no pair could be
    made of stay single. Conversations of the held-out set are left out: the gate measures on it; and answers from
    documents, as a prompt without its passages would teach to make things up.
    """
    from tune.preference import Judged, Pair

    reserved = {record.prompt for record in held_out}
    pairs: dict[tuple[str, ...], Pair] = {}
    thumbs: dict[str, list[Judged]] = defaultdict(list)
    left_out: Counter[str] = Counter()

    def pair(turns: list[Turn], chosen: str, rejected: str, source: str) -> None:
        chosen, rejected = chosen.strip(), rejected.strip()
        if chosen and rejected and chosen != rejected:
            made = Pair(messages=turns, chosen=chosen, rejected=rejected, source=source)
            pairs.setdefault((_key(turns), chosen, rejected), made)

    for word in feedback:
        if word.content is None:
            left_out["no consent"] += 1
            continue
        turns = _turns(word.content)
        if turns is None or turns[0].content in reserved:
            left_out["no conversation" if turns is None else "held-out"] += 1
            continue
        if word.content.grounded:
            left_out["answered from documents"] += 1
            continue
        best = word.content.correction or (word.content.answer if word.thumb != "down" else "")
        for failure in word.content.failures:
            pair(turns, best, failure, "guard")
        if word.content.correction:
            pair(turns, word.content.correction, word.content.answer, "correction")
        elif word.thumb:
            good = word.thumb == "up"
            thumbs[_key(turns)].append(
                Judged(messages=turns, answer=word.content.answer, good=good, source=f"thumb {word.thumb}")
            )
    single: list[Judged] = []
    for group in thumbs.values():
        liked, disliked = [one for one in group if one.good], [one for one in group if not one.good]
        for better, worse in product(liked, disliked):
            pair(better.messages, better.answer, worse.answer, "thumbs")
        if not (liked and disliked):
            single += group
    return Lessons(list(pairs.values()), single, left_out)


def _key(turns: list[Turn]) -> str:
    return "\0".join(turn.content for turn in turns)
