"""Files that are whole or not there, and JSON that anyone may have edited."""

import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from wbcli.files.readers import read_bytes

MAX_JSON_BYTES = 2**26  # the lists of a million broken files are half of it


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file, which anyone may have edited.

    Raises:
        ValueError: it is no JSON, no object, or longer than MAX_JSON_BYTES.
    """
    try:
        text = read_bytes(path, MAX_JSON_BYTES)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    try:
        content = json.loads(text.decode("utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    except RecursionError:
        raise ValueError(f"{path} is not valid JSON for wbcli: it is nested too deeply") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a JSON object, got {type(content).__name__}")
    return content


def is_number(value: Any) -> bool:
    """Whether a value of a JSON file is a finite number that a float can be."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return value.bit_length() < 1024 if isinstance(value, int) else math.isfinite(value)


def write_json(path: Path, content: dict[str, Any]) -> None:
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    write_file(path, text.encode("utf-8", "backslashreplace"))  # names of undecodable bytes


def write_file(path: Path, content: bytes) -> None:
    """`replacing` for content that is in memory."""
    with replacing(path) as partial:
        partial.write_bytes(content)


@contextmanager
def saying_what(path: Path) -> Iterator[None]:
    """Errors of writing that name the file: a full disk by itself does not."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise OSError(error.errno, f"{reason}, while writing {path}") from error


@contextmanager
def replacing(path: Path):
    """Yield a temporary path in the same folder; on success flush it to disk and rename it.

    Whatever fails, `path` is as it was before or whole and new.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with saying_what(path):
            partial.unlink(missing_ok=True)  # a link would lead elsewhere
            yield partial
            with partial.open("rb") as file:
                os.fsync(file.fileno())
            partial.replace(path)
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
    finally:
        with suppress(OSError):  # what went wrong before is to be said
            partial.unlink(missing_ok=True)
