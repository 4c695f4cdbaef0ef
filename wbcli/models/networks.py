"""Networks: a backbone to features [B, D], and a linear classifier on top, logits [B, K].

The CIFAR ResNets (6n + 2 layers) follow He et al., CVPR 2016, section 4.2: three stages
of n blocks, shortcuts without parameters (option A). `resnet34` is the network of the
released code: torchvision's, with a 3×3 first convolution and no max-pool.
"""

from collections.abc import Collection
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wbcli.data import sources
from wbcli.files import weights as weight_files

DEPTH_AND_WIDTH = {  # blocks per stage, channels of the first stage
    "resnet8": (1, 16),
    "resnet20": (3, 16),
    "resnet32": (5, 16),
    "resnet32x4": (5, 64),
}
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
INTEGERS = (torch.int32, torch.int64)
HEADS = ("classifier.", "fc.")  # as we call it, and as torchvision does
TORCHVISION = {"resnet50": "resnet50", "resnext50": "resnext50_32x4d"}


class Classifier(nn.Linear):
    """features [B, D] → logits [B, K], in the dtype of its weights also within autocast.

    bf16 keeps 8 bits of a logit, so that the two largest of an image may tie; and a tie goes to
    the class of lower index, which is the more frequent one.
    """

    def forward(self, features: Tensor) -> Tensor:
        device_type = features.device.type
        if not torch.is_autocast_enabled(device_type):
            return super().forward(features)
        with torch.autocast(device_type, enabled=False):
            return super().forward(features.to(self.weight.dtype))


class Network(nn.Module):
    """images [B, C, H, W] → backbone → features [B, D] → classifier → logits [B, K]."""

    def __init__(self, backbone: nn.Module, num_features: int, num_classes: int):
        super().__init__()
        self.backbone = backbone
        self.classifier = Classifier(num_features, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.backbone(images))


def build(
    arch: str,
    num_classes: int,
    in_channels: int = 3,
    *,
    bottleneck: int | None = None,
    init: str = "he",
) -> Network:
    """A freshly initialised network; its weights come from torch's global generator.

    Args:
        arch: `resnet8`, `resnet20`, `resnet32`, `resnet32x4`, `resnet34`, `resnet50` or
            `resnext50` (32x4d); the last two are torchvision's, as the paper trains them.
        num_classes: K.
        in_channels: channels of the images.
        bottleneck: width of a linear layer between features and classifier (2 in the
            paper's figure 7).
        init: of `resnet34`'s first convolution: `he`, or `conv-default` (nn.Conv2d's
            own, as in the released code).

    Raises:
        ValueError: unknown arch.
    """
    if arch in TORCHVISION:
        backbone, num_features = _torchvision(arch, in_channels), 2048
    elif arch == "resnet34":
        backbone, num_features = _resnet34(in_channels, init), 512
    elif arch in DEPTH_AND_WIDTH:
        blocks, width = DEPTH_AND_WIDTH[arch]
        backbone, num_features = CifarResNet(blocks, width, in_channels), 4 * width
    else:
        known = ", ".join([*DEPTH_AND_WIDTH, "resnet34", *TORCHVISION])
        raise ValueError(f"unknown network {arch!r}: choose one of {known}")
    if bottleneck:
        backbone = nn.Sequential(backbone, nn.Linear(num_features, bottleneck))
        num_features = bottleneck
    return Network(backbone, num_features, num_classes)


def load_init(network: Network, path: Path) -> list[str]:
    """Start `network` from local weights, of wbcli or of torchvision's network of that name.

    A classifier of another shape, or none, leaves the fresh one; all else has to be there. What
    stands beside the network under another name, such as the weights of a loss, is left out.

    Args:
        path: safetensors, or a state dict that torch.load(weights_only=True) reads, on its own
            or under `state_dict` or `model`; its names may have prefixes (`_renamed`).

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
    own = network.state_dict()
    whole, left_out = weights, []
    weights = _as_own(whole, own)
    wrong = _misfits(weights, own)
    fitting = [p for p in _parts(whole) if not _misfits(_as_own(p, own), own)] if wrong else []
    if len(fitting) > 1:
        first = " and ".join(min(part) for part in fitting)
        raise ValueError(f"--init {path}: several networks in it fit, of {first}: save one alone")
    if fitting:
        weights, wrong = _as_own(fitting[0], own), []
        left_out = [name for name in whole if name not in fitting[0]]
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


def for_run(config, num_classes: int) -> Network:
    """The network that a run's Config names, for the classes of its data set."""
    return build(
        config.arch,
        num_classes,
        sources.find(config.dataset).image[0],
        bottleneck=config.bottleneck,
        init=config.init,
    )


class CifarResNet(nn.Module):
    """Three stages of basic blocks, images [B, C, H, W] → features [B, 4·width]."""

    def __init__(self, blocks: int, width: int, in_channels: int):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        stages, channels = [], width
        for stage in range(3):
            for block in range(blocks):
                stride = 2 if stage and not block else 1
                stages.append(_Block(channels, width * 2**stage, stride))
                channels = width * 2**stage
        self.blocks = nn.Sequential(*stages)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        maps = self.blocks(F.relu(self.bn1(self.conv1(images))))
        return maps.mean((2, 3))


class _Block(nn.Module):
    def __init__(self, in_channels: int, channels: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.stride, self.added = stride, channels - in_channels

    def forward(self, maps: Tensor) -> Tensor:
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(maps)))))
        if self.added:  # option A: subsample, and zeros for the channels that are new
            maps = F.pad(maps[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.added))
        return F.relu(out + maps)


def _resnet34(in_channels: int, init: str) -> nn.Module:
    from torchvision.models import resnet34  # slow to import, and only this network needs it

    net = resnet34(weights=None)
    net.conv1 = nn.Conv2d(in_channels, 64, 3, padding=1, bias=False)
    if init == "he":
        nn.init.kaiming_normal_(net.conv1.weight, mode="fan_out", nonlinearity="relu")
    net.maxpool, net.fc = nn.Identity(), nn.Identity()
    return net


def _torchvision(arch: str, in_channels: int) -> nn.Module:
    from torchvision import models

    net = getattr(models, TORCHVISION[arch])(weights=None)
    if in_channels != 3:
        net.conv1 = nn.Conv2d(in_channels, 64, 7, stride=2, padding=3, bias=False)
        nn.init.kaiming_normal_(net.conv1.weight, mode="fan_out", nonlinearity="relu")
    net.fc = nn.Identity()
    return net


def last_layers(network: nn.Module, count: int) -> list[list[nn.Module]]:
    """The last `count` weight layers, counted from the output, each with its batch norm.

    A weight layer is a convolution or a linear layer; the batch norm that follows it
    belongs to it.

    Returns:
        One list for each layer, output first: [layer] or [layer, batch norm].
    """
    layers: list[list[nn.Module]] = []
    for module in network.modules():  # registration order is forward order in these networks
        if isinstance(module, nn.Conv2d | nn.Linear):
            layers.append([module])
        elif isinstance(module, nn.BatchNorm2d):
            layers[-1].append(module)
    return layers[::-1][:count]


def freeze_all_but(network: nn.Module, layers: list[list[nn.Module]]) -> list[nn.Parameter]:
    """Leave only `layers` trainable and return their parameters."""
    network.requires_grad_(False)
    for module in (module for layer in layers for module in layer):
        module.requires_grad_(True)
    return [p for p in network.parameters() if p.requires_grad]


def set_training_mode(network: nn.Module, frozen_batch_norm: str) -> None:
    """Training mode; batch norms whose weights are frozen stay in `frozen_batch_norm` mode.

    `eval` keeps their running statistics, `train` lets them move (the released code).
    """
    network.train()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d) and not module.weight.requires_grad:
            module.train(frozen_batch_norm == "train")


def num_parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())
