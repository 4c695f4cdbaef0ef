"""Long-tailed subsets of a set: how many images of each class, and which ones."""

import numpy as np

TYPES = ("exp", "step")
SUBSETS = ("first", "shuffled")


class SettingError(ValueError):
    """A setting that the data set cannot have."""


def class_counts(
    available: list[int],
    factor: float,
    imbalance: str,
    *,
    n_max: int | None = None,
    ranks: np.ndarray | None = None,
) -> list[int]:
    """Images kept of each class, by its rank r = 0 (the head) … K−1.

    `exp`: max(1, int(n_max·(1/IF)^(r/(K−1)))). `step`: n_max for the first half of the ranks,
    int(n_max/IF) for the last half. No class keeps more than it has. Source: Cui et al., CVPR
    2019; Cao et al. (LDAM-DRW), NeurIPS 2019; the released code of the paper.

    Args:
        available: images of each class in the whole set.
        factor: IF, from 1 to n_max.
        imbalance: `exp` or `step`.
        n_max: images of the head; None is the largest class.
        ranks: [K]; None is the order of the classes.

    Raises:
        SettingError: a factor out of that range.
    """
    n_max = max(available) if n_max is None else n_max
    if not factor >= 1:
        raise SettingError(f"the imbalance factor must be at least 1, got {factor:g}")
    if factor > n_max:
        raise SettingError(
            f"an imbalance factor of {factor:g} leaves the rarest class without an image: "
            f"its largest value here is {n_max}"
        )
    num_classes = len(available)
    if imbalance == "exp":
        last = num_classes - 1
        wanted = [max(1, int(n_max * (1 / factor) ** (r / last))) for r in range(num_classes)]
    else:
        head = num_classes // 2
        wanted = [n_max] * head + [int(n_max / factor)] * (num_classes - head)
    ranks = range(num_classes) if ranks is None else ranks
    return [min(count, wanted[rank]) for count, rank in zip(available, ranks, strict=True)]


def ranks_by_count(available: list[int]) -> np.ndarray:
    """The rank [K] of each class: most images first, ties in the order of the classes."""
    order = np.argsort(-np.array(available), kind="stable")
    ranks = np.empty_like(order)
    ranks[order] = np.arange(len(order))
    return ranks


def class_orders(labels: np.ndarray, num_classes: int, subset: str) -> list[np.ndarray]:
    """Indices of each class in the order in which images are taken from it.

    `first`: file order (the released code). `shuffled`: LDAM-DRW's rule, NumPy's legacy
    generator seeded 0 and one shuffle for each class, in class order, from one stream.
    """
    ends = np.cumsum(np.bincount(labels, minlength=num_classes))
    orders = np.split(np.argsort(labels, kind="stable"), ends[:-1])
    if subset == "shuffled":
        stream = np.random.RandomState(0)
        for order in orders:
            stream.shuffle(order)
    return orders


def split_validation(
    orders: list[np.ndarray], counts: list[int], per_class: int
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Training and validation indices of each class; no index is in both.

    A class's validation images are the next `per_class` ones that the long-tailed
    sampling left out; where fewer are left, the last `per_class` of its training
    images, of which at least one stays.
    """
    train, validation = [], []
    for order, count in zip(orders, counts, strict=True):
        kept, left_out = order[:count], order[count:]
        if len(left_out) >= per_class:
            train.append(kept)
            validation.append(left_out[:per_class])
        else:
            stay = max(1, count - per_class)
            train.append(kept[:stay])
            validation.append(kept[stay:])
    return train, validation
