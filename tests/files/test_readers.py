"""File formats: what is read, and what is refused with a sentence."""

import gzip
import os
import pickle
import struct
import tracemalloc

import numpy as np
import pytest

from conftest import stamped_images, stamps, write_pickle
from wbcli.data.sets import digits
from wbcli.files import readers


def idx(array: np.ndarray) -> bytes:
    return (
        bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + bytes(array)
    )


@pytest.mark.parametrize("pack", [lambda b: b, gzip.compress], ids=["plain", "gzip"])
def test_idx_plain_and_gzip(tmp_path, pack):
    images = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    path = tmp_path / ("images.gz" if pack is gzip.compress else "images")
    path.write_bytes(pack(idx(images)))
    assert readers.read_idx(path, 3).tolist() == images.tolist()


def test_a_gzip_file_of_several_members_is_one(tmp_path):
    content = idx(np.arange(24, dtype=np.uint8))
    parts = [content[:9], b"", content[9:20], content[20:]]
    (tmp_path / "a.gz").write_bytes(b"".join(map(gzip.compress, parts)))
    assert readers.read_idx(tmp_path / "a.gz", 1).tolist() == list(range(24))
    (tmp_path / "a.gz").write_bytes(gzip.compress(b"") * 3000 + gzip.compress(content))
    with pytest.raises(ValueError, match="is damaged \\(it has more than 2,000 members"):
        readers.read_idx(tmp_path / "a.gz", 1)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a", b"", "one that starts with nothing"),
        ("a", b"PK\3\4 a zip archive", "one that starts with 50 4b 03 04"),
        ("a", idx(np.zeros((2, 2), np.uint8)), "with 1 dimensions, got one that starts with 00"),
        ("a", idx(np.zeros(4, np.uint8))[:-1], "promises 4 bytes of data (4), it holds 3"),
        ("a", idx(np.zeros(4, np.uint8)) + b"x", "promises 4 bytes of data (4), it holds more"),
        ("a", bytes([0, 0, 8, 1, 255, 255, 255, 255]), "promises 4,294,967,295 bytes"),
        ("a", bytes([0, 0, 8, 1, 0, 0, 0, 0]), "promises 0 bytes of data (0), expected from 1 to"),
        ("a.gz", b"", "the gzip stream is damaged (it ends early)"),
        ("a.gz", gzip.compress(b""), "got one that starts with nothing"),
        ("a.gz", gzip.compress(idx(np.zeros(4, np.uint8))) + b"x", "the gzip stream is damaged"),
        ("a.gz", gzip.compress(idx(np.zeros(4, np.uint8))) * 2, "it holds more"),
        ("a.gz", gzip.compress(idx(np.zeros(4, np.uint8)))[:-8] + bytes(8), "incorrect data check"),
        ("a.gz", b"not gzip at all", "the gzip stream is damaged"),
        ("a.gz", gzip.compress(idx(np.zeros(999, np.uint8)))[:-12], "the gzip stream is damaged"),
    ],
)
def test_damaged_idx_files_are_refused(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ValueError) as error:
        readers.read_idx(path, 1)
    assert message in str(error.value)
    assert str(path) in str(error.value)


def test_dimensions_that_overflow_are_refused(tmp_path):
    (tmp_path / "a").write_bytes(bytes([0, 0, 8, 3]) + b"\xff" * 12)
    with pytest.raises(ValueError, match=r"79,228,162,458,924,105,385,300,197,375 bytes of data"):
        readers.read_idx(tmp_path / "a", 3)


@pytest.mark.parametrize("promised", [1000, 4_000_000_000])
def test_a_gzip_bomb_takes_no_more_memory_than_its_header_and_the_limit_allow(tmp_path, promised):
    path = tmp_path / "bomb.gz"
    with gzip.open(path, "wb", 1) as file:
        file.write(bytes([0, 0, 8, 1]) + struct.pack(">I", promised))
        for _ in range(100):
            file.write(bytes(1 << 20))
    tracemalloc.start()
    with pytest.raises(ValueError, match=f"its header promises {promised:,} bytes of data"):
        readers.read_idx(path, 1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 << 20


def read_batch(path):
    return readers.read_cifar(path, "labels")


@pytest.mark.parametrize("read", [lambda path: readers.read_idx(path, 1), read_batch])
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: os.symlink("/dev/zero", path)])
def test_only_regular_files_are_read(tmp_path, read, make):
    make(tmp_path / "a")
    with pytest.raises(ValueError, match="expected a regular file, got a folder, pipe, socket or"):
        read(tmp_path / "a")


def test_a_pickle_that_is_too_large_is_not_read(tmp_path):
    with (tmp_path / "a").open("wb") as file:
        file.truncate(readers.MAX_PICKLE_BYTES + 1)
    with pytest.raises(ValueError, match=r"a: .*expected at most 536,870,912 bytes, got more"):
        read_batch(tmp_path / "a")


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_cifar_batches_of_every_pickle_protocol(tmp_path, protocol):
    images, labels = stamped_images(3, 0), [2, 0, 1]
    batch = {b"data": images, b"fine_labels": labels, b"batch_label": b"x"}
    (tmp_path / "train").write_bytes(pickle.dumps(batch, protocol))
    read, read_labels = readers.read_cifar(tmp_path / "train", "fine_labels")
    assert stamps(read).tolist() == [0, 1, 2]
    assert (read == images.reshape(3, 3, 32, 32)).all()
    assert read_labels.tolist() == labels


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("dtype", ["u1", "<i4", ">i8", "<f4"])
def test_arrays_keep_type_byte_order_and_layout(tmp_path, protocol, dtype):
    plain = np.arange(24).reshape(2, 3, 4).astype(dtype)
    written = {"c": plain, "f": np.asfortranarray(plain), "none": plain[:0]}
    (tmp_path / "a").write_bytes(pickle.dumps(written, protocol))
    read = readers.read_pickle(tmp_path / "a")
    for name, array in written.items():
        assert read[name].dtype == array.dtype
        np.testing.assert_array_equal(read[name], array)


def test_a_batch_that_python_2_wrote(tmp_path):
    """Protocol 2, where text is bytes: the form of the published files."""
    pixels = bytes(range(256)) * 12
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85U\1b\x87R"
    state = b"(K\1K\1M\0\x0c\x86cnumpy\ndtype\nU\2u1K\0K\1\x87R(K\3U\1|NNNJ\xff\xff\xff\xff"
    state += b"J\xff\xff\xff\xffK\0tb\x89T" + struct.pack("<i", len(pixels)) + pixels + b"tb"
    (tmp_path / "a").write_bytes(
        b"\x80\2}q\1(U\4dataq\2" + array + state + b"U\6labelsq\3]q\4K\7au."
    )
    images, labels = read_batch(tmp_path / "a")
    assert images.tobytes() == pixels
    assert labels.tolist() == [7]


@pytest.mark.parametrize(
    "labels", [np.array([1, 0]), list(np.array([1, 0]))], ids=["array", "list"]
)
def test_labels_may_be_numpy_numbers(tmp_path, labels):
    write_pickle(tmp_path / "train", {"data": stamped_images(2, 0), "labels": labels})
    assert readers.read_cifar(tmp_path / "train", "labels")[1].tolist() == [1, 0]


class Hostile:
    def __reduce__(self):
        return os.mkdir, ("owned",)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({b"data": Hostile(), b"labels": [0]}, "it asks for posix.mkdir"),
        ([1, 2], "a list instead of a dict"),
        ({b"labels": [0]}, "expected 'data' as a uint8 array [N, 3072], got none"),
        ({b"data": np.zeros((1, 3072)), b"labels": [0]}, "got float64 [1, 3072]"),
        ({b"data": np.zeros((2, 99), np.uint8), b"labels": [0]}, "got uint8 [2, 99]"),
        ({b"data": stamped_images(2, 0)}, "expected 'labels' as 2 whole numbers"),
        ({b"data": stamped_images(2, 0), b"labels": [0]}, "as 2 whole numbers"),
        ({b"data": stamped_images(2, 0), b"labels": ["a", [1]]}, "as 2 whole numbers"),
        ({b"data": stamped_images(2, 0), b"labels": [0.5, 1.0]}, "as 2 whole numbers"),
    ],
)
def test_pickles_that_are_not_cifar_are_refused(tmp_path, batch, message):
    path = tmp_path / "batch"
    write_pickle(path, batch)
    with pytest.raises(ValueError) as error:
        readers.read_cifar(path, "labels")
    assert message in str(error.value)
    assert not (tmp_path / "owned").exists(), "the pickle ran code"


def test_a_torn_pickle_is_refused(tmp_path):
    path = tmp_path / "train"
    write_pickle(path, {b"data": stamped_images(2, 0), b"labels": [0, 1]})
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="not a pickle of arrays and plain containers"):
        readers.read_cifar(path, "labels")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 1, 2, 3], "expected labels from 0 to 2, got 0 to 3"),
        ([0, 1, -1, 2], "expected labels from 0 to 2, got -1 to 2"),
        ([0, 0, 2, 2], "no image of class 1"),
        ([0, 1, 2], "4 images but 3 labels"),
    ],
)
def test_labels_that_do_not_fit_are_refused(labels, message):
    with pytest.raises(ValueError) as error:
        readers.check_labels(np.zeros((4, 1, 2, 2)), np.array(labels), 3, "here")
    assert message in str(error.value)


def test_digits_are_the_published_ones(tmp_path):
    """1,797 images; the last 70 of each class test, in file order; values 0–16 become 0–255."""
    train, test, names, notes = digits.read(tmp_path)[:4]
    images = np.concatenate([train[0], test[0]])
    assert images.shape == (1797, 1, 8, 8)
    assert np.unique(images).tolist() == [round(v * 255 / 16) for v in range(17)]
    assert np.bincount(test[1]).tolist() == [70] * 10
    counts = np.bincount(np.concatenate([train[1], test[1]]))
    assert counts.tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert names == list("0123456789")
    assert notes == []
    first = [0, 0, 5, 13, 9, 1, 0, 0]  # top row of the first image, a zero
    assert train[0][0, 0, 0].tolist() == [round(v * 255 / 16) for v in first]
    assert train[1][0] == 0
    units = np.rint(images / 255 * 16)
    assert units.sum() == 561_718, "the sum that scikit-learn's copy has"
