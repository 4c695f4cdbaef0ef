"""The batches of a data set's split, from memory, from disk or from a file of features."""

from typing import NamedTuple

import torch

from wbcli.data.batches.disk import PictureBatches
from wbcli.data.batches.memory import Batches
from wbcli.data.batches.rows import FeatureBatches
from wbcli.data.datasets import Dataset
from wbcli.data.pictures.decoding import Pictures

AnyBatches = Batches | PictureBatches | FeatureBatches
EVAL_BATCH = 500
EVAL_BATCH_ON_DISK = 64


def batches_of(
    dataset: Dataset, split: str, device: torch.device, batch_size: int | None = None
) -> AnyBatches:
    """Batches of `train`, `val` or `test`; without a batch size those of evaluation."""
    part, source = dataset.split(split), dataset.source
    if isinstance(part.images, Pictures):
        batch_size = batch_size or EVAL_BATCH_ON_DISK
        return PictureBatches(part, source, dataset.image_size, batch_size, device, dataset.fit)
    if source.features:
        return FeatureBatches(part, batch_size or EVAL_BATCH, device)
    return Batches(part, source, batch_size or EVAL_BATCH, device)


class Data(NamedTuple):
    """What a training has: the images that train, and validation images where there are any."""

    train: AnyBatches
    val: AnyBatches | None = None
