"""Settings that follow from the network: of two libraries, pretrained, frozen."""

import math
import re
from typing import Any

from wbcli.config.checks import shown
from wbcli.data.pictures.preprocessing import preprocessing_of, split_arch
from wbcli.data.sources import Source

NAMED = re.compile(r"(torchvision|timm):\w[\w.-]*")
INTERPOLATIONS = ("nearest", "box", "bilinear", "hamming", "bicubic", "lanczos")
ADAMW_STARTS = "1e-4 and 0.05 are usual from pretrained weights, 1e-3 and 0.05 without"


def check_arch(arch: str, ours: tuple[str, ...]) -> None:
    """Raises ValueError for what is no name of a network; whether a library has it is seen later.

    Args:
        ours: names of our own networks.
    """
    if arch not in ours and not NAMED.fullmatch(arch):
        raise ValueError(
            f"--arch must be one of {', '.join(ours)}, or torchvision:NAME or timm:NAME, "
            f"got {shown(arch)}"
        )


def check_pixels(key: str, values: tuple[float, ...], channels: int) -> None:
    """Raises ValueError for a mean or std by which no picture of so many channels is normalised."""
    possible = all(math.isfinite(x) and (x > 0 or key == "mean") for x in values)
    if len(values) != channels or not possible:
        above = " above 0" if key == "std" else ""
        raise ValueError(f"{key} must be {channels} finite numbers{above}, got {shown(values)}")


def settle_network(
    options: dict[str, Any], defaults: dict[str, Any], source: Source
) -> dict[str, Any]:
    """The settings that the network brings along, under those that were given.

    A network of a library brings its mean and std, where it sees as many channels as the data set
    has, and for pictures on disk its size, crop and interpolation.

    Args:
        options: what was given; defaults: what the recipe says.

    Raises:
        ValueError: options that exclude each other, or a network that is not there.
    """
    arch = options.get("arch", defaults["arch"])
    _check_options(options, arch)
    brought: dict[str, Any] = {}
    if split_arch(arch):
        check_arch(arch, ())
        size, crop_fraction, interpolation, mean, std = preprocessing_of(arch)
        if len(mean) == len(std) == source.image[0]:
            brought = {"mean": mean, "std": std}
        if source.image_size:
            brought |= {"image_size": size, "crop_fraction": crop_fraction}
            brought |= {"interpolation": interpolation}
    if options.get("freeze"):
        brought |= {"backbone_lr_factor": 1.0} | ({"views": 1} if source.image_size else {})
    return brought


def _check_options(options: dict[str, Any], arch: str) -> None:
    if options.get("pretrained") and options.get("init_from"):
        raise ValueError("--pretrained and --init exclude each other: give one of them")
    if options.get("pretrained") and not split_arch(arch):
        raise ValueError(
            f"--pretrained: weights come from a library, {arch} is a network of ours; take "
            "--arch torchvision:NAME or timm:NAME, or a file of weights with --init"
        )
    if options.get("freeze"):
        for key, why in (
            ("backbone_lr_factor", "the backbone does not train then"),
            ("bottleneck", "it stands before the classifier and has to train"),
        ):
            if options.get(key) is not None:
                raise ValueError(f"--freeze backbone: leave out --{key.replace('_', '-')}, {why}")
    for key in ("views", "cache"):
        if options.get(key) is not None and not options.get("freeze"):
            raise ValueError(f"--{key} is for a network that stands still: give --freeze backbone")
    check_optimizer(options)


def check_layers(layers: int | None, arch: str) -> None:
    """Raises ValueError where more than the classifier is to train of a network not of ours."""
    if (layers or 1) > 1 and split_arch(arch):
        raise ValueError(
            f"--layers {layers}: which layers of {arch} are the last ones is known of our own "
            "networks only; take --layers 1"
        )


def check_optimizer(options: dict[str, Any]) -> None:
    """Raises ValueError where AdamW would train with the numbers of SGD."""
    if options.get("optimizer") != "adamw":
        return
    missing = [f"--{key}" for key in ("lr", "wd") if options.get(key) is None]
    if missing:
        raise ValueError(
            f"--optimizer adamw: give {' and '.join(missing)}, too, the recipe's are of SGD "
            f"(lr and wd: {ADAMW_STARTS})"
        )
    if options.get("graph"):
        raise ValueError("--graph captures steps of SGD: leave it out with --optimizer adamw")
