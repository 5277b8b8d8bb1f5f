"""Search at scale: latency, memory and sizes of a collection of N passages, through the product's own store and index.

    python bench/rag_scale.py FILE.txt --passages 100000 --home DIR

The text is cut from FILE (UTF-8); beyond its end, halves of passages are put together anew. Vectors are synthetic: a
random direction for each of 500 topics and noise around it, so that neighbours exist, as they do in real text.
Questions are eight terms drawn from a passage, and its vector with noise. The query's own embedding is measured
apart, with the real embedder.
"""

import argparse
import random
import statistics
import time
from pathlib import Path

import numpy as np
import psutil

from personas.home import Home
from rag.embed import make_embedder, unit
from rag.pages import Passage
from rag.rows import NewDocument
from rag.search import Searcher
from rag.settings import RagSettings
from rag.store import Store, embedded_text, text_hash
from rag.terms import many_terms
from rag.vectors import folder_size

_SIZE, _DOCUMENT = 500, 500


def texts_of(file: Path, count: int) -> list[tuple[str, list[str]]]:
    """`count` passages with their terms."""
    whole = " ".join(file.read_text(encoding="utf-8").split())
    base = [whole[i : i + _SIZE] for i in range(0, len(whole), _SIZE)][:count]
    made = list(zip(base, many_terms(base), strict=True))
    while len(made) < count:
        left, right = random.choice(made[: len(base)]), random.choice(made[: len(base)])
        terms = left[1][: len(left[1]) // 2] + right[1][len(right[1]) // 2 :]
        made.append((f"{left[0][: _SIZE // 2]}{right[0][_SIZE // 2 :]} {len(made)}", terms))
    return made


def vectors_of(count: int, dimension: int) -> np.ndarray:
    """Shape (count, dimension), unit rows around 500 topics."""
    generator = np.random.default_rng(7)
    topics = generator.standard_normal((500, dimension), np.float32)
    noise = generator.standard_normal((count, dimension), np.float32) * 0.6
    return unit(topics[generator.integers(0, 500, count)] + noise)


def build(home: Home, settings: RagSettings, passages: list[tuple[str, list[str]]], vectors: np.ndarray) -> None:
    store = Store.open(home)
    collection = store.create("scale", settings.embedder, _SIZE)
    start = time.perf_counter()
    for at in range(0, len(passages), _DOCUMENT):
        part = passages[at : at + _DOCUMENT]
        rows = [
            Passage(text, i // 2 + 1, i // 2 + 1, "", i * _SIZE, (i + 1) * _SIZE) for i, (text, _) in enumerate(part)
        ]
        document = NewDocument(
            f"/scale/{at}.txt",
            f"{at}.txt",
            str(at),
            1,
            float(at),
            len(part) // 2,
            [],
            False,
            rows,
            [t for _, t in part],
        )
        store.put(collection, document)
        with store.change() as db:
            db.executemany(
                "INSERT OR REPLACE INTO vectors VALUES (?,?,?)",
                [
                    (text_hash(embedded_text("", text)), settings.embedder, vector.astype(np.float16).tobytes())
                    for (text, _), vector in zip(part, vectors[at : at + _DOCUMENT], strict=True)
                ],
            )
    print(f"words: {time.perf_counter() - start:.1f} s", flush=True)
    start = time.perf_counter()
    searcher = Searcher(home, settings)
    searcher.index.fill(collection, make_embedder(settings.embedder, settings))
    print(f"vectors into Chroma: {time.perf_counter() - start:.1f} s", flush=True)
    searcher.close()
    store.close()


def measure(home: Home, settings: RagSettings, passages: list[tuple[str, list[str]]], vectors: np.ndarray) -> None:
    process = psutil.Process()
    before = process.memory_info().rss
    start = time.perf_counter()
    searcher = Searcher(home, settings)
    collection = searcher.store.collection("scale")
    searcher.index.search(collection, vectors[0], 50, None)
    searcher.by_words(collection, passages[0][1][:8], 50)
    print(f"open and first search: {time.perf_counter() - start:.2f} s")
    embedder = make_embedder(settings.embedder, settings)
    spans: dict[str, list[float]] = {"embed": [], "words": [], "vectors": [], "whole": []}
    exact = 0.0
    for _ in range(60):
        number = random.randrange(len(passages))
        text = " ".join(random.sample(passages[number][1], min(8, len(passages[number][1]))))
        spans["embed"].append(_timed(lambda text=text: embedder.queries([text])))
        spans["words"].append(_timed(lambda text=text: searcher.by_words(collection, text.split(), 50)))
        query = unit(
            vectors[number : number + 1] + np.random.standard_normal((1, vectors.shape[1])).astype(np.float32) * 0.01
        )
        spans["vectors"].append(_timed(lambda query=query: searcher.index.search(collection, query[0], 50, None)))
        near = {i for i, _ in searcher.index.search(collection, query[0], 10, None)}
        exact += len(near & {int(i) + 1 for i in np.argsort(-(vectors @ query[0]))[:10]}) / 10 / 60
        spans["whole"].append(_timed(lambda text=text: searcher.search(text, "scale")))
    for name, values in spans.items():
        late = sorted(values)[int(len(values) * 0.95)]
        print(f"{name}: p50 {statistics.median(values) * 1000:.1f} ms, p95 {late * 1000:.1f} ms")
    print(f"recall@10 of the nearest: {exact:.3f}")
    after = process.memory_info().rss
    print(f"memory: +{(after - before) / 2**20:.0f} MiB, all {after / 2**20:.0f} MiB")
    database, chroma = home.documents.stat().st_size, folder_size(home.chroma)
    print(f"disk: documents.db {database / 2**20:.0f} MiB, chroma {chroma / 2**20:.0f} MiB")


def _timed(call: object) -> float:
    start = time.perf_counter()
    call()  # type: ignore[operator]
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--passages", type=int, default=10_000)
    parser.add_argument("--home", type=Path, required=True)
    options = parser.parse_args()
    random.seed(7)
    np.random.seed(7)
    settings, home = RagSettings(), Home(options.home.resolve())
    passages = texts_of(options.file, options.passages)
    vectors = vectors_of(options.passages, 384)
    store = Store.open(home)
    built = store.find("scale") is not None
    store.close()
    if not built:
        build(home, settings, passages, vectors)
    measure(home, settings, passages, vectors)


if __name__ == "__main__":
    main()
