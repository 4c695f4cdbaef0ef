"""Readers of the file formats: NumPy arrays out, images uint8 [N, C, H, W], labels int64 [N].

Nothing here trusts its file: sizes are checked before memory is taken, and a pickle
can build arrays and plain containers and nothing else.
"""

import gzip
import math
import pickle
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

Arrays = tuple[np.ndarray, np.ndarray]


class Problem(NamedTuple):
    """Something wrong with a data set: the sentence, and the file below its root if it is one."""

    text: str
    file: str | None = None


class Content(NamedTuple):
    """What a data set's files hold: (images, labels) of each split, and notes for the user.

    Images are an array, or `Pictures` on disk, some of which `problems` may name.
    """

    train: Arrays
    test: Arrays
    class_names: list[str]
    notes: list[str]
    val: Arrays | None = None
    problems: tuple[Problem, ...] | list[Problem] = ()


def read_idx(path: Path, ndim: int) -> np.ndarray:
    """An IDX file of unsigned bytes with `ndim` dimensions, gzip-compressed or not.

    Raises:
        ValueError: not such a file, or one that holds more or less than its header says.
    """
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rb") as file:
            header = file.read(4 + 4 * ndim)
            if len(header) < 4 + 4 * ndim or header[:4] != bytes([0, 0, 8, ndim]):
                raise ValueError(
                    f"{path}: expected an IDX file of unsigned bytes with {ndim} dimensions, "
                    f"got one that starts with {header[:4].hex(' ') or 'nothing'}"
                )
            shape = np.frombuffer(header, ">u4", offset=4).tolist()
            size = math.prod(shape)
            body = _read_at_most(file, size + 1)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path}: the gzip stream is damaged ({error}); fetch it again") from error
    if len(body) != size:
        came = "more" if len(body) > size else f"{len(body):,}"
        raise ValueError(
            f"{path}: its header promises {size:,} bytes of data ({'×'.join(map(str, shape))}), "
            f"it holds {came}; fetch it again"
        )
    return np.frombuffer(body, np.uint8).reshape(shape)


def _read_at_most(file, size: int) -> bytearray:
    """Up to `size` bytes, in pieces: memory follows what is there, not what was promised."""
    body = bytearray()
    while len(body) < size and (piece := file.read(min(size - len(body), 1 << 24))):
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
    try:
        labels = np.asarray(labels)
        if labels.dtype.kind not in "iu" or labels.shape != (len(data),):
            raise ValueError
    except ValueError:
        raise ValueError(
            f"{path}: expected {label_key!r} as {len(data)} whole numbers, one for each image"
        ) from None
    return data.reshape(-1, 3, 32, 32), labels.astype(np.int64)


def read_pickle(path: Path) -> dict:
    """A pickled dict of arrays and plain containers; keys that are bytes become text."""
    try:
        with path.open("rb") as file:
            content = _ArrayUnpickler(file, encoding="bytes").load()
        if not isinstance(content, dict):
            raise TypeError(f"a {type(content).__name__} instead of a dict")
    except OSError:
        raise
    except Exception as error:  # a damaged or hostile pickle can raise anything
        raise ValueError(
            f"{path}: not a pickle of arrays and plain containers ({error})"
        ) from error
    return {_text(key): value for key, value in content.items()}


def _text(key):
    return key.decode("ascii", "replace") if isinstance(key, bytes) else key


class _ArrayUnpickler(pickle.Unpickler):
    """Admits what a pickled NumPy array is made of, in versions of our own, and nothing else."""

    def find_class(self, module: str, name: str):
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            return lambda *_: np.ndarray((0,), np.uint8)  # filled by its __setstate__
        if module in ("numpy.core.numeric", "numpy._core.numeric") and name == "_frombuffer":
            return lambda data, dtype, shape, order: (
                np.frombuffer(data, dtype).reshape(shape, order=order).copy()
            )
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "scalar":
            return lambda dtype, data: np.frombuffer(data, dtype)[0]  # labels as a list of these
        if (module, name) == ("numpy", "dtype"):
            return np.dtype
        if (module, name) == ("numpy", "ndarray"):
            return name  # only ever an argument of _reconstruct
        if (module, name) == ("_codecs", "encode"):
            return lambda text, _: text.encode("latin1")
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


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
