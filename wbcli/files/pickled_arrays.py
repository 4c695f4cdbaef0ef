"""NumPy arrays as pickles describe them, rebuilt without NumPy's own functions."""

import math
import re

import numpy as np

DTYPE = re.compile(r"[iu][1248]|f[248]")


class Dtype:
    """Stands in for numpy.dtype: a number, and the byte order that its state adds."""

    __slots__ = ("name", "order")

    def __init__(self, name: str | bytes, *_):
        self.name, self.order = _as_text(name), "|"
        if not DTYPE.fullmatch(self.name):
            raise ValueError(f"an array of {self.name[:20]!r} instead of numbers")

    def build(self, state: tuple) -> None:
        self.order = _as_text(state[1])
        if self.order not in ("<", ">", "|", "=") or any(x is not None for x in state[2:5]):
            raise ValueError("an array of something else than plain numbers")

    def array(self, data: bytes) -> np.ndarray:
        return np.frombuffer(data, self.order + self.name)


class Array:
    """Stands in for numpy.ndarray, whose value comes with its state."""

    value = None

    def build(self, state: tuple) -> None:
        _, shape, dtype, fortran, data = state
        self.value = make_array(data, dtype, shape, "F" if fortran else "C").value


def make_array(data: bytes, dtype: Dtype, shape: tuple, order: str) -> Array:
    if not (type(data) is bytes and type(dtype) is Dtype and type(shape) is tuple):
        raise ValueError("an array without bytes, type or shape")
    if not all(type(side) is int and side >= 0 for side in shape) or order not in ("C", "F"):
        raise ValueError(f"an array of no valid shape or order ({order!r:.20})")
    flat, array = dtype.array(data), Array()
    if math.prod(shape) != len(flat):
        raise ValueError(f"an array of {len(flat)} numbers that claims to have another shape")
    array.value = flat.reshape(shape, order=order)
    return array


def make_scalar(dtype: Dtype, data: bytes) -> int | float:
    return dtype.array(data).item()  # of one number only


def no_bytes() -> bytes:
    """How protocols before 3 write b""."""
    return b""


def _as_text(value: str | bytes) -> str:
    if type(value) not in (str, bytes):
        raise ValueError(f"a {type(value).__name__} instead of text")
    return value.decode("ascii") if type(value) is bytes else value
