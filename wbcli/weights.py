"""Files of weights that may come from anybody: read as tensors, or refused with the reason.

A pickle runs nothing here, an archive is no larger than its file, and whatever a damaged file
makes PyTorch raise ends as one ValueError.
"""

import re
import warnings
import zipfile
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from wbcli.data.readers import open_regular

ZIP = b"PK\x03\x04"
REFUSED = re.compile(r"(?:GLOBAL|class|type) ([A-Za-z_][\w.]*)")  # in messages of PyTorch
STATE_DICT = "save the state dict alone, torch.save(model.state_dict(), FILE)"


def check_archive(path: Path) -> None:
    """Refuse a file of torch.save that would take more memory than it has bytes.

    torch.save stores the parts of its zip archive as they are; PyTorch would unpack compressed
    ones, too. A file that is no zip archive (of PyTorch before 1.6) passes.

    Raises:
        ValueError: what is wrong, to stand after the file's name.
    """
    with open_regular(path) as file:
        if file.read(len(ZIP)) != ZIP:
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


def read(path: Path) -> dict[str, Any]:
    """name → tensor: a safetensors file, or a state dict of torch.save.

    The state dict stands on its own or under `state_dict` or `model`.

    Raises:
        ValueError: the file is damaged, or holds anything else; to stand after its name.
    """
    import torch

    if path.suffix == ".safetensors":
        weights = _read_safetensors(path)
    else:
        weights = read_state(path)
        for key in ("state_dict", "model"):
            if isinstance(weights, dict):
                weights = weights.get(key, weights)
        if not isinstance(weights, dict):
            raise ValueError(f"it holds no names and tensors: {STATE_DICT}")
    for key, value in weights.items():
        if not isinstance(key, str) or not isinstance(value, torch.Tensor):
            raise ValueError(
                f"it holds more than names and tensors, {ascii(key)[:80]} is of the type "
                f"{type(value).__name__}: {STATE_DICT}"
            )
        plain = value.layout == torch.strided and not value.is_quantized and not value.is_nested
        if not plain or value.device.type != "cpu":
            raise ValueError(f"{ascii(key)[:80]} is not a plain tensor of numbers")
    return weights


def read_state(path: Path) -> dict[str, Any]:
    """A dict of tensors and plain containers, as torch.save wrote it.

    Raises:
        ValueError: the file is damaged, or holds anything else; to stand after its name.
    """
    import torch

    check_archive(path)
    try:
        with warnings.catch_warnings(action="ignore"):  # of what a damaged pickle seems to be
            weights = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except UnpicklingError as error:  # its text proposes to load the file without a check
        refused = REFUSED.search(str(error))
        if not refused:
            raise ValueError("it is damaged, or not a file of torch.save") from error
        raise ValueError(
            f"it holds more than tensors ({refused[1]}), which could run code: {STATE_DICT}"
        ) from error
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


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split("\n")[0].split())
    return text[:100] or type(error).__name__
