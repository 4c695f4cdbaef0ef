"""Cached features of a frozen network: what a classifier trains on when nothing else does.

Legend: N images, B batch, D features, V views.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from wbcli import data, evaluate
from wbcli.config import Config
from wbcli.data.batches import Batches, bounds, draw_epoch
from wbcli.device import autocast


class Features:
    """A split seen through a frozen backbone; `train` and `evaluate` are those of `Batches`.

    Epoch e trains on view e mod V: the crops and flips of epoch e mod V, in the order of
    epoch e. With V at least the number of epochs that is what training through the network
    sees. Each view is computed when an epoch first asks for it; with `keep` it stays for the
    next classifier.

    Features are float32 and come from batches of `evaluate.EVAL_BATCH` images, batch norm in
    evaluation mode: they differ from those of smaller batches by float32 rounding only.
    """

    def __init__(
        self,
        backbone: nn.Module,
        images: Batches,
        batch_size: int,
        *,
        precision: str = "fp32",
        views: int | None = None,
        keep: bool = False,
    ):
        self.backbone, self.images, self.batch_size = backbone, images, batch_size
        self.precision, self.views, self.keep = precision, views, keep
        self.size, self.labels = images.size, images.labels
        self._kept: dict[object, Tensor] = {}

    def train(self, seed: int, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """One epoch in random order: (features [B, D], labels [B])."""
        view = self._view(seed, epoch % self.views if self.views else epoch)
        order = self._order(seed, epoch)
        for start, stop in bounds(self.size, self.batch_size):
            index = order[start:stop]
            yield view[index], self.labels[index]

    def evaluate(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Every image once, in order, uncropped."""
        if "plain" not in self._kept:
            self._kept["plain"] = self._compute(self.images.evaluate())
        size = self.images.batch_size
        yield from zip(self._kept["plain"].split(size), self.labels.split(size), strict=True)

    def _view(self, seed: int, number: int) -> Tensor:
        """[N, D], indexed by image."""
        if (seed, number) in self._kept:
            return self._kept[seed, number]
        in_order = self._compute(self.images.train(seed, number))
        view = torch.empty_like(in_order)
        view[self._order(seed, number)] = in_order
        if self.keep or self.views:
            self._kept[seed, number] = view
        return view

    def _order(self, seed: int, epoch: int) -> Tensor:
        images = self.images
        draws = draw_epoch(self.size, images.padding, images.flip, seed, epoch)
        return draws[0].to(self.labels.device)

    @torch.no_grad()
    def _compute(self, batches: Iterator[tuple[Tensor, Tensor]]) -> Tensor:
        self.backbone.eval()
        with autocast(self.labels.device, self.precision):
            return torch.cat([self.backbone(images).float() for images, _ in batches])


def can_cache(config: Config) -> bool:
    """Whether the classifier alone trains, on a backbone that does not change."""
    return config.layers == 1 and config.frozen_batch_norm == "eval"


def of_splits(
    network: nn.Module,
    dataset: data.Dataset,
    config: Config,
    device: torch.device,
    *,
    keep: bool = False,
) -> dict[str, Features]:
    """The features of `train`, `test` and, where there are validation images, `val`."""
    names = ["train", "test"] + ["val"] * (dataset.val is not None)
    return {
        name: Features(
            network.backbone,
            Batches(dataset.split(name), dataset.source, evaluate.EVAL_BATCH, device),
            config.batch_size,
            precision=config.precision,
            views=config.views,
            keep=keep,
        )
        for name in names
    }
