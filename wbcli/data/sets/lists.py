"""Readers of split lists and of COCO-style annotations: which pictures, and their labels.

What is wrong in a list is collected, so that `wbcli data check` can show all of it.
"""

import io
import json
import os
import re
from codecs import BOM_UTF8
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from wbcli.data.pictures.decoding import Pictures
from wbcli.files.readers import Problem, read_bytes
from wbcli.words import printable, quoted

WHOLE_NUMBER = re.compile(r"-?[0-9]+")
MAX_LIST_BYTES = 1 << 26  # iNaturalist 2018's has 31 million, in 437,513 lines
MAX_LINES = 1_000_000
MAX_LINE_BYTES = 1 << 14
MAX_JSON_BYTES = 1 << 28  # iNaturalist 2018's has 120 million, with 5 million values
MAX_JSON_VALUES = 8_000_000
MAX_ID = 1 << 60  # larger ones can be made to collide in a dict
MAX_NAME_BYTES = 4096  # Linux opens no longer path
MAX_PROBLEMS = 10_000
MAX_TITLE = 200  # characters of a class name


class Listing(NamedTuple):
    """The pictures of a split, their labels int64 [N], and what is wrong with the rest."""

    pictures: Pictures
    labels: np.ndarray
    problems: list[Problem]


def read_list(path: Path, num_classes: int, root: Path) -> Listing:
    """A split list: a line is `relative/path label`, the label after the last space.

    CRLF, blank lines and a missing last newline are fine.

    Raises:
        ValueError: nothing in it is such a line, or it is too large.
    """
    names, labels, lines, problems = [], [], [], []
    first: dict[str, int] = {}  # name → its place in `names`
    for number, line in _lines(path):
        name, _, label = line.rstrip().rpartition(" ")
        name = name.strip()
        wrong = _wrong(name, label, num_classes, line)
        same = None if wrong else first.setdefault(name, len(names))
        if same is not None and same < len(names) and labels[same] != int(label):
            wrong = f"{printable(name)} has the label {labels[same]} in line {lines[same]}"
        if wrong:
            problems.append(Problem(f"{path.name}, line {number}: {wrong}"))
            check_number_of(problems)
            continue
        names.append(name)
        labels.append(int(label))
        lines.append(number)
    if not names:
        why = problems[0].text if problems else f"{path} is empty"
        raise ValueError(f"{why}; expected lines of a path and a label")
    pictures = Pictures.of(root, names, listed_in=path.name, lines=np.array(lines))
    return Listing(pictures, np.array(labels, dtype=np.int64), problems)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines that are not blank, and their numbers; of one that is too long, the start."""
    content = read_whole(path, MAX_LIST_BYTES).removeprefix(BOM_UTF8)
    for number, raw in enumerate(io.BytesIO(content), start=1):
        if number > MAX_LINES:
            raise ValueError(f"{path}: expected at most {MAX_LINES:,} lines, got more")
        line = raw[:MAX_LINE_BYTES].decode("utf-8", "surrogateescape").rstrip("\r\n")
        if line.strip():
            yield number, line


def read_whole(path: Path, limit: int) -> bytes:
    try:
        return read_bytes(path, limit)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def check_number_of(problems: list[Problem]) -> None:
    if len(problems) > MAX_PROBLEMS:
        raise ValueError(
            f"{problems[0].text}; more than {MAX_PROBLEMS:,} other entries are wrong too: "
            "is it a list of this data set?"
        )


def read_coco(path: Path, num_classes: int, root: Path) -> tuple[Listing, list[str]]:
    """iNaturalist's annotations, joined on image_id; also the names of the classes.

    Raises:
        ValueError: not such a file.
    """
    try:
        content = _read_json(path)
        files = [(_id(image["id"]), image["file_name"]) for image in content["images"]]
        found = [(_id(a["image_id"]), a["category_id"]) for a in content["annotations"]]
        titles = {_id(c["id"]): str(c["name"])[:MAX_TITLE] for c in content["categories"]}
        names_by_id, label_by_id = dict(files), dict(found)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        what = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise ValueError(
            f"{path}: expected iNaturalist's JSON with images, annotations and categories ({what})"
        ) from error
    mistakes = [
        f"{what} {_shown(key)} stands there twice"
        for what, pairs in [("image id", files), ("annotation of image", found)]
        for key in _twice([key for key, _ in pairs])
    ]
    mistakes += [
        f"an annotation names the image {_shown(key)}, which is not there"
        for key in label_by_id
        if key not in names_by_id
    ]
    problems = [Problem(f"{path.name}: {mistake}") for mistake in mistakes]
    check_number_of(problems)
    names, labels = [], []
    key_of: dict[str, int | str] = {}
    for key, name in names_by_id.items():
        label = label_by_id.get(key)
        if label is None:
            wrong = "no annotation"
        elif type(label) is not int:
            wrong = f"expected a whole number as category_id, got {_shown(label)}"
        elif type(name) is not str:
            wrong = f"expected text as file_name, got {_shown(name)}"
        else:
            wrong = _wrong(name, str(label), num_classes, name)
            same = key if wrong else key_of.setdefault(name, key)
            if label_by_id[same] != label:
                wrong = f"{printable(name)} is the file of image {_shown(same)}, of another label"
        if wrong:
            problems.append(Problem(f"{path.name}, image {_shown(key)}: {wrong}"))
            check_number_of(problems)
            continue
        names.append(name)
        labels.append(label)
    if not names:
        raise ValueError(f"{path}: it holds no annotated image")
    listing = Listing(Pictures.of(root, names), np.array(labels, dtype=np.int64), problems)
    return listing, [titles.get(k, str(k)) for k in range(num_classes)]


def _read_json(path: Path) -> dict:
    content = read_whole(path, MAX_JSON_BYTES)
    values = sum(map(content.count, (b"{", b"[", b",")))
    if values > MAX_JSON_VALUES:
        raise ValueError(f"it holds {values:,} values, more than {MAX_JSON_VALUES:,}")
    return json.loads(content)


def _id(value: object) -> int | str:
    if not (type(value) is str or (type(value) is int and abs(value) < MAX_ID)):
        raise ValueError(f"expected a number or text as id, got {_shown(value)}")
    return value


def _shown(value: object) -> str:
    """For a message: what is short; of what may be long or deep, its start or its type."""
    if isinstance(value, str):
        value = value[:80]
    elif not isinstance(value, (int, float)):
        return f"a {type(value).__name__}"
    return repr(value)[:80]


def _wrong(name: str, label: str, num_classes: int, line: str) -> str | None:
    """What is wrong with one entry."""
    if not name or not WHOLE_NUMBER.fullmatch(label):
        return f"expected a path and a label with a space between them, got {printable(line[:80])}"
    if not (len(label) < 10 and 0 <= int(label) < num_classes):
        return f"expected a label from 0 to {num_classes - 1}, got {label[:20]}"
    if name.startswith("/") or ".." in PurePosixPath(name).parts:
        return f"{printable(name[:80])} leads out of the data folder"
    if not names_a_file(name):
        return f"{printable(name[:80])} cannot name a file"
    return None


def names_a_file(name: str) -> bool:
    try:
        return "\0" not in name and len(os.fsencode(name)) <= MAX_NAME_BYTES
    except UnicodeEncodeError:
        return False


def _twice(keys: list) -> list:
    seen: set = set()
    return [key for key in keys if key in seen or seen.add(key)]


def missing(pictures: Pictures) -> list[Problem]:
    """The files that are not there, and what is there in place of a file."""
    root = os.fsencode(pictures.root)
    absent = [
        i
        for i, name in enumerate(pictures.names.tolist())
        if not os.path.isfile(os.path.join(root, name))
    ]
    what = {True: "is no file", False: "is missing"}
    return [
        Problem(
            f"{pictures.describe(i)} {what[os.path.exists(pictures.path(i))]}{_where(pictures, i)}",
            pictures.name(i),
        )
        for i in absent
    ]


def _where(pictures: Pictures, i: int) -> str:
    """Where a file was looked for, and what of its name may be a slip."""
    name = pictures.name(i)
    where = "" if os.path.isabs(name) else f" in {pictures.root}"
    if name != name.strip():
        return f"{where} (with white space: {quoted(name)})"
    return where + (" (with backslashes: write /)" if "\\" in name else "")


def class_names(listing: Listing, num_classes: int) -> list[str]:
    """The folders of the training pictures; numbers where they do not tell classes apart."""
    names = [str(k) for k in range(num_classes)]
    classes, first = np.unique(listing.labels, return_index=True)
    folders = [PurePosixPath(listing.pictures.name(i)).parent.name for i in first]
    if len(set(folders)) < len(folders):
        return names
    for k, folder in zip(classes.tolist(), folders, strict=True):
        names[k] = printable(folder)
    return names if len(set(names)) == num_classes else [str(k) for k in range(num_classes)]
