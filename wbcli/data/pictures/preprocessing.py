"""How the networks of two libraries want their pictures: size, crop, interpolation, mean and std.

A network is `torchvision:NAME` or `timm:NAME`, with the name that it has there.
"""

import difflib
from importlib.util import find_spec
from typing import NamedTuple

LIBRARIES = ("torchvision", "timm")


class Preprocessing(NamedTuple):
    """image_size: side of the square that the network was made for; crop_fraction: of the shorter
    side of a picture, what is seen of it in evaluation; interpolation: a name of Pillow's filters.
    """

    image_size: int
    crop_fraction: float
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]


def split_arch(arch: str) -> tuple[str, str] | None:
    """Library and name there; None: it is a network of ours."""
    library, colon, name = arch.partition(":")
    return (library, name) if colon and library in LIBRARIES else None


def preprocessing_of(arch: str) -> Preprocessing:
    """That of the library's weights for this network, or of its default where it has none.

    Raises:
        ValueError: the library has no such network, or is not installed.
    """
    library, name = split_arch(arch)
    return {"torchvision": _of_torchvision, "timm": _of_timm}[library](name)


def _of_torchvision(name: str) -> Preprocessing:
    from torchvision import models

    known = models.list_models(module=models)
    if name not in known:
        raise _unknown("torchvision", name, known)
    wanted = models.get_model_weights(name).DEFAULT.transforms()
    ((size,), (resized,)) = wanted.crop_size, wanted.resize_size
    mean, std = tuple(wanted.mean), tuple(wanted.std)
    return Preprocessing(size, size / resized, wanted.interpolation.value, mean, std)


def _of_timm(name: str) -> Preprocessing:
    if find_spec("timm") is None:
        raise ValueError(f"--arch timm:{name} needs timm: pip install 'wbcli[timm]'")
    import timm
    from timm.data import resolve_data_config
    from timm.models import get_pretrained_cfg, split_model_name_tag

    plain, tag = split_model_name_tag(name)
    if not timm.is_model(plain):
        raise _unknown("timm", name, timm.list_models())
    tagged = timm.list_pretrained(f"{plain}.*")
    if tag and name not in tagged:
        raise _unknown("timm", name, tagged)
    found = get_pretrained_cfg(name)
    wanted = resolve_data_config(pretrained_cfg=found.to_dict() if found else {})
    interpolation = wanted["interpolation"]
    return Preprocessing(
        wanted["input_size"][-1],
        min(wanted["crop_pct"], 1.0),
        "bicubic" if interpolation == "random" else interpolation,
        tuple(wanted["mean"]),
        tuple(wanted["std"]),
    )


def _unknown(library: str, name: str, known: list[str]) -> ValueError:
    close = difflib.get_close_matches(name, known, 3, 0.4)
    return ValueError(
        f"--arch {library}:{name}: {library} has no classifier of that name"
        + (f"; close to it are {', '.join(close)}" if close else "")
    )
