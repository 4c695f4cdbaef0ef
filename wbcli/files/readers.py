"""Readers of the file formats: NumPy arrays out, images uint8 [N, C, H, W], labels int64 [N].

Nothing here trusts its file: sizes are checked before memory is taken, and a pickle
can build arrays and plain containers and nothing else.
"""

import math
import os
import stat
import zlib
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from wbcli.files import pickles

CHUNK = 1 << 20
MAX_IDX_BYTES = 1 << 30  # unpacked; Fashion-MNIST has 47 million
MAX_MEMBERS = 2000  # of a gzip file, one for each 64 KiB in some
MAX_PICKLE_BYTES = 1 << 29  # CIFAR-100 has 155 million

Arrays = tuple[np.ndarray, np.ndarray]


class TooLong(ValueError):
    """A file of more bytes than a bound."""


class Problem(NamedTuple):
    """Something wrong with a data set: the sentence, and the file below its root if it is one."""

    text: str
    file: str | None = None


class Content(NamedTuple):
    """What a data set's files hold: (images, labels) of each split, and notes for the user.

    Images are an array, or `Pictures` on disk, some of which `problems` may name. Without a test
    set there are validation images.
    """

    train: Arrays
    test: Arrays | None
    class_names: list[str]
    notes: list[str]
    val: Arrays | None = None
    problems: tuple[Problem, ...] | list[Problem] = ()
    val_folder: str = "val"  # where the validation images are


def open_regular(path: Path) -> BinaryIO:
    """The file, open for reading. A pipe would block, and a device never end.

    Raises:
        ValueError: there is something else in its place.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    raise ValueError("expected a regular file, got a folder, pipe, socket or device")


def read_bytes(path: Path, limit: int) -> bytes:
    """The whole of a regular file of at most `limit` bytes.

    Raises:
        ValueError: it is no such file, or (TooLong) longer; the message does not name it.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        content = file.read(min(size, limit) + 1) if size <= limit else b""
    if max(size, len(content)) > limit:
        raise TooLong(f"expected at most {limit:,} bytes, got more")
    return content


def read_idx(path: Path, ndim: int) -> np.ndarray:
    """An IDX file of unsigned bytes with `ndim` dimensions, gzip-compressed or not.

    Raises:
        ValueError: not such a file, or one that holds more or less than its header says.
    """
    try:
        with open_regular(path) as packed:
            file = _Gzip(packed) if path.suffix == ".gz" else packed
            return _idx(file, ndim)
    except (EOFError, zlib.error) as error:
        raise ValueError(f"{path}: the gzip stream is damaged ({error}); fetch it again") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _idx(file: "BinaryIO | _Gzip", ndim: int) -> np.ndarray:
    header = _read_at_most(file, 4 + 4 * ndim)
    if len(header) < 4 + 4 * ndim or header[:4] != bytes([0, 0, 8, ndim]):
        raise ValueError(
            f"expected an IDX file of unsigned bytes with {ndim} dimensions, "
            f"got one that starts with {header[:4].hex(' ') or 'nothing'}"
        )
    shape = np.frombuffer(header, ">u4", offset=4).tolist()
    size, sides = math.prod(shape), "×".join(map(str, shape))
    if not 0 < size <= MAX_IDX_BYTES:
        raise ValueError(
            f"its header promises {size:,} bytes of data ({sides}), "
            f"expected from 1 to {MAX_IDX_BYTES:,}; fetch it again"
        )
    body = _read_at_most(file, size + 1)
    if len(body) != size:
        came = "more" if len(body) > size else f"{len(body):,}"
        raise ValueError(
            f"its header promises {size:,} bytes of data ({sides}), it holds {came}; fetch it again"
        )
    return np.frombuffer(body, np.uint8).reshape(shape)


class _Gzip:
    """`read` of a gzip file. Python's own reads any number of empty members in a row."""

    def __init__(self, packed: BinaryIO):
        self.packed, self.members = packed, 0
        self.rest, self.stream = b"", None
        self._start_member()

    def read(self, size: int) -> bytes:
        piece = b""
        while not piece and self.stream:
            packed = self.stream.unconsumed_tail or self.rest or self.packed.read(CHUNK)
            self.rest = b""
            if not packed:
                raise EOFError("it ends early")
            piece = self.stream.decompress(packed, size)  # checks its CRC-32 at the end
            if self.stream.eof:
                self.rest = self.stream.unused_data or self.packed.read(CHUNK)
                self._start_member()
        return piece

    def _start_member(self) -> None:
        if self.members and not self.rest:
            self.stream = None
            return
        self.members += 1
        if self.members > MAX_MEMBERS:
            raise zlib.error(f"it has more than {MAX_MEMBERS:,} members")
        self.stream = zlib.decompressobj(wbits=31)


def _read_at_most(file: "BinaryIO | _Gzip", size: int) -> bytearray:
    """Up to `size` bytes, in pieces: memory follows what is there, not what was promised."""
    body = bytearray()
    while len(body) < size and (piece := file.read(min(size - len(body), CHUNK))):
        body += piece
    return body


def read_cifar(path: Path, label_key: str) -> tuple[np.ndarray, np.ndarray]:
    """One batch file of CIFAR: images [N, 3, 32, 32] and the labels under `label_key`.

    Raises:
        ValueError: not a CIFAR batch, torn, or a pickle that asks for anything else.
    """
    batch = read_pickle(path)
    data, labels = batch.get("data"), batch.get(label_key)
    if not (isinstance(data, np.ndarray) and data.dtype == np.uint8 and data.shape[1:] == (3072,)):
        what = f"{data.dtype} {list(data.shape)}" if isinstance(data, np.ndarray) else "none"
        raise ValueError(f"{path}: expected 'data' as a uint8 array [N, 3072], got {what}")
    if isinstance(labels, list) and all(type(label) is int for label in labels):
        labels = np.array(labels)
    if not (
        isinstance(labels, np.ndarray)
        and labels.dtype.kind in "iu"
        and labels.shape == data.shape[:1]
    ):
        raise ValueError(
            f"{path}: expected {label_key!r} as {len(data)} whole numbers, one for each image"
        )
    return data.reshape(-1, 3, 32, 32), labels.astype(np.int64)


def read_pickle(path: Path) -> dict:
    """A pickled dict of arrays and plain containers; keys that are bytes become text.

    Raises:
        ValueError: it is something else, or larger than any file of CIFAR.
    """
    try:
        content = pickles.load(read_bytes(path, MAX_PICKLE_BYTES))
        if not isinstance(content, dict):
            raise TypeError(f"a {type(content).__name__} instead of a dict")
    except OSError:
        raise
    except Exception as error:  # a damaged or hostile pickle can raise anything
        raise ValueError(
            f"{path}: not a pickle of arrays and plain containers ({error}); fetch it again"
        ) from error
    return {k.decode("ascii", "replace") if type(k) is bytes else k: v for k, v in content.items()}


def check_labels(images: np.ndarray, labels: np.ndarray, num_classes: int, where: str) -> None:
    """Refuse labels out of range, a label short, or a class without any image.

    Raises:
        ValueError: `where` and what is wrong there.
    """
    if len(images) != len(labels):
        raise ValueError(f"{where}: {len(images):,} images but {len(labels):,} labels")
    if len(labels) and not (labels.min() >= 0 and labels.max() < num_classes):
        raise ValueError(
            f"{where}: expected labels from 0 to {num_classes - 1}, "
            f"got {labels.min()} to {labels.max()}"
        )
    missing = np.flatnonzero(np.bincount(labels, minlength=num_classes) == 0)
    if len(missing):
        raise ValueError(f"{where}: no image of class {', '.join(map(str, missing[:10]))}")
