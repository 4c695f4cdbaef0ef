"""The order in which an epoch goes through the images, by name.

`instance` shows every image once. The others draw as many images as there are, classes by a
probability p_k and images of a class uniformly, with replacement:

    balanced      1/K
    sqrt          √n_k / Σ_j √n_j
    progressive   (1 − t)·n_k/N + t/K, with t = epoch/epochs
    reversed      (1/n_k) / Σ_j 1/n_j

and `class-aware` takes the classes in turns, each time in a new order, and four images of each, of
which all have been seen before one is seen again. Classes without images have no part in it.

Sources: Kang et al., ICLR 2020 (balanced, sqrt, progressive); Zhou et al., BBN, CVPR 2020
(reversed); Shen et al., ECCV 2016 (class-aware).

Legend: N images, K classes, n_k images of class k.
"""

import numpy as np

SAMPLINGS = ("instance", "balanced", "sqrt", "progressive", "class-aware", "reversed")
IN_A_ROW = 4  # images of a class, class-aware
ORDER = 1  # ends the key of an order, so that nothing else is drawn from the same numbers


def class_probabilities(name: str, class_counts: np.ndarray, progress: float) -> np.ndarray:
    """p_k, float64 [K]: how often the sampling `name` draws class k.

    Args:
        class_counts: n_k ≥ 0, [K].
        progress: t, the share of the epochs that is over.
    """
    counts = class_counts.astype(float)
    present = counts > 0
    instance, balanced = counts / counts.sum(), present / present.sum()
    weights = {
        "balanced": balanced,
        "sqrt": np.sqrt(counts),
        "progressive": (1 - progress) * instance + progress * balanced,
        "reversed": np.divide(1.0, counts, out=np.zeros_like(counts), where=present),
    }[name]
    return weights / weights.sum()


def epoch_order(
    name: str, labels: np.ndarray, seed: int, epoch: int, progress: float = 0.0, stream: int = 0
) -> np.ndarray:
    """The images of an epoch in their order, int64 [N]: a function of these arguments alone.

    Args:
        name: one of SAMPLINGS.
        labels: int64 [N].
        progress: the share of the epochs that is over.
        stream: the number of the stream; two of the same name go through other orders.
    """
    plain = name == "instance" and not stream
    more = [] if plain else [1 + SAMPLINGS.index(name), 1 + stream, ORDER]
    generator = np.random.default_rng([seed, epoch, *more])
    if name == "instance":
        return generator.permutation(len(labels))
    counts = np.bincount(labels)
    members = np.argsort(labels, kind="stable")  # class by class
    first = np.cumsum(counts) - counts
    if name == "class-aware":
        return _class_aware(counts, members, first, generator)
    probabilities = class_probabilities(name, counts, progress)
    classes = generator.choice(len(counts), len(labels), p=probabilities)
    return members[first[classes] + generator.integers(0, counts[classes])]


def epoch_orders(
    streams: tuple[str, ...], labels: np.ndarray, seed: int, epoch: int, progress: float
) -> list[np.ndarray]:
    """`epoch_order` of each stream."""
    return [
        epoch_order(name, labels, seed, epoch, progress, stream)
        for stream, name in enumerate(streams)
    ]


def _class_aware(
    counts: np.ndarray, members: np.ndarray, first: np.ndarray, generator: np.random.Generator
) -> np.ndarray:
    size, present = len(members), np.flatnonzero(counts)
    rounds = -(-size // (IN_A_ROW * len(present)))
    turns = generator.permuted(np.tile(present, (rounds, 1)), axis=1).ravel()
    classes = np.repeat(turns, IN_A_ROW)[:size]
    order = np.empty(size, dtype=np.int64)
    places = np.argsort(classes, kind="stable")
    start = 0
    for k, wanted in enumerate(np.bincount(classes, minlength=len(counts))):
        if not wanted:
            continue
        own = members[first[k] : first[k] + counts[k]]
        drawn = generator.permuted(np.tile(own, (-(-wanted // counts[k]), 1)), axis=1)
        order[places[start : start + wanted]] = drawn.ravel()[:wanted]
        start += wanted
    return order


def occurrences(order: np.ndarray) -> np.ndarray:
    """How often each entry stood in `order` before, int64 [N]."""
    places = np.argsort(order, kind="stable")
    ranked = order[places]
    starts = np.flatnonzero(np.diff(ranked, prepend=-1))
    numbers = np.empty_like(order)
    numbers[places] = np.arange(len(order)) - np.repeat(starts, np.diff(starts, append=len(order)))
    return numbers
