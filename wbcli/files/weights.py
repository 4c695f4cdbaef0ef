"""Files of weights that may come from anybody: read as tensors, or refused with the reason.

A pickle runs nothing here, an archive is no larger than its file, and whatever a damaged file
makes PyTorch raise ends as one ValueError.
"""

import io
import pickle
import re
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from wbcli.files import pickles
from wbcli.files.readers import open_regular

ZIP = b"PK\x03\x04"
LEGACY_PICKLES = 5  # of PyTorch before 1.6: magic number, version, system, content, storages
KEYS = (str, bytes, int, float, bool, type(None))
MAX_KEY = 1 << 60  # larger numbers can be made to collide in a dict
STATE_DICT = "save the state dict alone, torch.save(model.state_dict(), FILE)"
MAKERS = {  # what a pickle of tensors calls
    ("torch._utils", "_rebuild_tensor"),
    ("torch._utils", "_rebuild_tensor_v2"),
    ("torch._utils", "_rebuild_tensor_v3"),
    ("torch._utils", "_rebuild_parameter"),
    ("torch._utils", "_rebuild_parameter_with_state"),
    ("torch", "Size"),
    ("torch", "device"),
}
NAMED = re.compile(  # types of storages and of numbers, which are never called
    r"torch\.(?:storage\.)?(?:\w+Storage|b?float\d+\w*|u?int\d+|bool|complex\d+)"
)
PROTOCOLS = 3  # of pickles that torch.load checks


class _Refused(ValueError):
    """A pickle that is whole, and of something else."""


class _TensorPickle(pickles.Machine):
    """Runs a pickle of torch.save with nothing in the place of tensors.

    What torch.load(weights_only=True) would do with it is so known beforehand: it admits a
    bytearray of any size, and keys that take for ever to hash.
    """

    max_containers = 100_000

    def find(self, module: str, name: str) -> Callable | None:
        if module == "collections" and name in ("OrderedDict", "Counter"):
            return self.mapping
        if name == "set" and module in ("builtins", "__builtin__"):
            return self.collection
        if (module, name) in MAKERS:
            return lambda *_: None
        if (module, name) == ("_codecs", "encode"):
            return self.encode
        if NAMED.fullmatch(f"{module}.{name}"):
            return None
        wanted = f"{module[:80]}.{name[:80]}".encode("unicode_escape").decode()
        raise _Refused(f"it holds more than plain tensors ({wanted}): {STATE_DICT}")

    def mapping(self, content: dict | list = ()) -> dict:
        pairs = content.items() if type(content) is dict else content
        self.stack.append(self.contain({}))
        self.fill([item for pair in pairs for item in pair])
        return self.stack.pop()

    def collection(self, items: list) -> None:
        all(map(self.is_key, items))

    def is_key(self, key: object) -> bool:
        if (type(key) is int and abs(key) >= MAX_KEY) or type(key) not in KEYS:
            raise _Refused(f"it holds a dict whose keys are no names or numbers: {STATE_DICT}")
        return True

    def persistent(self) -> None:
        if type(self.stack.pop()) is not tuple:
            raise ValueError("a storage without its description")

    def build(self) -> None:
        """The metadata of a state dict."""
        self.stack.pop()
        if type(self.stack[-1]) is not dict:
            raise ValueError("a state for what has none")

    def result(self) -> object:
        return self.stack.pop()


def check_archive(path: Path) -> None:
    """Refuse a file of torch.save that would take more memory than it has bytes, or never end.

    torch.save stores the parts of its zip archive as they are; PyTorch would unpack compressed
    ones, too. Files of PyTorch before 1.6 are a row of pickles and no archive.

    Raises:
        ValueError: what is wrong, to stand after the file's name.
    """
    import torch

    with open_regular(path) as file:
        if file.read(len(ZIP)) != ZIP:
            file.seek(0)
            content, at = file.read(), 0
            for _ in range(LEGACY_PICKLES):
                at = _check_pickle(content, at)
            return
        try:
            with zipfile.ZipFile(file) as archive:
                parts = archive.infolist()
        except Exception as error:  # a damaged directory can raise anything
            raise ValueError(f"its zip archive is damaged ({_one_line(error)})") from error
        size = file.seek(0, 2)
    for part in parts:
        if part.compress_type != zipfile.ZIP_STORED or part.file_size != part.compress_size:
            raise ValueError(
                f"its part {part.filename[:80]!a} is compressed, which torch.save never does"
            )
    promised = sum(part.file_size for part in parts)
    if promised > size:
        raise ValueError(f"its parts claim {promised:,} bytes, the file has {size:,}")
    try:  # by PyTorch's own reader: two readers may find two things in one archive
        content = torch._C.PyTorchFileReader(str(path)).get_record("data.pkl")
    except RuntimeError as error:
        raise ValueError(f"its zip archive is damaged ({_one_line(error)})") from error
    _check_pickle(content, 0)


def _check_pickle(content: bytes, at: int) -> int:
    """Refuse a pickle of more than tensors; returns where it ends."""
    if content[at : at + 1] == pickle.PROTO and content[at + 1 : at + 2] > bytes([PROTOCOLS]):
        raise ValueError(
            f"it was saved with pickle protocol {content[at + 1]}, which PyTorch cannot check: "
            "save it with torch.save's own"
        )
    program = _TensorPickle(content)
    program.at = at
    try:
        program.run()
    except _Refused:
        raise
    except Exception as error:  # operands of any wrong type
        raise ValueError(f"it is damaged, or not a file of torch.save ({_one_line(error)})") from (
            error
        )
    return program.at


def read(path: Path) -> dict[str, Any]:
    """name → tensor: a safetensors file, or a state dict of torch.save.

    The state dict stands on its own or under `state_dict`, `model` or `teacher` (DINO's).

    Raises:
        ValueError: the file is damaged, or holds anything else; to stand after its name.
    """
    import torch

    if path.suffix == ".safetensors":
        weights = _read_safetensors(path)
    else:
        weights = read_state(path)
        for key in ("state_dict", "model", "teacher"):
            if isinstance(weights, dict):
                weights = weights.get(key, weights)
        if not isinstance(weights, dict):
            raise ValueError(f"it holds no names and tensors: {STATE_DICT}")
    for key, value in weights.items():
        if not isinstance(key, str) or not isinstance(value, torch.Tensor):
            raise ValueError(
                f"it holds more than names and tensors, {_shown(key)} is of the type "
                f"{type(value).__name__}: {STATE_DICT}"
            )
    return weights


def read_state(path: Path) -> dict[str, Any]:
    """A dict of tensors and plain containers, as torch.save wrote it.

    Raises:
        ValueError: the file is damaged, or holds anything else; to stand after its name.
    """
    import torch

    check_archive(path)
    try:
        with (
            warnings.catch_warnings(action="ignore"),  # of what a damaged pickle seems to be
            open_regular(path) as file,
        ):
            archive = file.read(len(ZIP)) == ZIP
            file.seek(0)
            # From memory, PyTorch does not try whether an old file is a tar archive.
            source = file if archive else io.BytesIO(file.read())
            weights = torch.load(source, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # a damaged or hostile file can raise anything
        raise ValueError(f"it is damaged, or not a file of torch.save ({_one_line(error)})") from (
            error
        )
    if not isinstance(weights, dict):
        raise ValueError(
            f"it holds a {type(weights).__name__} instead of names and tensors: {STATE_DICT}"
        )
    return weights


def _read_safetensors(path: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    open_regular(path).close()
    try:
        return load_file(path)
    except OSError:
        raise
    except Exception as error:  # a damaged file can raise anything
        raise ValueError(f"it is damaged, or no safetensors file ({_one_line(error)})") from error


def _shown(key: object) -> str:
    return ascii(key)[:80] if isinstance(key, str | int) else type(key).__name__


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split("\n")[0].split())
    return text[:100] or type(error).__name__
