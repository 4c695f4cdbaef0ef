"""Batches of a split: from one uint8 tensor on the device, or from pictures on disk.

What lives in memory has an epoch's order, crops and flips drawn once on the CPU from
(seed, epoch) and copied once: the same on every device, and resuming needs these two integers
only.

Legend: N images, B batch, C channels, H height, W width, p padding.
"""

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from wbcli.data.datasets import Dataset, Split
from wbcli.data.loader import Normalise, PictureBatches, bounds
from wbcli.data.pictures.decoding import Pictures
from wbcli.data.sources import Source

EVAL_BATCH = 500
EVAL_BATCH_ON_DISK = 64


def batches_of(
    dataset: Dataset, split: str, device: torch.device, batch_size: int | None = None
) -> "Batches | PictureBatches":
    """Batches of `train`, `val` or `test`; without a batch size those of evaluation."""
    part, source = dataset.split(split), dataset.source
    if isinstance(part.images, Pictures):
        batch_size = batch_size or EVAL_BATCH_ON_DISK
        return PictureBatches(part, source, dataset.image_size, batch_size, device)
    return Batches(part, source, batch_size or EVAL_BATCH, device)


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
        self.normalise = Normalise(source, device)

    def order(self, seed: int, epoch: int) -> Tensor:
        """The images of an epoch in their order, int64 [N] on the device."""
        return self.draw(seed, epoch)[0].to(self.labels.device)

    def train(
        self, seed: int, epoch: int, first: int = 0, view: int | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """One epoch in random order; each image has a crop and a coin for mirroring of its own.

        Args:
            first: batches that are left out at the start.
            view: the epoch whose crops and flips these are; None: `epoch`.
        """
        draws = self.draw(seed, epoch)  # [4, N]
        if view not in (None, epoch):
            others = self.draw(seed, view)
            draws = others[:, others[0].argsort()[draws[0]]]
        draws = draws.to(self.labels.device)
        for start, stop in bounds(self.size, self.batch_size)[first:]:
            yield self.take(draws[:, start:stop])

    def take(self, draws: Tensor) -> tuple[Tensor, Tensor]:
        """The batch of these draws [4, B], on the device: see `draw_epoch`."""
        index, top, left, mirrored = draws
        return self._crop(index, top, left, mirrored.bool()), self.labels[index]

    def evaluate(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Every image once, in order, uncropped."""
        p = self.padding
        for start in range(0, self.size, self.batch_size):
            stop = start + self.batch_size
            images = self.images[start:stop, p : p + self.height, p : p + self.width]
            yield self.normalise(images), self.labels[start:stop]

    def draw(self, seed: int, epoch: int) -> Tensor:
        """What the epoch draws, int64 [4, N] on the CPU."""
        return draw_epoch(self.size, self.padding, self.flip, seed, epoch)

    def _crop(self, index: Tensor, top: Tensor, left: Tensor, mirrored: Tensor) -> Tensor:
        device = index.device
        rows = top[:, None] + torch.arange(self.height, device=device)  # [B, H]
        columns = torch.arange(self.width, device=device)
        columns = torch.where(mirrored[:, None], columns.flip(0), columns)  # [B, W]
        columns = left[:, None] + columns
        crop = self.images[index[:, None, None], rows[:, :, None], columns[:, None, :]]
        return self.normalise(crop)


def draw_epoch(size: int, padding: int, flip: bool, seed: int, epoch: int) -> Tensor:
    """Order, top and left crop offsets (0 … 2p) and flips of an epoch, int64 [4, N] on the CPU."""
    generator = np.random.default_rng([seed, epoch])
    order = generator.permutation(size)
    offsets = generator.integers(0, 2 * padding + 1, (2, size))
    flips = generator.integers(0, 2, size) * flip
    return torch.from_numpy(np.stack([order, *offsets, flips]))
