"""Data sets: load(name) gives images, labels, class counts, limits and names.

Everything here is NumPy; `data.batches` brings a split to a device.

Legend: N images, C channels, H height, W width, K classes.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from wbcli.data import features, longtail, sources
from wbcli.data.chosen import Chosen, Images, Measured
from wbcli.data.left_out import usable
from wbcli.data.pictures.decoding import Pictures
from wbcli.files.readers import Arrays, Content
from wbcli.files.rows import Rows

# What chooses the images of a run, in `load` and in its Config.
SELECTION = ("imbalance_factor", "imbalance_type", "subset", "val_per_class")
SELECTION += ("limits", "image_size", "fit", "left_out", "val", "test")


@dataclass(frozen=True)
class Split:
    """images uint8 [N, C, H, W], N pictures on disk or N rows of features; labels int64 [N]."""

    images: np.ndarray | Pictures | Rows
    labels: np.ndarray


@dataclass(frozen=True)
class Dataset:
    """A long-tailed training set with its test set; without one, with validation images.

    class_counts are the images that train; original_counts those before validation
    images were taken away, by which classes are Many, Medium or Few (None: not known of a run
    that is older than its data set). image_size is the side of the square that pictures on disk
    become, and fit says how (`pictures.fitting`). chosen says which images train and which are
    held out, changes how the data set differs from what a run recorded, and gone why a split is
    not the run's.
    """

    name: str
    source: sources.Source
    train: Split
    test: Split | None
    val: Split | None
    class_names: list[str]
    class_counts: list[int] | None
    original_counts: list[int] | None
    limits: dict[str, int]
    image_size: int | None
    notes: list[str]
    chosen: Chosen | None
    changes: list[str] = field(default_factory=list)
    gone: dict[str, str] = field(default_factory=dict)
    fit: str = "crop"

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    def groups(self) -> dict[str, np.ndarray]:
        """Masks [K] of the classes with n_k above, between and below the limits; without the
        original counts no class is in any of them.
        """
        if self.original_counts is None:
            nothing = np.zeros(self.num_classes, dtype=bool)
            return {"many": nothing, "medium": nothing, "few": nothing}
        counts = np.array(self.original_counts)
        many, few = counts > self.limits["many"], counts < self.limits["few"]
        return {"many": many, "medium": ~many & ~few, "few": few}

    @property
    def measured(self) -> str:
        """The split by which a run is measured: `test`, or `val` where there is no test set."""
        return "val" if self.test is None else "test"

    def measurable(self) -> list[str]:
        """`test` and `val`, where they are."""
        return [name for name in ("test", "val") if getattr(self, name) is not None]

    def test_counts(self) -> list[int] | None:
        """Test images of each class; None without a test set."""
        return self._counts(self.test)

    def val_counts(self) -> list[int] | None:
        """Validation images of each class; None where there are none at all."""
        return self._counts(self.val)

    def _counts(self, split: Split | None) -> list[int] | None:
        return split and np.bincount(split.labels, minlength=self.num_classes).tolist()

    def split(self, name: str) -> Split:
        """`train`, `val` or `test`.

        Raises:
            ValueError: there is no such split, or it is not the one that the run had.
        """
        if name in self.gone:
            raise ValueError(self.gone[name])
        if name == "val" and self.val is None:
            own = self.source.num_classes is None
            lists = ", or with a val.csv (wbcli data split --val 0.1 writes one)" * own
            raise ValueError(
                f"{self.name} was trained without validation images: "
                f"train stage 1 with --val-per-class N{lists}"
            )
        if name == "test" and self.test is None:
            raise ValueError(f"{self.name} has no test images, only validation images")
        return getattr(self, name)

    def has(self, name: str) -> bool:
        """Whether there is such a split, and it is the one that the run had."""
        return getattr(self, name) is not None and name not in self.gone

    def require(self, *splits: str) -> None:
        """Raises ValueError where one of these splits is not the one that the run had."""
        for name in splits:
            if name in self.gone:
                raise ValueError(self.gone[name])


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
    fit: str = "crop",
    left_out: tuple[str, ...] | None = None,
    val: float | None = None,
    test: float | None = None,
    content: Content | None = None,
    as_before: bool = False,
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
        image_size: side of the squares of pictures on disk; None takes the set's.
        fit: how they become squares: `crop`, `pad` or `squash`.
        left_out: files that are treated as if they were not there.
        val, test: shares of a single pair of features and labels (`features.divided`).
        content: what `read` found, where it was read before.
        as_before: take the smallest class for n_max and class 0 for the head, as wbcli 0.1.0 did.

    Raises:
        longtail.SettingError: what this set cannot have, such as a factor that leaves a class
            without an image.
        ValueError: unknown name, damaged files, lists with mistakes.
        FileNotFoundError: files neither present nor to be downloaded.
    """
    source = sources.find(name)
    content = features.divided(content or read(name, data_dir), val, test)
    content = usable(content, name, set(left_out or ()))
    labels = content.train[1]
    num_classes = len(content.class_names)
    if content.val and val_per_class and content.val_folder != "val":
        content = without_val(content)
    elif content.val and val_per_class:
        raise longtail.SettingError(
            f"--val-per-class: {name} has validation images of its own, leave it out"
        )
    orders = longtail.class_orders(labels, num_classes, subset)
    counts = [len(order) for order in orders]
    if imbalance_factor is not None:
        ranks = longtail.ranks_by_count(counts) if source.image_size or source.features else None
        n_max = source.n_max
        if as_before:
            ranks, n_max = None, min(counts)
        counts = longtail.class_counts(
            counts, imbalance_factor, imbalance_type, n_max=n_max, ranks=ranks
        )
    parts = longtail.split_validation(orders, counts, val_per_class)
    train, held_out = (np.concatenate(part) for part in parts)
    val_split = Split(*content.val) if content.val else None
    val_images = val_split and Images.of(*content.val, np.arange(len(val_split.labels)))
    if val_per_class:
        val_split, val_images = take(content.train, held_out), Images.of(*content.train, held_out)
    there = np.array([len(order) for order in orders])
    taken = [sum(map(len, of_class)) for of_class in zip(*parts, strict=True)]
    return Dataset(
        name=name,
        source=source,
        train=take(content.train, train),
        test=Split(*content.test) if content.test else None,
        val=val_split,
        class_names=content.class_names,
        class_counts=[len(part) for part in parts[0]],
        original_counts=counts,
        limits=dict(zip(("many", "few"), limits, strict=True)) if limits else source.limits,
        image_size=image_size or source.image_size,
        fit=fit,
        notes=content.notes,
        chosen=Chosen(
            Images.of(*content.train, train),
            val_images,
            there - taken,
            test=content.test and Measured.of(*content.test),
        ),
    )


def read(name: str, data_dir: str | Path) -> Content:
    """All images of a data set, with what is wrong in it among the problems."""
    if Path(data_dir).is_file():
        raise NotADirectoryError(f"--data-dir {data_dir}: expected a folder, this is a file")
    return sources.find(name).read(Path(data_dir))


def without_val(content: Content) -> Content:
    note = f"left out: {content.val_folder}/, since --val-per-class takes images of train/"
    return content._replace(val=None, notes=[*content.notes, note])


def take(arrays: Arrays, index: np.ndarray) -> Split:
    return Split(arrays[0][index], arrays[1][index])
