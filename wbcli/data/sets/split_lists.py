"""ImageNet-LT, Places-LT and iNaturalist 2018: the field's split lists, and the official JSON.

Sources: Liu et al., Large-Scale Long-Tailed Recognition in an Open World, CVPR 2019 (the first
two lists); Van Horn et al., The iNaturalist Species Classification and Detection Dataset, CVPR
2018; Kang et al., Decoupling Representation and Classifier, ICLR 2020 (its lists).
"""

import os
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from wbcli.data.pictures.decoding import Pictures
from wbcli.data.sets import lists
from wbcli.data.sets.lists import Listing
from wbcli.files.readers import Content


@dataclass(frozen=True)
class SplitLists:
    """The lists of a data set beside its pictures, or the JSON files that do instead (`coco`)."""

    name: str
    num_classes: int
    train: str
    test: str
    val: str | None = None
    coco: tuple[str, str] | None = None

    def read(self, data_dir: Path) -> Content:
        """Every split, with what is wrong in lists or missing on disk among the problems."""
        root = self.fetch(data_dir)
        if all((root / name).is_file() for name in (self.train, self.test)):
            train, test = (
                lists.read_list(root / name, self.num_classes, root)
                for name in (self.train, self.test)
            )
            names = lists.class_names(train, self.num_classes)
        else:
            (train, names), (test, _) = (
                lists.read_coco(root / name, self.num_classes, root) for name in self.coco
            )
        val = lists.read_list(root / self.val, self.num_classes, root) if self.val else None
        test = _as_on_disk(test, names)
        splits = [split for split in (train, test, val) if split]
        problems = [p for s in splits for p in [*s.problems, *lists.missing(s.pictures)]]
        return Content(train[:2], test[:2], names, [], val and val[:2], problems)

    def fetch(self, data_dir: Path) -> Path:
        """The folder with the lists; these sets are not downloaded.

        Raises:
            FileNotFoundError: they are in neither place.
        """
        choices = [[name for name in (self.train, self.test, self.val) if name]]
        choices += [list(self.coco)] if self.coco else []
        for root in (data_dir, data_dir / self.name):
            for names in choices:
                if all((root / name).is_file() for name in names):
                    return root
        wanted = " or ".join(", ".join(names) for names in choices)
        raise FileNotFoundError(
            f"{self.name}: expected {wanted}, beside the folders of pictures that they name, in "
            f"{data_dir} or {data_dir / self.name}; wbcli does not download this set: "
            "name its folder with --data-dir"
        )


def _as_on_disk(listing: Listing, class_names: list[str]) -> Listing:
    """ImageNet's validation pictures may lie flat or by class, whatever the list says."""

    def moved(i: int, nested: bool) -> str:
        path = PurePosixPath(listing.pictures.name(i))
        folder = class_names[listing.labels[i]] if nested else ""
        return str(PurePosixPath(*path.parts[:1], folder, path.name))

    pictures = listing.pictures
    for i in range(len(pictures)):  # the first that is there settles it
        if os.path.isfile(pictures.path(i)):
            return listing
        for nested in (True, False):
            if os.path.isfile(pictures.root / moved(i, nested)):
                names = [moved(i, nested) for i in range(len(pictures))]
                return listing._replace(
                    pictures=replace(pictures, names=Pictures.of(pictures.root, names).names)
                )
    return listing


IMAGENET = SplitLists(
    name="imagenetlt",
    num_classes=1000,
    train="ImageNet_LT_train.txt",
    test="ImageNet_LT_test.txt",
    val="ImageNet_LT_val.txt",
)
PLACES = SplitLists(
    name="placeslt",
    num_classes=365,
    train="Places_LT_train.txt",
    test="Places_LT_test.txt",
    val="Places_LT_val.txt",
)
INAT18 = SplitLists(
    name="inat18",
    num_classes=8142,
    train="iNaturalist18_train.txt",
    test="iNaturalist18_val.txt",
    coco=("train2018.json", "val2018.json"),
)
