"""The data sets: one table of what holds for each, apart from its pictures."""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from wbcli.data import features
from wbcli.data.pictures.decoding import EVAL_FRACTION
from wbcli.data.sets import cifar, digits, fashion, folder, split_lists
from wbcli.files.readers import Content


@dataclass(frozen=True)
class Source:
    """An image set; mean and std are of pixels in [0, 1], a value for each channel.

    In memory: a balanced set of which a long-tailed subset trains, class 0 the head; `padding` and
    `flip` say how its images are augmented. On disk (`image_size`): long-tailed as it is
    (`imbalance_factor` None), and the largest class the head of a subset; its pictures are decoded
    by workers with random resized crops and flips, and measured by the centre that has
    `crop_fraction` of the shorter side. A file of features (`features`) is long-tailed as it is,
    too; what would be said of pixels is empty.
    """

    name: str
    title: str
    needs: str  # where its files come from
    image: tuple[int, ...]  # C, H, W
    num_classes: int | None  # None: as many as there are folders
    imbalance_factor: float | None
    limits: dict[str, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    read: Callable[[Path], Content]
    fetch: Callable[[Path], Path | None]  # the folder with its files; None: shipped
    padding: int = 0
    flip: bool = True
    image_size: int | None = None  # None: in memory, at its own size
    n_max: int | None = None  # of a long-tailed subset's head; None: the largest class
    marks: tuple[str, ...] = ()  # files and folders of which one is where the set lies
    has_val: bool | None = False  # validation images of its own; None: if its folder has them
    crop_fraction: float = EVAL_FRACTION
    interpolation: str = "bilinear"
    features: bool = False  # vectors in a file in the place of images


def find(name: str) -> Source:
    """The source of that name; any other is that of a file of features or a folder of one's own."""
    if features.is_one(Path(name)):
        return _features(name)
    return SOURCES.get(name) or _folder(name)


def of_run(config) -> Source:
    """The source of a run's data set, seen as its network wants pictures: by that one's own mean,
    std, crop and interpolation where the run recorded some.
    """
    keys = ("mean", "std", "crop_fraction", "interpolation")
    wanted = {key: getattr(config, key) for key in keys if getattr(config, key) is not None}
    return replace(find(config.dataset), **wanted)


def locate(dataset: str, data_dir: str) -> tuple[str, str]:
    """Name and data folder of what a user calls a data set: a name, or the path of a folder, or
    of a file of features.

    Raises:
        ValueError: it is neither.
    """
    if dataset in SOURCES:
        return dataset, data_dir
    for path in (Path(dataset), Path(data_dir) / dataset):
        if path.is_dir():
            path = path.resolve()
            if path.name in SOURCES or not path.name or features.is_one(path):
                raise ValueError(
                    f"{path}: a folder of one's own needs a name of its own, rename it"
                )
            return path.name, str(path.parent)
        if features.is_one(path) and path.is_file():
            return path.name, os.path.dirname(os.path.abspath(path))
    raise ValueError(
        f"unknown data set {dataset!r}: choose one of {', '.join(SOURCES)}, "
        f"name a folder with {folder.LAYOUT}, or {features.LAYOUT}"
    )


# Normalisation of CIFAR: the released code's numbers, for both sets.
_CIFAR_COMMON = {
    "image": (3, 32, 32),
    "imbalance_factor": 100,
    "mean": (0.4914, 0.4822, 0.4465),
    "std": (0.2023, 0.1994, 0.2010),
    "padding": 4,
}
# Of ImageNet's pictures, as the field has it since AlexNet.
_ON_DISK = {
    "image": (3, 224, 224),
    "image_size": 224,
    "imbalance_factor": None,
    "limits": {"many": 100, "few": 20},
    "mean": (0.485, 0.456, 0.406),
    "std": (0.229, 0.224, 0.225),
}


def _listed(lists: split_lists.SplitLists, title: str, needs: str, **other) -> Source:
    return Source(
        name=lists.name,
        title=title,
        needs=needs,
        num_classes=lists.num_classes,
        read=lists.read,
        fetch=lists.fetch,
        has_val=lists.val is not None,
        marks=(lists.train, *(lists.coco or ())),
        **(_ON_DISK | other),
    )


def _folder(name: str) -> Source:
    return Source(
        name=name,
        title="one's own pictures",
        needs=folder.LAYOUT,
        num_classes=None,
        read=partial(folder.read, name=name),
        fetch=partial(folder.fetch, name=name),
        has_val=None,
        **_ON_DISK,
    )


def _features(name: str) -> Source:
    return Source(
        name=name,
        title="features",
        needs=features.LAYOUT,
        image=(),
        num_classes=None,
        imbalance_factor=None,
        limits=_ON_DISK["limits"],
        mean=(),
        std=(),
        read=partial(features.read, name=name),
        fetch=partial(features.fetch, name=name),
        has_val=None,
        features=True,
    )


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
            n_max=104,
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
            marks=fashion.MARKS,
            read=fashion.read,
            fetch=fashion.fetch,
        ),
        Source(
            name="cifar10lt",
            title="CIFAR-10",
            needs="download (163 MB)",
            num_classes=10,
            limits={"many": 1000, "few": 200},
            marks=cifar.CIFAR10.marks,
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
            marks=cifar.CIFAR100.marks,
            read=cifar.CIFAR100.read,
            fetch=cifar.CIFAR100.fetch,
            **_CIFAR_COMMON,
        ),
        _listed(
            split_lists.IMAGENET,
            "ImageNet",
            "ImageNet_LT_{train,val,test}.txt beside ImageNet's train/ and val/",
        ),
        _listed(
            split_lists.PLACES,
            "Places365",
            "Places_LT_{train,val,test}.txt beside the folders of Places365",
        ),
        _listed(
            split_lists.INAT18,
            "iNaturalist 2018",
            "iNaturalist18_{train,val}.txt or {train,val}2018.json beside train_val2018/",
            mean=(0.466, 0.471, 0.380),
            std=(0.195, 0.194, 0.192),
        ),
    )
}
