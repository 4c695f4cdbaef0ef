"""The data sets that live in memory: one table of what holds for each, apart from its pixels."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from wbcli.data import cifar, digits, fashion
from wbcli.data.readers import Content


@dataclass(frozen=True)
class Source:
    """A balanced image set, of which wbcli trains on a long-tailed subset.

    `padding` and `flip` say how its training images are augmented; mean and std are of
    pixels in [0, 1], a value for each channel.
    """

    name: str
    title: str
    needs: str  # where its files come from
    image: tuple[int, int, int]  # C, H, W
    num_classes: int
    imbalance_factor: float
    limits: dict[str, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    padding: int
    flip: bool
    read: Callable[[Path], Content]
    fetch: Callable[[Path], Path | None]  # the folder with its files; None: shipped


def find(name: str) -> Source:
    if name not in SOURCES:
        raise ValueError(f"unknown data set {name!r}: choose one of {', '.join(SOURCES)}")
    return SOURCES[name]


# Normalisation of CIFAR: the released code's numbers, for both sets.
_CIFAR_COMMON = {
    "image": (3, 32, 32),
    "imbalance_factor": 100,
    "mean": (0.4914, 0.4822, 0.4465),
    "std": (0.2023, 0.1994, 0.2010),
    "padding": 4,
    "flip": True,
}
SOURCES = {
    source.name: source
    for source in (
        Source(
            name="digitslt",
            title="UCI handwritten digits",
            needs="ships with wbcli",
            image=(1, 8, 8),
            num_classes=10,
            imbalance_factor=50,
            limits={"many": 40, "few": 10},
            mean=(0.305,),
            std=(0.376,),
            padding=1,
            flip=False,
            read=digits.read,
            fetch=digits.fetch,
        ),
        Source(
            name="fashionmnistlt",
            title="Fashion-MNIST",
            needs="Debian/Ubuntu package dataset-fashion-mnist, or download (30 MB)",
            image=(1, 28, 28),
            num_classes=10,
            imbalance_factor=100,
            limits={"many": 1000, "few": 200},
            mean=(0.286,),
            std=(0.353,),
            padding=2,
            flip=True,
            read=fashion.read,
            fetch=fashion.fetch,
        ),
        Source(
            name="cifar10lt",
            title="CIFAR-10",
            needs="download (163 MB)",
            num_classes=10,
            limits={"many": 1000, "few": 200},
            read=cifar.CIFAR10.read,
            fetch=cifar.CIFAR10.fetch,
            **_CIFAR_COMMON,
        ),
        Source(
            name="cifar100lt",
            title="CIFAR-100",
            needs="download (161 MB)",
            num_classes=100,
            limits={"many": 100, "few": 20},
            read=cifar.CIFAR100.read,
            fetch=cifar.CIFAR100.fetch,
            **_CIFAR_COMMON,
        ),
    )
}
