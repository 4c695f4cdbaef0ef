"""Which images trained a run and which it held out: kept in its folder, and found again.

Pictures on disk are known by their names below the data folder; images in memory by their
places among the set's training images, with a digest of what lies there.

Legend: N images, K classes.
"""

import hashlib
import os
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from wbcli.data.pictures.decoding import Pictures
from wbcli.words import are, composed, counted, printable

DIGESTED = 1024  # images at a time


class Images(NamedTuple):
    """keys: names, bytes [N], or places, int64 [N]; labels: int64 [N]; digest: of what lies at
    the places, None for names.
    """

    keys: np.ndarray
    labels: np.ndarray
    digest: str | None = None

    @classmethod
    def of(cls, images: np.ndarray | Pictures, labels: np.ndarray, places: np.ndarray) -> "Images":
        """Of the images at these places among all of a set's."""
        if isinstance(images, Pictures):
            return cls(images.names[places], labels[places])
        return cls(places, labels[places], _digest(images[places], labels[places]))

    def same(self, other: "Images") -> bool:
        arrays = zip(self[:2], other[:2], strict=True)
        return self.digest == other.digest and all(np.array_equal(a, b) for a, b in arrays)

    def find(
        self, images: np.ndarray | Pictures, labels: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Where these images are among those of a set as it is now.

        Returns:
            Their places int64 [≤ N], in their own order; masks [N] of those that are gone, and
            of those that have another label.
        """
        if isinstance(images, Pictures):
            place = _places(images.names)
            found = [place.get(key, place.get(_composed(key), -1)) for key in self.keys.tolist()]
            places = np.array(found, dtype=np.int64)
            gone = places < 0
        else:  # one digest stands for all of them
            places, inside = self.keys, self.digest is not None and (self.keys < len(labels)).all()
            same = inside and self.digest == _digest(images[places], labels[places])
            gone = np.full(len(places), not same)
        moved = ~gone
        moved[moved] = labels[places[moved]] != self.labels[moved]
        return places[~gone & ~moved], gone, moved


class Measured(NamedTuple):
    """How many test images there were, and a digest of them and their labels."""

    count: int
    digest: str

    @classmethod
    def of(cls, images: np.ndarray | Pictures, labels: np.ndarray) -> "Measured":
        """Of pictures by their names, in whichever order and form of Unicode."""
        if not isinstance(images, Pictures):
            return cls(len(labels), _digest(images, labels))
        pairs = zip(map(_composed, images.names.tolist()), labels.tolist(), strict=True)
        text = repr(sorted(pairs)).encode()
        return cls(len(labels), hashlib.blake2b(text, digest_size=16).hexdigest())

    def changed(self, now: "Measured | None") -> str:
        """What of them is not as it was; empty where all are."""
        if now is None or now == self:
            return ""
        return f"its test images are others now, {self.count} then and {now.count} now"


class Chosen(NamedTuple):
    """The images that trained, those held out (None: there are none), and how many of each
    class the data set had beside them, int64 [K]: what the long-tailed sampling left out.
    guessed: which were held out was computed anew, since the run that held them out did not say.
    test: with which images it was measured; None: with none, or an older version did not say.
    """

    train: Images
    val: Images | None
    unused: np.ndarray
    guessed: bool = False
    test: Measured | None = None

    def counts(self) -> list[int]:
        """Training images of each class."""
        return np.bincount(self.train.labels, minlength=len(self.unused)).tolist()

    def same(self, other: "Chosen") -> bool:
        if (self.val is None) != (other.val is None):
            return False
        return self.train.same(other.train) and (self.val is None or self.val.same(other.val))

    def named(self) -> bool | None:
        """Whether the images are known by name; None: some are, and some by index."""
        kinds = {part.digest is None for part in (self.train, self.val) if part}
        return kinds.pop() if len(kinds) == 1 else None

    def twice(self, apart: bool = False) -> str:
        """A name or an index that stands there a second time; empty where none does.

        Args:
            apart: the images held out are no training images of the data set, and have indices of
                their own.
        """
        seen: set = set()
        for part in filter(None, (self.train, self.val)):
            seen = set() if apart and part.digest is not None else seen
            for key in part.keys.tolist():
                if key in seen:
                    return printable(os.fsdecode(key)) if part.digest is None else f"index {key}"
                seen.add(key)
        return ""

    def new(self, splits: Iterable[tuple[np.ndarray | Pictures, np.ndarray]]) -> np.ndarray:
        """How many images of each class these splits have that it did not know, int64 [K]."""
        splits = list(splits)
        known: set = set()
        for part in filter(None, (self.train, self.val)):
            known.update(_places(part.keys) if part.digest is None else part.keys.tolist())
        now = np.zeros(len(self.unused), dtype=np.int64)
        for part, (images, labels) in zip((self.train, self.val), splits, strict=False):
            keys = range(len(labels))
            if part and part.digest is not None and splits[1:]:  # each has indices of its own
                known = set(part.keys.tolist())
            if isinstance(images, Pictures):
                keys = map(_composed, images.names.tolist())
            others = labels[np.array([key not in known for key in keys], dtype=bool)]
            now += np.bincount(others, minlength=len(now))
        return np.maximum(now - self.unused, 0)


def _places(names: np.ndarray) -> dict[bytes, int]:
    """Where each name stands, as it is on disk and in the composed form of Unicode."""
    names = names.tolist()
    return {_composed(name): i for i, name in enumerate(names)} | {
        name: i for i, name in enumerate(names)
    }


def _composed(name: bytes) -> bytes:
    return name if name.isascii() else os.fsencode(composed(os.fsdecode(name)))


def lost(part: Images, gone: np.ndarray, moved: np.ndarray, what: str) -> str:
    """What of these images is not as it was; empty where all are.

    Args:
        gone, moved: what `Images.find` gave.
        what: what they were for: `trained it`, `were held out`.
    """
    if part.digest is not None:
        return f"the images that {what} are others now" if gone.any() or moved.any() else ""
    found = []
    for mask, how in ((gone, "gone"), (moved, "of another class now")):
        if mask.any():
            example = printable(os.fsdecode(part.keys[mask][0]))
            count = int(mask.sum())
            that = what.replace("were ", "was ") if count == 1 else what
            found.append(
                f"{counted(count, 'picture')} that {that} {are(count)} {how}, such as {example}"
            )
    return "; ".join(found)


def _digest(images: np.ndarray, labels: np.ndarray) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for start in range(0, len(images), DIGESTED):  # features are read as they are needed
        digest.update(np.ascontiguousarray(images[start : start + DIGESTED]))
    digest.update(np.ascontiguousarray(labels, dtype="<i8"))
    return digest.hexdigest()
