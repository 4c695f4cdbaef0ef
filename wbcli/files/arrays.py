"""Files of arrays, .npz and .safetensors: read array by array, mapped into memory where they are
stored as they are.

Nothing here trusts its file: where an array lies is checked against the file's size, a compressed
one is unpacked only if it fits into memory, and an array of objects, which a pickle would build, is
refused.
"""

import json
import math
import mmap
import os
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.lib import format as npy

from wbcli.files.readers import open_regular

SUFFIXES = (".npz", ".safetensors")
SHARE_OF_MEMORY = 0.5  # of what is free, that unpacked arrays may take
FORGET_BYTES = 1 << 28  # of a mapped file, that may stay in this process's memory
MAX_HEADER = 1 << 26  # bytes
MAX_ARRAYS = 1000
LOCAL_HEADER = struct.Struct("<26x2H")  # of a part of a zip archive: how long name and extra are
NPY_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
SAFETENSORS = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "<u2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "<i1",
    "U64": "<u8",
    "U32": "<u4",
    "U16": "<u2",
    "U8": "<u1",
    "BOOL": "?",
}


class Stored(NamedTuple):
    """An array in a file. offset: where its numbers begin; None: compressed, `unpack` reads it."""

    dtype: np.dtype
    shape: tuple[int, ...]
    order: str = "C"
    offset: int | None = None
    unpack: Callable[[], np.ndarray] | None = None
    bf16: bool = False  # its uint16 are the upper halves of float32

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


class ArrayFile:
    """The arrays of a file by name; `texts` is what its metadata say.

    Raises:
        ValueError: a damaged file, or one of another format; the message begins with its name.
    """

    def __init__(self, path: Path):
        self.path, self.texts = path, {}
        kind = "safetensors" if path.suffix == ".safetensors" else ".npz"
        with open_regular(path) as file:
            try:
                self.stored = self._safetensors(file) if kind != ".npz" else self._npz(file)
            except Exception as error:  # a damaged file can raise anything, OSError too
                reason = " ".join(str(error).split())[:200] or type(error).__name__
                raise ValueError(f"{path}: it is damaged, or no {kind} file ({reason})") from error
        self._mapped: mmap.mmap | None = None

    def array(self, name: str) -> np.ndarray:
        """The array of that name, mapped where it is not compressed.

        Raises:
            ValueError: of objects, damaged, or compressed and too large for the memory.
        """
        stored = self.stored[name]
        if stored.dtype.hasobject:
            raise ValueError(
                f"{self.path}: {name} is an array of objects, which could be anything and is never "
                "read: save numbers"
            )
        if stored.unpack:
            return self._unpacked(name, stored)
        if not stored.nbytes:
            return np.empty(stored.shape, stored.dtype)
        if self._mapped is None:
            self._before = _mapped_bytes()
            with open_regular(self.path) as file:
                self._mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        flat = np.frombuffer(
            self._mapped, stored.dtype, count=math.prod(stored.shape), offset=stored.offset
        )
        return flat.reshape(stored.shape, order=stored.order)

    def forget(self) -> None:
        """Give mapped pages back, which can be read again, where there are too many in memory."""
        if self._mapped is None or len(self._mapped) <= FORGET_BYTES:
            return
        if _mapped_bytes() - self._before > FORGET_BYTES:
            self._mapped.madvise(mmap.MADV_DONTNEED)

    def _unpacked(self, name: str, stored: Stored) -> np.ndarray:
        if stored.nbytes > SHARE_OF_MEMORY * free_memory():
            raise ValueError(
                f"{self.path}: {name} is compressed, and its {stored.nbytes / 1e9:.1f} GB do not "
                "fit into memory: save it with np.savez (not np.savez_compressed) or as "
                ".safetensors, which can be read where it lies"
            )
        try:
            return stored.unpack()
        except Exception as error:
            raise ValueError(f"{self.path}: {name} is damaged ({error})") from error

    def _npz(self, file: BinaryIO) -> dict[str, Stored]:
        with zipfile.ZipFile(file) as archive:
            parts = archive.infolist()
            if len(parts) > MAX_ARRAYS:
                raise ValueError(f"it has more than {MAX_ARRAYS} parts")
            return {
                part.filename.removesuffix(".npy"): self._part(archive, file, part)
                for part in parts
            }

    def _part(self, archive: zipfile.ZipFile, file: BinaryIO, part: zipfile.ZipInfo) -> Stored:
        name = part.filename[:80]
        with archive.open(part) as content:
            version = npy.read_magic(content)
            if version not in NPY_HEADERS:
                raise ValueError(f"its part {name!a} is no array of NumPy")
            shape, fortran, dtype = NPY_HEADERS[version](content)
            header = content.tell()
        stored = Stored(dtype, shape, "F" if fortran else "C")
        if header + stored.nbytes > part.file_size and not dtype.hasobject:
            raise ValueError(f"its array {name!a} claims more numbers than there are")
        if part.compress_type != zipfile.ZIP_STORED:
            return stored._replace(unpack=lambda: self._read(part.filename))
        file.seek(part.header_offset)
        lengths = LOCAL_HEADER.unpack(file.read(LOCAL_HEADER.size))
        offset = part.header_offset + LOCAL_HEADER.size + sum(lengths) + header
        if offset + stored.nbytes > os.fstat(file.fileno()).st_size:
            raise ValueError(f"its array {name!a} ends behind the file's end")
        return stored._replace(offset=offset)

    def _read(self, name: str) -> np.ndarray:
        with zipfile.ZipFile(self.path) as archive, archive.open(name) as content:
            return npy.read_array(content, allow_pickle=False)

    def _safetensors(self, file: BinaryIO) -> dict[str, Stored]:
        size = os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(8), "little")
        if not 0 < length <= min(MAX_HEADER, size - 8):
            raise ValueError(f"its header claims {length:,} bytes, the file has {size:,}")
        header = json.loads(file.read(length))
        if type(header) is not dict:
            raise ValueError("its header is no object")
        self.texts = header.pop("__metadata__", {})
        found = {}
        if type(self.texts) is not dict or len(header) > MAX_ARRAYS:
            raise ValueError("its header says nothing sensible")
        for name, about in header.items():
            dtype, shape = SAFETENSORS.get(about["dtype"]), tuple(about["shape"])
            start, stop = about["data_offsets"]
            numbers = (*shape, start, stop)
            if dtype is None or not all(type(n) is int and n >= 0 for n in numbers):
                raise ValueError(f"its header says nothing sensible of {name[:80]!a}")
            found[name] = Stored(
                np.dtype(dtype), shape, offset=8 + length + start, bf16=about["dtype"] == "BF16"
            )
            if found[name].nbytes != stop - start or 8 + length + stop > size:
                raise ValueError(f"{name[:80]!a} ends behind the file's end, or is of another size")
        return found


def _mapped_bytes() -> int:
    """Of files, in this process's memory; 0 where the system does not tell."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[2]) * mmap.PAGESIZE
    except OSError:
        return 0


def free_memory() -> int:
    """Bytes of memory that are free, as far as the system tells."""
    try:
        with open("/proc/meminfo") as file:
            fields = dict(line.split(":", 1) for line in file)
        return 1024 * int(fields["MemAvailable"].split()[0])
    except (OSError, KeyError):
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
