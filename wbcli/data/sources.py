"""The data sets that live in memory: their files, how they are read, what holds for them."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wbcli.data import files, readers

Arrays = tuple[np.ndarray, np.ndarray]
Content = tuple[Arrays, Arrays, list[str], list[str]]  # train, test, class names, notes


@dataclass(frozen=True)
class Source:
    """What a data set is, apart from its pixels.

    `padding` and `flip` say how its training images are augmented; mean and std are of
    pixels in [0, 1], a value for each channel.
    """

    name: str
    title: str
    needs: str  # where its files come from, for `wbcli data list` and error messages
    image: tuple[int, int, int]  # C, H, W
    num_classes: int
    imbalance_factor: float
    limits: dict[str, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    padding: int
    flip: bool
    read: Callable[[Path], Content]
    fetch: Callable[[Path], Path | None]  # download into a folder; None: nothing to download


OFFLINE = "digitslt (in wbcli), fashionmnistlt (Debian/Ubuntu package dataset-fashion-mnist)"


def find(name: str) -> Source:
    if name not in SOURCES:
        raise ValueError(f"unknown data set {name!r}: choose one of {', '.join(SOURCES)}")
    return SOURCES[name]


# --- UCI digits -----------------------------------------------------------------------

DIGITS_TEST_PER_CLASS = 70


def _read_digits(data_dir: Path) -> Content:
    """Test images are the last 70 of each class in file order, the pool all those before them."""
    images, labels = readers.read_digits()
    order = [np.flatnonzero(labels == k) for k in range(10)]
    pool = np.sort(np.concatenate([o[:-DIGITS_TEST_PER_CLASS] for o in order]))
    test = np.sort(np.concatenate([o[-DIGITS_TEST_PER_CLASS:] for o in order]))
    names = [str(k) for k in range(10)]
    return (images[pool], labels[pool]), (images[test], labels[test]), names, []


# --- Fashion-MNIST --------------------------------------------------------------------

FASHION_PACKAGE = Path("/usr/share/datasets/fashion-mnist")
FASHION_URL = "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/"
FASHION_SHA256 = {
    "train-images-idx3-ubyte": "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
    "train-labels-idx1-ubyte": "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
    "t10k-images-idx3-ubyte": "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
    "t10k-labels-idx1-ubyte": "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
}
FASHION_CLASSES = [
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
]


def _read_fashion(data_dir: Path) -> Content:
    places = [data_dir, data_dir / "fashionmnistlt", FASHION_PACKAGE]
    found = _idx_files(places)
    if found is None:
        _fetch_fashion(data_dir)
        found = _idx_files(places)
    train = _read_idx_pair(found[0], found[1])
    test = _read_idx_pair(found[2], found[3])
    return train, test, FASHION_CLASSES, []


def _idx_files(places: list[Path]) -> list[Path] | None:
    for place in places:
        paths = [
            path
            for name in FASHION_SHA256
            for path in (place / f"{name}.gz", place / name)
            if path.is_file()
        ]
        by_name = {path.name.removesuffix(".gz"): path for path in paths}
        if len(by_name) == len(FASHION_SHA256):
            return list(by_name.values())
    return None


def _read_idx_pair(images_path: Path, labels_path: Path) -> Arrays:
    images, labels = readers.read_idx(images_path, 3), readers.read_idx(labels_path, 1)
    if images.shape[1:] != (28, 28):
        raise ValueError(f"{images_path}: expected images of 28×28, got {images.shape[1:]}")
    return _checked(images[:, None], labels.astype(np.int64), 10, f"{images_path.parent}")


def _fetch_fashion(data_dir: Path) -> Path:
    folder = data_dir / "fashionmnistlt"
    for name, sha256 in FASHION_SHA256.items():
        path = folder / f"{name}.gz"
        if not path.is_file():
            _download(FASHION_URL + path.name, path, sha256, "fashionmnistlt", folder, _GZ_NAMES)
    return folder


_GZ_NAMES = ", ".join(f"{name}[.gz]" for name in FASHION_SHA256)


# --- CIFAR ----------------------------------------------------------------------------


@dataclass(frozen=True)
class _Cifar:
    """The archive, its folder, and the published MD5 of each member."""

    name: str
    archive: str
    sha256: str
    folder: str
    train: dict[str, str]
    test: dict[str, str]
    meta: dict[str, str]
    label_key: str
    names_key: str
    num_classes: int

    @property
    def members(self) -> dict[str, str]:
        return self.train | self.test | self.meta

    def read(self, data_dir: Path) -> Content:
        batches = [*self.train, *self.test]
        places = [data_dir / self.folder, data_dir / self.name / self.folder]
        folder = files.first_with(places, batches) or self.fetch(data_dir)
        notes = self._strangers(folder)
        train = self._read_batches(folder, list(self.train))
        test = self._read_batches(folder, list(self.test))
        return train, test, self._class_names(folder), notes

    def fetch(self, data_dir: Path) -> Path:
        archives = [data_dir / self.archive, data_dir / self.name / self.archive]
        archive = next((path for path in archives if path.is_file()), archives[0])
        if archive.is_file():
            files.check_sha256(archive, self.sha256, str(archive))
        else:
            url = f"https://www.cs.toronto.edu/~kriz/{self.archive}"
            folder = data_dir / self.folder
            names = f"{', '.join(self.members)} (or {self.archive} in {data_dir})"
            _download(url, archive, self.sha256, self.name, folder, names)
        files.extract(archive, self.folder, list(self.members), archive.parent)
        return archive.parent / self.folder

    def _strangers(self, folder: Path) -> list[str]:
        """A note that names the files that are not the published ones."""
        others = [
            name
            for name, md5 in self.members.items()
            if not (folder / name).is_file() or files.digest(folder / name, "md5") != md5
        ]
        if not others:
            return []
        names = ", ".join(others)
        return [f"{folder} is not the official data set ({names} differ); using it as it is"]

    def _read_batches(self, folder: Path, names: list[str]) -> Arrays:
        pairs = [readers.read_cifar(folder / name, self.label_key) for name in names]
        images, labels = (np.concatenate(arrays) for arrays in zip(*pairs, strict=True))
        return _checked(images, labels, self.num_classes, str(folder))

    def _class_names(self, folder: Path) -> list[str]:
        numbers = [str(k) for k in range(self.num_classes)]
        path = folder / next(iter(self.meta))
        if not path.is_file():
            return numbers
        names = readers.read_pickle(path).get(self.names_key)
        if not isinstance(names, list) or len(names) != self.num_classes:
            return numbers
        return [n.decode("utf-8", "replace") if isinstance(n, bytes) else str(n) for n in names]


_CIFAR10 = _Cifar(
    name="cifar10lt",
    archive="cifar-10-python.tar.gz",
    sha256="6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
    folder="cifar-10-batches-py",
    train={
        "data_batch_1": "c99cafc152244af753f735de768cd75f",
        "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
        "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
        "data_batch_4": "634d18415352ddfa80567beed471001a",
        "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    },
    test={"test_batch": "40351d587109b95175f43aff81a1287e"},
    meta={"batches.meta": "5ff9c542aee3614f3951f8cda6e48888"},
    label_key="labels",
    names_key="label_names",
    num_classes=10,
)
_CIFAR100 = _Cifar(
    name="cifar100lt",
    archive="cifar-100-python.tar.gz",
    sha256="85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7",
    folder="cifar-100-python",
    train={"train": "16019d7e3df5f24257cddd939b257f8d"},
    test={"test": "f0ef6b0ae62326f3e7ffdfab6717acfc"},
    meta={"meta": "7973b15100ade9c7d40fb424638fde48"},
    label_key="fine_labels",
    names_key="fine_label_names",
    num_classes=100,
)


def _checked(images: np.ndarray, labels: np.ndarray, num_classes: int, where: str) -> Arrays:
    """Refuse labels out of range, a label short, or a class without any image."""
    if len(images) != len(labels):
        raise ValueError(f"{where}: {len(images):,} images but {len(labels):,} labels")
    if len(labels) and not (labels.min() >= 0 and labels.max() < num_classes):
        raise ValueError(
            f"{where}: expected labels from 0 to {num_classes - 1}, "
            f"got {labels.min()} to {labels.max()}"
        )
    missing = np.flatnonzero(np.bincount(labels, minlength=num_classes) == 0)
    if len(missing):
        raise ValueError(f"{where}: no image of class {', '.join(map(str, missing[:10]))}")
    return images, labels


def _download(url: str, path: Path, sha256: str, name: str, folder: Path, names: str) -> None:
    try:
        files.download(url, path, sha256)
    except OSError as error:
        raise FileNotFoundError(
            f"{name}: its files are not here and the download failed ({error}). "
            f"Expected {names} in {folder}; put them there, or name their folder with "
            f"--data-dir. Without a network: {OFFLINE}"
        ) from error


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
            read=_read_digits,
            fetch=lambda data_dir: None,
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
            read=_read_fashion,
            fetch=_fetch_fashion,
        ),
        Source(
            name="cifar10lt",
            title="CIFAR-10",
            needs="download (163 MB)",
            num_classes=10,
            limits={"many": 1000, "few": 200},
            read=_CIFAR10.read,
            fetch=_CIFAR10.fetch,
            **_CIFAR_COMMON,
        ),
        Source(
            name="cifar100lt",
            title="CIFAR-100",
            needs="download (161 MB)",
            num_classes=100,
            limits={"many": 100, "few": 20},
            read=_CIFAR100.read,
            fetch=_CIFAR100.fetch,
            **_CIFAR_COMMON,
        ),
    )
}
