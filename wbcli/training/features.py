"""Features of a frozen network, cached: what a classifier trains on when nothing else does.

Legend: N images, B batch, D features, V views.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from wbcli.config.settings import Config
from wbcli.data import datasets
from wbcli.data.batches.batch import Batch, bounds
from wbcli.data.batches.disk import PictureBatches
from wbcli.data.batches.memory import Batches
from wbcli.data.batches.rows import FeatureBatches
from wbcli.data.batches.sampling import epoch_order, epoch_orders
from wbcli.data.batches.splits import batches_of
from wbcli.device import autocast, free_bytes

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
SHARE_OF_MEMORY = 0.5  # of what is free, that a cache may take


class Features:
    """A split seen through a frozen backbone; `steps` and `evaluate` are those of `Batches`.

    Epoch e trains on view e mod V: the crops and flips of epoch e mod V, in the order of
    epoch e. With V at least the number of epochs that is what training through the network
    sees. Each view is computed when an epoch first asks for it; with `keep` it stays for the
    next classifier.

    Features come from batches of evaluation's size, batch norm in evaluation mode: as float32
    they differ from those of other batches by rounding only. They are kept on the device where
    they fit into half of its free memory, else in a file that is mapped into memory.

    Args:
        folder: where such a file lies; its name is gone at once, its space with the process.
        dtype: what they are kept in; batches are float32.
    """

    def __init__(
        self,
        backbone: nn.Module,
        images: Batches | PictureBatches,
        batch_size: int,
        folder: Path,
        *,
        precision: str = "fp32",
        views: int | None = None,
        keep: bool = False,
        dtype: torch.dtype = torch.float32,
    ):
        self.backbone, self.images, self.batch_size = backbone, images, batch_size
        self.precision, self.views, self.keep = precision, views, keep
        self.folder, self.dtype = folder, dtype
        self.size, self.labels = images.size, images.labels
        self._kept: dict[object, Tensor] = {}

    def steps(
        self,
        seed: int,
        epoch: int,
        streams: tuple[str, ...] = ("instance",),
        views: tuple[str, ...] = ("basic",),
        *,
        first: int = 0,
        progress: float = 0.0,
    ) -> Iterator[Batch]:
        """The batches of an epoch, from batch `first` on; images are features [B, D].

        There is one view of an image, whichever stream it comes in.
        """
        view = self._view(seed, epoch % self.views if self.views else epoch, views[:1])
        orders = epoch_orders(streams, self.images.split_labels, seed, epoch, progress)
        orders = [torch.from_numpy(order).to(self.labels.device) for order in orders]
        places = enumerate(bounds(self.size, self.batch_size))
        for step, (start, stop) in list(places)[first:]:
            indices = [order[start:stop] for order in orders]
            pairs = [(self._rows(view, index), self.labels[index]) for index in indices]
            yield Batch.of_streams(pairs, indices[0], (seed, epoch, step))

    def _rows(self, view: Tensor, index: Tensor) -> Tensor:
        return view[index.to(view.device)].to(index.device, torch.float32)

    def evaluate(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Every image once, in order, uncropped."""
        size = self.images.batch_size
        parts = zip(self._plain().split(size), self.labels.split(size), strict=True)
        for rows, labels in parts:
            yield rows.to(labels.device, torch.float32), labels

    def _plain(self) -> Tensor:
        """[N, D] of the images as they are measured."""
        if "plain" not in self._kept:
            self._kept["plain"] = self._compute(self.images.evaluate())
        return self._kept["plain"]

    def _view(self, seed: int, number: int, views: tuple[str, ...]) -> Tensor:
        """[N, D], indexed by image."""
        if views == ("none",):  # every view is the image as it is measured
            return self._plain()
        key = (seed, number, views)
        if key in self._kept:
            return self._kept[key]
        steps = self.images.steps(seed, number, views=views)
        pairs = ((batch.images, batch.labels) for batch in steps)
        order = epoch_order("instance", self.images.split_labels, seed, number)
        view = self._compute(pairs, torch.from_numpy(order).to(self.labels.device))
        if self.keep or self.views:
            self._kept[key] = view
        return view

    @torch.no_grad()
    def _compute(
        self, batches: Iterator[tuple[Tensor, Tensor]], order: Tensor | None = None
    ) -> Tensor:
        """[N, D]: what the backbone makes of the batches, whose images are those of `order`."""
        self.backbone.eval()
        store, done = None, 0
        with autocast(self.labels.device, self.precision):
            for images, _ in batches:
                rows = self.backbone(images)
                if store is None:
                    store = self._allocate(rows.shape[1])
                places = slice(done, done + len(rows))
                if order is not None:
                    places = order[places].to(store.device)
                store[places] = rows.to(store.device, self.dtype)
                done += len(rows)
        return store

    def _allocate(self, num_features: int) -> Tensor:
        device, shape = self.labels.device, (self.size, num_features)
        size = self.size * num_features * self.dtype.itemsize
        if size <= SHARE_OF_MEMORY * free_bytes(device):
            return torch.empty(shape, dtype=self.dtype, device=device)
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f".features.{os.getpid()}.{len(self._kept)}"
        try:
            with path.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, size)  # a full disk is an error here
            flat = torch.from_file(
                str(path), shared=True, size=self.size * num_features, dtype=self.dtype
            )
        except OSError as error:
            raise OSError(
                f"{size / 1e9:.1f} GB of features fit neither into memory nor into {self.folder} "
                f"({error.strerror}): free some, or take --cache bf16 or --cache none"
            ) from error
        finally:
            path.unlink(missing_ok=True)
        return flat.view(shape)


class Direct:
    """A split of a file of features, which needs no cache: each batch is mapped as it comes.

    Args:
        feature_map: of the network, from what is in the file to what its classifier takes.
    """

    def __init__(self, batches: FeatureBatches, feature_map: nn.Module):
        self.batches, self.feature_map = batches, feature_map.eval()
        self.size, self.labels = batches.size, batches.labels

    @torch.no_grad()
    def steps(self, *drawn, **how) -> Iterator[Batch]:
        for batch in self.batches.steps(*drawn, **how):
            batch.images = self._mapped(batch.images)
            if batch.other_images is not None:
                batch.other_images = self._mapped(batch.other_images)
            yield batch

    @torch.no_grad()
    def evaluate(self) -> Iterator[tuple[Tensor, Tensor]]:
        for rows, labels in self.batches.evaluate():
            yield self.feature_map(rows), labels

    def _mapped(self, rows: Tensor | list[Tensor]) -> Tensor:
        """There is one view of a row, as in a cache."""
        return self.feature_map(rows[0] if isinstance(rows, list) else rows)


class Views:
    """A training split of which epoch e shows the crops and flips of epoch e mod V."""

    def __init__(self, batches: Batches | PictureBatches, views: int):
        self.batches, self.views = batches, views
        self.size, self.labels = batches.size, batches.labels

    def steps(self, seed: int, epoch: int, *drawn, **how) -> Iterator[Batch]:
        return self.batches.steps(seed, epoch, *drawn, **how, view_epoch=epoch % self.views)

    def evaluate(self) -> Iterator[tuple[Tensor, Tensor]]:
        return self.batches.evaluate()


def is_frozen(config: Config) -> bool:
    """Whether the classifier alone trains, on a backbone that does not change."""
    classifier_alone = config.layers == 1 or config.freeze == "backbone"
    return classifier_alone and config.frozen_batch_norm == "eval"


def can_cache(config: Config) -> bool:
    """Whether training takes cached features."""
    return is_frozen(config) and config.cache != "none"


def of_splits(
    network: nn.Module,
    dataset: datasets.Dataset,
    config: Config,
    device: torch.device,
    folder: Path,
    *,
    keep: bool = False,
) -> dict[str, Features | Direct]:
    """The features of `train` and of what is measured: `test` and `val`, where they are."""
    names = ["train", *dataset.measurable()]
    if dataset.source.features:
        sizes = {"train": config.batch_size}
        return {
            name: Direct(batches_of(dataset, name, device, sizes.get(name)), network.backbone)
            for name in names
        }
    return {
        name: Features(
            network.backbone,
            batches_of(dataset, name, device),
            config.batch_size,
            folder,
            precision=config.precision,
            views=config.views,
            keep=keep,
            dtype=DTYPES.get(config.cache, torch.float32),
        )
        for name in names
    }
