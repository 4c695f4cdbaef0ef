"""Another labelled set to measure a run on, and how it is told from the run's own data set."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from wbcli.config.settings import Config
from wbcli.data import check, sources
from wbcli.data.datasets import Dataset, Split
from wbcli.data.pictures import decoding, duplicates
from wbcli.data.pictures.decoding import BrokenPicture, Pictures
from wbcli.data.pictures.whole import in_memory
from wbcli.data.record import OtherClasses, Record
from wbcli.data.sets import folder, labelled, own_lists
from wbcli.words import counted, joined, printable


def is_measured(config: Config, recorded: Record, data_dir: Path, split: str | None) -> bool:
    """Whether another set is meant by `data_dir`.

    Raises:
        ValueError: there is no set in it, or the split is one that only the run's own set has.
    """
    if not is_another(config, recorded, data_dir):
        return False
    if split not in (None, "test"):
        if _trains(data_dir, recorded.class_names or []):
            return False  # the run's own, renamed
        raise ValueError(
            f"--split {split}: {data_dir} is another data set than the run's, of which there are "
            "test images only: leave --split out"
        )
    return True


def is_another(config: Config, recorded: Record, data_dir: Path) -> bool:
    """Whether what lies in `data_dir` is another set than the run's own, which may lie elsewhere.

    A set with a name is known by its files. A folder of one's own is the run's under the run's
    name, in `data_dir` or as `data_dir`; where there is nothing but train/ it can be no other.

    Raises:
        ValueError: there is neither of them.
    """
    classes = recorded.class_names or []
    source = sources.find(config.dataset)
    if source.features:
        return False
    if source.num_classes is not None:
        places = (data_dir, data_dir / source.name)
        if any((place / mark).exists() for place in places for mark in source.marks):
            return False
        return labelled.has_test(data_dir) or labelled.has_classes(data_dir, classes)
    if folder.is_one(data_dir / config.dataset):
        return False
    if _trains(data_dir, classes):
        return data_dir.resolve().name != config.dataset and labelled.has_test(data_dir)
    if labelled.has_test(data_dir) or labelled.has_folders(data_dir):
        return True
    raise ValueError(
        f"{data_dir} holds neither {config.dataset}, the run's own data set, nor another one: "
        f"expected {labelled.LAYOUT}"
    )


def _trains(data_dir: Path, classes: list[str]) -> bool:
    in_folders = (data_dir / "train").is_dir() and "train" not in classes
    return in_folders or own_lists.is_one(data_dir)


@contextmanager
def telling_own(config: Config, data_dir: Path | None) -> Iterator[None]:
    """Where the classes are not the run's, say why the set was taken for the run's own."""
    try:
        yield
    except OtherClasses as error:
        if data_dir is None or sources.find(config.dataset).num_classes is not None:
            raise
        inside = data_dir / config.dataset
        raise ValueError(
            f"{error}; {inside if inside.is_dir() else data_dir} was taken for the run's own data "
            "set, since it has its name: to measure the run on it as another set, rename it"
        ) from error


@contextmanager
def naming_broken(pictures: np.ndarray | Pictures) -> Iterator[None]:
    """Where one picture of another set cannot be read, read all of them and name them."""
    try:
        yield
    except (BrokenPicture, OSError) as error:
        found = check.broken(pictures) if isinstance(pictures, Pictures) else []
        if not found:
            raise
        names = [f"{_where(pictures, i)} ({reason})" for i, reason in found]
        raise ValueError(
            f"{len(found)} of {counted(len(pictures), 'picture')} cannot be read: "
            f"{joined(names, 'file')}: mend {'it' if len(found) == 1 else 'them'}, or "
            "leave such files out of this set"
        ) from error


def _where(pictures: Pictures, i: int) -> str:
    line = "" if pictures.lines is None else f"{pictures.listed_in}, line {pictures.lines[i]}: "
    return line + printable(str(pictures.path(i)))


def load(config: Config, recorded: Record, data_dir: Path) -> Dataset:
    """The set in `data_dir` as test images of the run: its classes, counts, groups and limits.

    Raises:
        ValueError: see `labelled.read`; or the run does not say what its classes are called.
    """
    if recorded.class_names is None:
        raise ValueError(
            f"run {recorded.run} does not say what its classes are called, as older versions of "
            "wbcli did not: it can be measured on its own data set only"
        )
    (pictures, labels), notes = labelled.read(data_dir, recorded.class_names, recorded.run)
    source = sources.of_run(config)
    with naming_broken(pictures):
        images = pictures if source.image_size else in_memory(pictures, source.image)
    unknown = [recorded.unknown_groups()] * (recorded.original_counts is None)
    return Dataset(
        name=config.dataset,
        source=source,
        train=Split(images[np.arange(0)], labels[:0]),
        test=Split(images, labels),
        val=None,
        class_names=recorded.class_names,
        class_counts=recorded.class_counts,
        original_counts=recorded.original_counts,
        limits=recorded.limits,
        image_size=config.image_size or source.image_size,
        fit=config.fit,
        notes=notes,
        chosen=None,
        changes=[*_have_trained(config, recorded, pictures), *unknown],
    )


def _have_trained(config: Config, recorded: Record, pictures: Pictures) -> list[str]:
    """A sentence about pictures of the set that have trained the run, if there are any.

    A file is the same under every path that leads to it, and so are the same bytes; only files of
    a size that one of those that trained has are read.
    """
    if recorded.images is None or recorded.images.train.digest is not None:
        return []
    files, sizes = set(), {}
    place = Path(config.data_dir)
    for name in map(os.fsdecode, recorded.images.train.keys.tolist()):
        path = next(filter(os.path.exists, (place / config.dataset / name, place / name)), None)
        if path:  # what is gone can be no picture of this set
            files.add(_identity(path))
            sizes.setdefault(os.stat(path).st_size, []).append(path)
    digests: dict[int, set[bytes]] = {}  # of the training files of a size
    found = []
    for i in range(len(pictures)):
        path = pictures.path(i)
        size = os.stat(path).st_size
        if _identity(path) not in files:
            if size not in sizes:
                continue
            if size not in digests:
                digests[size] = set(map(_digest, sizes[size]))
            if _digest(path) not in digests[size] - {None}:
                continue
        found.append(i)
    if not found:
        return []
    return [
        f"{counted(len(found), 'picture')} of this set trained run {recorded.run}, such as "
        f"{pictures.describe(found[0])}: the numbers are too good"
    ]


def _identity(path: Path) -> tuple[int, int]:
    found = os.stat(path)
    return found.st_dev, found.st_ino


def _digest(path: Path) -> bytes | None:
    """None of a file that cannot be read, which measuring names."""
    try:
        return duplicates.digest(decoding.read_bytes(path)).tobytes()
    except (BrokenPicture, OSError):
        return None
