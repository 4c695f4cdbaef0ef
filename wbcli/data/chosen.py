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

from wbcli.data.pictures.decoding import Pictures
from wbcli.words import are, composed, counted, printable

MAX_PACKED = 1 << 28  # bytes; iNaturalist 2018's 437,513 names are 12 million
MAX_RATIO = 200  # of unpacked bytes to packed ones; made-up lists in one class have 60
DIGESTED = 1024  # images at a time
MAX_COUNT = 1 << 53  # above all whole numbers of a record
SPLITS = ("train", "val")
SHAPE = "train and val, each with names or indices, and labels; unused counts"


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
        return _chosen(_content(packed))
    except ValueError as error:
        raise ValueError(
            f"expected the images of a run as gzipped JSON ({SHAPE}), but {error}"
        ) from error


def _content(packed: bytes) -> object:
    stream = zlib.decompressobj(wbits=31)
    try:
        content = stream.decompress(packed, MAX_RATIO * len(packed) + 1)
    except zlib.error as error:
        raise ValueError("it is no gzip file, or a damaged one") from error
    if len(content) > MAX_RATIO * len(packed):
        raise ValueError(f"it unpacks to more than {MAX_RATIO} times its size")
    if not stream.eof:
        raise ValueError("it ends early")
    if stream.unused_data:
        raise ValueError("more follows its end")
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ValueError("what it unpacks to cannot be read as JSON") from error


def _chosen(content: object) -> Chosen:
    _must_have(content, "it", *SPLITS, "unused")
    unused = _integers(content["unused"], "unused counts")
    parts = {
        split: _images(content[split], split) for split in SPLITS if content[split] is not None
    }
    for split, part in parts.items():
        if (part.labels >= len(unused)).any():
            raise ValueError(
                f"a label of {split} is of none of the {len(unused)} classes of unused"
            )
    if "train" not in parts:
        raise ValueError("train is null")
    guessed = content.get("guessed") is True
    return Chosen(parts["train"], parts.get("val"), unused, guessed)


def _plain(part: Images) -> dict[str, object]:
    keys = part.keys.tolist()
    if part.digest is None:
        named = {"names": [os.fsdecode(name) for name in keys]}
    else:
        named = {"indices": keys, "digest": part.digest}
    return named | {"labels": part.labels.tolist()}


def _images(content: object, split: str) -> Images:
    _must_have(content, split, "labels")
    labels = _integers(content["labels"], f"labels of {split}")
    if "indices" in content:
        _must_have(content, split, "digest")
        digest = content["digest"]
        if type(digest) is not str:
            raise ValueError(f"digest of {split} is {_called(digest)}")
        part = Images(_integers(content["indices"], f"indices of {split}"), labels, digest)
    else:
        _must_have(content, split, "names")
        part = Images(_names(content["names"], split), labels)
    if len(part.keys) != len(labels):
        raise ValueError(
            f"{split} has {counted(len(part.keys), 'image')} and {counted(len(labels), 'label')}"
        )
    return part


def _must_have(content: object, what: str, *keys: str) -> None:
    if type(content) is not dict:
        raise ValueError(f"{what} is {_called(content)}")
    if missing := [key for key in keys if key not in content]:
        raise ValueError(f"{what} lacks {', '.join(missing)}")


def _called(value: object) -> str:
    """A value of JSON in words."""
    words = {dict: "an object", list: "a list", str: "a text", bool: "true or false"}
    return "null" if value is None else words.get(type(value), "a number")


def _names(values: object, split: str) -> np.ndarray:
    """bytes [N] of a JSON list of names that files can have."""
    wrong = ValueError(f"names of {split} are no list of names that files can have")
    if type(values) is not list or any(
        type(name) is not str or not name or "\0" in name for name in values
    ):
        raise wrong
    try:
        return Pictures.of("", values).names
    except ValueError as error:  # too long, or of no encoding
        raise wrong from error


def _integers(values: object, what: str) -> np.ndarray:
    """int64 [N] of a JSON list of whole numbers from 0."""
    if type(values) is not list or any(
        type(value) is not int or not 0 <= value < MAX_COUNT for value in values
    ):
        raise ValueError(f"{what} are no list of whole numbers from 0 to {MAX_COUNT - 1:,}")
    return np.array(values, dtype=np.int64)


def _digest(images: np.ndarray, labels: np.ndarray) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for start in range(0, len(images), DIGESTED):  # features are read as they are needed
        digest.update(np.ascontiguousarray(images[start : start + DIGESTED]))
    digest.update(np.ascontiguousarray(labels, dtype="<i8"))
    return digest.hexdigest()
