"""Data sets: load(name) gives images, labels, class counts, limits and names.

Everything here is NumPy; `batches.py` puts a split on a device.

Legend: N images, C channels, H height, W width, K classes.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wbcli.data import longtail, sources


@dataclass(frozen=True)
class Split:
    """images uint8 [N, C, H, W], labels int64 [N]."""

    images: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class Dataset:
    """A long-tailed training set with its balanced test set.

    class_counts are the images that train; original_counts those before validation
    images were taken away, by which classes are Many, Medium or Few.
    """

    name: str
    source: sources.Source
    train: Split
    test: Split
    val: Split | None
    class_names: list[str]
    class_counts: list[int]
    original_counts: list[int]
    notes: list[str]

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def limits(self) -> dict[str, int]:
        return self.source.limits

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
    imbalance_factor: float,
    imbalance_type: str = "exp",
    subset: str = "first",
    val_per_class: int = 0,
) -> Dataset:
    """Read a data set and take its long-tailed training subset.

    Args:
        name: one of `sources.SOURCES`.
        data_dir: the folder that holds the files, or a subfolder `name` that does.
        imbalance_factor: IF ≥ 1.
        imbalance_type: `exp` or `step`.
        subset: `first` or `shuffled`.
        val_per_class: validation images of each class (`longtail.split_validation`).

    Raises:
        longtail.FactorError: a factor that leaves a class without an image.
        ValueError: unknown name, damaged files.
        FileNotFoundError: files neither present nor to be downloaded.
    """
    source = sources.find(name)
    if Path(data_dir).is_file():
        raise NotADirectoryError(f"--data-dir {data_dir}: expected a folder, this is a file")
    train, test, class_names, notes = source.read(Path(data_dir))
    num_classes = len(class_names)
    orders = longtail.class_orders(train[1], num_classes, subset)
    n_max = min(len(order) for order in orders)
    counts = longtail.class_counts(n_max, num_classes, imbalance_factor, imbalance_type)
    train_parts, val_parts = longtail.split_validation(orders, counts, val_per_class)
    return Dataset(
        name=name,
        source=source,
        train=_take(train, train_parts),
        test=Split(*test),
        val=_take(train, val_parts) if val_per_class else None,
        class_names=class_names,
        class_counts=[len(part) for part in train_parts],
        original_counts=counts,
        notes=notes,
    )


def for_run(config, data_dir: Path | None = None) -> Dataset:
    """The data set of a run's Config: the same images in the same splits, every time."""
    return load(
        config.dataset,
        data_dir or config.data_dir,
        imbalance_factor=config.imbalance_factor,
        imbalance_type=config.imbalance_type,
        subset=config.subset,
        val_per_class=config.val_per_class,
    )


def _take(arrays: tuple[np.ndarray, np.ndarray], parts: list[np.ndarray]) -> Split:
    index = np.concatenate(parts)
    return Split(arrays[0][index], arrays[1][index])
