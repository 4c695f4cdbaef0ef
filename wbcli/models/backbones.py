"""Backbones: images [B, C, H, W] → features [B, D].

The CIFAR ResNets (6n + 2 layers) follow He et al., CVPR 2016, section 4.2: three stages
of n blocks, shortcuts without parameters (option A). `resnet34` is the network of the
released code: torchvision's, with a 3×3 first convolution and no max-pool.
"""

import torch.nn.functional as F
from torch import Tensor, nn

DEPTH_AND_WIDTH = {  # blocks per stage, channels of the first stage
    "resnet8": (1, 16),
    "resnet20": (3, 16),
    "resnet32": (5, 16),
    "resnet32x4": (5, 64),
}
TORCHVISION = {"resnet50": "resnet50", "resnext50": "resnext50_32x4d"}


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


def make_resnet34(in_channels: int, init: str) -> nn.Module:
    from torchvision.models import resnet34  # slow to import, and only this network needs it

    net = resnet34(weights=None)
    net.conv1 = nn.Conv2d(in_channels, 64, 3, padding=1, bias=False)
    if init == "he":
        nn.init.kaiming_normal_(net.conv1.weight, mode="fan_out", nonlinearity="relu")
    net.maxpool, net.fc = nn.Identity(), nn.Identity()
    return net


def make_torchvision(arch: str, in_channels: int) -> nn.Module:
    from torchvision import models

    net = getattr(models, TORCHVISION[arch])(weights=None)
    if in_channels != 3:
        net.conv1 = nn.Conv2d(in_channels, 64, 7, stride=2, padding=3, bias=False)
        nn.init.kaiming_normal_(net.conv1.weight, mode="fan_out", nonlinearity="relu")
    net.fc = nn.Identity()
    return net
