"""Long-tailed subsets of a balanced set: how many images of each class, and which ones."""

import numpy as np

TYPES = ("exp", "step")
SUBSETS = ("first", "shuffled")


class SettingError(ValueError):
    """A setting that the data set cannot have."""


def class_counts(n_max: int, num_classes: int, factor: float, imbalance: str) -> list[int]:
    """Images kept of each class, class 0 the head.

    `exp`: n_k = int(n_max·(1/IF)^(k/(K−1))). `step`: n_max for the first half of the
    classes, int(n_max/IF) for the last half. Source: Cui et al., CVPR 2019; Cao et al.
    (LDAM-DRW), NeurIPS 2019; the released code of the paper.

    Args:
        n_max: images of each class in the balanced set.
        factor: IF ≥ 1, small enough to leave every class an image.
        imbalance: `exp` or `step`.

    Raises:
        SettingError: a factor out of that range.
    """
    if not factor >= 1:
        raise SettingError(f"the imbalance factor must be at least 1, got {factor:g}")
    if imbalance == "exp":
        last = num_classes - 1
        counts = [int(n_max * (1 / factor) ** (k / last)) for k in range(num_classes)]
    else:
        head = num_classes // 2
        counts = [n_max] * head + [int(n_max / factor)] * (num_classes - head)
    if min(counts) < 1:
        raise SettingError(
            f"an imbalance factor of {factor:g} leaves the rarest class without an image: "
            f"its largest value here is {n_max}"
        )
    return counts


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
