"""Batches of pictures on disk, decoded by worker processes.

The order of an epoch is a function of (seed, epoch), the crop and the flip of a picture one of
(seed, epoch, index): the same with any number of workers, on any device.

Legend: N pictures, B batch, S side of the crop, C channels.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from wbcli.data.datasets import Split
from wbcli.data.pictures import decoding
from wbcli.data.pictures.decoding import BrokenPicture
from wbcli.data.pictures.workers import Workers
from wbcli.data.sources import Source

IN_ORDER = -1  # in the place of an epoch: evaluation


class Normalise:
    """uint8 [B, H, W, C] → float32 [B, C, H, W], channels last: (x/255 − mean)/std."""

    def __init__(self, source: Source, device: torch.device):
        mean, std = torch.tensor(source.mean), torch.tensor(source.std)
        self.scale, self.shift = (1 / (255 * std)).to(device), (-mean / std).to(device)

    def __call__(self, images: Tensor) -> Tensor:
        return images.float().mul_(self.scale).add_(self.shift).permute(0, 3, 1, 2)


class PictureBatches:
    """Normalised float32 batches: (images [B, 3, S, S], labels [B]) on `device`.

    Raises, while it goes through them, BrokenPicture or OSError with the name of the picture.
    """

    def __init__(
        self, split: Split, source: Source, image_size: int, batch_size: int, device: torch.device
    ):
        self.decoder = Decoder(split, image_size)
        self.size, self.batch_size = len(split.labels), batch_size
        self.labels = torch.from_numpy(split.labels).to(device)
        self.normalise = Normalise(source, device)
        self.shape = (image_size, image_size, 3)
        self.workers: Workers | None = None

    def order(self, seed: int, epoch: int) -> Tensor:
        """The pictures of an epoch in their order, int64 [N] on the device."""
        order = np.random.default_rng([seed, epoch]).permutation(self.size)
        return torch.from_numpy(order).to(self.labels.device)

    def train(
        self, seed: int, epoch: int, first: int = 0, view: int | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """One epoch in random order; `first` and `view` as for `Batches`."""
        order = self.order(seed, epoch).cpu().numpy()
        places = bounds(self.size, self.batch_size)[first:]
        parts = [order[start:stop] for start, stop in places]
        yield from self._normalised(parts, seed, epoch if view is None else view)

    def evaluate(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Every picture once, in order, its centre."""
        index = np.arange(self.size)
        parts = [index[i : i + self.batch_size] for i in range(0, self.size, self.batch_size)]
        yield from self._normalised(parts, 0, IN_ORDER)

    def decoded(self, parts: list[np.ndarray], seed: int, epoch: int) -> Iterator[Tensor]:
        """The pictures of each part, uint8 [B, S, S, 3]; gone when the next ones are asked for."""
        if self.workers is None:
            largest = min(self.batch_size + 1, self.size)  # a last picture joins the batch before
            self.workers = Workers(self.decoder, self.shape, largest)
        return self.workers.run(seed, epoch, parts)

    def _normalised(
        self, parts: list[np.ndarray], seed: int, epoch: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        device = self.labels.device
        for part, images in zip(parts, self.decoded(parts, seed, epoch), strict=True):
            if self.labels.is_cuda:
                images = images.pin_memory()
            labels = self.labels[torch.from_numpy(part).to(device, non_blocking=True)]
            yield self.normalise(images.to(device, non_blocking=True)), labels


class Decoder:
    """Decodes pictures as an epoch sees them."""

    def __init__(self, split: Split, image_size: int):
        self.pictures, self.image_size = split.images, image_size

    def __call__(self, seed: int, epoch: int, i: int) -> np.ndarray:
        """`decode`, with errors that name the picture."""
        try:
            return self.decode(seed, epoch, i)
        except BrokenPicture as error:
            raise BrokenPicture(
                f"{self.pictures.describe(i)}: {error}; mend it, or leave such files out "
                "from the start with --skip-broken"
            ) from error
        except OSError as error:
            raise OSError(f"{self.pictures.describe(i)}: {error.strerror or error}") from error

    def decode(self, seed: int, epoch: int, i: int) -> np.ndarray:
        """Picture i as the epoch sees it, uint8 [S, S, 3]."""
        content = decoding.read_bytes(self.pictures.path(i))
        size = (self.image_size, self.image_size)
        if epoch == IN_ORDER:
            return decoding.decode(content, size, decoding.eval_crop)
        generator = np.random.default_rng([seed, epoch, i])
        mirrored = generator.integers(2)
        image = decoding.decode(
            content, size, lambda width, height: decoding.random_crop(width, height, generator)
        )
        return image[:, ::-1] if mirrored else image


def bounds(size: int, batch_size: int) -> list[tuple[int, int]]:
    """Start and stop of each training batch; a last image on its own joins the batch before it.

    (Batch norm has no variance over a single image of one pixel.)
    """
    starts = list(range(0, size, batch_size))
    if len(starts) > 1 and size - starts[-1] == 1:
        starts.pop()
    return list(zip(starts, [*starts[1:], size], strict=True))
