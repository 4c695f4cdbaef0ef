"""Readers of split lists and of COCO-style annotations: which pictures, and their labels.

What is wrong in a list is collected, so that `wbcli data check` can show all of it.
"""

import json
import os
import re
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from wbcli.data.pictures import Pictures, printable
from wbcli.data.readers import Problem

WHOLE_NUMBER = re.compile(r"-?[0-9]+")


class Listing(NamedTuple):
    """The pictures of a split, their labels int64 [N], and what is wrong with the rest."""

    pictures: Pictures
    labels: np.ndarray
    problems: list[Problem]


def read_list(path: Path, num_classes: int, root: Path) -> Listing:
    """A split list: a line is `relative/path label`, the label after the last space.

    CRLF, blank lines and a missing last newline are fine.

    Raises:
        ValueError: nothing in it is such a line.
    """
    names, labels, lines, problems = [], [], [], []
    text = path.read_bytes().decode("utf-8-sig", "surrogateescape")
    for number, line in enumerate(text.split("\n"), start=1):
        line = line.rstrip("\r")
        if not line.strip():
            continue
        name, _, label = line.rstrip().rpartition(" ")
        wrong = _wrong(name.strip(), label, num_classes, line)
        if wrong:
            problems.append(Problem(f"{path.name}, line {number}: {wrong}"))
            continue
        names.append(name.strip())
        labels.append(int(label))
        lines.append(number)
    if not names:
        first = problems[0].text if problems else f"{path} is empty"
        raise ValueError(f"{first}; expected lines of a path and a label")
    pictures = Pictures.of(root, names, listed_in=path.name, lines=np.array(lines))
    return Listing(pictures, np.array(labels, dtype=np.int64), problems)


def read_coco(path: Path, num_classes: int, root: Path) -> tuple[Listing, list[str]]:
    """iNaturalist's annotations, joined on image_id; also the names of the classes.

    Raises:
        ValueError: not such a file.
    """
    try:
        content = json.loads(path.read_bytes())
        files = [(image["id"], image["file_name"]) for image in content["images"]]
        found = [(a["image_id"], a["category_id"]) for a in content["annotations"]]
        titles = {c["id"]: str(c["name"]) for c in content["categories"]}
        names_by_id, label_by_id = dict(files), dict(found)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        what = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise ValueError(
            f"{path}: expected iNaturalist's JSON with images, annotations and categories ({what})"
        ) from error
    problems = [
        Problem(f"{path.name}: {what} {key!r} stands there twice")
        for what, pairs in [("image id", files), ("annotation of image", found)]
        for key in _twice([key for key, _ in pairs])
    ]
    problems += [
        Problem(f"{path.name}: an annotation names the image {key!r}, which is not there")
        for key in label_by_id
        if key not in names_by_id
    ]
    names, labels = [], []
    for key, name in names_by_id.items():
        label = label_by_id.get(key)
        if label is None:
            wrong = "no annotation"
        elif type(label) is not int:
            wrong = f"expected a whole number as category_id, got {label!r}"
        else:
            wrong = _wrong(str(name), str(label), num_classes, str(name))
        if wrong:
            problems.append(Problem(f"{path.name}, image {key!r}: {wrong}"))
            continue
        names.append(str(name))
        labels.append(label)
    if not names:
        raise ValueError(f"{path}: it holds no annotated image")
    listing = Listing(Pictures.of(root, names), np.array(labels, dtype=np.int64), problems)
    return listing, [titles.get(k, str(k)) for k in range(num_classes)]


def _wrong(name: str, label: str, num_classes: int, line: str) -> str | None:
    """What is wrong with one entry."""
    if not name or not WHOLE_NUMBER.fullmatch(label):
        return f"expected a path and a label with a space between them, got {printable(line[:80])}"
    if not (len(label) < 10 and 0 <= int(label) < num_classes):
        return f"expected a label from 0 to {num_classes - 1}, got {label[:20]}"
    if name.startswith("/") or ".." in PurePosixPath(name).parts:
        return f"{printable(name[:80])} leads out of the data folder"
    if "\0" in name or not _encodable(name):
        return f"{printable(name[:80])} cannot name a file"
    return None


def _encodable(name: str) -> bool:
    try:
        return bool(os.fsencode(name))
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
            f"{pictures.describe(i)} {what[os.path.exists(pictures.path(i))]} in {pictures.root}",
            pictures.name(i),
        )
        for i in absent
    ]


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
