"""Weights to start from, of wbcli or of others (--init)."""

from collections.abc import Collection
from pathlib import Path

import torch
from torch import Tensor

from wbcli.files import weights as weight_files
from wbcli.models.backbones import TORCHVISION
from wbcli.models.networks import Network

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
INTEGERS = (torch.int32, torch.int64)
HEADS = ("classifier.", "fc.")  # as we call it, and as torchvision does


def load_init(network: Network, path: Path, *, whole: bool = True) -> list[str]:
    """Start `network` from local weights, of wbcli or of torchvision's network of that name.

    A classifier of another shape, or none, leaves the fresh one; all else has to be there. What
    stands beside the network under another name, such as the weights of a loss, is left out.

    Args:
        path: safetensors, or a state dict that torch.load(weights_only=True) reads, on its own
            or under `state_dict` or `model`; its names may have prefixes (`_renamed`).
        whole: with its classifier, where that fits; else what its names begin with `classifier.`
            is not looked at.

    Returns:
        The names in the file that were left out.

    Raises:
        ValueError: the file cannot be read, or holds another network, or several that fit.
    """
    try:
        weights = weight_files.read(path)
    except ValueError as error:
        expected = "expected weights, as safetensors or a state dict of torch.save"
        raise ValueError(f"--init {path}: {expected}; {error}") from error
    if not whole:
        weights = {k: v for k, v in weights.items() if not k.startswith(HEADS[0])}
    own = network.state_dict()
    given, left_out = weights, []
    weights = _as_own(given, own)
    wrong = _misfits(weights, own)
    fitting = [p for p in _parts(given) if not _misfits(_as_own(p, own), own)] if wrong else []
    if len(fitting) > 1:
        first = " and ".join(min(part) for part in fitting)
        raise ValueError(f"--init {path}: several networks in it fit, of {first}: save one alone")
    if fitting:
        weights, wrong = _as_own(fitting[0], own), []
        left_out = [name for name in given if name not in fitting[0]]
    if wrong and (name := _without_arch(weights)):
        raise ValueError(
            f"--init {path}: its weights are of torchvision's {name}, which fits no --arch yet "
            "(our resnet34 has a 3×3 first convolution, this one a 7×7); of torchvision's "
            f"networks there are {' and '.join(TORCHVISION)}"
        )
    if wrong:
        others = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        raise ValueError(
            f"--init {path}: its weights are of another network: {wrong[0]}{others}; name theirs "
            "with --arch (and --bottleneck)"
        )
    network.load_state_dict(weights)
    return left_out


def _parts(weights: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    """The weights by the first part of their names that is not common to all; a classifier that
    stands among the parts belongs to each.
    """
    start = len(_common_prefix(weights))
    parts: dict[str, dict[str, Tensor]] = {}
    for key, value in weights.items():
        parts.setdefault(key[start:].partition(".")[0], {})[key] = value
    heads = {k: v for head in HEADS for k, v in parts.pop(head[:-1], {}).items()}
    return [part | heads for part in parts.values()]


def _as_own(weights: dict[str, Tensor], own: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights under our names; with the fresh classifier where theirs has another shape."""
    weights = _renamed(weights, own)
    heads = [key for key in own if key.startswith(HEADS[0])]
    if any(key not in weights or weights[key].shape != own[key].shape for key in heads):
        weights |= {key: own[key] for key in heads}
    return weights


def _renamed(weights: dict[str, Tensor], own: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights under our names: what all of them start with is left out, whatever wrote it.

    DataParallel puts `module.` before every name, torch.compile `_orig_mod.`, Lightning the
    attribute, such as `model.`. Beside the classifier, `fc` or `classifier`, the rest may have a
    prefix of its own, such as `backbone.`.
    """
    outer = _common_prefix(weights)
    names = [head for head in HEADS if any(key.startswith(outer + head) for key in weights)]
    head = outer + names[0] if names else None
    rest = [key for key in weights if head is None or not key.startswith(head)]
    ours = [key.removeprefix("backbone.") for key in own if key.startswith("backbone.")]
    inner = len(_common_prefix(rest).removesuffix(_common_prefix(ours)))
    renamed = {f"backbone.{key[inner:]}": weights[key] for key in rest}
    if head:
        heads = [key for key in weights if key.startswith(head)]
        renamed |= {HEADS[0] + key.removeprefix(head): weights[key] for key in heads}
    return renamed


def _common_prefix(keys: Collection[str]) -> str:
    """What all of them start with, up to a dot and with it."""
    first, last = min(keys, default=""), max(keys, default="")  # they differ the earliest
    pairs = enumerate(zip(first, last, strict=False))
    length = next((i for i, (a, b) in pairs if a != b), len(first))
    return first[: first.rfind(".", 0, length) + 1]


def _without_arch(weights: dict[str, Tensor]) -> str | None:
    """The network of torchvision whose backbone this is, of those that many start from."""
    from torchvision import models

    backbone = {k: v for k, v in weights.items() if k.startswith("backbone.")}
    for name in ("resnet18", "resnet34"):
        with torch.device("meta"):
            theirs = getattr(models, name)(weights=None).state_dict()
        theirs = {f"backbone.{k}": v for k, v in theirs.items() if not k.startswith("fc.")}
        if not _misfits(backbone, theirs):
            return name
    return None


def _misfits(weights: dict[str, Tensor], own: dict[str, Tensor]) -> list[str]:
    """What of `weights` does not fit a network whose state is `own`."""
    counter = "num_batches_tracked"  # of batch norms; files of old have none
    wrong = [
        f"{key} is not there" for key in own if key not in weights and not key.endswith(counter)
    ]
    for key, value in weights.items():
        if key not in own:
            wrong.append(f"{ascii(key)[1:-1][:80]} has no place")
        elif value.shape != own[key].shape:
            shapes = [list(tensor.shape) for tensor in (value, own[key])]
            wrong.append(f"{key} is {shapes[0]}, expected {shapes[1]}")
        elif value.dtype not in (FLOATS if own[key].is_floating_point() else INTEGERS):
            wrong.append(f"{key} is {value.dtype}, expected {own[key].dtype}")
    return wrong
