"""Pickles of NumPy arrays and plain containers, read without trust in them.

A pickle is a program for a stack machine. This machine knows the instructions that such a file
needs, of protocols 0 to 5, and has versions of its own of the few functions that make an array:
it never imports, sets no attribute, and calls nothing else. What Python's own unpicklers cannot
bound, it does: the number of instructions, of containers, and the bytes that each may take.

Sources: the comments of Python's `pickletools`; PEPs 307, 3154, 574.
"""

import codecs
import pickle
import re
import struct
from collections.abc import Callable

import numpy as np

from wbcli.files.pickled_arrays import Array, Dtype, make_array, make_scalar, no_bytes

MAX_INSTRUCTIONS = (
    700_000  # up to 90 bytes of memory each; the largest file of CIFAR-100 takes some 350,000
)
MAX_CONTAINERS = 1000  # lists, dicts and arrays
MAX_WIDE = 1 << 20  # bytes of text beyond Latin-1, of which each may take four in memory
WIDE_ESCAPE = re.compile(rb"\\(?:U|u(?!00))")


def load(content: bytes) -> object:
    """What the pickle describes; arrays are NumPy's only where they are values of its dict.

    Raises:
        ValueError, or what Python raises for a wrong operand: not such a pickle.
    """
    try:
        return Machine(content).run()
    except struct.error:
        raise ValueError("it ends early") from None


class Machine:
    max_containers = MAX_CONTAINERS

    def __init__(self, content: bytes):
        self.content, self.at = content, 0
        self.stack: list = []
        self.marks: list[int] = []
        self.memo: list = []
        self.containers, self.wide, self.encoded = 0, 0, 0

    def run(self) -> object:
        content, values, actions, push = self.content, VALUES, ACTIONS, self.stack.append
        for _ in range(MAX_INSTRUCTIONS):
            code = content[self.at] if self.at < len(content) else None
            self.at += 1
            if code in values:
                value = values[code](self)
                push(value)
            elif code in actions:
                actions[code](self)
            elif code == pickle.STOP[0]:
                return self.result()
            elif code is None:
                raise ValueError("it ends early")
            else:
                raise ValueError(f"its instruction {bytes([code])!r} has no place in one")
        raise ValueError(f"more than {MAX_INSTRUCTIONS:,} instructions")

    def result(self) -> object:
        value = self.stack.pop()
        if type(value) is not dict:
            return value
        return {k: v.value if type(v) is Array else v for k, v in value.items()}

    def take(self, count: int) -> bytes:
        end = self.at + count
        if not self.at <= end <= len(self.content):
            raise ValueError("it ends early")
        piece = self.content[self.at : end]
        self.at = end
        return piece

    def line(self) -> bytes:
        piece = self.take(self.content.find(b"\n", self.at) + 1 - self.at)
        return piece[:-1]

    def text(self, raw: bytes) -> str:
        """UTF-8."""
        if not raw.isascii() and np.frombuffer(raw, np.uint8).max() > 0xC3:
            self.widen(raw)
        return raw.decode("utf-8", "surrogatepass")

    def escaped(self, raw: bytes) -> str:
        """Latin-1 with \\u escapes, as protocol 0 has it."""
        if WIDE_ESCAPE.search(raw):
            self.widen(raw)
        return raw.decode("raw-unicode-escape")

    def widen(self, raw: bytes) -> None:
        self.wide += len(raw)
        if self.wide > MAX_WIDE:
            raise ValueError(f"more than {MAX_WIDE:,} bytes of text beyond Latin-1")

    def contain(self, value):
        self.containers += 1
        if self.containers > self.max_containers:
            raise ValueError(f"more than {self.max_containers:,} lists, dicts and arrays")
        return value

    def since_mark(self) -> list:
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def remember(self, place: int) -> None:
        if not 0 <= place <= MAX_INSTRUCTIONS:
            raise ValueError(f"a place in memory of {place!r:.20}")
        if place >= len(self.memo):
            self.memo.extend([None] * (place + 1 - len(self.memo)))
        self.memo[place] = self.stack[-1]

    def extend(self, items: list) -> None:
        if type(self.stack[-1]) is not list:
            raise ValueError("items for what is no list")
        self.stack[-1].extend(items)

    def fill(self, items: list) -> None:
        if type(self.stack[-1]) is not dict:
            raise ValueError("keys for what is no dict")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not self.is_key(key):
                raise ValueError("a dict key that is no text")
            self.stack[-1][key] = value

    def is_key(self, key: object) -> bool:
        """Others than text can be made to collide."""
        return type(key) in (str, bytes)

    def persistent(self) -> object:
        """What stands for an object outside the pickle."""
        raise ValueError(f"its instruction {pickle.BINPERSID!r} has no place in one")

    def make_dict(self) -> None:
        items = self.since_mark()
        self.stack.append(self.contain({}))
        self.fill(items)

    def build(self) -> None:
        state = self.stack.pop()
        if type(self.stack[-1]) not in (Dtype, Array):
            raise ValueError("a state for what has none")
        self.stack[-1].build(state)

    def find(self, module: str, name: str) -> Callable | None:
        module = module.replace("numpy._core.", "numpy.core.")  # NumPy 2 and 1
        found = {
            ("numpy", "dtype"): Dtype,
            ("numpy", "ndarray"): None,  # only ever an argument of _reconstruct
            ("numpy.core.multiarray", "_reconstruct"): self.reconstruct,
            ("numpy.core.multiarray", "scalar"): make_scalar,
            ("numpy.core.numeric", "_frombuffer"): self.frombuffer,
            ("_codecs", "encode"): self.encode,
            ("__builtin__", "bytes"): no_bytes,
        }
        if (module, name) not in found:
            wanted = f"{module[:80]}.{name[:80]}".encode("unicode_escape").decode()
            raise ValueError(f"it asks for {wanted}")
        return found[module, name]

    def reconstruct(self, *_) -> Array:
        return self.contain(Array())

    def frombuffer(self, data: bytes, dtype: Dtype, shape: tuple, order: str) -> Array:
        return self.contain(make_array(data, dtype, shape, order))

    def encode(self, text: str, _) -> bytes:
        """How protocols before 3 write bytes: as text, each once."""
        self.encoded += len(text)
        if self.encoded > len(self.content):
            raise ValueError("more bytes than the file holds")
        return text.encode("latin1")

    def call(self) -> object:
        arguments, function = self.stack.pop(), self.stack.pop()
        if not callable(function) or type(arguments) is not tuple:
            raise ValueError("a call of what is no function")
        return function(*arguments)

    def quoted(self) -> bytes:
        raw = self.line()
        if not (len(raw) > 1 and raw[:1] == raw[-1:] and raw[:1] in (b"'", b'"')):
            raise ValueError("text without its quotes")
        return codecs.escape_decode(raw[1:-1])[0]


def _number(layout: str) -> Callable:
    """Reads a number of that layout."""
    number = struct.Struct(layout)

    def read(m: Machine):
        (value,) = number.unpack_from(m.content, m.at)
        m.at += number.size
        return value

    return read


def _sized(layout: str) -> Callable:
    """Reads as many bytes as the number before them says."""
    length = _number(layout)
    return lambda m: m.take(length(m))


def _text(layout: str) -> Callable:
    raw = _sized(layout)
    return lambda m: m.text(raw(m))


def _tuple(size: int) -> Callable:
    def make(m: Machine) -> tuple:
        items = tuple(m.stack[-size:])
        del m.stack[-size:]
        return items

    return make


def _line_number(m: Machine) -> int | bool:
    line = m.line()
    return {b"00": False, b"01": True}.get(line) if line in (b"00", b"01") else int(line)


def _of(instructions: dict[bytes, Callable]) -> dict[int, Callable]:
    return {code[0]: function for code, function in instructions.items()}


BYTE, SHORT, INT, LENGTH, LONG_LENGTH = map(_number, ("<B", "<H", "<i", "<I", "<Q"))
SMALL = _sized("<B")
VALUES = _of(  # what each pushes
    {
        pickle.NONE: lambda m: None,
        pickle.NEWTRUE: lambda m: True,
        pickle.NEWFALSE: lambda m: False,
        pickle.INT: _line_number,
        pickle.LONG: lambda m: int(m.line().removesuffix(b"L")),
        pickle.BININT: INT,
        pickle.BININT1: BYTE,
        pickle.BININT2: SHORT,
        pickle.LONG1: lambda m: int.from_bytes(SMALL(m), "little", signed=True),
        pickle.FLOAT: lambda m: float(m.line()),
        pickle.BINFLOAT: _number(">d"),
        pickle.STRING: Machine.quoted,
        pickle.BINSTRING: _sized("<i"),
        pickle.SHORT_BINSTRING: SMALL,
        pickle.SHORT_BINBYTES: SMALL,
        pickle.BINBYTES: _sized("<I"),
        pickle.BINBYTES8: _sized("<Q"),
        pickle.BYTEARRAY8: _sized("<Q"),
        pickle.UNICODE: lambda m: m.escaped(m.line()),
        pickle.SHORT_BINUNICODE: _text("<B"),
        pickle.BINUNICODE: _text("<I"),
        pickle.BINUNICODE8: _text("<Q"),
        pickle.EMPTY_LIST: lambda m: m.contain([]),
        pickle.LIST: lambda m: m.contain(m.since_mark()),
        pickle.EMPTY_DICT: lambda m: m.contain({}),
        pickle.EMPTY_TUPLE: lambda m: (),
        pickle.TUPLE: lambda m: tuple(m.since_mark()),
        pickle.TUPLE1: _tuple(1),
        pickle.TUPLE2: _tuple(2),
        pickle.TUPLE3: _tuple(3),
        pickle.GET: lambda m: m.memo[int(m.line())],
        pickle.BINGET: lambda m: m.memo[BYTE(m)],
        pickle.LONG_BINGET: lambda m: m.memo[LENGTH(m)],
        pickle.GLOBAL: lambda m: m.find(m.line().decode("ascii"), m.line().decode("ascii")),
        pickle.STACK_GLOBAL: lambda m: m.find(*_tuple(2)(m)),
        pickle.REDUCE: Machine.call,
        pickle.BINPERSID: lambda m: m.persistent(),
    }
)
ACTIONS = _of(
    {
        pickle.PROTO: lambda m: m.take(1),
        pickle.FRAME: lambda m: m.take(8),  # only of use where a file is read in pieces
        pickle.MARK: lambda m: m.marks.append(len(m.stack)),
        pickle.PUT: lambda m: m.remember(int(m.line())),
        pickle.BINPUT: lambda m: m.remember(BYTE(m)),
        pickle.LONG_BINPUT: lambda m: m.remember(LENGTH(m)),
        pickle.MEMOIZE: lambda m: m.remember(len(m.memo)),
        pickle.APPEND: lambda m: m.extend([m.stack.pop()]),
        pickle.APPENDS: lambda m: m.extend(m.since_mark()),
        pickle.DICT: Machine.make_dict,
        pickle.SETITEM: lambda m: m.fill(list(_tuple(2)(m))),
        pickle.SETITEMS: lambda m: m.fill(m.since_mark()),
        pickle.BUILD: lambda m: m.build(),
    }
)
