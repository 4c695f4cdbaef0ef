"""The lines of metrics.jsonl, one an epoch, which anyone may have edited."""

import json
import os
from pathlib import Path
from typing import Any

from wbcli.files.storage import is_number, saying_what

MAX_BYTES = 2**29  # 200 epochs of iNaturalist 2018 are a tenth of it
GROUPS = ("all", "many", "medium", "few")


def rows_of(content: bytes) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl, up to the first that is torn or damaged."""
    rows = []
    for line in content.splitlines():
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            break
        if not _is_epoch(row):
            break
        rows.append(row)
    return rows


def measured(row: dict[str, Any]) -> tuple[str, dict[str, Any] | None]:
    """By which split an epoch is known, and its accuracies: `test`, else `val`; None: neither."""
    if row["accuracy"] or not row.get("val_accuracy"):
        return "test", row["accuracy"] or None
    return "val", row["val_accuracy"]


def append(path: Path, row: dict[str, Any]) -> str:
    """Add a line and return it; where that fails the file stays as it was."""
    line = json.dumps(row) + "\n"
    with saying_what(path), path.open("ab", buffering=0) as file:
        size = file.tell()
        left = memoryview(line.encode())
        try:
            while left:  # a disk that fills up takes a part of it, and then none
                left = left[file.write(left) :]
            os.fsync(file.fileno())
        except OSError:
            file.truncate(size)
            raise
    return line


def _is_epoch(row: Any) -> bool:
    """Whether a line of metrics.jsonl has what its readers need, each of its type."""
    return (
        isinstance(row, dict)
        and isinstance(row.get("epoch"), int)
        and is_number(row["epoch"])
        and row["epoch"] >= 1
        and is_number(row.get("seconds"))
        and "accuracy" in row
        and all(_are_accuracies(row.get(key)) for key in ("accuracy", "val_accuracy"))
        and _are_norms(row.get("row_norms", ""))
    )


def _are_norms(value: Any) -> bool:
    """Numbers, or None of a classifier whose rows' lengths mean nothing."""
    if not isinstance(value, list):
        return value is None
    return all(isinstance(norm, float) or is_number(norm) for norm in value)


def _are_accuracies(value: Any) -> bool:
    """Of the four groups, each a number or None; None or {} in an epoch that was not measured."""
    if not isinstance(value, dict):
        return value is None
    known = not value or value.keys() >= set(GROUPS)
    return known and all(v is None or is_number(v) for v in value.values())
