"""Weights to start from, of wbcli, of the libraries, or of others (--init, --pretrained)."""

from pathlib import Path

import torch
from torch import Tensor

from wbcli.files import weights as weight_files
from wbcli.models.libraries import AUXILIARY, is_position, load_pretrained, resized
from wbcli.models.networks import Network

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
INTEGERS = (torch.int32, torch.int64)
HEADS = ("classifier.", "fc.", "head.")  # as we call it, and as others do
COUNTER = "num_batches_tracked"  # of batch norms; files of old have none
CHOSEN = ("encoder_q", "base_encoder", "teacher")  # MoCo's, MoCo v3's, DINO's: of two that is it
Weights = dict[str, Tensor]


def start(network: Network, config, weights: tuple[Path, bool] | None) -> list[str]:
    """Start the network of a stage-1 run from what its Config names; returns what was left out.

    Args:
        weights: what --init names: a file, and whether it is a run's, whose classifier stays there.

    Raises:
        ValueError, FileNotFoundError: see `load_init` and `load_pretrained`.
    """
    if config.pretrained:
        backbone = network.backbone[0] if config.bottleneck else network.backbone
        load_pretrained(backbone)
    return load_init(network, weights[0], whole=not weights[1]) if weights else []


def load_init(network: Network, path: Path, *, whole: bool = True) -> list[str]:
    """Start `network` from local weights, of wbcli, of a library's network, or of others.

    A classifier of another shape, or none, leaves the fresh one; all else has to be there, but
    position embeddings of another size are interpolated by the library. What stands beside the
    network under another name, such as the weights of a loss, is left out. A linear network on
    features takes the classifier, and leaves out what made the features.

    Args:
        path: safetensors, or a state dict that torch.load(weights_only=True) reads, on its own
            or under `state_dict`, `model` or `teacher`; its names may have any
            prefix (`_prefixes`).
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
    if not any(True for _ in network.backbone.parameters()):
        return _load_classifier(network, weights, path)
    names = [key.removeprefix("backbone.") for key in own if key.startswith("backbone.")]
    prefixes = _prefixes(weights, names)
    try:
        found = [_Found(network, weights, prefix, prefixes) for prefix in prefixes]
    except ValueError as error:
        raise ValueError(f"--init {path}: {error}; take --image-size of theirs") from error
    fitting = [one for one in found if not _misfits(one.weights, own)]
    if len(fitting) > 1:
        fitting = [one for one in fitting if set(one.prefix.split(".")) & set(CHOSEN)] or fitting
    if len(fitting) > 1:
        first = " and ".join(min(one.below) for one in fitting)
        raise ValueError(f"--init {path}: several networks in it fit, of {first}: save one alone")
    if not fitting:
        raise ValueError(f"--init {path}: {_refusal(found[0].weights, own)}")
    network.load_state_dict(fitting[0].weights)
    return [name for name in weights if name not in fitting[0].taken]


def _load_classifier(network: Network, weights: Weights, path: Path) -> list[str]:
    """Take the classifier alone, for a linear network on features; what made these is left out."""
    own = network.state_dict()
    ours = {key: value for key, value in own.items() if not key.startswith(HEADS[0])}
    taken = {key: weights[key] for key in own if key in weights and key not in ours}
    if _misfits(taken | ours, own):
        raise ValueError(f"--init {path}: {_refusal(taken | ours, own)}")
    network.load_state_dict(taken | ours)
    return [key for key in weights if key not in taken]


def _prefixes(weights: Weights, names: list[str]) -> list[str]:
    """What stands before the names of a backbone in a file, for each whole one there.

    DataParallel puts `module.` before every name, torch.compile `_orig_mod.`, Lightning the
    attribute, such as `model.`. Without a whole one it is what most of the names have.
    """
    names = [name for name in names if not name.endswith(COUNTER)]
    anchor = names[0]
    ends = [key for key in weights if key == anchor or key.endswith("." + anchor)]
    counts = {
        prefix: sum(prefix + name in weights for name in names)
        for prefix in (key.removesuffix(anchor) for key in ends)
    }
    whole = [prefix for prefix, count in counts.items() if count == len(names)]
    return whole or [max(counts, key=counts.get, default=_common_prefix(weights))]


class _Found:
    """Weights below a prefix as those of `network`.

    weights: under our names, with the fresh classifier where theirs is none, or another.
    below: their names there; taken: with those of the classifier, which may stand beside it.
    """

    def __init__(self, network: Network, weights: Weights, prefix: str, prefixes: list[str]):
        self.prefix = prefix
        inner = tuple(other for other in prefixes if other != prefix and other.startswith(prefix))
        self.below = [
            k for k in weights if k.startswith(prefix) and not (inner and k.startswith(inner))
        ]
        self.names = set(network.backbone.state_dict())
        origin = getattr(network.backbone, "origin", None)
        own_heads = tuple(f"{head}." for head in (origin.heads + AUXILIARY if origin else ()))
        head = self._head(weights, (*own_heads, *HEADS))
        heads = tuple(prefix + own for own in own_heads) + ((head,) if head else ())
        of_heads = {k for k in weights if heads and k.startswith(heads) and not self._is_own(k)}
        self.taken = {*self.below, *of_heads}
        backbone = {k.removeprefix(prefix): weights[k] for k in self.below if k not in of_heads}
        if origin:
            backbone = resized(network.backbone, backbone)
        self.weights = {f"backbone.{key}": value for key, value in backbone.items()}
        fresh = network.classifier.state_dict()
        theirs = {k.removeprefix(head): weights[k] for k in of_heads if head and k.startswith(head)}
        shapes = [{k: v.shape for k, v in state.items()} for state in (fresh, theirs)]
        alone = origin is None or len(origin.heads) == 1
        classifier = theirs if alone and shapes[0] == shapes[1] else fresh
        self.weights |= {f"classifier.{key}": value for key, value in classifier.items()}

    def _head(self, weights: Weights, names: tuple[str, ...]) -> str | None:
        """What the names of the classifier start with, here or beside what the prefix names."""
        parts = self.prefix.split(".")
        outers = [".".join([*parts[:end], ""]).lstrip(".") for end in range(len(parts) - 1, -1, -1)]
        for outer in outers:
            for name in names:
                start = outer + name
                if any(k.startswith(start) and not self._is_own(k) for k in weights):
                    return start
        return None

    def _is_own(self, key: str) -> bool:
        """Whether it is of the backbone."""
        return key.startswith(self.prefix) and key.removeprefix(self.prefix) in self.names


def _refusal(weights: Weights, own: Weights) -> str:
    """Why weights under our names do not fit, and what to do."""
    wrong = _misfits(weights, own)
    if name := _small_resnet(weights):
        return (
            f"its weights are of torchvision's {name}, whose first convolution is 7×7: take "
            f"--arch torchvision:{name}"
        )
    others = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
    if all(is_position(sentence.partition(" is ")[0]) for sentence in wrong):
        return (
            f"its position embeddings are of images of another size, which the library does not "
            f"interpolate: {wrong[0]}{others}; take --image-size of theirs"
        )
    return (
        f"its weights are of another network: {wrong[0]}{others}; name theirs with --arch (and "
        "--bottleneck)"
    )


def _common_prefix(keys: Weights) -> str:
    """What all of them start with, up to a dot and with it."""
    first, last = min(keys, default=""), max(keys, default="")  # they differ the earliest
    pairs = enumerate(zip(first, last, strict=False))
    length = next((i for i, (a, b) in pairs if a != b), len(first))
    return first[: first.rfind(".", 0, length) + 1]


def _small_resnet(weights: Weights) -> str | None:
    """The network of torchvision whose backbone this is, of those that look like `resnet34`."""
    from torchvision import models

    backbone = {k: v for k, v in weights.items() if k.startswith("backbone.")}
    for name in ("resnet18", "resnet34"):
        with torch.device("meta"):
            theirs = getattr(models, name)(weights=None).state_dict()
        theirs = {f"backbone.{k}": v for k, v in theirs.items() if not k.startswith("fc.")}
        if not _misfits(backbone, theirs):
            return name
    return None


def _misfits(weights: Weights, own: Weights) -> list[str]:
    """What of `weights` does not fit a network whose state is `own`."""
    wrong = [
        f"{key} is not there" for key in own if key not in weights and not key.endswith(COUNTER)
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
