"""Finding, downloading and checking files, without a network."""

import dataclasses
import gzip
import hashlib
import io
import tarfile
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest

from conftest import write_cifar10, write_cifar100
from test_readers import idx
from wbcli import data
from wbcli.data import cifar, fashion, files, longtail, sources

URL = "https://example.org/set.tar.gz"


def serve(monkeypatch, content: bytes | Exception) -> list[str]:
    """Every https request is answered with `content`; returns the list of requested URLs."""
    requests = []

    def https_open(handler, request):
        requests.append(request.full_url)
        if isinstance(content, Exception):
            raise content
        reply = urllib.response.addinfourl(io.BytesIO(content), {}, request.full_url, 200)
        reply.msg = "OK"
        return reply

    monkeypatch.setattr(urllib.request.HTTPSHandler, "https_open", https_open)
    return requests


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_a_download_appears_once_its_checksum_is_right(monkeypatch, tmp_path):
    serve(monkeypatch, b"published")
    files.download(URL, tmp_path / "new" / "set", sha256(b"published"))
    assert (tmp_path / "new" / "set").read_bytes() == b"published"


def test_other_bytes_than_the_published_are_thrown_away(monkeypatch, tmp_path):
    serve(monkeypatch, b"something else")
    with pytest.raises(ValueError, match="is not the published file: expected SHA-256"):
        files.download(URL, tmp_path / "set", sha256(b"published"))
    assert list(tmp_path.iterdir()) == []


def test_a_redirect_away_from_https_is_refused():
    handler, request = files._HttpsOnly(), urllib.request.Request(URL)
    with pytest.raises(urllib.error.URLError, match="refused a redirect away from https"):
        handler.redirect_request(request, None, 302, "Found", {}, "http://example.org/set")
    followed = handler.redirect_request(request, None, 302, "Found", {}, "https://example.org/b")
    assert followed.full_url == "https://example.org/b"


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("cifar100lt", "train, test, meta (or cifar-100-python.tar.gz in here)"),
        ("cifar10lt", "data_batch_1"),
        ("fashionmnistlt", "train-images-idx3-ubyte[.gz]"),
    ],
)
def test_without_a_network_the_error_names_files_place_and_alternatives(
    monkeypatch, tmp_path, name, file
):
    serve(monkeypatch, urllib.error.URLError("no network"))
    monkeypatch.setattr(fashion, "PACKAGE", tmp_path / "not installed")
    with pytest.raises(FileNotFoundError) as error:
        data.load(name, "here", imbalance_factor=10)
    for part in (name, "no network", file, " in here/", "--data-dir", "digitslt (in wbcli)"):
        assert part in str(error.value)


@pytest.fixture
def archive(tmp_path) -> bytes:
    """A cifar-100-python.tar.gz of two images a class."""
    write_cifar100(tmp_path / "made", 2)
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        tar.add(tmp_path / "made" / "cifar-100-python", "cifar-100-python")
    return packed.getvalue()


def test_cifar_is_downloaded_checked_unpacked_and_found_again(monkeypatch, tmp_path, archive):
    published = dataclasses.replace(cifar.CIFAR100, sha256=sha256(archive))
    requests = serve(monkeypatch, archive)
    folder = published.fetch(tmp_path / "data")
    assert folder == tmp_path / "data" / "cifar-100-python"
    assert requests == ["https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz"]
    assert len(published.read(tmp_path / "data").train[1]) == 200
    assert len(requests) == 1


def test_an_archive_is_checked_before_it_is_opened(monkeypatch, tmp_path, archive):
    (tmp_path / "cifar-100-python.tar.gz").write_bytes(archive)
    requests = serve(monkeypatch, urllib.error.URLError("no network"))
    with pytest.raises(ValueError, match=r"cifar-100-python.tar.gz is not the published file"):
        cifar.CIFAR100.fetch(tmp_path)
    assert requests == []
    assert not (tmp_path / "cifar-100-python").exists()


def test_an_archive_without_the_batches_is_refused(tmp_path):
    path = tmp_path / "set.tar.gz"
    with tarfile.open(path, mode="w:gz") as tar:
        info = tarfile.TarInfo("cifar-100-python/train")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(info)
    with pytest.raises(ValueError, match="holds no file cifar-100-python/train"):
        files.extract(path, "cifar-100-python", ["train"], tmp_path)


def test_a_folder_that_is_not_the_official_one_is_used_with_one_note(tmp_path):
    write_cifar10(tmp_path, 4)
    dataset = data.load("cifar10lt", tmp_path, imbalance_factor=2)
    assert len(dataset.notes) == 1
    assert "is not the official data set (data_batch_1, " in dataset.notes[0]
    assert dataset.class_names == [str(k) for k in range(10)], "there is no batches.meta"


def test_class_names_come_from_the_meta_file(tmp_path):
    write_cifar100(tmp_path, 1)
    dataset = data.load("cifar100lt", tmp_path, imbalance_factor=1)
    assert dataset.class_names[7] == "thing 7"


def test_files_may_lie_in_a_subfolder_with_the_data_sets_name(tmp_path):
    write_cifar100(tmp_path / "cifar100lt", 1)
    assert cifar.CIFAR100.fetch(tmp_path) == tmp_path / "cifar100lt" / "cifar-100-python"


def write_fashion(folder: Path, suffix: str = "") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    labels = np.repeat(np.arange(10, dtype=np.uint8), 3)
    images = np.full((30, 28, 28), labels[:, None, None])
    pack = gzip.compress if suffix else bytes
    for name in fashion.SHA256:
        content = idx(images if "images" in name else labels)
        (folder / f"{name}{suffix}").write_bytes(pack(content))


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_fashion_mnist_is_read_from_the_data_folder(tmp_path, suffix):
    write_fashion(tmp_path / "here", suffix)
    dataset = data.load("fashionmnistlt", tmp_path / "here", imbalance_factor=3)
    assert dataset.class_counts == longtail.class_counts(3, 10, 3, "exp")
    assert (dataset.train.images[:, 0, 5, 5] == dataset.train.labels).all()


def test_fashion_mnist_is_read_from_the_package(monkeypatch, tmp_path):
    write_fashion(tmp_path / "package", ".gz")
    monkeypatch.setattr(fashion, "PACKAGE", tmp_path / "package")
    assert fashion.fetch(tmp_path / "empty") == tmp_path / "package"


@pytest.mark.skipif(
    not fashion.PACKAGE.is_dir(), reason="the package dataset-fashion-mnist is not installed"
)
def test_the_real_fashion_mnist(tmp_path):
    dataset = data.load("fashionmnistlt", tmp_path, imbalance_factor=100)
    assert dataset.train.images.shape == (14_886, 1, 28, 28)
    assert np.bincount(dataset.test.labels).tolist() == [1000] * 10
    assert dataset.train.images.mean() / 255 == pytest.approx(0.286, abs=0.08)


def test_an_unknown_data_set_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="unknown data set 'mnist': choose one of digitslt, "):
        sources.locate("mnist", "data")
