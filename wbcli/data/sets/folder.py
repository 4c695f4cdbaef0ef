"""One's own pictures: train/CLASS/*, test/CLASS/* and, if there are any, val/CLASS/*.

Names of classes are compared in Unicode's composed form (NFC), since file systems and archives
change the form, and shown as they are on disk.
"""

import os
from pathlib import Path

import numpy as np

from wbcli.data.pictures.decoding import EXTENSIONS, Pictures
from wbcli.data.pictures.walk import (
    BESIDE_FILE,
    BESIDE_FOLDER,
    HIDDEN_FILE,
    HIDDEN_FOLDER,
    LOOSE,
    LeftOut,
    pictures_below,
    sentences,
    subfolders,
)
from wbcli.files.readers import Arrays, Content
from wbcli.words import composed, counted, printable, quoted

LAYOUT = "train/CLASS/picture.jpg and test/CLASS/picture.jpg (val/CLASS/ is optional)"
VAL_NAMES = ("val", "valid", "validation")  # one folder, as tools and services call it


def is_one(path: Path) -> bool:
    return (path / "train").is_dir() or (path / "test").is_dir()


def read(data_dir: Path, name: str) -> Content:
    """The splits of the folder `name` in `data_dir`, or of `data_dir` itself.

    Classes are the folders in train/, in the order of their names. The notes say what is in the
    folder and is not used.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: an empty class, a class that train/ does not have, two folders of one name.
    """
    root = fetch(data_dir, name)
    for needed in ("train", "test"):
        if not (root / needed).is_dir():
            there = ", ".join(sorted(p.name for p in root.iterdir())[:5]) or "nothing"
            raise ValueError(f"{root}: expected {LAYOUT}, found no {needed}/ (there is {there})")
    left_out: LeftOut = {}
    val_folder = _val_folder(root)
    _leave_out_beside(root, {"train", "test", val_folder}, left_out)
    folders = {
        split: _class_folders(root, split, left_out)
        for split in ("train", "test", val_folder)
        if split
    }
    classes = folders["train"]
    if len(classes) < 2:
        raise ValueError(f"{root / 'train'}: expected a folder for each class, at least two")
    splits = {
        split: _read_split(root, split, names, classes, left_out)
        for split, names in folders.items()
    }
    return Content(
        splits["train"],
        splits["test"],
        [printable(name) for name in classes],
        sentences(root, left_out),
        splits.get(val_folder),
        val_folder=val_folder or "val",
    )


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


def _val_folder(root: Path) -> str | None:
    there = [name for name in VAL_NAMES if (root / name).is_dir()]
    if len(there) > 1:
        both = " and ".join(f"{name}/" for name in there)
        raise ValueError(
            f"{root}: expected one folder of validation images, there are {both}: "
            "put their pictures into one of them, or take the others away"
        )
    return there[0] if there else None


def _leave_out_beside(root: Path, used: set[str | None], left_out: LeftOut) -> None:
    for entry in sorted(os.scandir(root), key=lambda entry: entry.name):
        kinds = (BESIDE_FILE, BESIDE_FOLDER)
        if entry.name.startswith("."):
            kinds = (HIDDEN_FILE, HIDDEN_FOLDER)
        if entry.name not in used:
            left_out.setdefault(kinds[entry.is_dir()], []).append(entry.name)


def _class_folders(root: Path, split: str, left_out: LeftOut) -> list[str]:
    """Names of the class folders of a split.

    Raises:
        ValueError: two have the same name, or there is none.
    """
    loose = len(left_out.get(LOOSE, ()))
    folders = subfolders(root, split, left_out)
    first: dict[str, str] = {}
    for name in folders:
        other = first.setdefault(composed(name), name)
        if other is not name:
            raise ValueError(
                f"{root / split}: two folders are called {printable(name)}, in two Unicode forms "
                f"({other!a} and {name!a}): put their pictures into one of them"
            )
    if folders:
        return folders
    outside = left_out.get(LOOSE, [])[loose:]
    if not outside:
        raise ValueError(f"{root / split}: expected a folder for each class, there is none")
    raise ValueError(
        f"{root / split} holds {counted(len(outside), 'picture')} and no class folders: to "
        f"{'train on' if split == 'train' else 'measure with'} them, sort them into {split}/CLASS/;"
        " to classify unlabelled pictures, keep them elsewhere and use wbcli predict RUN FOLDER"
    )


def _read_split(
    root: Path, split: str, folders: list[str], classes: list[str], left_out: LeftOut
) -> Arrays:
    labels, names = [], []
    index = {composed(name): k for k, name in enumerate(classes)}
    for name in folders:
        if composed(name) not in index:
            raise ValueError(f"{root / split / printable(name)}: {_unknown(name, classes)}")
        found = pictures_below(root, f"{split}/{name}", left_out)
        if not found:
            raise ValueError(
                f"{root / split / printable(name)} holds no picture ({', '.join(EXTENSIONS)}): "
                "add some, or delete the folder"
            )
        names += found
        labels += [index[composed(name)]] * len(found)
    return Pictures.of(root, names), np.array(labels, dtype=np.int64)


def _unknown(name: str, classes: list[str]) -> str:
    for other in classes:
        if composed(other).strip() == composed(name).strip():
            return f"train/ has no class {quoted(name)}, but {quoted(other)}: rename one of them"
    shown = ", ".join(map(printable, classes[:5])) + (", …" if len(classes) > 5 else "")
    return f"train/ has no class of that name; its classes are {shown}"
