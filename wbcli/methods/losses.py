"""One function per loss; each takes logits, labels and a statistic of the classes.

They return a term for each image, which are not yet averaged: `[B]`, or `[B, M]` for M heads.

Legend: B batch, K classes, M heads. logits `[B, K]` of a floating dtype, or `[B, K, M]`; labels
`[B]` int64; per_class `[K]` or `[K, M]`, what `Loss.statistic` makes of the class counts.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

GAMMA = 2.0  # Lin et al., ICCV 2017


def class_balanced_weights(class_counts: list[int], beta: float = 0.9999) -> Tensor:
    """Inverse effective number of samples: v_k ∝ (1−β)/(1−β^{n_k}), with a mean of 1.

    Σ v_k is the number of classes that have images, K where all have some: a loss of few of
    many classes is no larger than one of a set with those classes only.

    Args:
        class_counts: n_k ≥ 0, training images of each class. A class without any gets
            weight 0: no image of it is ever weighed.
        beta: in [0, 1).

    Returns:
        `[K]` float64.

    Raises:
        ValueError: β outside [0, 1), or no image in any class.

    Source: Cui et al., "Class-Balanced Loss Based on Effective Number of Samples",
    CVPR 2019, equation 3 and section 4.
    """
    if not 0 <= beta < 1:
        raise ValueError(f"beta must be in [0, 1), got {beta}")
    counts = torch.tensor(class_counts, dtype=torch.float64)
    present = counts > 0
    if not present.any():
        raise ValueError("class-balanced weights need at least one training image")
    weights = torch.where(present, (1 - beta) / (1 - beta**counts), 0.0)
    return weights * (present.sum() / weights.sum())


def cross_entropy(logits: Tensor, labels: Tensor, per_class: Tensor | None) -> Tensor:
    """CE: −log p_y, p = softmax(logits)."""
    if logits.ndim == 3:
        labels = labels[:, None].expand(-1, logits.shape[2])
    return F.cross_entropy(logits, labels, reduction="none")


def class_balanced(logits: Tensor, labels: Tensor, per_class: Tensor) -> Tensor:
    """CB: −v_y·log p_y (its mean divides by B, not by Σ v_y)."""
    return per_class[labels] * cross_entropy(logits, labels, None)


def class_balanced_bce(logits: Tensor, labels: Tensor, per_class: Tensor) -> Tensor:
    """CB as in the released code: mean over the *classes* of v_y·BCE(p_k, [k = y]).

    p = softmax(logits) and BCE(p, 1) = −log p, BCE(p, 0) = −log(1 − p), logarithms cut
    at −100. Near uniform predictions its gradient is nearly parallel to CB's and about
    K/(1 + p_y) times smaller.
    NaN logits make a NaN loss, as in the others (PyTorch's BCE refuses them, on a GPU with an
    assertion that ends the process).
    """
    p = logits.softmax(1)
    target = torch.zeros_like(p)
    places = labels.view(-1, *[1] * (p.ndim - 1)).expand(-1, 1, *p.shape[2:])
    target.scatter_(1, places, 1.0)
    with torch.autocast(p.device.type, enabled=False):  # which refuses it
        loss = F.binary_cross_entropy(p.nan_to_num(), target, reduction="none").mean(1)
    return per_class[labels] * loss + 0 * p.detach().sum(1)


def focal(
    logits: Tensor, labels: Tensor, per_class: Tensor | None, *, gamma: float = GAMMA
) -> Tensor:
    """Focal: −(1 − p_y)^γ·log p_y. Source: Lin et al., ICCV 2017."""
    cross_entropies = cross_entropy(logits, labels, None)
    return (1 - torch.exp(-cross_entropies)) ** gamma * cross_entropies


def class_balanced_focal(
    logits: Tensor, labels: Tensor, per_class: Tensor, *, gamma: float = GAMMA
) -> Tensor:
    """CB focal: −v_y·(1 − p_y)^γ·log p_y."""
    return per_class[labels] * focal(logits, labels, None, gamma=gamma)


class Loss(NamedTuple):
    """A loss by name.

    terms: (logits, labels, per_class) → a term for each image.
    statistic: class counts → per_class, float64 [K]; None: it needs none.
    of_terms, of_statistic: the options that each of them takes.
    """

    terms: Callable[..., Tensor]
    statistic: Callable[..., Tensor] | None = None
    of_terms: tuple[str, ...] = ()
    of_statistic: tuple[str, ...] = ()


_BALANCED = {"statistic": class_balanced_weights, "of_statistic": ("beta",)}
LOSSES = {
    "ce": Loss(cross_entropy),
    "cb": Loss(class_balanced, **_BALANCED),
    "cb-bce": Loss(class_balanced_bce, **_BALANCED),
    "focal": Loss(focal, of_terms=("gamma",)),
    "cb-focal": Loss(class_balanced_focal, **_BALANCED, of_terms=("gamma",)),
}


def statistic_of(loss: str, class_counts: list[int], options: dict) -> Tensor | None:
    """per_class of a loss under these options (others are ignored), float64 [K], or None."""
    found = LOSSES[loss]
    if found.statistic is None:
        return None
    chosen = {key: options[key] for key in found.of_statistic if key in options}
    return found.statistic(class_counts, **chosen)


def terms_of(loss: str, options: dict) -> Callable[[Tensor, Tensor, Tensor | None], Tensor]:
    """The function of a loss under these options (others are ignored)."""
    found = LOSSES[loss]
    chosen = {key: options[key] for key in found.of_terms if key in options}
    return partial(found.terms, **chosen) if chosen else found.terms
