"""Batches of pictures on disk, decoded by worker processes.

The order of an epoch is a function of (seed, epoch), the crop and the flip of a picture one of
(seed, epoch, index): the same with any number of workers, on any device.

Legend: N pictures, B batch, S side of the crop, C channels.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from wbcli.data import Split, pictures
from wbcli.data.pictures import BrokenPicture
from wbcli.data.sources import Source

IN_ORDER = -1  # in the place of an epoch: evaluation
PIECE = 64  # pictures that a worker decodes at a time: a large batch comes from several


class Normalise:
    """uint8 [B, H, W, C] → float32 [B, C, H, W], channels last: (x/255 − mean)/std."""

    def __init__(self, source: Source, device: torch.device):
        mean, std = torch.tensor(source.mean), torch.tensor(source.std)
        self.scale, self.shift = (1 / (255 * std)).to(device), (-mean / std).to(device)

    def __call__(self, images: Tensor) -> Tensor:
        return (images * self.scale + self.shift).permute(0, 3, 1, 2)


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

    def order(self, seed: int, epoch: int) -> Tensor:
        """The pictures of an epoch in their order, int64 [N] on the device."""
        order = np.random.default_rng([seed, epoch]).permutation(self.size)
        return torch.from_numpy(order).to(self.labels.device)

    def train(
        self, seed: int, epoch: int, view: int | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """One epoch in random order; with `view` the crops and flips are those of that epoch."""
        order = self.order(seed, epoch).cpu().numpy()
        parts = [order[start:stop] for start, stop in bounds(self.size, self.batch_size)]
        return self._load([(seed, epoch if view is None else view, part) for part in parts])

    def evaluate(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Every picture once, in order, its centre."""
        starts = range(0, self.size, self.batch_size)
        index = np.arange(self.size)
        return self._load([(0, IN_ORDER, index[i : i + self.batch_size]) for i in starts])

    def _load(self, batches: list[tuple[int, int, np.ndarray]]) -> Iterator[tuple[Tensor, Tensor]]:
        device = self.labels.device
        pieces = [
            (seed, epoch, index[start : start + PIECE])
            for seed, epoch, index in batches
            for start in range(0, len(index), PIECE)
        ]
        loader = DataLoader(
            self.decoder,
            sampler=pieces,
            batch_size=None,  # a piece is a batch already
            num_workers=min(pictures.workers_to_use(), len(pieces)),
            worker_init_fn=pictures.leave_signals_to_the_parent,
            pin_memory=device.type == "cuda",
        )
        decoded = iter(loader)
        for _, _, index in batches:
            images = [self._next(decoded) for _ in range(0, len(index), PIECE)]
            labels = self.labels[torch.from_numpy(index).to(device)]
            yield self.normalise(torch.cat(images) if len(images) > 1 else images[0]), labels

    def _next(self, decoded: Iterator[tuple[Tensor, Exception | None]]) -> Tensor:
        images, broken = next(decoded)
        if broken:
            raise broken
        return images.to(self.labels.device, non_blocking=True)


class Decoder(torch.utils.data.Dataset):
    """Decodes pieces: (seed, epoch, index [B]) → uint8 [B, S, S, 3], and an error or None."""

    def __init__(self, split: Split, image_size: int):
        self.pictures, self.image_size = split.images, image_size

    def __getitem__(self, piece: tuple[int, int, np.ndarray]) -> tuple[Tensor, Exception | None]:
        seed, epoch, index = piece
        images = torch.empty((len(index), self.image_size, self.image_size, 3), dtype=torch.uint8)
        pixels = images.numpy()
        for place, i in enumerate(index.tolist()):
            try:
                pixels[place] = self.decode(seed, epoch, i)
            except BrokenPicture as error:
                return images, BrokenPicture(
                    f"{self.pictures.describe(i)}: {error}; mend it, or leave such files out "
                    "from the start with --skip-broken"
                )
            except OSError as error:
                return images, OSError(f"{self.pictures.describe(i)}: {error.strerror or error}")
        return images, None

    def decode(self, seed: int, epoch: int, i: int) -> np.ndarray:
        """Picture i as the epoch sees it, uint8 [S, S, 3]."""
        content = pictures.read_bytes(self.pictures.path(i))
        size = (self.image_size, self.image_size)
        if epoch == IN_ORDER:
            return pictures.decode(content, size, pictures.eval_crop)
        generator = np.random.default_rng([seed, epoch, i])
        mirrored = generator.integers(2)
        image = pictures.decode(
            content, size, lambda width, height: pictures.random_crop(width, height, generator)
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
