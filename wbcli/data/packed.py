"""The file of which images trained a run and which it held out: gzipped JSON that anyone may edit.

Legend: N images.
"""

import gzip
import json
import os
import zlib

import numpy as np

from wbcli.data.chosen import Chosen, Images, Measured
from wbcli.data.pictures.decoding import Pictures
from wbcli.words import counted

MAX_PACKED = 1 << 28  # bytes; iNaturalist 2018's 437,513 names are 12 million
MAX_RATIO = 200  # of unpacked bytes to packed ones; made-up lists in one class have 60
MAX_COUNT = 1 << 53  # above all whole numbers of a record
SPLITS = ("train", "val")
SHAPE = "train and val, each with names or indices, and labels; unused counts"


def pack(chosen: Chosen) -> bytes:
    """As gzipped JSON: `train` and `val` with `names` or `indices` and `digest`, and `labels`;
    `unused` and `guessed`; `test` with `count` and `digest`.
    """
    content = {"train": _plain(chosen.train), "val": chosen.val and _plain(chosen.val)}
    content |= {"unused": chosen.unused.tolist(), "guessed": chosen.guessed}
    content |= {"test": chosen.test and chosen.test._asdict()}
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
    return Chosen(parts["train"], parts.get("val"), unused, guessed, _test(content.get("test")))


def _test(content: object) -> Measured | None:
    if content is None:
        return None
    _must_have(content, "test", *Measured._fields)
    (count,) = _integers([content["count"]], "the counts of test")
    if type(content["digest"]) is not str:
        raise ValueError(f"digest of test is {_called(content['digest'])}")
    return Measured(int(count), content["digest"])


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
