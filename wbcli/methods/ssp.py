"""Self-supervised pre-training: which way up an image is. Another run starts from it (--init).

Legend: B batch, C channels, H = W side of an image.
"""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from wbcli.data.batches.batch import Batch
from wbcli.methods.about import About, Figure
from wbcli.methods.plain import Plain
from wbcli.models.networks import Network

TURNS = 4
TURN = 3  # ends the key of the turns, so that nothing else is drawn from the same numbers
ABOUT = {
    "ssp": About(
        "Self-supervised pre-training: cross-entropy of the turn by 0, 90, 180 or 270 degrees that "
        "an image was given, labels ignored; any method starts from it with --init RUN",
        "Yang & Xu, NeurIPS 2020",
        "1, and then the method that starts from it",
        (
            Figure("cifar100lt", 100, "resnet32", 200, 43.43),
            Figure("cifar100lt", 50, "resnet32", 200, 47.11),
            Figure("cifar100lt", 10, "resnet32", 200, 58.91),
        ),
        (
            "The figures are of ldam-drw after it, of 200 epochs each; without it 42.04, 46.62 and "
            "58.71. Others measured no gain with the released code: train several seeds.",
            "Weight decay forgets where a training began: under a tuned one little may be left.",
            "On large pictures the paper uses MoCo v2 instead, which is not here.",
        ),
    )
}


class RotationPrediction(Plain):
    """One turn an image: in each batch an equal split over the four, permuted by its key."""

    graphable = False  # turns are drawn on the host
    takes_features = False

    def __init__(self, network: Network, class_counts: list[int], *, epochs: int = 1):
        super().__init__(network, class_counts, loss="ce", epochs=epochs)

    def prepare(self, batch: Batch) -> Batch:
        """The images turned, and their turns as labels."""
        height, width = batch.images.shape[-2:]
        if height != width:
            raise ValueError(f"ssp turns square images only, got {height}×{width}")
        turns = draw_turns(len(batch), batch.key).to(batch.labels.device)
        return replace(batch, images=turned(batch.images, turns), labels=turns)


def draw_turns(size: int, key: tuple[int, int, int]) -> Tensor:
    """Quarter turns `[B]` int64 on the CPU, a permutation of 0, 1, 2, 3, 0, 1, …"""
    turns = np.random.default_rng([*key, TURN]).permutation(np.arange(size) % TURNS)
    return torch.from_numpy(turns)


def turned(images: Tensor, turns: Tensor) -> Tensor:
    """Images `[B, C, H, H]`, each turned counterclockwise by so many quarters."""
    result = images
    for quarters in range(1, TURNS):
        found = images.rot90(quarters, (2, 3))
        result = torch.where((turns == quarters)[:, None, None, None], found, result)
    return result.contiguous(memory_format=torch.channels_last)
