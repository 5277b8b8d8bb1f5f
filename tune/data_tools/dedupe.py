"""Duplicates: exact after normalisation, and near ones by MinHash over character 3-grams.

Near duplicates: Broder, "On the resemblance and containment of documents" (1997), with banding (Leskovec et al.,
"Mining of Massive Datasets", ch. 3). Signatures lie on the disk and are gone through a few bands at a time, so memory
grows by some 150 bytes a record.
"""

import hashlib
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from tune.formats.base import DataError, Example

BANDS, ROWS = 21, 6  # a pair of similarity s shares a band with 1-(1-s^6)^21: 0.5 → 28 %, 0.8 → 99.8 %
PERMUTATIONS = BANDS * ROWS
_BANDS_A_PASS, _BLOCK = 7, 1 << 14
_ROUNDS = 8  # comparisons of a record within a band: data that is all much alike must not take quadratic time
U32: TypeAlias = npt.NDArray[np.uint32]
U64: TypeAlias = npt.NDArray[np.uint64]

_random = np.random.default_rng(3407)
_A: U64 = _random.integers(1, 1 << 63, PERMUTATIONS, dtype=np.uint64) | np.uint64(1)
_B: U64 = _random.integers(0, 1 << 63, PERMUTATIONS, dtype=np.uint64)
_MIX = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9], dtype=np.uint64)


def squeezed(example: Example) -> str:
    """What counts when two examples are compared: everything said, lower case, without blanks."""
    said = [turn["content"] for turn in example.turns]
    return "\n".join("".join(text.lower().split()) for text in (*said, example.context, example.system))


def exact_key(example: Example) -> int:
    """64 bits of the normalised text's hash: two of a million different examples agree by chance once in 10^7."""
    return int.from_bytes(hashlib.blake2b(squeezed(example).encode(), digest_size=8).digest(), "little")


def signature(text: str) -> U32:
    """MinHash signature of a text's character 3-grams: `PERMUTATIONS` values."""
    points = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32).astype(np.uint64)
    if len(points) < 3:
        points = np.pad(points, (0, 3 - len(points)))
    grams = points[:-2] * _MIX[0] + points[1:-1] * _MIX[1] + points[2:] * _MIX[2]
    grams = np.unique(grams ^ (grams >> np.uint64(29)))
    least = np.full(PERMUTATIONS, np.iinfo(np.uint32).max, dtype=np.uint32)
    for start in range(0, len(grams), 4096):  # a long text does not take a matrix of its own length
        hashed = (grams[start : start + 4096, None] * _A + _B) >> np.uint64(32)
        least = np.minimum(least, hashed.min(axis=0).astype(np.uint32))
    return least


def exact_duplicates(examples: Iterable[Example]) -> set[int]:
    """Positions of examples that were there before, word for word but for case and blanks."""
    seen: set[int] = set()
    again = set()
    for position, example in enumerate(examples):
        key = exact_key(example)
        if key in seen:
            again.add(position)
        seen.add(key)
    return again


def near_duplicates(examples: Iterable[Example], threshold: float, folder: Path | None = None) -> dict[int, int]:
    """Positions of examples much like an earlier one, each with that one's position.

    Args:
        examples: in order; the first of each group is kept.
        threshold: least similarity (Jaccard index of character 3-grams, as MinHash estimates it, ±0.04), 0 to 1.
        folder: where the signatures are put for the time being (504 bytes a record).

    Raises:
        DataError: there is no room for them.
    """
    try:
        return _near_duplicates(examples, threshold, folder)
    except OSError as error:
        raise DataError(f"{folder}: {error.strerror}") from error


def _near_duplicates(examples: Iterable[Example], threshold: float, folder: Path | None) -> dict[int, int]:
    with tempfile.TemporaryFile(dir=folder) as file:
        count = sum(1 for example in examples if file.write(signature(squeezed(example)).tobytes()))
        file.flush()
        like: dict[int, tuple[int, ...]] = {}
        for band in range(0, BANDS, _BANDS_A_PASS):
            for keys in _band_keys(file.fileno(), count, band):
                for group in _same(keys):
                    _compare(group, file.fileno(), threshold, like)
        return _kept_of(like)


def _kept_of(like: dict[int, tuple[int, ...]]) -> dict[int, int]:
    """Of the pairs that are alike, which to leave out, in order: those like one that is kept.

    What is like only a record that is itself left out stays, for it may be unlike the one that is kept.
    """
    left_out: dict[int, int] = {}
    for position in sorted(like):
        kept = next((earlier for earlier in sorted(like[position]) if earlier not in left_out), None)
        if kept is not None:
            left_out[position] = kept
    return left_out


def _rows(handle: int, start: int, count: int = 1) -> U32:
    """Signatures from the file, read and not mapped: mapped pages would count as memory."""
    size = 4 * PERMUTATIONS
    data = os.pread(handle, count * size, start * size)
    return np.frombuffer(data, dtype=np.uint32).reshape(-1, PERMUTATIONS)


def _band_keys(handle: int, count: int, first: int) -> U64:
    """A number for each signature's part in each of some bands: equal parts, equal numbers. (bands, count)"""
    keys = np.empty((_BANDS_A_PASS, count), dtype=np.uint64)
    columns = slice(first * ROWS, (first + _BANDS_A_PASS) * ROWS)
    for start in range(0, count, _BLOCK):
        part = _rows(handle, start, _BLOCK)[:, columns].astype(np.uint64)
        keys[:, start : start + _BLOCK] = (part.reshape(-1, _BANDS_A_PASS, ROWS) * _A[:ROWS]).sum(axis=2).T
    return keys


def _same(keys: U64) -> Iterator[npt.NDArray[np.int64]]:
    """Groups of positions, ascending, that have the same key."""
    order = np.argsort(keys, kind="stable")
    bounds = np.concatenate(([0], np.flatnonzero(np.diff(keys[order])) + 1, [len(order)]))
    for i in np.flatnonzero(np.diff(bounds) > 1):
        yield order[bounds[i] : bounds[i + 1]]


def _compare(group: npt.NDArray[np.int64], handle: int, threshold: float, like: dict[int, tuple[int, ...]]) -> None:
    """Note those of a group that are like the group's first, then the same with the rest."""
    left = [int(position) for position in group]
    for _ in range(_ROUNDS):
        if len(left) < 2:
            return
        first, others = left[0], []
        signature_ = _rows(handle, first)
        for position in left[1:]:
            known = like.get(position, ())
            if first not in known:
                if (_rows(handle, position) == signature_).mean() < threshold:
                    others.append(position)
                    continue
                like[position] = (*known, first)
        left = others
