"""Rows of an array that lies in a file: read when they are asked for.

Legend: N rows, D features.
"""

from collections.abc import Callable, Iterator

import numpy as np

CHUNK_BYTES = 1 << 24
PIECE = 64  # rows; around each of them the system may map up to 2 MB


class Rows:
    """Vectors, [N, D], as float32.

    Args:
        array: numbers [M, D], in memory or mapped.
        bf16: they are the upper halves of float32, as uint16.
        forget: called now and then, gives pages of a mapped file back.
        index: int64 [N], the rows of the array that these are; None: all.
    """

    def __init__(
        self,
        array: np.ndarray,
        bf16: bool = False,
        forget: Callable[[], None] = lambda: None,
        index: np.ndarray | None = None,
    ):
        self.array, self.bf16, self.forget = array, bf16, forget
        self.index = np.arange(len(array)) if index is None else index

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.index), self.array.shape[1]

    @property
    def nbytes(self) -> int:
        """Of them as float32."""
        return 4 * len(self.index) * self.array.shape[1]

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, which) -> "Rows | np.ndarray":
        """One row, [D]; or a choice of rows, which are not read yet."""
        if isinstance(which, int):
            return self.take(np.array([which]))[0]
        return Rows(self.array, self.bf16, self.forget, self.index[which])

    def __iter__(self) -> Iterator[np.ndarray]:
        for part in self.chunks():
            yield from part

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return self.take(slice(None)).astype(dtype or np.float32, copy=False)

    def take(self, which: np.ndarray | slice) -> np.ndarray:
        """float32 [n, D]."""
        index = self.index[which]
        found = np.empty((len(index), self.array.shape[1]), np.float32)
        for start in range(0, len(index), PIECE):
            piece = self.array[index[start : start + PIECE]]
            if self.bf16:
                piece = (piece.astype(np.uint32) << 16).view(np.float32)
            with np.errstate(over="ignore"):  # of float64: whoever reads a file checks for inf
                found[start : start + PIECE] = piece
            self.forget()
        return found

    def chunks(self) -> Iterator[np.ndarray]:
        """All of them in order, float32 [n, D], a few at a time."""
        rows = max(1, CHUNK_BYTES // (4 * self.array.shape[1]))
        for start in range(0, len(self), rows):
            yield self.take(slice(start, start + rows))

    def moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of each feature, float64 [D]."""
        mean = sum(part.sum(0, dtype=np.float64) for part in self.chunks()) / len(self)
        squares = sum(np.square(part - mean).sum(0) for part in self.chunks())
        return mean, np.sqrt(squares / len(self))
