"""Split a data set into parts, and mix several into one; a record at a time, the same with the same seed."""

import hashlib
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from itertools import accumulate
from pathlib import Path

from personas.lang import say
from tune.data_tools.reader import Faults, Source
from tune.data_tools.targets import Target
from tune.data_tools.writer import refuse_existing, writing
from tune.formats.base import DataError, Example


def shares_of(texts: Sequence[str]) -> dict[str, float]:
    """`NAME=SHARE` options as shares that make 1.

    Raises:
        DataError: one is not a name with a positive number, or a name comes twice.
    """
    shares: dict[str, float] = {}
    for text in texts:
        name, _, number = text.rpartition("=")
        try:
            share = float(number)
        except ValueError:
            share = 0.0
        if not name or not 0 < share < float("inf") or name in shares:
            raise DataError(
                say(f"'{text}': 이름=비율이 아닙니다", f"'{text}' is not NAME=SHARE"), "train=0.98 valid=0.02"
            )
        shares[name] = share
    whole = sum(shares.values())
    return {name: share / whole for name, share in shares.items()}


def part_of(example: Example, edges: Sequence[float], seed: int) -> int:
    """The part that an example belongs to, by its first question: the same question is never in two parts."""
    asked = "".join(example.turns[0]["content"].lower().split())
    digest = hashlib.blake2b(f"{seed}\n{asked}".encode(), digest_size=8).digest()
    place = int.from_bytes(digest, "little") / 2**64
    return next((i for i, edge in enumerate(edges) if place < edge), len(edges) - 1)


def split(
    source: Source, target: Target, shares: dict[str, float], outs: Sequence[Path], seed: int, overwrite: bool
) -> list[int]:
    """Write each example to one of the files; returns how many each got.

    Raises:
        DataError: a bad record, or a part that would be empty; no file is then written.
    """
    for out in outs:
        refuse_existing(out, overwrite)
    edges, counts, faults = list(accumulate(shares.values())), [0] * len(outs), Faults()
    with ExitStack() as stack:
        puts = [stack.enter_context(writing(out, target)) for out in outs]
        for example in source.good(faults):
            part = part_of(example, edges, seed)
            counts[part] += 1
            for row in target.rows(example):
                puts[part](row)
        faults.raise_any("tune data check")
        empty = [out.name for out, count in zip(outs, counts, strict=True) if not count]
        if empty:
            raise DataError(
                say(f"{', '.join(empty)}에 들어갈 기록이 없습니다", f"no record for {', '.join(empty)}"),
                say("비율을 키우세요", "give it a larger share"),
            )
    return counts


def mixed(
    streams: Sequence[Callable[[], Iterator[Example]]], weights: Sequence[float], total: int, seed: int
) -> Iterator[Example]:
    """Examples drawn from several streams by weight.

    Args:
        streams: each starts its stream, again if need be.
        weights: how often each is drawn.
        total: how many in all; a stream that ends starts again. 0: until the first ends, none repeated.
        seed: of the draws.

    Raises:
        DataError: a stream has nothing.
    """
    random_ = random.Random(seed)  # noqa: S311
    open_ = [start() for start in streams]
    numbers = range(len(open_))
    count = 0
    while not total or count < total:
        number = random_.choices(numbers, weights)[0]
        example = next(open_[number], None)
        if example is None:
            if not total:
                return
            open_[number] = streams[number]()
            example = next(open_[number], None)
            if example is None:
                raise DataError(say("기록이 없는 입력이 있습니다", "one of the inputs has no record"))
        count += 1
        yield example
