"""Which images trained a run and which it held out: kept in its folder, and found again.

Pictures on disk are known by their names below the data folder; images in memory by their
places among the set's training images, with a digest of what lies there.

Legend: N images, K classes.
"""

import gzip
import hashlib
import json
import os
import zlib
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from wbcli.data.pictures import Pictures
from wbcli.words import composed, counted, printable

MAX_PACKED = 1 << 28  # bytes; iNaturalist 2018's 437,513 names are 12 million
MAX_RATIO = 200  # of unpacked bytes to packed ones; made-up lists in one class have 60
SPLITS = ("train", "val")


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


class Chosen(NamedTuple):
    """The images that trained, those held out (None: there are none), and how many of each
    class the data set had beside them, int64 [K]: what the long-tailed sampling left out.
    guessed: which were held out was computed anew, since the run that held them out did not say.
    """

    train: Images
    val: Images | None
    unused: np.ndarray
    guessed: bool = False

    def counts(self) -> list[int]:
        """Training images of each class."""
        return np.bincount(self.train.labels, minlength=len(self.unused)).tolist()

    def same(self, other: "Chosen") -> bool:
        if (self.val is None) != (other.val is None):
            return False
        return self.train.same(other.train) and (self.val is None or self.val.same(other.val))

    def new(self, splits: Iterable[tuple[np.ndarray | Pictures, np.ndarray]]) -> np.ndarray:
        """How many images of each class these splits have that it did not know, int64 [K]."""
        known: set = set()
        for part in filter(None, (self.train, self.val)):
            known.update(part.keys.tolist() if part.digest else _places(part.keys))
        now = np.zeros(len(self.unused), dtype=np.int64)
        for images, labels in splits:
            keys = range(len(labels))
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
            verb = "is" if mask.sum() == 1 else "are"
            pictures = counted(int(mask.sum()), "picture")
            found.append(f"{pictures} that {what} {verb} {how}, such as {example}")
    return "; ".join(found)


def pack(chosen: Chosen) -> bytes:
    """As gzipped JSON: `train` and `val` with `names` or `indices` and `digest`, and `labels`;
    `unused` and `guessed`.
    """
    content = {"train": _plain(chosen.train), "val": chosen.val and _plain(chosen.val)}
    content |= {"unused": chosen.unused.tolist(), "guessed": chosen.guessed}
    return gzip.compress(json.dumps(content, separators=(",", ":")).encode(), 3, mtime=0)


def unpack(packed: bytes) -> Chosen:
    """What `pack` packed.

    Raises:
        ValueError: it is torn, or was changed.
    """
    try:
        content = json.loads(_gunzip(packed))
        train, val = (content[split] and _images(content[split]) for split in SPLITS)
        unused = _integers(content["unused"])
        parts = [part for part in (train, val) if part]
        if not train or any((part.labels >= len(unused)).any() for part in parts):
            raise ValueError("a label of no class")
        return Chosen(train, val, unused, content.get("guessed") is True)
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError, zlib.error) as error:
        raise ValueError(f"expected the images of a run as gzipped JSON ({error})") from error


def _gunzip(packed: bytes) -> bytes:
    stream = zlib.decompressobj(wbits=31)
    content = stream.decompress(packed, MAX_RATIO * len(packed) + 1)
    if not stream.eof or stream.unused_data:
        raise ValueError("it ends early, or too late")
    return content


def _plain(part: Images) -> dict[str, object]:
    keys = part.keys.tolist()
    if part.digest is None:
        named = {"names": [os.fsdecode(name) for name in keys]}
    else:
        named = {"indices": keys, "digest": part.digest}
    return named | {"labels": part.labels.tolist()}


def _images(content: dict[str, object]) -> Images:
    labels = _integers(content["labels"])
    if "names" in content:
        names = content["names"]
        if not (isinstance(names, list) and all(type(name) is str for name in names)):
            raise ValueError("names are no list of texts")
        part = Images(Pictures.of("", names).names, labels)
    else:
        part = Images(_integers(content["indices"]), labels, str(content["digest"]))
    if len(part.keys) != len(labels):
        raise ValueError("as many labels as images")
    return part


def _integers(values: object) -> np.ndarray:
    """int64 [N] of a JSON list of whole numbers from 0."""
    found = np.array(values if values != [] else np.empty(0, dtype=np.int64))
    if not (isinstance(values, list) and found.ndim == 1 and found.dtype == np.int64):
        raise ValueError("expected a list of whole numbers")
    if len(found) and found.min() < 0:
        raise ValueError("a number below 0")
    return found


def _digest(images: np.ndarray, labels: np.ndarray) -> str:
    digest = hashlib.blake2b(digest_size=16)
    digest.update(np.ascontiguousarray(images))
    digest.update(np.ascontiguousarray(labels, dtype="<i8"))
    return digest.hexdigest()
