"""Batches of pictures on disk, decoded by worker processes.

The order of an epoch is a function of (seed, epoch), the crop and the flip of a picture one of
(seed, epoch, index): the same with any number of workers, on any device. A further view, a second
stream, and a picture that comes again within an epoch have a number more in their key.

Legend: N pictures, B batch, S side of the crop, C channels, V views.
"""

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from wbcli.data.batches.augment import AUGMENTATIONS, augmentation
from wbcli.data.batches.batch import Batch, Normalise, bounds
from wbcli.data.batches.sampling import epoch_orders, occurrences
from wbcli.data.datasets import Split
from wbcli.data.pictures import decoding
from wbcli.data.pictures.decoding import BrokenPicture
from wbcli.data.pictures.fitting import CROP, Fit
from wbcli.data.pictures.workers import Workers
from wbcli.data.sources import Source

IN_ORDER = -1  # in the place of an epoch: evaluation


class PictureBatches:
    """Normalised float32 batches: (images [B, 3, S, S], labels [B]) on `device`.

    Raises, while it goes through them, BrokenPicture or OSError with the name of the picture.
    """

    def __init__(
        self,
        split: Split,
        source: Source,
        image_size: int,
        batch_size: int,
        device: torch.device,
        fit: str = "crop",
    ):
        self.decoder = Decoder(split, image_size, Fit.of(source, fit))
        self.size, self.batch_size = len(split.labels), batch_size
        self.split_labels = split.labels
        self.labels = torch.from_numpy(split.labels).to(device)
        self.normalise = Normalise(source, device)
        self.shape = (image_size, image_size, 3)
        self.workers: Workers | None = None

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
        """The batches of an epoch; all as for `Batches.steps`."""
        orders = epoch_orders(streams, self.split_labels, seed, epoch, progress)
        tickets = self._tickets(orders, views, anew=view_epoch is None)  # [streams · V, N]
        places = list(enumerate(bounds(self.size, self.batch_size)))[first:]
        parts = [tickets[:, start:stop].ravel() for _, (start, stop) in places]
        decoded = self._normalised(parts, seed, epoch if view_epoch is None else view_epoch)
        for (step, (start, stop)), images in zip(places, decoded, strict=True):
            pictures = images.split(stop - start)  # those of a stream side by side
            indices = [self._on_device(order[start:stop]) for order in orders]
            drawn = [
                (_one_or_all(pictures[s * len(views) : (s + 1) * len(views)]), self.labels[index])
                for s, index in enumerate(indices)
            ]
            yield Batch.of_streams(drawn, indices[0], (seed, epoch, step))

    def _tickets(
        self, orders: list[np.ndarray], views: tuple[str, ...], *, anew: bool
    ) -> np.ndarray:
        """What the decoder is told of each picture, int64 [streams · V, N]: see `Decoder.decode`.

        anew: a picture has another crop each time it comes.
        """
        rows = []
        for stream, order in enumerate(orders):
            again = occurrences(order) * anew
            for view, name in enumerate(views):
                number = (again * len(views) + view) * len(orders) + stream
                which = number * len(AUGMENTATIONS) + list(AUGMENTATIONS).index(name)
                rows.append(which * self.size + order)
        return np.stack(rows)

    def evaluate(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Every picture once, in order, its centre or the whole of it."""
        index = np.arange(self.size)
        parts = [index[i : i + self.batch_size] for i in range(0, self.size, self.batch_size)]
        for part, images in zip(parts, self._normalised(parts, 0, IN_ORDER), strict=True):
            yield images, self.labels[self._on_device(part)]

    def decoded(self, parts: list[np.ndarray], seed: int, epoch: int) -> Iterator[Tensor]:
        """The pictures of each part, uint8 [B, S, S, 3]; gone when the next ones are asked for."""
        usual = min(self.batch_size + 1, self.size)  # a last picture joins the batch before
        largest = max([usual, *map(len, parts)])
        if self.workers is None or self.workers.shape[1] < largest:
            self.workers = Workers(self.decoder, self.shape, largest)
        return self.workers.run(seed, epoch, parts)

    def _normalised(self, parts: list[np.ndarray], seed: int, epoch: int) -> Iterator[Tensor]:
        device = self.labels.device
        for images in self.decoded(parts, seed, epoch):
            if self.labels.is_cuda:
                images = images.pin_memory()
            yield self.normalise(images.to(device, non_blocking=True))

    def _on_device(self, index: np.ndarray) -> Tensor:
        return torch.from_numpy(index).to(self.labels.device, non_blocking=True)


def _one_or_all(views: Sequence[Tensor]) -> Tensor | list[Tensor]:
    return list(views) if len(views) > 1 else views[0]


class Decoder:
    """Decodes pictures as an epoch sees them."""

    def __init__(self, split: Split, image_size: int, fit: Fit = CROP):
        self.pictures, self.image_size, self.fit = split.images, image_size, fit
        self.size = len(split.labels)

    def __call__(self, seed: int, epoch: int, ticket: int) -> np.ndarray:
        """`decode`, with errors that name the picture."""
        i = ticket % self.size
        try:
            return self.decode(seed, epoch, ticket)
        except BrokenPicture as error:
            raise BrokenPicture(
                f"{self.pictures.describe(i)}: {error}; mend it, or leave such files out "
                "from the start with --skip-broken"
            ) from error
        except OSError as error:
            raise OSError(f"{self.pictures.describe(i)}: {error.strerror or error}") from error

    def decode(self, seed: int, epoch: int, ticket: int) -> np.ndarray:
        """A picture as the epoch sees it, uint8 [S, S, 3].

        Args:
            ticket: i + N·(a + A·m) for picture i, augmentation a of A, and the number m of this
                showing within the epoch: 0 but for further views, streams and repetitions.
        """
        which, i = divmod(ticket, self.size)
        number, name = divmod(which, len(AUGMENTATIONS))
        content = decoding.read_bytes(self.pictures.path(i))
        size, fit = (self.image_size, self.image_size), self.fit
        how = {"fill": fit.fill, "interpolation": fit.interpolation}
        crops, flips = augmentation(list(AUGMENTATIONS)[name], True, True)
        if epoch == IN_ORDER:
            return decoding.decode(content, size, fit.eval_box, **how)
        generator = np.random.default_rng([seed, epoch, i, *[number] * (number > 0)])
        mirrored = generator.integers(2) and flips
        box = partial(fit.random_box, generator=generator) if crops else fit.eval_box
        image = decoding.decode(content, size, box, **how)
        return image[:, ::-1] if mirrored else image
