"""A file of features as a data set: vectors that some network made, in the place of images.

Legend: N rows, D features, K classes.
"""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np

from wbcli.data import longtail
from wbcli.data.sets.split import places_of
from wbcli.files.arrays import SUFFIXES, ArrayFile
from wbcli.files.readers import Arrays, Content
from wbcli.files.rows import Rows
from wbcli.words import counted, printable, told_apart

PAIRS = ("train", "test", "val")
PAIR = "the single pair features and labels"
LAYOUT = (
    "a file (.npz, .safetensors) of train_features [N, D], train_labels [N], test_… and perhaps "
    f"val_… and class_names, or of {PAIR}"
)
KNOWN = {"features", "labels", "class_names", "files"}
KNOWN |= {f"{split}_{what}" for split in PAIRS for what in ("features", "labels")}
SHARES = {"val": 0.1, "test": 0.2}  # of a single pair, as `data split` has them
MAX_CLASSES = 10**6


class Unlabelled(NamedTuple):
    """Vectors to classify, and what they are called in their file."""

    rows: Rows
    name: str


def is_one(path: Path) -> bool:
    """Whether a data set of that name is a file of features."""
    return path.suffix in SUFFIXES


def fetch(data_dir: Path, name: str) -> Path:
    """The file itself; there is nothing to download."""
    if (data_dir / name).is_file():
        return data_dir / name
    raise FileNotFoundError(
        f"no file {name} in {data_dir}: name the folder that holds it with --data-dir"
    )


def layout_of(path: Path) -> tuple[int, bool]:
    """D, and whether the file holds a single pair that is still to be divided.

    Raises:
        ValueError: it is damaged, or of other arrays.
    """
    file = ArrayFile(path)
    pair = "features" in file.stored
    return _width(file, "features" if pair else "train_features"), pair


def read(data_dir: Path, name: str) -> Content:
    """The splits of the file; of a single pair everything is `train`, see `divided`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a damaged file, arrays that are missing or do not fit each other, NaN, labels
            out of range.
    """
    path = fetch(data_dir, name)
    file = ArrayFile(path)
    pair = "features" in file.stored
    prefixes = [""] if pair else [f"{split}_" for split in PAIRS]
    here = [p for p in prefixes if f"{p}features" in file.stored or f"{p}labels" in file.stored]
    if not pair:
        _check_complete(file)
    width = _width(file, f"{here[0]}features")
    splits = [_split(file, prefix, width) for prefix in here]
    names = _class_names(file, int(splits[0][1].max()) + 1)
    for prefix, (_, labels) in zip(here, splits, strict=True):
        _check_labels(path, f"{prefix}labels", labels, names)
    counts = np.bincount(splits[0][1], minlength=len(names))
    if not counts.all() and not _names_classes(file):  # a class of a name may have no row
        k = int(np.flatnonzero(counts == 0)[0])
        raise ValueError(
            f"{path}: no row of {here[0]}labels is of class {k}, of {len(names)}: number the "
            "classes without gaps, or name all of them in class_names"
        )
    others = [printable(key) for key in file.stored if key not in KNOWN]
    notes = [f"left out of {path}: {', '.join(others[:5])}"] if others else []
    of = dict(zip(here, splits, strict=True))
    test, val = of.get("test_"), of.get("val_")
    if not pair and test is None:
        notes.append(
            f"{path} has no test_features: what is measured is val_features, which has "
            f"{counted(len(val[1]), 'row')}; such numbers are a little too good"
        )
    return Content(splits[0], test, names, notes, val)


def read_unlabelled(path: Path, num_features: int, run: str) -> list[Unlabelled]:
    """What of a file can be classified: every array that is called features.

    Raises:
        ValueError: there is none, or one of another width.
    """
    file = ArrayFile(path)
    names = [n for n in file.stored if n == "features" or n.endswith("_features")]
    if not names:
        raise ValueError(f"{path}: expected an array features [N, {num_features}], {_there(file)}")
    for name in names:
        if (width := _width(file, name)) != num_features:
            raise ValueError(
                f"{path}: {name} has {counted(width, 'feature')} in a row, run {run} was trained "
                f"on {num_features}"
            )
    return [Unlabelled(_rows(file, name), name) for name in names]


def divided(content: Content, val: float | None, test: float | None) -> Content:
    """A single pair as train, val and test: of each class its shares, drawn always alike.

    Raises:
        longtail.SettingError: a split that would be empty.
    """
    if val is None or test is None:
        return content
    rows, labels = content.train
    shares = {"val": val, "test": test}
    parts: dict[str, list[np.ndarray]] = {"train": [], "val": [], "test": []}
    for order in longtail.class_orders(labels, len(content.class_names), "shuffled"):
        room = places_of(len(order), shares)
        ends = np.cumsum([room["test"], room["val"]])
        for split, part in zip(("test", "val", "train"), np.split(order, ends), strict=True):
            parts[split].append(part)
    index = {split: np.sort(np.concatenate(part)) for split, part in parts.items()}
    for split, share in shares.items():
        if share and not len(index[split]):
            raise longtail.SettingError(
                f"--{split} {share:g}: no class has enough rows (the largest has "
                f"{np.bincount(labels).max()}): raise it, or leave it out with --{split} 0"
            )
    of = {split: (rows[i], labels[i]) for split, i in index.items() if len(i)}
    return content._replace(train=of["train"], val=of.get("val"), test=of.get("test"))


def _check_complete(file: ArrayFile) -> None:
    stored = file.stored
    needed = ["train_features"]
    if "test_features" not in stored and "val_features" not in stored:
        needed.append("test_features")
    for name in needed:
        if name not in stored:
            raise ValueError(f"{file.path}: expected {LAYOUT}; there is no {name}, {_there(file)}")


def _there(file: ArrayFile) -> str:
    names = ", ".join(map(printable, list(file.stored)[:8])) or "nothing"
    return f"there is {names}"


def _width(file: ArrayFile, name: str) -> int:
    """D of an array of features."""
    stored = file.stored.get(name)
    if stored is None:
        raise ValueError(f"{file.path}: expected {LAYOUT}; there is no {name}, {_there(file)}")
    numbers = stored.dtype.kind in "fiu" or stored.dtype.hasobject  # `array` refuses objects
    if not numbers or (len(stored.shape) != 2 and not stored.dtype.hasobject):
        shape = list(stored.shape)
        raise ValueError(
            f"{file.path}: expected {name} [N, D] of numbers, got {stored.dtype} {shape}"
        )
    if stored.dtype.hasobject:
        file.array(name)
    if not all(stored.shape):
        raise ValueError(f"{file.path}: {name} is empty, {list(stored.shape)}")
    return stored.shape[1]


def _rows(file: ArrayFile, name: str) -> Rows:
    """The rows, each of which is finite in float32."""
    rows, done = Rows(file.array(name), file.stored[name].bf16, file.forget), 0
    for part in rows.chunks():
        if not (finite := np.isfinite(part).all(1)).all():
            raise ValueError(
                f"{file.path}: {name} is nan or infinite in row {done + int(finite.argmin())}: "
                "take such rows out"
            )
        done += len(part)
    return rows


def _split(file: ArrayFile, prefix: str, width: int) -> Arrays:
    features, labels = f"{prefix}features", f"{prefix}labels"
    if (own := _width(file, features)) != width:
        raise ValueError(
            f"{file.path}: {features} has {own} features in a row, others have {width}"
        )
    if labels not in file.stored:
        raise ValueError(f"{file.path}: there is no {labels} beside {features}, {_there(file)}")
    found, stored = file.array(labels), file.stored[labels]
    count = file.stored[features].shape[0]
    if stored.dtype.kind not in "iu" or stored.bf16 or stored.shape != (count,):
        kind = "bfloat16" if stored.bf16 else stored.dtype
        raise ValueError(
            f"{file.path}: expected {labels} as {count} whole numbers, one for each row of "
            f"{features}, got {kind} {list(stored.shape)}"
        )
    if found.max() >= MAX_CLASSES or found.min() < 0:
        raise ValueError(
            f"{file.path}: expected {labels} from 0, one number for each class, got {found.min()} "
            f"to {found.max()}"
        )
    return _rows(file, features), found.astype(np.int64)


def _names_classes(file: ArrayFile) -> bool:
    return "class_names" in file.stored or "class_names" in file.texts


def _class_names(file: ArrayFile, num_classes: int) -> list[str]:
    if "class_names" in file.stored:
        stored = file.stored["class_names"]
        if stored.dtype.kind != "U" or len(stored.shape) != 1:
            file.array("class_names")  # refuses objects
            raise ValueError(
                f"{file.path}: expected class_names as a list of texts, got {stored.dtype} "
                f"{list(stored.shape)}"
            )
        names = file.array("class_names").tolist()
    elif "class_names" in file.texts:  # of a .safetensors, which has no array of texts
        try:
            names = json.loads(file.texts["class_names"])
        except (ValueError, TypeError, RecursionError):
            names = None
        if type(names) is not list or not all(type(name) is str for name in names):
            raise ValueError(f"{file.path}: class_names of its metadata is no JSON list of texts")
    else:
        names = [str(k) for k in range(num_classes)]
    if len(names) < 2:
        raise ValueError(f"{file.path}: expected at least two classes, got {len(names)}")
    return told_apart(names, str(file.path))


def _check_labels(path: Path, what: str, labels: np.ndarray, names: list[str]) -> None:
    if labels.max() >= len(names):
        raise ValueError(
            f"{path}: expected {what} from 0 to {len(names) - 1}, of {len(names)} classes, got "
            f"{labels.min()} to {labels.max()}"
        )
