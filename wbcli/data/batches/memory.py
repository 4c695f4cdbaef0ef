"""Batches of images that live in memory, as one uint8 tensor on the device.

An epoch has its order, crops and flips drawn once on the CPU from (seed, epoch) and copied once:
the same on every device, and resuming needs these two integers only.

Legend: N images, B batch, C channels, H height, W width, p padding, S streams, V views.
"""

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from wbcli.data.batches.augment import augmentation
from wbcli.data.batches.batch import Batch, Normalise, bounds
from wbcli.data.batches.sampling import epoch_orders
from wbcli.data.datasets import Split
from wbcli.data.sources import Source

VIEW = 2  # ends the key of a further view


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
        self.split_labels = split.labels
        self.labels = torch.from_numpy(split.labels).to(device)
        self.height, self.width = split.images.shape[2:]
        self.normalise = Normalise(source, device)

    def steps(
        self,
        seed: int,
        epoch: int,
        streams: tuple[str, ...] = ("instance",),
        views: tuple[str, ...] = ("basic",),
        *,
        first: int = 0,
        progress: float = 0.0,
        view_epoch: int | None = None,
    ) -> Iterator[Batch]:
        """The batches of an epoch; each image has a crop and a coin for mirroring of its own.

        Args:
            streams: sampling orders, one or two.
            views: an augmentation for each view of an image.
            first: batches that are left out at the start.
            progress: the share of the epochs that is over, for the sampling orders.
            view_epoch: the epoch whose crops and flips these are, the same whenever an image
                comes; None: `epoch`, and others each time.
        """
        draws = self.draw(seed, epoch, streams, views, progress)
        if view_epoch is not None:
            draws = self._redrawn(draws, seed, view_epoch, streams, views)
        draws = draws.to(self.labels.device)
        places = bounds(self.size, self.batch_size)
        for step, (start, stop) in list(enumerate(places))[first:]:
            yield self.take(draws[:, start:stop], len(views), (seed, epoch, step))

    def take(
        self, draws: Tensor, num_views: int = 1, key: tuple[int, int, int] = (0, 0, 0)
    ) -> Batch:
        """The batch of these draws [S·(1 + 3V), B], on the device: see `draw`."""
        rows, width = draws.unbind(), 1 + 3 * num_views
        streams = []
        for start in range(0, len(rows), width):
            index, *crops = rows[start : start + width]
            views = [self._crop(index, *crops[i : i + 3]) for i in range(0, len(crops), 3)]
            streams.append((views if num_views > 1 else views[0], self.labels[index]))
        return Batch.of_streams(streams, rows[0], key)

    def evaluate(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Every image once, in order, uncropped."""
        p = self.padding
        for start in range(0, self.size, self.batch_size):
            stop = start + self.batch_size
            images = self.images[start:stop, p : p + self.height, p : p + self.width]
            yield self.normalise(images), self.labels[start:stop]

    def draw(
        self,
        seed: int,
        epoch: int,
        streams: tuple[str, ...] = ("instance",),
        views: tuple[str, ...] = ("basic",),
        progress: float = 0.0,
    ) -> Tensor:
        """What the epoch draws, int64 [S·(1 + 3V), N] on the CPU.

        For each stream its order, and for each view of it the crops' top, left and flips.
        """
        rows = []
        orders = epoch_orders(streams, self.split_labels, seed, epoch, progress)
        for stream, order in enumerate(orders):
            rows.append(order)
            for view, augmented in enumerate(views):
                key = [1 + view, 1 + stream, VIEW] if view or stream else []
                crops, flips = augmentation(augmented, self.padding > 0, self.flip)
                drawn = draw_epoch(self.size, self.padding, flips, seed, epoch, *key)[1:]
                if not crops:
                    drawn[:2] = self.padding
                rows.extend(drawn)
        return torch.from_numpy(np.stack(rows))

    def _redrawn(
        self, draws: Tensor, seed: int, epoch: int, streams: tuple, views: tuple
    ) -> Tensor:
        """The same images with the crops and flips that they have in another epoch."""
        others = self.draw(seed, epoch, ("instance",) * len(streams), views)
        rows = 1 + 3 * len(views)
        redrawn = [
            torch.cat([own[:1], other[1:, other[0].argsort()[own[0]]]])
            for own, other in zip(draws.split(rows), others.split(rows), strict=True)
        ]
        return torch.cat(redrawn)

    def _crop(self, index: Tensor, top: Tensor, left: Tensor, mirrored: Tensor) -> Tensor:
        device = index.device
        rows = top[:, None] + torch.arange(self.height, device=device)  # [B, H]
        columns = torch.arange(self.width, device=device)
        columns = torch.where(mirrored.bool()[:, None], columns.flip(0), columns)  # [B, W]
        columns = left[:, None] + columns
        crop = self.images[index[:, None, None], rows[:, :, None], columns[:, None, :]]
        return self.normalise(crop)


def draw_epoch(size: int, padding: int, flip: bool, seed: int, epoch: int, *key: int) -> np.ndarray:
    """Order, top and left crop offsets (0 … 2p) and flips of an epoch, int64 [4, N].

    Args:
        key: integers that draw others for the same epoch.
    """
    generator = np.random.default_rng([seed, epoch, *key])
    order = generator.permutation(size)
    offsets = generator.integers(0, 2 * padding + 1, (2, size))
    flips = generator.integers(0, 2, size) * flip
    return np.stack([order, *offsets, flips])
