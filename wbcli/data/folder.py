"""One's own pictures: train/CLASS/*, test/CLASS/* and, if there are any, val/CLASS/*."""

import os
from pathlib import Path

import numpy as np

from wbcli.data.pictures import EXTENSIONS, Pictures
from wbcli.data.readers import Arrays, Content
from wbcli.words import counted, printable

LAYOUT = "train/CLASS/picture.jpg and test/CLASS/picture.jpg (val/CLASS/ is optional)"


def is_one(path: Path) -> bool:
    return (path / "train").is_dir() or (path / "test").is_dir()


def read(data_dir: Path, name: str) -> Content:
    """The splits of the folder `name` in `data_dir`, or of `data_dir` itself.

    Classes are the folders in train/, in the order of their names.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: an empty class, a class that train/ does not have.
    """
    root = fetch(data_dir, name)
    for needed in ("train", "test"):
        if not (root / needed).is_dir():
            there = ", ".join(sorted(p.name for p in root.iterdir())[:5]) or "nothing"
            raise ValueError(f"{root}: expected {LAYOUT}, found no {needed}/ (there is {there})")
    classes = _subfolders(root / "train")
    if len(classes) < 2:
        raise ValueError(f"{root / 'train'}: expected a folder for each class, at least two")
    notes: list[str] = []
    train = _read_split(root, "train", classes, notes)
    test = _read_split(root, "test", classes, notes)
    val = _read_split(root, "val", classes, notes) if (root / "val").is_dir() else None
    names = [printable(name) for name in classes]
    return Content(train, test, names, notes, val)


def fetch(data_dir: Path, name: str) -> Path:
    """The folder itself; there is nothing to download."""
    if (data_dir / name).is_dir():
        return data_dir / name  # `read` says what it lacks
    if is_one(data_dir):
        return data_dir
    raise FileNotFoundError(
        f"no folder {name} with {LAYOUT} in {data_dir}: name the folder that holds it "
        "with --data-dir"
    )


def _read_split(root: Path, split: str, classes: list[str], notes: list[str]) -> Arrays:
    labels, names, others = [], [], []
    hidden = [f"{split}/{name}" for name in _subfolders(root / split, hidden=True)]
    index = {name: k for k, name in enumerate(classes)}
    for name in _subfolders(root / split):
        if name not in index:
            raise ValueError(
                f"{root / split / printable(name)}: train/ has no class of that name; "
                f"its classes are {', '.join(map(printable, classes[:5]))}"
                + (", …" if len(classes) > 5 else "")
            )
        found, left, passed_over = pictures_below(root, f"{split}/{name}")
        if not found:
            raise ValueError(
                f"{root / split / printable(name)} holds no picture ({', '.join(EXTENSIONS)}): "
                "add some, or delete the folder"
            )
        names += found
        others += left
        hidden += passed_over
        labels += [index[name]] * len(found)
    if not names:
        raise ValueError(f"{root / split}: expected a folder for each class, there is none")
    notes += _notes(root / split, others, hidden)
    return Pictures.of(root, names), np.array(labels, dtype=np.int64)


def _notes(path: Path, others: list[str], hidden: list[str]) -> list[str]:
    kinds = [(others, "file", "is not a picture's"), (hidden, "folder", "starts with a dot")]
    return [
        f"left out of {path}: {counted(len(left_out), what)} whose name {why}, such as "
        + printable(left_out[0])
        for left_out, what, why in kinds
        if left_out
    ]


def _subfolders(path: Path, hidden: bool = False) -> list[str]:
    return sorted(
        e.name for e in os.scandir(path) if e.is_dir() and e.name.startswith(".") == hidden
    )


def pictures_below(root: Path, below: str) -> tuple[list[str], list[str], list[str]]:
    """Pictures, other files, and folders whose names start with a dot, in and below a folder.

    They are relative to the root, in sorted order; hidden files are passed over.
    """
    found, others, hidden, seen = [], [], [], set()
    for folder, folders, files in os.walk(root / below, onerror=_fail, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:  # a link to a folder above it
            folders.clear()
            continue
        seen.add(real)
        relative = os.path.relpath(folder, root)
        dotted = sorted(name for name in folders if name.startswith("."))
        hidden += [os.path.normpath(f"{relative}/{name}") for name in dotted]
        folders[:] = sorted(set(folders) - set(dotted))
        for name in sorted(files):
            if not name.startswith("."):
                (found if name.lower().endswith(EXTENSIONS) else others).append(
                    os.path.normpath(f"{relative}/{name}")
                )
    return found, others, hidden


def _fail(error: OSError) -> None:
    raise error
