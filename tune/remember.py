"""A persona's records with the prompt that the gateway will give each: its system prompt and the nearest exchanges."""

from functools import cache

from personas.embedder import batch_embed
from personas.example_memory import open_index, question_vectors, with_examples
from personas.home import Home
from personas.lang import say
from personas.loader import PersonaFolder
from tune.data import Record


def remembered(records: list[Record], folder: PersonaFolder, home: Home) -> list[Record]:
    """The records with the exchanges that are nearest to each one's last question, its own exchange left out.

    They are as they were where the persona has no example memory.
    """
    persona = folder.persona
    wanted = persona.example_memory
    if wanted is None or not records:
        return records
    print(say("예시 기억에서 가까운 대화를 찾습니다…", "looking up the nearest exchanges…"))
    embed = cache(batch_embed)
    index = open_index(folder, home, embed)
    asked = [next(turn.content for turn in reversed(one.messages) if turn.role == "user") for one in records]
    known = {one.asked: vector for one, vector in zip(index.exchanges, index.vectors, strict=True)}
    new = [text for text in dict.fromkeys(asked) if text not in known]
    if new:
        known |= dict(zip(new, question_vectors(embed(), new), strict=True))
    return [
        record.model_copy(
            update={"system": with_examples(persona.system_prompt, index.nearest(known[text], wanted, record.prompt))}
        )
        for record, text in zip(records, asked, strict=True)
    ]
