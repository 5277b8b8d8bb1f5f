"""A persona's records with the prompt that the gateway will give each: its system prompt and the nearest exchanges."""

from functools import cache

from personas.embedder import batch_topic_embed
from personas.example_memory import Exchange, asked_in, open_index, question_vectors, with_examples, within
from personas.home import Home
from personas.lang import say
from personas.loader import PersonaFolder
from personas.texts import overlap
from tune.data import Record

_LIKE = 0.2  # of the letters of two answers in common


def remembered(records: list[Record], folder: PersonaFolder, home: Home, *, taught: bool = False) -> list[Record]:
    """The records with the exchanges that are nearest to each one's last question, its own exchanges left out.

    They are as they were where the persona has no example memory.

    Args:
        taught: of the near exchanges, the one whose answer is most like the record's own comes first, if it is like it
            at all. So the model learns that what it is shown is worth adapting. For training alone: it needs answers.
    """
    persona = folder.persona
    wanted = persona.example_memory
    if wanted is None or not records:
        return records
    print(say("예시 기억에서 가까운 대화를 찾습니다…", "looking up the nearest exchanges…"))
    embed = cache(batch_topic_embed)
    index = open_index(folder, home, embed)
    asked = [[turn.content for turn in one.messages if turn.role == "user"] for one in records]
    shown = []
    for record, talk, vectors in zip(records, asked, question_vectors(embed(), asked), strict=True):
        own = {asked_in(talk[: at + 1]) for at in range(len(talk))}
        near = [one for one in index.ranked(vectors, wanted) if one.asked not in own]
        near = _likest_first(near, record.messages[-1].content) if taught else near
        system = with_examples(persona.system_prompt, within(near, wanted))
        shown.append(record.model_copy(update={"system": system}))
    return shown


def _likest_first(near: list[Exchange], answer: str) -> list[Exchange]:
    likest = max(near, key=lambda one: overlap(one.said, answer), default=None)
    if likest is None or overlap(likest.said, answer) < _LIKE:
        return near
    return [likest, *(one for one in near if one is not likest)]
