"""UCI handwritten digits, shipped with wbcli: 1,797 grey images of 8×8 pixels, 10 classes.

Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine
Learning Repository, 1998 (CC BY 4.0).
"""

from importlib.resources import files
from pathlib import Path

import numpy as np

from wbcli.files.readers import Content

TEST_PER_CLASS = 70


def read(data_dir: Path) -> Content:
    """Test images are the last 70 of each class in file order, the pool all those before them."""
    with (
        files("wbcli.data.sets").joinpath("digits.npz").open("rb") as file,
        np.load(file) as arrays,
    ):
        grey, labels = arrays["images"], arrays["labels"].astype(np.int64)
    images = np.rint(grey[:, None] * (255 / 16)).astype(np.uint8)  # from 0–16 to 0–255
    order = [np.flatnonzero(labels == k) for k in range(10)]
    pool = np.sort(np.concatenate([o[:-TEST_PER_CLASS] for o in order]))
    test = np.sort(np.concatenate([o[-TEST_PER_CLASS:] for o in order]))
    names = [str(k) for k in range(10)]
    return Content((images[pool], labels[pool]), (images[test], labels[test]), names, [])


def fetch(data_dir: Path) -> None:
    """There is nothing to fetch."""
