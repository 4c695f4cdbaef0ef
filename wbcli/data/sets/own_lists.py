"""One's own lists: train.csv, test.csv and, if there is one, val.csv, with the columns path,label.

Paths are relative to the list, or absolute: a person wrote it, for pictures that may lie anywhere.
Labels are names. What is wrong in a list is collected, so that `wbcli data check` can show all of
it; a file that is no such list is an error.
"""

import csv
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from wbcli.data.pictures.decoding import Pictures
from wbcli.data.sets import lists
from wbcli.data.sets.class_names import numbers, unknown
from wbcli.files.readers import Content, Problem
from wbcli.words import composed, counted, joined, printable, quoted, told_apart

COLUMNS = ("path", "label")
LAYOUT = "train.csv and test.csv (or val.csv, or both) with the columns path,label"


class Row(NamedTuple):
    """A line of a list: where it starts in the file, a picture and the name of its class."""

    line: int
    path: str
    label: str


def is_one(root: Path) -> bool:
    return (root / "train.csv").is_file()


def read(root: Path) -> Content:
    """The splits that the lists in `root` name; classes in the order of their names.

    Raises:
        ValueError: a list that cannot be read, or is not there.
    """
    if (root / "train").is_dir():
        raise ValueError(
            f"{root} has both train.csv and train/, and which of them is meant cannot be told: "
            "take one of them away, or put the lists into a folder of their own (their paths "
            "are relative to where they lie)"
        )
    names = [name for name in ("train", "val", "test") if (root / f"{name}.csv").is_file()]
    if len(names) == 1 or ("test" not in names and (root / "test").is_dir()):
        there = ", ".join(sorted(p.name for p in root.iterdir())[:5])
        raise ValueError(f"{root}: expected {LAYOUT}, found no test.csv (there is {there})")
    problems: list[Problem] = []
    notes = [
        f"left out of {root}: {name}, since the list of validation images is val.csv"
        for name in ("valid.csv", "validation.csv")
        if (root / name).is_file()
    ]
    if (root / "test").is_dir():
        notes.append(f"left out of {root}: test/, since the list of test images is test.csv")
    rows = _read_all(root, names, problems, notes)
    classes = _classes(root / "train.csv", rows["train"], problems)
    problems += twice(root, rows)
    splits = {
        name: arrays(root / f"{name}.csv", rows[name], classes, "train.csv", problems)
        for name in names
    }
    for pictures, _ in splits.values():
        problems += lists.missing(pictures)
    if "test" not in splits:
        notes.append(measured_on_val(root, "test.csv", len(splits["val"][1])))
    return Content(
        splits["train"],
        splits.get("test"),
        told_apart(classes, str(root / "train.csv")),
        notes,
        splits.get("val"),
        problems,
    )


def _read_all(
    root: Path, names: list[str], problems: list[Problem], notes: list[str]
) -> dict[str, list[Row]]:
    """The lines of every list.

    Raises:
        ValueError: at least one is no such list; it names what is wrong with the others, too.
    """
    rows, wrong = {}, []
    for name in names:
        try:
            rows[name] = read_rows(root / f"{name}.csv", problems, notes)
        except ValueError as error:
            wrong.append(str(error))
    if wrong:
        texts = dict.fromkeys([*wrong, *(problem.text for problem in problems)])
        raise ValueError(joined(list(texts), "mistake"))
    return rows


def measured_on_val(root: Path, test: str, images: int) -> str:
    return (
        f"{root}: there is no {test}: what is measured is val, {counted(images, 'image')} on which "
        "the best epoch and the temperature are chosen, too"
    )


def read_rows(path: Path, problems: list[Problem], notes: list[str]) -> list[Row]:
    """The lines of a list that have what a line needs; what is wrong with others, as problems.

    Raises:
        ValueError: it is no text in UTF-8, a quote is not closed, a column is missing, or it has
            no such line.
    """
    records = _records(path, _text(path))
    places = _columns(path, *next(records, (1, [])), notes)
    rows, before = [], len(problems)
    for line, cells in records:
        if len(cells) != len(places):
            wrong = (
                f"expected {counted(len(places), 'cell')}, got {len(cells)} "
                "(a name with a comma stands in quotes)"
            )
        else:
            found = dict(zip(places, cells, strict=True))
            row = Row(line, found["path"], found["label"].strip())
            wrong = _wrong(row)
        if wrong:
            problems.append(Problem(f"{path.name}, line {line}: {wrong}"))
            lists.check_number_of(problems)
        else:
            rows.append(row)
    if not rows:
        nothing = f"{path}: expected a picture and its label in each line after the first"
        raise ValueError(problems[before].text if problems[before:] else f"{nothing}, got none")
    return rows


def arrays(
    path: Path, rows: list[Row], classes: list[str], where: str, problems: list[Problem]
) -> tuple[Pictures, np.ndarray]:
    """The pictures of a list and their labels; a label that no class has is a problem.

    Args:
        where: what has these classes, for a message.
    """
    index = numbers(classes)
    known = []
    for row in rows:
        if composed(row.label) in index:
            known.append(row)
            continue
        wrong = f"label {quoted(row.label)}: {unknown(row.label, classes, where)}"
        problems.append(Problem(f"{path.name}, line {row.line}: {wrong}"))
        lists.check_number_of(problems)
    lines = np.array([row.line for row in known], dtype=np.int64)
    pictures = Pictures.of(
        path.parent, [row.path for row in known], listed_in=path.name, lines=lines
    )
    labels = [index[composed(row.label)] for row in known]
    return pictures, np.array(labels, dtype=np.int64)


def _text(path: Path) -> str:
    content = lists.read_whole(path, lists.MAX_LIST_BYTES)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{path}, line {line}: expected text in UTF-8, got the byte "
            f"0x{content[error.start]:02x}: save the list as UTF-8"
        ) from error


def _records(path: Path, text: str) -> Iterator[tuple[int, list[str]]]:
    """The records that are not blank, each with the line in which it starts."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    while True:
        line = reader.line_num + 1
        if line > lists.MAX_LINES:
            raise ValueError(f"{path}: expected at most {lists.MAX_LINES:,} lines, got more")
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise ValueError(f"{path}, line {line}: {_why(error)}") from error
        if any(cell.strip() for cell in cells):
            yield line, cells


def _why(error: csv.Error) -> str:
    if "end of data" in str(error):
        return "a quote that is opened there is never closed"
    if "limit" in str(error):
        return f"a name of more than {csv.field_size_limit():,} characters, or a quote not closed"
    return (
        "something follows a quote that closes a name: is one opened before and not closed? "
        "(within a name a quote is written twice)"
    )


def _columns(path: Path, line: int, header: list[str], notes: list[str]) -> list[str]:
    names = [name.strip() for name in header]
    shown = ",".join(map(printable, names))[:80] or "nothing"
    for column in COLUMNS:
        if names.count(column) != 1:
            what = "no column" if column not in names else "more than one column"
            raise ValueError(
                f"{path}, line {line}: {what} {column}: expected the names of the columns, "
                f"{','.join(COLUMNS)}, got {shown}{_hint(names)}"
            )
    if others := [printable(name) for name in names if name not in COLUMNS]:
        columns = f"{counted(len(others), 'column')}, {', '.join(others)}"
        note = f"lists in {path.parent}: not used: {columns}"
        notes += [note] * (note not in notes)  # once for all lists that have them
    return names


def _hint(names: list[str]) -> str:
    """What is to be done where a list is nearly one."""
    for character, what in ((";", "semicolons"), ("\t", "tabs")):
        if len(names) == 1 and character in names[0]:
            return f": separate with commas, not with {what}"
    if not set(COLUMNS) <= set(names) and set(COLUMNS) <= {name.lower() for name in names}:
        return ": write them in lower case"
    return ""


def _wrong(row: Row) -> str | None:
    if not row.path.strip():
        return "the path is empty"
    if not row.label:
        return f"the label of {printable(row.path[:80])} is empty"
    if len(row.label) > lists.MAX_TITLE:
        return f"a label of {len(row.label):,} characters: at most {lists.MAX_TITLE} are read"
    if not lists.names_a_file(row.path):
        return f"{printable(row.path[:80])} cannot name a file"
    return None


def twice(root: Path, rows: dict[str, list[Row]]) -> list[Problem]:
    """What is said of pictures that the lists name a second time."""
    first: dict[str, tuple[str, Row]] = {}
    problems, here = [], os.path.abspath(root)
    for name, of_list in rows.items():
        for row in of_list:
            key = os.path.normpath(os.path.join(here, row.path))
            known, other = first.setdefault(key, (name, row))
            if other is row:
                continue
            there = f"line {other.line}" if known == name else f"{known}.csv, line {other.line}"
            label = "" if other.label == row.label else f", with the label {quoted(other.label)}"
            problems.append(
                Problem(
                    f"{name}.csv, line {row.line}: {printable(row.path)} stands in {there}, too"
                    f"{label}: expected each picture once"
                )
            )
            lists.check_number_of(problems)
    return problems


def _classes(path: Path, rows: list[Row], problems: list[Problem]) -> list[str]:
    first: dict[str, str] = {}
    for row in rows:
        first.setdefault(composed(row.label), row.label)
    if len(first) < 2:
        one = f"{path}: expected pictures of at least two classes, got {quoted(rows[0].label)} only"
        raise ValueError(problems[0].text if problems else one)
    return sorted(first.values())
