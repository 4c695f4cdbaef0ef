"""Memory of an evaluation: its peak while the number of images grows.

Each evaluation has a process of its own, since a peak never falls.

Legend: N images, K classes, D features.
"""

import time
from collections.abc import Callable, Iterator
from multiprocessing import get_context

import torch
from torch import Tensor, nn

from wbcli.device import peak_mb

BATCH = 64
OURS, KEPT = "evaluate.measure", "all logits kept"


def run(
    counts: list[int],
    num_classes: int,
    num_features: int,
    device: torch.device,
    on_case: Callable[[str, int], None] = lambda name, images: None,
) -> list[dict]:
    """Peak memory of both ways at each number of images.

    Returns:
        `name`, `images`, `seconds`, `peak_mb`, and `growth_mb` since the first count.
    """
    rows = []
    for name in (OURS, KEPT):
        first = None
        for images in counts:
            on_case(name, images)
            seconds, peak = _in_a_process(name, images, num_classes, num_features, device)
            first = peak if first is None else first
            rows.append(
                {
                    "name": name,
                    "images": images,
                    "seconds": seconds,
                    "median_us": 1e6 * seconds / images,
                    "peak_mb": peak,
                    "growth_mb": peak - first,
                }
            )
    return rows


def _in_a_process(*case) -> tuple[float, float]:
    with get_context("spawn").Pool(1) as pool:
        return pool.apply(_measure, case)


def _measure(
    name: str, images: int, num_classes: int, num_features: int, device: torch.device
) -> tuple[float, float]:
    """Seconds, and the peak in MiB: of the process, or on a GPU of its tensors."""
    from wbcli.evaluate import metrics

    torch.manual_seed(0)
    classifier = nn.Linear(num_features, num_classes, device=device)
    batches = _random_features(images, num_classes, num_features, device)
    started = time.perf_counter()
    if name == OURS:
        metrics.measure(classifier, batches, num_classes)
    else:
        with torch.no_grad():
            pairs = [(classifier(x), labels) for x, labels in batches]
        metrics.measure(nn.Identity(), pairs, num_classes)
    seconds = time.perf_counter() - started
    return seconds, peak_mb(device)


def _random_features(
    images: int, num_classes: int, num_features: int, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    for start in range(0, images, BATCH):
        count = min(BATCH, images - start)
        labels = torch.randint(num_classes, (count,), device=device)
        yield torch.randn(count, num_features, device=device), labels
