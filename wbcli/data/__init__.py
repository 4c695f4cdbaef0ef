"""Data sets: load(name) gives images, labels, class counts, limits and names.

Everything here is NumPy; `batches.py` and `loader.py` bring a split to a device.

Legend: N images, C channels, H height, W width, K classes.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wbcli.data import longtail, sources
from wbcli.data.pictures import Pictures
from wbcli.data.readers import Arrays, Content
from wbcli.words import counted

# What chooses the images of a run, in `load` and in its Config.
SELECTION = ("imbalance_factor", "imbalance_type", "subset", "val_per_class")
SELECTION += ("limits", "image_size", "left_out")


@dataclass(frozen=True)
class Split:
    """images uint8 [N, C, H, W] or N pictures on disk, labels int64 [N]."""

    images: np.ndarray | Pictures
    labels: np.ndarray


@dataclass(frozen=True)
class Dataset:
    """A long-tailed training set with its test set.

    class_counts are the images that train; original_counts those before validation
    images were taken away, by which classes are Many, Medium or Few. image_size is the side
    of the square that pictures on disk are cropped to.
    """

    name: str
    source: sources.Source
    train: Split
    test: Split
    val: Split | None
    class_names: list[str]
    class_counts: list[int]
    original_counts: list[int]
    limits: dict[str, int]
    image_size: int | None
    notes: list[str]

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    def groups(self) -> dict[str, np.ndarray]:
        """Masks [K] of the classes with n_k above, between and below the limits."""
        counts = np.array(self.original_counts)
        many, few = counts > self.limits["many"], counts < self.limits["few"]
        return {"many": many, "medium": ~many & ~few, "few": few}

    def test_counts(self) -> list[int]:
        return np.bincount(self.test.labels, minlength=self.num_classes).tolist()

    def split(self, name: str) -> Split:
        """`train`, `val` or `test`.

        Raises:
            ValueError: validation images were asked for and there are none.
        """
        if name == "val" and self.val is None:
            raise ValueError(
                f"{self.name} was trained without validation images: "
                "train stage 1 with --val-per-class N"
            )
        return getattr(self, name)


def load(
    name: str,
    data_dir: str | Path,
    *,
    imbalance_factor: float | None,
    imbalance_type: str = "exp",
    subset: str = "first",
    val_per_class: int = 0,
    limits: tuple[int, int] | None = None,
    image_size: int | None = None,
    left_out: tuple[str, ...] | None = None,
    content: Content | None = None,
) -> Dataset:
    """Read a data set and take its long-tailed training subset.

    Args:
        name: one of `sources.SOURCES`, or the name of a folder of one's own.
        data_dir: the folder that holds the files, or a subfolder `name` that does.
        imbalance_factor: IF ≥ 1; None takes every image.
        imbalance_type: `exp` or `step`.
        subset: `first` or `shuffled`.
        val_per_class: validation images of each class (`longtail.split_validation`); where the
            set has validation images of its own, 0.
        limits: Many over, Few under; None takes the set's.
        image_size: side of the crops of pictures on disk; None takes the set's.
        left_out: files that are treated as if they were not there.
        content: what `read` found, where it was read before.

    Raises:
        longtail.SettingError: what this set cannot have, such as a factor that leaves a class
            without an image.
        ValueError: unknown name, damaged files, lists with mistakes.
        FileNotFoundError: files neither present nor to be downloaded.
    """
    source = sources.find(name)
    content = _usable(content or read(name, data_dir), name, left_out or ())
    labels = content.train[1]
    num_classes = len(content.class_names)
    if content.val and val_per_class and content.val_folder != "val":
        content = _without_val(content)  # runs of 0.1.0 did not know it
    elif content.val and val_per_class:
        raise longtail.SettingError(
            f"--val-per-class: {name} has validation images of its own, leave it out"
        )
    orders = longtail.class_orders(labels, num_classes, subset)
    counts = [len(order) for order in orders]
    if imbalance_factor is not None:
        ranks = longtail.ranks_by_count(counts) if source.image_size else None
        counts = longtail.class_counts(
            counts, imbalance_factor, imbalance_type, n_max=source.n_max, ranks=ranks
        )
    train_parts, val_parts = longtail.split_validation(orders, counts, val_per_class)
    val = Split(*content.val) if content.val else None
    return Dataset(
        name=name,
        source=source,
        train=_take(content.train, train_parts),
        test=Split(*content.test),
        val=_take(content.train, val_parts) if val_per_class else val,
        class_names=content.class_names,
        class_counts=[len(part) for part in train_parts],
        original_counts=counts,
        limits=dict(zip(("many", "few"), limits, strict=True)) if limits else source.limits,
        image_size=image_size or source.image_size,
        notes=content.notes,
    )


def for_run(config, data_dir: Path | None = None, content: Content | None = None) -> Dataset:
    """The data set of a run's Config: the same images in the same splits, every time."""
    return load(
        config.dataset,
        data_dir or config.data_dir,
        content=content,
        **{key: getattr(config, key) for key in SELECTION},
    )


def read(name: str, data_dir: str | Path) -> Content:
    """All images of a data set, with what is wrong in it among the problems."""
    if Path(data_dir).is_file():
        raise NotADirectoryError(f"--data-dir {data_dir}: expected a folder, this is a file")
    return sources.find(name).read(Path(data_dir))


def _usable(content: Content, name: str, left_out: tuple[str, ...]) -> Content:
    """The content but for files that are left out; other problems are an error."""
    absent = set(left_out)
    problems = [p for p in content.problems if p.file not in absent]
    if problems:
        others = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise ValueError(
            f"{problems[0].text}{others}: wbcli data check {name} names them all"
            + (", --skip-broken leaves them out" if all(p.file for p in problems) else "")
        )
    if not absent:
        return content
    train, test, val = (
        split and _without(split, absent) for split in (content.train, content.test, content.val)
    )
    return content._replace(train=train, test=test, val=val)


def _without(split: Arrays, absent: set[str]) -> Arrays:
    """The split but for pictures of these names."""
    pictures, labels = split
    if not isinstance(pictures, Pictures):
        raise ValueError("left_out: this set has no files that could be left out")
    stays = [i for i in range(len(pictures)) if pictures.name(i) not in absent]
    if not stays:
        raise ValueError(
            f"nothing is left of {counted(len(pictures), 'picture')} such as "
            f"{pictures.describe(0)}: broken or missing"
        )
    return pictures[np.array(stays, dtype=np.int64)], labels[stays]


def _without_val(content: Content) -> Content:
    note = f"left out: {content.val_folder}/, since --val-per-class takes images of train/"
    return content._replace(val=None, notes=[*content.notes, note])


def _take(arrays: Arrays, parts: list[np.ndarray]) -> Split:
    index = np.concatenate(parts)
    return Split(arrays[0][index], arrays[1][index])
