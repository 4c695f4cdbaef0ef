"""Files of arrays: read as they are, mapped where they can be, refused where they lie."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from wbcli.files import arrays
from wbcli.files.arrays import ArrayFile
from wbcli.files.rows import Rows

FEATURES = np.arange(12, dtype=np.float32).reshape(4, 3)


def rows_of(path, name="features"):
    file = ArrayFile(path)
    return Rows(file.array(name), file.stored[name].bf16, file.forget)


def is_mapped(array: np.ndarray) -> bool:
    while isinstance(array, np.ndarray) and array.base is not None:
        array = array.base
    return not isinstance(array, np.ndarray) or not array.flags.owndata


@pytest.mark.parametrize("kind", ["<f2", "<f4", ">f4", "<f8", "<i4", "u1"])
def test_numbers_of_any_kind_are_float32_rows(kind, tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, features=FEATURES.astype(kind), labels=np.arange(4))
    rows = rows_of(path)
    assert rows.shape == (4, 3)
    np.testing.assert_array_equal(rows.take(np.array([3, 0])), FEATURES[[3, 0]])
    assert rows.take(np.array([1])).dtype == np.float32
    np.testing.assert_array_equal(np.asarray(rows[np.array([2, 1])][np.array([1])]), FEATURES[[1]])


def test_columns_first_are_read_right(tmp_path):
    np.savez(tmp_path / "a.npz", features=np.asfortranarray(FEATURES))
    np.testing.assert_array_equal(np.asarray(rows_of(tmp_path / "a.npz")), FEATURES)


def test_bfloat16_is_the_upper_half_of_a_float32(tmp_path):
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file as save_tensors

    save_tensors({"features": torch.tensor([[1.5, -2.0]]).bfloat16()}, tmp_path / "a.safetensors")
    np.testing.assert_array_equal(np.asarray(rows_of(tmp_path / "a.safetensors")), [[1.5, -2.0]])


def test_what_is_not_compressed_is_mapped(tmp_path):
    np.savez(tmp_path / "plain.npz", features=FEATURES)
    np.savez_compressed(tmp_path / "packed.npz", features=FEATURES)
    save_file({"features": FEATURES}, tmp_path / "plain.safetensors")
    found = {path.name: is_mapped(ArrayFile(path).array("features")) for path in tmp_path.iterdir()}
    assert found == {"plain.npz": True, "packed.npz": False, "plain.safetensors": True}


def resident_bytes(path) -> int:
    """Of the file, mapped into this process."""
    with open("/proc/self/smaps") as file:
        text = file.read()
    at = text.find(str(path))
    lines = text[at:].splitlines() if at >= 0 else []
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("Rss:")), 0)


def test_reading_a_mapped_file_does_not_bring_it_into_memory(tmp_path, monkeypatch):
    """16 MB, of which a quarter may stay: its bytes are the same when they are read again."""
    if not Path("/proc/self/smaps").exists():
        pytest.skip("the system does not say what is in memory")
    monkeypatch.setattr(arrays, "FORGET_BYTES", 1 << 22)
    values = np.arange(1 << 22, dtype=np.float32).reshape(-1, 1 << 14)
    save_file({"features": values}, tmp_path / "a.safetensors")
    rows = rows_of(tmp_path / "a.safetensors")
    for _ in range(2):
        for place in range(len(rows)):
            np.testing.assert_array_equal(
                rows[np.array([place])].take(slice(None))[0], values[place]
            )
            assert resident_bytes(tmp_path / "a.safetensors") <= 1 << 23


def test_a_compressed_array_that_does_not_fit_is_refused(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "a.npz", features=np.zeros((1000, 100), np.float32))
    monkeypatch.setattr(arrays, "free_memory", lambda: 799_999)
    file = ArrayFile(tmp_path / "a.npz")
    with pytest.raises(
        ValueError, match=r"features is compressed, and its 0\.0 GB do not fit .*np"
    ):
        file.array("features")
    monkeypatch.setattr(arrays, "free_memory", lambda: 800_000)
    assert file.array("features").shape == (1000, 100)


def test_an_array_of_objects_is_never_read(tmp_path):
    class Trap:
        def __reduce__(self):
            return (exec, ("raise SystemExit('it ran')",))

    np.savez(tmp_path / "a.npz", features=np.array([[Trap()]], dtype=object))
    with pytest.raises(
        ValueError, match="features is an array of objects, which could be anything"
    ):
        ArrayFile(tmp_path / "a.npz").array("features")


def npz(**arrays_of) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays_of)
    return buffer.getvalue()


def with_header(text: bytes) -> bytes:
    """A .npz whose one array has this header and no numbers."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(
            "features.npy", b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text
        )
    return buffer.getvalue()


LIE = b"{'descr': '<f4', 'fortran_order': False, 'shape': (10000000000, 100)}\n"


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.npz", b"", "File is not a zip file"),
        ("a.npz", npz(features=FEATURES)[:-40], "File is not a zip file"),
        ("a.npz", with_header(LIE), "its array 'features.npy' claims more numbers than there are"),
        ("a.npz", with_header(b"__import__('os')\n"), "malformed node"),
        ("a.safetensors", b"\x08", "its header claims 8 bytes, the file has 1"),
        ("a.safetensors", b"\xff" * 20, "its header claims 18,446,744,073,709,551,615 bytes"),
        ("a.safetensors", (2).to_bytes(8, "little") + b"[]", "its header is no object"),
    ],
    ids=["empty", "torn", "lie", "program", "short", "long", "list"],
)
def test_a_damaged_file_is_one_line(name, content, reason, tmp_path):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ValueError) as error:
        ArrayFile(path)
    assert str(error.value).startswith(f"{path}: it is damaged, or no ")
    assert reason in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("about", [[[4, 3], [0, 40]], [[4, 3], [0, 48_000]], [[-4, -3], [0, 48]]])
def test_a_safetensors_header_that_lies_is_refused(about, tmp_path):
    import json

    shape, offsets = about
    entry = {"features": {"dtype": "F32", "shape": shape, "data_offsets": offsets}}
    text = json.dumps(entry).encode()
    content = len(text).to_bytes(8, "little") + text + FEATURES.tobytes()
    (tmp_path / "a.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match="it is damaged, or no safetensors file"):
        ArrayFile(tmp_path / "a.safetensors")


def test_any_byte_may_be_wrong(tmp_path):
    """A damaged file gives other numbers or one error, never anything else."""
    generator = np.random.default_rng(0)
    for whole in (npz(features=FEATURES), npz_of_safetensors(tmp_path)):
        suffix = ".npz" if whole[:2] == b"PK" else ".safetensors"
        for _ in range(300):
            content = bytearray(whole)
            content[generator.integers(len(content))] = generator.integers(256)
            path = tmp_path / f"bad{suffix}"
            path.write_bytes(content)
            try:
                file = ArrayFile(path)
                for name in file.stored:
                    file.array(name)
            except ValueError as error:
                assert str(error).startswith(str(path))


def npz_of_safetensors(folder) -> bytes:
    save_file({"features": FEATURES}, folder / "whole.safetensors")
    return (folder / "whole.safetensors").read_bytes()


def test_moments_are_those_of_each_feature(tmp_path, monkeypatch):
    monkeypatch.setattr("wbcli.files.rows.CHUNK_BYTES", 1)  # a row at a time
    np.savez(tmp_path / "a.npz", features=FEATURES)
    mean, std = rows_of(tmp_path / "a.npz")[np.array([0, 2])].moments()
    assert mean.tolist() == [3, 4, 5] and std.tolist() == [3, 3, 3]
