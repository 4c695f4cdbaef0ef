"""Backbones of torchvision and timm, by the names that they have there, and their weights.

Features [B, D] are what the library's own classifier is given: in torchvision the input of its last
linear layer, in timm what a network without classes returns.

Legend: B batch, C channels, S side of the images, D features.
"""

import contextlib
import logging
import sys
import warnings
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from wbcli.data.pictures.preprocessing import split_arch

SIZE_ARGUMENT = {"vit": "image_size", "maxvit": "input_size"}  # of torchvision, by family
AUXILIARY = ("AuxLogits", "aux1", "aux2")  # classifiers that only trained ImageNet's weights
# Within the network, whose weights are of another mean and std; torchvision does so with them only.
NORMALISE_ANEW = ("googlenet", "inception_v3")
IMAGENET = 1000  # classes

Named = tuple[nn.Module, tuple[str, ...]]  # a backbone, and what its classifier was called


class Origin(NamedTuple):
    """What a backbone is in its library: as which network for which images it was made, and what
    the classifier is called there (several where their logits are averaged).
    """

    arch: str
    in_channels: int
    image_size: int
    heads: tuple[str, ...]


def make_backbone(
    arch: str, in_channels: int, image_size: int | None = None
) -> tuple[nn.Module, int]:
    """A freshly initialised backbone with its `origin`, and D.

    Args:
        arch: `torchvision:NAME` or `timm:NAME`.
        image_size: S, for which networks with position embeddings are built; None: the library's.

    Raises:
        ValueError: the library cannot build it for such images.
    """
    library, name = split_arch(arch)
    make = {"torchvision": _make_torchvision, "timm": _make_timm}[library]
    try:
        with _quiet():
            backbone, heads = make(name, in_channels, image_size)
            num_features = _num_features(backbone, in_channels, image_size or 224)
    except Exception as error:  # of a library, about sizes and channels: it can be anything
        size = f"{in_channels}×{image_size}×{image_size}" if image_size else "these"
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ValueError(
            f"--arch {arch}: {library} has no features for {size} images ({reason}); take another "
            "--image-size, or another network"
        ) from error
    backbone.origin = Origin(arch, in_channels, image_size or 224, heads)
    return backbone, num_features


def _make_torchvision(name: str, in_channels: int, image_size: int | None, **how: Any) -> Named:
    from torchvision import models

    if in_channels != 3:
        raise ValueError("its networks see three channels, those of timm any number")
    if name in NORMALISE_ANEW:
        how |= {"transform_input": True, "init_weights": "weights" not in how}
    argument = SIZE_ARGUMENT.get(name.partition("_")[0])
    if argument and image_size:
        how[argument] = (image_size, image_size) if argument == "input_size" else image_size
    net = models.get_model(name, **how)
    for part in AUXILIARY:
        if hasattr(net, part):
            setattr(net, part, None)
            net.aux_logits = False
    head = _last_linear(net)
    parent, _, own = head.rpartition(".")
    setattr(net.get_submodule(parent), own, nn.Identity())
    return net, (head,)


def _last_linear(net: nn.Module) -> str:
    for name, module in reversed(list(net.named_modules())):
        if isinstance(module, nn.Linear) and module.out_features == IMAGENET:
            return name
    raise ValueError("its classifier is no linear layer")


def _make_timm(name: str, in_channels: int, image_size: int | None, **how: Any) -> Named:
    import timm
    from timm.models import get_pretrained_cfg

    own = get_pretrained_cfg(name)
    if own and own.fixed_input_size and image_size and own.input_size[-1] != image_size:
        how["img_size"] = image_size
    net = timm.create_model(name, num_classes=0, in_chans=in_channels, **how)
    heads = net.default_cfg.get("classifier") or ()
    return net, (heads,) if isinstance(heads, str) else tuple(heads)


@torch.no_grad()
def _num_features(backbone: nn.Module, in_channels: int, image_size: int) -> int:
    """D, by a pass that also shows that the network takes images of this size."""
    training = backbone.training
    features = backbone.eval()(torch.zeros(1, in_channels, image_size, image_size))
    backbone.train(training)
    if not isinstance(features, Tensor) or features.ndim != 2:
        raise ValueError("it returns no vector for an image")
    return features.shape[1]


def load_pretrained(backbone: nn.Module) -> None:
    """Take the library's weights of this network, downloaded by the library into its own cache.

    Raises:
        FileNotFoundError: they are neither there nor to be had; says which file belongs where.
        ValueError: the library has none for this network, or none that fit it.
    """
    arch, in_channels, image_size, _ = backbone.origin
    library, name = split_arch(arch)
    if library == "torchvision":
        weights = _weights_of_torchvision(name)
    else:
        weights = _weights_of_timm(name, in_channels, image_size)
    weights, own = resized(backbone, weights), backbone.state_dict()
    for key, value in weights.items():
        if value.shape != own[key].shape:
            shapes = f"{key} is {list(value.shape)}, expected {list(own[key].shape)}"
            raise ValueError(
                f"--pretrained: {library}'s weights of {name} do not fit images of {image_size} "
                f"({shapes}): leave out --image-size, which takes the network's own"
            )
    backbone.load_state_dict(weights)


def _weights_of_torchvision(name: str) -> dict[str, Tensor]:
    from torch import hub
    from torchvision import models

    weights = models.get_model_weights(name).DEFAULT
    file, folder = weights.url.rpartition("/")[2], f"{hub.get_dir()}/checkpoints"
    try:
        # The builder below reads the file as any pickle: it has to be one of tensors alone.
        with contextlib.redirect_stdout(sys.stderr):  # where messages go
            weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
        with _quiet():
            return _make_torchvision(name, 3, None, weights=weights)[0].state_dict()
    except Exception as error:  # of a network, a disk, a file: it can be anything
        raise _not_to_be_had("torchvision", name, weights.url, f"{folder}/{file}", error) from error


def _weights_of_timm(name: str, in_channels: int, image_size: int) -> dict[str, Tensor]:
    import timm
    from timm.models import get_pretrained_cfg
    from torch import hub

    found = get_pretrained_cfg(name)
    if not (found and found.has_weights):
        tagged = ", ".join(timm.list_pretrained(f"{name.partition('.')[0]}*")[:5])
        raise ValueError(
            f"--pretrained: timm has no weights for {name}"
            + (f"; it has some for {tagged}" if tagged else "")
        )
    if found.hf_hub_id:
        from huggingface_hub import constants

        repository = found.hf_hub_id.partition("@")[0]
        where = f"{constants.ENDPOINT}/{repository}"
        folder = "models--" + repository.replace("/", "--")
        place = f"{constants.HF_HUB_CACHE}/{folder}, the folder of that name in the cache there"
    else:
        where = found.url
        place = f"{hub.get_dir()}/checkpoints/{where.rpartition('/')[2]}"
    try:
        with _quiet():
            net, _ = _make_timm(name, in_channels, image_size, pretrained=True)
    except Exception as error:
        raise _not_to_be_had("timm", name, where, place, error) from error
    return net.state_dict()


def _not_to_be_had(
    library: str, name: str, where: str, place: str, error: Exception
) -> FileNotFoundError:
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return FileNotFoundError(
        f"--pretrained: {library}'s weights of {name} cannot be had from its cache or the network "
        f"({reason}): fetch {where} on another machine and copy it to {place}; or name any "
        "file of weights with --init"
    )


def resized(backbone: nn.Module, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights under the library's names, with position embeddings of the size of `backbone` where
    the library can interpolate them; else as they are.

    Raises:
        ValueError: it cannot interpolate these.
    """
    own = backbone.state_dict()
    others = [key for key, value in weights.items() if key in own and own[key].shape != value.shape]
    if not others or not all(map(is_position, others)):
        return weights
    arch, _, image_size, _ = backbone.origin
    library, _ = split_arch(arch)
    try:
        with _quiet():
            if library == "timm":
                module = sys.modules[type(backbone).__module__]
                convert = getattr(module, "checkpoint_filter_fn", None)
                return dict(convert(dict(weights), backbone)) if convert else weights
            from torchvision.models.vision_transformer import (
                VisionTransformer,
                interpolate_embeddings,
            )

            if not isinstance(backbone, VisionTransformer):
                return weights
            return interpolate_embeddings(image_size, backbone.patch_size, OrderedDict(weights))
    except Exception as error:  # of a library, about a file of anybody's
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ValueError(
            f"{library} cannot interpolate its position embeddings, {others[0]} ({reason})"
        ) from error


def is_position(key: str) -> bool:
    """Whether a weight belongs to places in the image, whose number its shape follows."""
    return "pos_embed" in key or "position" in key or "rel_pos" in key


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Libraries talk of what they load; errors are exceptions."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logging.disable(logging.NOTSET)
