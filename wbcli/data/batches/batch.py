"""A batch of training images: one or two streams, one or several views of each image; where an
epoch is cut into batches, and what makes numbers of their pixels.

Legend: B batch, C channels, H height, W width, D features.
"""

from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass, replace

import torch
from torch import Tensor

from wbcli.data.sources import Source

Views = Tensor | list[Tensor]


@dataclass
class Batch:
    """What a step trains on.

    Args:
        images: float [B, C, H, W] (or features [B, D]); a list of those where there are views.
        labels: int64 [B].
        other_images, other_labels: the second stream, of as many images.
        index: int64 [B], the places of the images in the training set.
        key: (seed, epoch, step): whatever is drawn for the batch is a function of it.
        labels2, lam: of a mixed batch the labels [B] of what was mixed in, and the share that
            `labels` keep, a number or [B].
    """

    images: Views
    labels: Tensor
    _: KW_ONLY
    other_images: Views | None = None
    other_labels: Tensor | None = None
    index: Tensor | None = None
    key: tuple[int, int, int] = (0, 0, 0)
    labels2: Tensor | None = None
    lam: Tensor | float | None = None

    @classmethod
    def of_streams(
        cls, streams: list[tuple[Views, Tensor]], index: Tensor, key: tuple[int, int, int]
    ) -> "Batch":
        """The batch of one or two streams of (images, labels); `index` is of the first."""
        batch = cls(*streams[0], index=index, key=key)
        if len(streams) > 1:
            batch.other_images, batch.other_labels = streams[1]
        return batch

    def __len__(self) -> int:
        return len(self.labels)

    def parts(self, count: int) -> Iterator["Batch"]:
        """The batch in `count` parts, or fewer: batch norm wants two images in each."""
        count = max(1, min(count, len(self) // 2))
        if count == 1:
            yield self
            return
        split = {name: _split(value, count) for name, value in vars(self).items()}
        for number in range(count):
            yield replace(self, **{name: parts[number] for name, parts in split.items() if parts})


def _split(value, count: int) -> list | None:
    """The parts of what has a row for each image; None: it has none, and is every part's."""
    if isinstance(value, list):
        return [list(views) for views in zip(*(v.tensor_split(count) for v in value), strict=True)]
    if isinstance(value, Tensor) and value.ndim:
        return list(value.tensor_split(count))
    return None


class Normalise:
    """uint8 [B, H, W, C] → float32 [B, C, H, W], channels last: (x/255 − mean)/std."""

    def __init__(self, source: Source, device: torch.device):
        mean, std = torch.tensor(source.mean), torch.tensor(source.std)
        self.scale, self.shift = (1 / (255 * std)).to(device), (-mean / std).to(device)

    def __call__(self, images: Tensor) -> Tensor:
        return images.float().mul_(self.scale).add_(self.shift).permute(0, 3, 1, 2)


def bounds(size: int, batch_size: int) -> list[tuple[int, int]]:
    """Start and stop of each training batch; a last image on its own joins the batch before it.

    (Batch norm has no variance over a single image of one pixel.)
    """
    starts = list(range(0, size, batch_size))
    if len(starts) > 1 and size - starts[-1] == 1:
        starts.pop()
    return list(zip(starts, [*starts[1:], size], strict=True))
