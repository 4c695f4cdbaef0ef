"""Features as a file: what a run's network makes of images, for other programs and for wbcli.

Legend: N images, D features.
"""

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from numpy.lib import format as npy

from wbcli.data.batches.splits import batches_of
from wbcli.data.datasets import Dataset
from wbcli.deploy.predict import Model, read_pictures
from wbcli.device import autocast
from wbcli.files.storage import replacing

Named = dict[str, np.ndarray | list[str]]  # lists of texts
Parts = Iterator[np.ndarray]  # float32 [n, D], one after another


@torch.no_grad()
def of_split(
    model: Model, dataset: Dataset, split: str, device: torch.device, precision: str
) -> Parts:
    """The features of every image of a split in order, un-augmented, as stage 2 caches them."""
    backbone = model.network.to(device, memory_format=torch.channels_last).eval().backbone
    for images, _ in batches_of(dataset, split, device).evaluate():
        with autocast(device, precision):
            features = backbone(images)
        yield features.float().cpu().numpy()


@torch.no_grad()
def of_pictures(
    model: Model, paths: list[Path], device: torch.device, precision: str
) -> tuple[np.ndarray, list[str], list[tuple[Path, str]]]:
    """Features [N, D] of the files that are whole pictures, their names, and (file, reason) of
    the others.
    """
    backbone = model.network.to(device, memory_format=torch.channels_last).eval().backbone
    found, names, broken = [np.empty((0, model.network.num_features), np.float32)], [], []
    for part, images, reasons in read_pictures(model, paths, device):
        if images is not None:
            with autocast(device, precision):
                found.append(backbone(images).float().cpu().numpy())
        for path, reason in zip(part, reasons, strict=True):
            if reason:
                broken.append((path, reason))
            else:
                names.append(str(path))
    return np.concatenate(found), names, broken


def write(path: Path, features: dict[str, tuple[int, int, Parts]], others: Named) -> None:
    """Write a file that appears whole or not at all, array by array.

    Args:
        path: .npz, which is not compressed so that it can be mapped, or .safetensors.
        features: (N, D, parts) by name; no more than a part of them is in memory.
        others: labels, and lists of texts, which are metadata of a .safetensors.
    """
    with replacing(path) as partial, partial.open("wb") as file:
        (_write_safetensors if path.suffix == ".safetensors" else _write_npz)(
            file, features, others
        )


def _write_npz(file: BinaryIO, features: dict, others: Named) -> None:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for name, (rows, columns, parts) in features.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                about = {"descr": "<f4", "fortran_order": False, "shape": (rows, columns)}
                npy.write_array_header_1_0(member, about)
                for part in parts:
                    member.write(np.ascontiguousarray(part, "<f4"))
        for name, values in others.items():
            with archive.open(f"{name}.npy", "w") as member:
                npy.write_array(member, np.array(values), allow_pickle=False)


def _write_safetensors(file: BinaryIO, features: dict, others: Named) -> None:
    arrays = {k: np.asarray(v, "<i8") for k, v in others.items() if isinstance(v, np.ndarray)}
    texts = {k: json.dumps(v, ensure_ascii=False) for k, v in others.items() if k not in arrays}
    shapes = {name: ("F32", [n, d], 4 * n * d) for name, (n, d, _) in features.items()}
    shapes |= {name: ("I64", list(a.shape), a.nbytes) for name, a in arrays.items()}
    header, start = {"__metadata__": texts}, 0
    for name, (kind, shape, size) in shapes.items():
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [start, start + size]}
        start += size
    text = json.dumps(header, ensure_ascii=False).encode("utf-8", "backslashreplace")
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    for _, _, parts in features.values():
        for part in parts:
            file.write(np.ascontiguousarray(part, "<f4"))
    for array in arrays.values():
        file.write(np.ascontiguousarray(array))
