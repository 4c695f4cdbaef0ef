"""Batches of a split that lives as one uint8 tensor on the device.

An epoch's order, crops and flips are drawn once on the CPU from (seed, epoch) and copied
once: the same on every device, and resuming needs these two integers only.

Legend: N images, B batch, C channels, H height, W width, p padding.
"""

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from wbcli.data import Split
from wbcli.data.sources import Source


class Batches:
    """Normalised float32 batches of a split: (images [B, C, H, W], labels [B]) on `device`.

    The uint8 images are kept channels-last and padded by p black pixels, so that a crop
    with an offset of its own for each image, and its mirror, are one gather.
    """

    def __init__(self, split: Split, source: Source, batch_size: int, device: torch.device):
        self.padding, self.flip = source.padding, source.flip
        self.size, self.batch_size = len(split.labels), batch_size
        pad = (self.padding,) * 4
        images = F.pad(torch.from_numpy(split.images).to(device), pad)
        self.images = images.permute(0, 2, 3, 1).contiguous()  # [N, H + 2p, W + 2p, C]
        self.labels = torch.from_numpy(split.labels).to(device)
        self.height, self.width = split.images.shape[2:]
        mean, std = torch.tensor(source.mean), torch.tensor(source.std)
        self.scale, self.shift = (1 / (255 * std)).to(device), (-mean / std).to(device)

    def train(self, seed: int, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """One epoch in random order; each image has a crop and a coin for mirroring of its own."""
        device = self.labels.device
        draws = draw_epoch(self.size, self.padding, self.flip, seed, epoch).to(device)  # [4, N]
        for start, stop in bounds(self.size, self.batch_size):
            index, top, left, mirrored = draws[:, start:stop]
            yield self._crop(index, top, left, mirrored.bool()), self.labels[index]

    def evaluate(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Every image once, in order, uncropped."""
        p = self.padding
        for start in range(0, self.size, self.batch_size):
            stop = start + self.batch_size
            images = self.images[start:stop, p : p + self.height, p : p + self.width]
            yield self._normalise(images), self.labels[start:stop]

    def _crop(self, index: Tensor, top: Tensor, left: Tensor, mirrored: Tensor) -> Tensor:
        device = index.device
        rows = top[:, None] + torch.arange(self.height, device=device)  # [B, H]
        columns = torch.arange(self.width, device=device)
        columns = torch.where(mirrored[:, None], columns.flip(0), columns)  # [B, W]
        columns = left[:, None] + columns
        crop = self.images[index[:, None, None], rows[:, :, None], columns[:, None, :]]
        return self._normalise(crop)

    def _normalise(self, images: Tensor) -> Tensor:
        """uint8 [B, H, W, C] → float32 [B, C, H, W]: (x/255 − mean)/std."""
        return (images * self.scale + self.shift).permute(0, 3, 1, 2)


def bounds(size: int, batch_size: int) -> list[tuple[int, int]]:
    """Start and stop of each training batch; a last image on its own joins the batch before it.

    (Batch norm has no variance over a single image of one pixel.)
    """
    starts = list(range(0, size, batch_size))
    if len(starts) > 1 and size - starts[-1] == 1:
        starts.pop()
    return list(zip(starts, [*starts[1:], size], strict=True))


def draw_epoch(size: int, padding: int, flip: bool, seed: int, epoch: int) -> Tensor:
    """Order, top and left crop offsets (0 … 2p) and flips of an epoch, int64 [4, N] on the CPU."""
    generator = np.random.default_rng([seed, epoch])
    order = generator.permutation(size)
    offsets = generator.integers(0, 2 * padding + 1, (2, size))
    flips = generator.integers(0, 2, size) * flip
    return torch.from_numpy(np.stack([order, *offsets, flips]))
