"""The same picture more than once in a data set, told by digests of 16 bytes.

Across splits it is leakage, under two labels a contradiction; a copy within a class is common
in real sets, and harmless.

Legend: N pictures of a split.
"""

import hashlib
from collections.abc import Iterator
from itertools import combinations
from typing import NamedTuple

import numpy as np

from wbcli.data.pictures.decoding import Pictures
from wbcli.files.readers import Content, Problem
from wbcli.words import counted

SPLITS = ("train", "val", "test")
WORDS = 2  # uint64 of a digest


class Place(NamedTuple):
    """Where a picture stands: the split and the index there."""

    split: str
    index: int


def digest(content: bytes) -> np.ndarray:
    """uint64 [2]; two pictures that are not the same have the same one never in practice."""
    return np.frombuffer(hashlib.blake2b(content, digest_size=8 * WORDS).digest(), np.uint64)


def find(content: Content, digests: dict[str, np.ndarray]) -> tuple[list[Problem], list[str]]:
    """Sentences about pictures in two splits or under two labels, and a warning about copies.

    Args:
        digests: uint64 [N, 2] of each split, zero for what could not be read.
    """
    problems: list[Problem] = []
    copies: dict[str, int] = {}
    examples: dict[str, str] = {}
    for places in _groups(digests):
        first: dict[str, dict[int, Place]] = {}  # split → label → first picture
        for place in places:
            label = int(getattr(content, place.split)[1][place.index])
            known = first.setdefault(place.split, {}).setdefault(label, place)
            if known is not place:
                copies[place.split] = copies.get(place.split, 0) + 1
                examples.setdefault(place.split, both(content, known, place))
        problems += [Problem(text) for text in _contradictions(content, first)]
    return problems, [
        f"in {split}, copies of another picture of the class: "
        f"{copies[split]} of {counted(len(digests[split]), 'image')}, such as {examples[split]}"
        for split in SPLITS
        if split in copies
    ]


def _contradictions(content: Content, first: dict[str, dict[int, Place]]) -> Iterator[str]:
    """Sentences about one picture: that it is in two splits, and under two labels in one."""
    firsts = {split: next(iter(labels.values())) for split, labels in first.items()}
    for a, b in _pairs(firsts):
        yield f"the same picture in {a} and in {b}: {both(content, firsts[a], firsts[b])}"
    names = content.class_names
    for split, labels in first.items():
        (label, place), *others = labels.items()
        for other, second in others:
            yield (
                f"the same picture in {split} as {names[label]} and as {names[other]}: "
                + both(content, place, second)
            )


def _pairs(splits: dict) -> Iterator[tuple[str, str]]:
    """Train with test comes first: it is the worst."""
    return combinations([s for s in ("train", "test", "val") if s in splits], 2)


def _groups(digests: dict[str, np.ndarray]) -> list[list[Place]]:
    """The places of every picture that stands more than once, in the order of its first."""
    sizes = {split: len(digests[split]) for split in SPLITS if split in digests}
    all_digests = np.concatenate([digests[split] for split in sizes])
    read = np.flatnonzero(all_digests.any(1))
    order = read[np.lexsort(all_digests[read].T)]  # stable: equal ones stay in order
    ordered = all_digests[order]
    new = np.ones(len(order), dtype=bool)
    new[1:] = (ordered[1:] != ordered[:-1]).any(1)
    starts = np.flatnonzero(new)
    repeats = np.diff(starts, append=len(order))
    groups = [
        order[start : start + size].tolist()
        for start, size in zip(starts[repeats > 1], repeats[repeats > 1], strict=True)
    ]
    return [[place_at(i, sizes) for i in group] for group in sorted(groups)]


def place_at(i: int, sizes: dict[str, int]) -> Place:
    """Where picture i stands, counted through all splits, which have these numbers of pictures."""
    for split, size in sizes.items():
        if i < size:
            return Place(split, i)
        i -= size
    raise IndexError(i)


def both(content: Content, first: Place, second: Place) -> str:
    """Where two pictures are, for a message."""
    return "; ".join(describe(content, place) for place in (first, second))


def describe(content: Content, place: Place) -> str:
    """Where a picture is, for a message."""
    images = getattr(content, place.split)[0]
    if isinstance(images, Pictures):
        return images.describe(place.index)
    return f"image {place.index}"
