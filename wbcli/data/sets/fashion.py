"""Fashion-MNIST: 60,000 + 10,000 grey images of 28×28 pixels, 10 classes, four IDX files.

Source: Xiao, Rasul, Vollgraf, 2017 (arXiv 1708.07747).
"""

from pathlib import Path

import numpy as np

from wbcli.files import downloads
from wbcli.files.readers import Arrays, Content, check_labels, read_idx

PACKAGE = Path("/usr/share/datasets/fashion-mnist")  # Debian's dataset-fashion-mnist
URL = "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/"
SHA256 = {  # of the published .gz files
    "train-images-idx3-ubyte": "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
    "train-labels-idx1-ubyte": "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
    "t10k-images-idx3-ubyte": "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
    "t10k-labels-idx1-ubyte": "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
}
MARKS = tuple(f"{name}{ending}" for name in SHA256 for ending in ("", ".gz"))
CLASSES = [
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


def read(data_dir: Path) -> Content:
    """Both splits from the files that `fetch` finds."""
    train_images, train_labels, test_images, test_labels = _find(data_dir) or _download(data_dir)
    train = _read_pair(train_images, train_labels)
    return Content(train, _read_pair(test_images, test_labels), CLASSES, [])


def fetch(data_dir: Path) -> Path:
    """The folder with the files: in `data_dir`, else of the package, else downloaded."""
    return (_find(data_dir) or _download(data_dir))[0].parent


def is_here(data_dir: Path) -> bool:
    """Whether `read` needs no download."""
    return _find(data_dir) is not None


def _find(data_dir: Path) -> list[Path] | None:
    """The four files, compressed or not, in the first place that has them all."""
    for place in (data_dir, data_dir / "fashionmnistlt", PACKAGE):
        choices = [(place / f"{name}.gz", place / name) for name in SHA256]
        found = [next((path for path in pair if path.is_file()), None) for pair in choices]
        if all(found):
            return found
    return None


def _download(data_dir: Path) -> list[Path]:
    folder = data_dir / "fashionmnistlt"
    paths = {folder / f"{name}.gz": sha256 for name, sha256 in SHA256.items()}
    needed = ", ".join(f"{name}[.gz]" for name in SHA256)
    for path, sha256 in paths.items():
        if not path.is_file():
            downloads.download_for("fashionmnistlt", URL + path.name, path, sha256, needed, folder)
    return list(paths)


def _read_pair(images_path: Path, labels_path: Path) -> Arrays:
    images, labels = read_idx(images_path, 3), read_idx(labels_path, 1).astype(np.int64)
    if images.shape[1:] != (28, 28):
        raise ValueError(f"{images_path}: expected images of 28×28, got {images.shape[1:]}")
    check_labels(images, labels, 10, str(images_path.parent))
    return images[:, None], labels
