"""One's own pictures: train/CLASS/*, test/CLASS/* and, if there are any, val/CLASS/*; or lists of
them in their place (`own_lists`).
"""

import os
import shlex
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
from wbcli.data.sets import own_lists
from wbcli.data.sets.class_names import numbers, unknown
from wbcli.files.readers import Arrays, Content
from wbcli.words import composed, counted, printable, told_apart

LAYOUT = "train/CLASS/picture.jpg and test/CLASS/picture.jpg (or val/CLASS/, or both)"
LAYOUT += f", or {own_lists.LAYOUT}"
SPLIT = "wbcli data split writes such lists for one folder of class folders"
VAL_NAMES = ("val", "valid", "validation")  # one folder, as tools and services call it


def is_one(path: Path) -> bool:
    folders = (path / "train").is_dir() or (path / "test").is_dir()
    return folders or own_lists.is_one(path)


def read(data_dir: Path, name: str) -> Content:
    """The splits of the folder `name` in `data_dir`, or of `data_dir` itself.

    Classes are the folders in train/, in the order of their names. The notes say what is in the
    folder and is not used.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: an empty class, a class that train/ does not have, two folders of one name.
    """
    root = fetch(data_dir, name)
    if own_lists.is_one(root):
        return own_lists.read(root)
    val_folder = _val_folder(root)
    _check_complete(root, val_folder)
    left_out: LeftOut = {}
    _leave_out_beside(root, {"train", "test", val_folder}, left_out)
    folders = {
        split: _class_folders(root, split, left_out)
        for split in ("train", "test", val_folder)
        if split and (root / split).is_dir()
    }
    classes = folders["train"]
    if len(classes) < 2:
        raise ValueError(f"{root / 'train'}: expected a folder for each class, at least two")
    splits = {
        split: _read_split(root, split, names, classes, left_out)
        for split, names in folders.items()
    }
    notes = sentences(root, left_out)
    if "test" not in splits:
        notes.append(own_lists.measured_on_val(root, "test/", len(splits[val_folder][1])))
    return Content(
        splits["train"],
        splits.get("test"),
        told_apart(classes, str(root)),
        notes,
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


def _check_complete(root: Path, val_folder: str | None) -> None:
    """Raises ValueError where there is nothing to train on, or to measure with."""
    there = ", ".join(sorted(p.name for p in root.iterdir())[:5]) or "nothing"
    for needed in ("train", "test"):
        is_list = (root / f"{needed}.csv").is_file()
        enough = (root / needed).is_dir() or (needed == "test" and val_folder and not is_list)
        if not enough:
            whole = ""
            if needed == "train" and labelled_only(root):
                whole = (
                    f"; to measure a run on it: wbcli eval RUN --data-dir {shlex.quote(str(root))}"
                )
            elif needed == "train" and any(root.iterdir()):
                whole = f"; {SPLIT}"
            raise ValueError(
                f"{root}: expected {LAYOUT}, found no {needed}/ (there is {there}){whole}"
            )


def labelled_only(root: Path) -> bool:
    """Whether there are test images and nothing to train on or to divide."""
    return (root / "test.csv").is_file() or (root / "test").is_dir()


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
    index = numbers(classes)
    for name in folders:
        if composed(name) not in index:
            raise ValueError(
                f"{root / split / printable(name)}: {unknown(name, classes, 'train/')}"
            )
        found = pictures_below(root, f"{split}/{name}", left_out)
        if not found:
            raise ValueError(
                f"{root / split / printable(name)} holds no picture ({', '.join(EXTENSIONS)}): "
                "add some, or delete the folder"
            )
        names += found
        labels += [index[composed(name)]] * len(found)
    return Pictures.of(root, names), np.array(labels, dtype=np.int64)
