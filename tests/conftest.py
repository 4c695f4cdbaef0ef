"""A command line in this process, and files of the formats that loaders accept."""

import io
import json
import os
import pickle
import shutil
import signal
import zlib
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from wbcli import cli, console
from wbcli.data.pictures import decoding

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # that a command line handles


@pytest.fixture(autouse=True)
def own_environment(monkeypatch, tmp_path):
    """Every test works in a folder of its own, at the default verbosity."""
    monkeypatch.chdir(tmp_path)
    for name in ("WBCLI_DATA", "WBCLI_RUNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(console, "verbosity", 0)
    monkeypatch.setattr(decoding, "workers", 0)
    monkeypatch.setattr(decoding, "max_pixels", decoding.MAX_PIXELS)


class Result:
    def __init__(self, code: int, out: str, err: str):
        self.code, self.out, self.err = code, out, err

    @property
    def json(self):
        return json.loads(self.out)


@pytest.fixture
def wbcli(capsys):
    """Run a command line in this process."""
    handlers = {number: signal.getsignal(number) for number in SIGNALS}

    def run(*args: object) -> Result:
        with pytest.raises(SystemExit) as ending:
            cli.main([str(arg) for arg in args])
        out, err = capsys.readouterr()
        return Result(ending.value.code, out, err)

    yield run
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """`first` with validation images, its stage 2, an unfinished run, a file, an empty folder."""
    folder = tmp_path_factory.mktemp("prepared")
    short = ("--epochs", "1", "--batch-size", "64", "-q")
    runner, place = CliRunner(), ["--runs-dir", str(folder / "runs")]
    first = ["stage1", "digitslt", *short, "--val-per-class", "2", "--name", "first", *place]
    for command in (first, ["stage2", "first", *short, "--name", "second", *place]):
        assert runner.invoke(cli.cli, command).exit_code == 0
    shutil.copytree(folder / "runs/first", folder / "runs/half")
    (folder / "runs/half/model.safetensors").unlink()
    (folder / "file").write_text("no picture, no weights\n")
    (folder / "empty").mkdir()
    return folder


@pytest.fixture
def here(prepared, tmp_path):
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)
    return tmp_path


def stamped_images(count: int, seed: int) -> np.ndarray:
    """uint8 [count, 3072] random pixels; the first four bytes of an image hold its number."""
    images = np.random.default_rng(seed).integers(0, 256, (count, 3072), dtype=np.uint8)
    images[:, :4] = np.arange(count, dtype="<u4").view(np.uint8).reshape(-1, 4)
    return images


def stamps(images: np.ndarray) -> np.ndarray:
    """The numbers that `stamped_images` wrote into images [N, 3, 32, 32]."""
    return np.ascontiguousarray(images[:, 0, 0, :4]).view("<u4")[:, 0].astype(np.int64)


def write_pickle(path: Path, content: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(content, protocol=2))


def write_cifar100(folder: Path, per_class: int, test_per_class: int = 1) -> np.ndarray:
    """A `cifar-100-python` folder in shuffled class order; returns the training labels."""
    generator = np.random.default_rng(5)
    labels = {}
    for name, count in [("train", per_class), ("test", test_per_class)]:
        labels[name] = generator.permutation(np.repeat(np.arange(100), count))
        content = {b"data": stamped_images(100 * count, count)}
        content[b"fine_labels"] = labels[name].tolist()
        write_pickle(folder / "cifar-100-python" / name, content)
    names = [f"thing {k}".encode() for k in range(100)]
    write_pickle(folder / "cifar-100-python" / "meta", {b"fine_label_names": names})
    return labels["train"]


def write_cifar10(
    folder: Path, per_class: int, test_per_class: int = 1, kept: np.ndarray | None = None
) -> np.ndarray:
    """A `cifar-10-batches-py` folder of five batches; returns the training labels, of all images
    also where it holds those of the numbers `kept` only.
    """
    labels = np.random.default_rng(6).permutation(np.repeat(np.arange(10), per_class))
    images = stamped_images(10 * per_class, 1)
    kept = np.arange(len(labels)) if kept is None else kept
    for i, part in enumerate(np.array_split(kept, 5), start=1):
        content = {b"data": images[part], b"labels": labels[part].tolist()}
        write_pickle(folder / "cifar-10-batches-py" / f"data_batch_{i}", content)
    test = {b"data": stamped_images(10 * test_per_class, 2)}
    test[b"labels"] = np.repeat(np.arange(10), test_per_class).tolist()
    write_pickle(folder / "cifar-10-batches-py" / "test_batch", test)
    return labels


@pytest.fixture(scope="session")
def cifar100(tmp_path_factory):
    """A folder with CIFAR-100 at its full 500 images a class, and its training labels."""
    folder = tmp_path_factory.mktemp("cifar100")
    return folder, write_cifar100(folder, 500)


def photo(width: int = 48, height: int = 40, seed: int = 0) -> Image.Image:
    """An RGB picture of soft shapes, as photographs have them: noise, enlarged."""
    noise = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    """The bytes of a file that holds the image."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def write_pictures(root: Path, names: list[str | bytes], size: int = 12) -> None:
    """A small JPEG or PNG, by its name, below the root for each name; no two are equal."""
    for name in names:
        path = os.path.join(os.fsencode(root), os.fsencode(name))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        kind = "PNG" if path.lower().endswith(b".png") else "JPEG"
        with open(path, "wb") as file:
            file.write(encoded(photo(size, size, zlib.crc32(os.fsencode(name))), kind))


def write_folder(root: Path, train: dict[str, int], test: int = 2, val: int = 0) -> Path:
    """A folder of one's own pictures: `train` names the classes and counts their images."""
    counts = {"train": train, "test": dict.fromkeys(train, test), "val": dict.fromkeys(train, val)}
    for split, classes in counts.items():
        write_pictures(
            root, [f"{split}/{name}/{i}.jpg" for name, n in classes.items() for i in range(n)]
        )
    return root
