"""CIFAR-10 and CIFAR-100: 50,000 + 10,000 colour images of 32×32 pixels, in pickled batches.

Source: A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wbcli.files import downloads
from wbcli.files.readers import Arrays, Content, check_labels, read_cifar, read_pickle

MAX_NAME = 100  # characters
URL = "https://www.cs.toronto.edu/~kriz/"


@dataclass(frozen=True)
class Cifar:
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

    @property
    def marks(self) -> tuple[str, str]:
        """By which the folder is known where it lies."""
        return self.folder, self.archive

    def read(self, data_dir: Path) -> Content:
        """Both splits; the notes name the files that are not the published ones."""
        folder = self.fetch(data_dir)
        notes = self._strangers(folder)
        train = self._read_batches(folder, list(self.train))
        test = self._read_batches(folder, list(self.test))
        return Content(train, test, self._class_names(folder), notes)

    def fetch(self, data_dir: Path) -> Path:
        """The folder with the batches, unpacked from the archive or downloaded if need be."""
        roots = [data_dir, data_dir / self.name]
        for root in roots:
            if all((root / self.folder / name).is_file() for name in [*self.train, *self.test]):
                return root / self.folder
        archive = next((r / self.archive for r in roots if (r / self.archive).is_file()), None)
        if archive:
            downloads.check_sha256(archive, self.sha256, str(archive))
        else:
            archive = data_dir / self.archive
            needed = f"{', '.join(self.members)} (or {self.archive} in {data_dir})"
            downloads.download_for(
                self.name, URL + self.archive, archive, self.sha256, needed, data_dir / self.folder
            )
        downloads.extract(archive, self.folder, list(self.members), archive.parent)
        return archive.parent / self.folder

    def _strangers(self, folder: Path) -> list[str]:
        others = [
            name
            for name, md5 in self.members.items()
            if not (folder / name).is_file() or downloads.digest(folder / name, "md5") != md5
        ]
        if not others:
            return []
        names = ", ".join(others)
        return [f"{folder} is not the official data set ({names} differ); using it as it is"]

    def _read_batches(self, folder: Path, names: list[str]) -> Arrays:
        pairs = [read_cifar(folder / name, self.label_key) for name in names]
        images, labels = (np.concatenate(arrays) for arrays in zip(*pairs, strict=True))
        check_labels(images, labels, self.num_classes, str(folder))
        return images, labels

    def _class_names(self, folder: Path) -> list[str]:
        """From the meta file; numbers where it is missing or does not fit."""
        numbers = [str(k) for k in range(self.num_classes)]
        path = folder / next(iter(self.meta))
        if not path.is_file():
            return numbers
        names = read_pickle(path).get(self.names_key)
        if not isinstance(names, list) or len(names) != self.num_classes:
            return numbers
        if not all(isinstance(n, (str, bytes)) and len(n) <= MAX_NAME for n in names):
            return numbers
        return [n.decode("utf-8", "replace") if isinstance(n, bytes) else n for n in names]


CIFAR10 = Cifar(
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
CIFAR100 = Cifar(
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
