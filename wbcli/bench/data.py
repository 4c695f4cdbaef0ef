"""Loading benchmark: pictures on disk to batches, against the bare decoder and a usual loader.

The decoder alone, in a loop in one process, is the limit: no loader gives more images per second
and process than that. "its decoding" ends with uint8 batches in the host's memory; the rest,
normalisation, a GPU does itself.
"""

import random
import time
from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from wbcli.bench.timing import compare
from wbcli.data.batches.batch import bounds
from wbcli.data.batches.disk import PictureBatches
from wbcli.data.datasets import Dataset, Split
from wbcli.data.pictures import decoding

OURS = "wbcli loader"
DECODER = "decoder alone"


class PillowPictures(torch.utils.data.Dataset):
    """What most people write: Pillow, and torchvision's transforms picture by picture."""

    def __init__(self, split: Split, image_size: int, mean: tuple, std: tuple):
        from torchvision import transforms

        self.pictures, self.labels = split.images, split.labels
        self.transform = transforms.Compose(
            [
                transforms.RandomResizedCrop(image_size),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(mean, std),
            ]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int):
        from PIL import Image

        with decoding.pillow_limit(), Image.open(self.pictures.path(i)) as image:
            return self.transform(image.convert("RGB")), int(self.labels[i])


def run(
    dataset: Dataset,
    images: int,
    batch_size: int,
    rounds: int,
    device: torch.device,
    on_round: Callable[[int], None] = lambda number: None,
) -> list[dict]:
    """Time every way once a round on the same pictures, in an order drawn anew each round.

    Args:
        images: training pictures, at most; drawn once.

    Returns:
        For each way `name`, `median_us` (of a picture), `spread` (interquartile range over
        median), `ratio` (time over ours), `images_per_second`, `processes` and `per_process`
        (images per second and process over those of the decoder alone).
    """
    chosen = np.random.default_rng(0).permutation(len(dataset.train.labels))[:images]
    split = Split(dataset.train.images[chosen], dataset.train.labels[chosen])
    ways = _ways(split, dataset, batch_size, device)
    times: dict[str, list[float]] = {name: [] for name in ways}
    shuffle = random.Random(0)
    for number in range(rounds + 1):  # the first round fills the page cache, and is dropped
        on_round(number)
        for name in shuffle.sample(list(ways), len(ways)):
            started = time.perf_counter()
            ways[name](number)
            times[name].append(1e6 * (time.perf_counter() - started) / len(chosen))
    processes = max(1, decoding.workers_to_use())
    return _summarize({name: values[1:] for name, values in times.items()}, processes)


def _ways(
    split: Split, dataset: Dataset, batch_size: int, device: torch.device
) -> dict[str, Callable[[int], None]]:
    source, size = dataset.source, dataset.image_size
    ours = PictureBatches(split, source, size, batch_size, device)
    usual = DataLoader(
        PillowPictures(split, size, source.mean, source.std),
        batch_size,
        shuffle=True,
        num_workers=decoding.workers_to_use(),
        pin_memory=device.type == "cuda",
    )

    def consume(batches: Iterable[Tensor]) -> None:
        for images in batches:
            images.to(device, non_blocking=True)
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    def decode(epoch: int) -> None:
        for i in range(len(split.labels)):
            ours.decoder.decode(0, epoch, i)

    index = np.arange(len(split.labels))
    parts = [index[start:stop] for start, stop in bounds(len(index), batch_size)]
    return {
        OURS: lambda epoch: consume(batch.images for batch in ours.steps(0, epoch)),
        "its decoding": lambda epoch: consume(ours.decoded(parts, 0, epoch)),
        DECODER: decode,
        "torchvision loader": lambda epoch: consume(images for images, _ in usual),
    }


def _summarize(times: dict[str, list[float]], processes: int) -> list[dict]:
    compared = compare(times, OURS)
    alone = compared[DECODER]["median_us"]
    rows = []
    for name, row in compared.items():
        used = 1 if name == DECODER else processes
        rows.append(
            row
            | {
                "images_per_second": 1e6 / row["median_us"],
                "processes": used,
                "per_process": alone / row["median_us"] / used,
            }
        )
    return rows
