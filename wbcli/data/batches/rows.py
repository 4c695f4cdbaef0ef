"""Batches of features that lie in a file: what batches of images are, without anything random but
their order.

Legend: N rows, B batch, D features, V views.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from wbcli.data.batches.batch import Batch, bounds
from wbcli.data.batches.sampling import epoch_orders
from wbcli.data.datasets import Split


class FeatureBatches:
    """Batches of a split as the file has it: (features float32 [B, D], labels [B]) on `device`."""

    def __init__(self, split: Split, batch_size: int, device: torch.device):
        self.rows, self.size, self.batch_size = split.images, len(split.labels), batch_size
        self.split_labels = split.labels
        self.held = None  # all rows, where the device is a GPU that has room for them
        if device.type == "cuda" and 8 * self.rows.nbytes < torch.cuda.mem_get_info(device)[0]:
            self.held = torch.from_numpy(np.asarray(self.rows)).to(device)
        self.labels = torch.from_numpy(split.labels).to(device)

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
        """The batches of an epoch, from batch `first` on: see `memory.Batches.steps`.

        All views of a row are the row.
        """
        orders = epoch_orders(streams, self.split_labels, seed, epoch, progress)
        for step, (start, stop) in list(enumerate(bounds(self.size, self.batch_size)))[first:]:
            drawn = [torch.from_numpy(order[start:stop]) for order in orders]
            rows = [self._rows(index) for index in drawn]
            rows = [[part] * len(views) if len(views) > 1 else part for part in rows]
            indices = [index.to(self.labels.device) for index in drawn]
            pairs = [(part, self.labels[i]) for part, i in zip(rows, indices, strict=True)]
            yield Batch.of_streams(pairs, indices[0], (seed, epoch, step))

    def evaluate(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Every row once, in order."""
        for start in range(0, self.size, self.batch_size):
            stop = min(start + self.batch_size, self.size)
            yield self._rows(torch.arange(start, stop)), self.labels[start:stop]

    def _rows(self, index: Tensor) -> Tensor:
        if self.held is not None:
            return self.held[index.to(self.labels.device)]
        return torch.from_numpy(self.rows.take(index.numpy())).to(self.labels.device)
