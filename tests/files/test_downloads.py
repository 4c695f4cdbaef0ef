"""Finding, downloading and checking files, without a network."""

import dataclasses
import gzip
import hashlib
import http.client
import io
import os
import tarfile
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest

from conftest import write_cifar10, write_cifar100
from files.test_readers import idx
from wbcli.data import datasets, longtail, sources
from wbcli.data.sets import cifar, fashion
from wbcli.files import downloads

URL = "https://example.org/set.tar.gz"


def serve(monkeypatch, content: bytes | Exception, headers: dict | None = None) -> list[str]:
    """Every https request is answered with `content`; returns the list of requested URLs."""
    requests = []

    def https_open(handler, request):
        requests.append(request.full_url)
        if isinstance(content, Exception):
            raise content
        reply = urllib.response.addinfourl(
            io.BytesIO(content), headers or {}, request.full_url, 200
        )
        reply.msg = "OK"
        return reply

    monkeypatch.setattr(urllib.request.HTTPSHandler, "https_open", https_open)
    return requests


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_a_download_appears_once_its_checksum_is_right(monkeypatch, tmp_path):
    serve(monkeypatch, b"published")
    downloads.download(URL, tmp_path / "new" / "set", sha256(b"published"))
    assert (tmp_path / "new" / "set").read_bytes() == b"published"


def test_other_bytes_than_the_published_are_thrown_away(monkeypatch, tmp_path):
    serve(monkeypatch, b"something else")
    with pytest.raises(ValueError, match="is not the published file: expected SHA-256"):
        downloads.download(URL, tmp_path / "set", sha256(b"published"))
    assert list(tmp_path.iterdir()) == []


def test_a_redirect_away_from_https_is_refused():
    handler, request = downloads._HttpsOnly(), urllib.request.Request(URL)
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
        datasets.load(name, "here", imbalance_factor=10)
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
    with pytest.raises(
        ValueError, match="it holds no regular file cifar-100-python/train; delete it and fetch"
    ):
        downloads.extract(path, "cifar-100-python", ["train"], tmp_path)


def packed(tmp_path: Path, *entries: tuple[tarfile.TarInfo, bytes]) -> Path:
    path = tmp_path / "set.tar.gz"
    with tarfile.open(path, mode="w:gz", format=tarfile.GNU_FORMAT) as tar:
        for info, content in entries:
            info.size = max(info.size, len(content))
            tar.addfile(info, io.BytesIO(content + bytes(info.size - len(content))))
    return path


def member(kind: bytes = tarfile.REGTYPE, name: str = "set/train", **fields) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    for key, value in fields.items():
        setattr(info, key, value)
    return info


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
@pytest.mark.parametrize("target", ["/etc/passwd", "set/other"])
def test_only_regular_members_are_unpacked(tmp_path, kind, target):
    other = (member(name="set/other"), b"secret")
    path = packed(tmp_path, other, (member(kind, linkname=target), b""))
    with pytest.raises(ValueError, match="it holds no regular file set/train; delete it"):
        downloads.extract(path, "set", ["train"], tmp_path)
    assert list((tmp_path / "set").iterdir()) == []


def test_members_outside_the_folder_are_never_looked_at(tmp_path):
    path = packed(
        tmp_path, (member(name="../evil"), b"x"), (member(name="/evil"), b"x"), (member(), b"good")
    )
    downloads.extract(path, "set", ["train"], tmp_path)
    assert [p.name for p in (tmp_path / "set").iterdir()] == ["train"]
    assert (tmp_path / "set" / "train").read_bytes() == b"good"
    assert not (tmp_path.parent / "evil").exists()


@pytest.mark.parametrize("part", [0, 10, 40, 15_000, -1])
def test_a_torn_archive_is_refused_and_leaves_nothing(tmp_path, part):
    noise = np.random.default_rng(0).bytes(20_000)
    path = packed(tmp_path, (member(), noise))
    path.write_bytes(path.read_bytes()[:part])
    with pytest.raises(ValueError, match=r"set.tar.gz: .*; delete it and fetch it again"):
        downloads.extract(path, "set", ["train", "test"], tmp_path)
    assert [p.name for p in (tmp_path / "set").iterdir()] == (["train"] if part == -1 else [])


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([(member(size=3_000_000), b"")], "it holds more than 2,000,000 bytes"),
        ([(member(name="a", size=3_000_000), b"")], "it holds more than 2,000,000 bytes"),
        ([(member(name="a" * 1_500_000), b"")], "a header of it is too large"),
    ],
    ids=["bomb", "bomb before it", "name"],
)
def test_an_archive_that_grows_too_large_is_refused(monkeypatch, tmp_path, entries, message):
    monkeypatch.setattr(downloads, "MAX_UNPACKED_BYTES", 2_000_000)
    path = packed(tmp_path, *entries, (member(name="set/test"), b""))
    assert path.stat().st_size < 10_000
    with pytest.raises(ValueError, match=message):
        downloads.extract(path, "set", ["train", "test"], tmp_path)
    assert list((tmp_path / "set").iterdir()) == []


def test_what_killed_processes_left_is_removed_once_it_is_old(monkeypatch, tmp_path):
    old, young, own = (tmp_path / f".set.{pid}.partial" for pid in (1, 2, os.getpid()))
    for path in (old, young, own):
        path.write_bytes(b"half")
    os.utime(old, (0, 0))
    serve(monkeypatch, b"published")
    downloads.download(URL, tmp_path / "set", sha256(b"published"))
    assert sorted(tmp_path.iterdir()) == [young, tmp_path / "set"]


def test_a_download_without_end_is_aborted(monkeypatch, tmp_path):
    serve(monkeypatch, b"x" * 1001)
    monkeypatch.setattr(downloads, "MAX_DOWNLOAD_BYTES", 1000)
    with pytest.raises(ValueError, match="expected at most 1,000 bytes, more come"):
        downloads.download(URL, tmp_path / "set", sha256(b"x" * 1001))
    assert list(tmp_path.iterdir()) == []


def test_a_connection_that_ends_early_is_an_error(monkeypatch, tmp_path):
    serve(monkeypatch, b"half", {"Content-Length": "8"})
    with pytest.raises(ConnectionError, match=f"{URL}: the connection ended after 4 of 8 bytes"):
        downloads.download(URL, tmp_path / "set", sha256(b"half"))
    assert list(tmp_path.iterdir()) == []


def test_an_answer_that_is_no_http_is_an_error_of_the_network(monkeypatch, tmp_path):
    serve(monkeypatch, http.client.IncompleteRead(b"half", 4))
    with pytest.raises(ConnectionError, match=r"the answer is damaged \(IncompleteRead"):
        downloads.download(URL, tmp_path / "set", sha256(b"half"))


def test_a_folder_that_is_not_the_official_one_is_used_with_one_note(tmp_path):
    write_cifar10(tmp_path, 4)
    dataset = datasets.load("cifar10lt", tmp_path, imbalance_factor=2)
    assert len(dataset.notes) == 1
    assert "is not the official data set (data_batch_1, " in dataset.notes[0]
    assert dataset.class_names == [str(k) for k in range(10)], "there is no batches.meta"


def test_class_names_come_from_the_meta_file(tmp_path):
    write_cifar100(tmp_path, 1)
    dataset = datasets.load("cifar100lt", tmp_path, imbalance_factor=1)
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
    dataset = datasets.load("fashionmnistlt", tmp_path / "here", imbalance_factor=3)
    assert dataset.class_counts == longtail.class_counts([3] * 10, 3, "exp")
    assert (dataset.train.images[:, 0, 5, 5] == dataset.train.labels).all()


def test_fashion_mnist_is_read_from_the_package(monkeypatch, tmp_path):
    write_fashion(tmp_path / "package", ".gz")
    monkeypatch.setattr(fashion, "PACKAGE", tmp_path / "package")
    assert fashion.fetch(tmp_path / "empty") == tmp_path / "package"


@pytest.mark.skipif(
    not fashion.PACKAGE.is_dir(), reason="the package dataset-fashion-mnist is not installed"
)
def test_the_real_fashion_mnist(tmp_path):
    dataset = datasets.load("fashionmnistlt", tmp_path, imbalance_factor=100)
    assert dataset.train.images.shape == (14_886, 1, 28, 28)
    assert np.bincount(dataset.test.labels).tolist() == [1000] * 10
    assert dataset.train.images.mean() / 255 == pytest.approx(0.286, abs=0.08)


def test_an_unknown_data_set_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="unknown data set 'mnist': choose one of digitslt, "):
        sources.locate("mnist", "data")
