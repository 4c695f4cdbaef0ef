"""Networks: a backbone to features [B, D], and a classifier on top, logits [B, K]."""

from torch import Tensor, nn

from wbcli.config.methods import LINEAR
from wbcli.data import sources
from wbcli.data.pictures.preprocessing import split_arch
from wbcli.models.assembled import assembled
from wbcli.models.backbones import (
    DEPTH_AND_WIDTH,
    TORCHVISION,
    CifarResNet,
    make_resnet34,
    make_torchvision,
)
from wbcli.models.feature_maps import normalisation
from wbcli.models.libraries import make_backbone


class Network(nn.Module):
    """images [B, C, H, W] → backbone → features [B, D] → classifier → logits [B, K].

    Args:
        num_features, num_classes: D and K.
        heads: how the classifier came to be (`assembled`); a linear one by default.
    """

    def __init__(
        self,
        backbone: nn.Module,
        num_features: int,
        num_classes: int,
        *,
        heads: tuple = LINEAR,
    ):
        super().__init__()
        self.backbone, self.num_features = backbone, num_features
        self.classifier = assembled(heads, num_features, num_classes)

    def forward(
        self, images: Tensor, *, with_features: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        """logits, or (logits, features)."""
        features = self.backbone(images)
        logits = self.classifier(features)
        return (logits, features) if with_features else logits


def build(
    arch: str,
    num_classes: int,
    in_channels: int = 3,
    *,
    bottleneck: int | None = None,
    init: str = "he",
    image_size: int | None = None,
    heads: tuple = LINEAR,
    normalise: str | None = None,
) -> Network:
    """A freshly initialised network; its weights come from torch's global generator.

    Args:
        arch: `resnet8`, `resnet20`, `resnet32`, `resnet32x4`, `resnet34`, `resnet50` or
            `resnext50` (32x4d); the last two are torchvision's, as the paper trains them; or
            `torchvision:NAME` or `timm:NAME` (`libraries`); or `linear`, on features.
        num_classes: K.
        in_channels: channels of the images; with `linear` D.
        bottleneck: width of a linear layer between features and classifier (2 in the
            paper's figure 7).
        init: of `resnet34`'s first convolution: `he`, or `conv-default` (nn.Conv2d's
            own, as in the released code).
        image_size: side of the images, for networks of the libraries.
        heads: see `Network`.
        normalise: of `linear`, what is done with features first: `none`, `l2` or `standard`.

    Raises:
        ValueError: unknown arch, or one that does not take such images.
    """
    if split_arch(arch):
        backbone, num_features = make_backbone(arch, in_channels, image_size)
    elif arch in TORCHVISION:
        backbone, num_features = make_torchvision(arch, in_channels), 2048
    elif arch == "resnet34":
        backbone, num_features = make_resnet34(in_channels, init), 512
    elif arch in DEPTH_AND_WIDTH:
        blocks, width = DEPTH_AND_WIDTH[arch]
        backbone, num_features = CifarResNet(blocks, width, in_channels), 4 * width
    elif arch == "linear":
        backbone, num_features = normalisation(normalise, in_channels), in_channels
    else:
        known = ", ".join([*DEPTH_AND_WIDTH, "resnet34", *TORCHVISION, "linear"])
        raise ValueError(f"unknown network {arch!r}: choose one of {known}")
    if bottleneck:
        backbone = nn.Sequential(backbone, nn.Linear(num_features, bottleneck))
        num_features = bottleneck
    return Network(backbone, num_features, num_classes, heads=heads)


def for_run(config, num_classes: int) -> Network:
    """The network that a run's Config names, for the classes of its data set."""
    image = sources.find(config.dataset).image
    return build(
        config.arch,
        num_classes,
        config.num_features or image[0],
        image_size=config.image_size or (image[-1:] and image[-1]),
        bottleneck=config.bottleneck,
        init=config.init,
        heads=config.heads,
        normalise=config.normalise,
    )
