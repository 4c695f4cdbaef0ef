"""One function per loss; each takes logits, labels and a statistic of the classes.

They return a term for each image, which are not yet averaged: `[B]`, or `[B, M]` for M heads.

Legend: B batch, K classes, M heads. logits `[B, K]` of a floating dtype, or `[B, K, M]`; labels
`[B]` int64; per_class `[K]` or `[K, M]`, what `Loss.statistic` makes of the class counts.
"""

import reprlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from wbcli.words import counted, has

GAMMA = 2.0  # Lin et al., ICCV 2017
NO_LABEL = -(2**31)  # PyTorch's own, −100, would pass over a wrong label in silence


def class_balanced_weights(class_counts: list[int], beta: float = 0.9999) -> Tensor:
    """Inverse effective number of samples: v_k ∝ (1−β)/(1−β^{n_k}), with a mean of 1; for β = 1
    its limit, 1/n_k.

    Σ v_k is the number of classes that have images, K where all have some: a loss of few of
    many classes is no larger than one of a set with those classes only.

    Args:
        class_counts: n_k ≥ 0, training images of each class. A class without any gets
            weight 0: no image of it is ever weighed.
        beta: in [0, 1].

    Returns:
        `[K]` float64.

    Raises:
        ValueError: β outside [0, 1], or no image in any class.

    Source: Cui et al., "Class-Balanced Loss Based on Effective Number of Samples",
    CVPR 2019, equation 3 and section 4.
    """
    if not 0 <= beta <= 1:
        raise ValueError(f"beta must be in [0, 1], got {beta}")
    counts = torch.tensor(class_counts, dtype=torch.float64)
    present = counts > 0
    if not present.any():
        raise ValueError("class-balanced weights need at least one training image")
    inverse = 1 / counts if beta == 1 else (1 - beta) / (1 - beta**counts)
    weights = torch.where(present, inverse, 0.0)
    return weights * (present.sum() / weights.sum())


def checked_counts(class_counts: Sequence[int], num_classes: int) -> Tensor:
    """n_k `[K]`, float64 on the CPU.

    Raises:
        ValueError: they are no K finite numbers of at least 0.
    """
    try:
        counts = torch.as_tensor(class_counts, dtype=torch.float64, device="cpu").detach()
    except (TypeError, ValueError, RuntimeError):
        counts = None
    right = counts is not None and counts.shape == (num_classes,)
    if not right or not bool((counts.isfinite() & (counts >= 0)).all()):
        raise ValueError(
            f"class_counts must be {num_classes} numbers of at least 0, one for each class, got "
            f"{reprlib.repr(class_counts if counts is None else counts.tolist())}"
        )
    return counts


def log_prior(class_counts: list[int], tau: float = 1.0) -> Tensor:
    """τ·log π_k, π_k = n_k/N, `[K]` float64: never log(π^τ + ε), which bends rare classes.

    Raises:
        ValueError: a class without images.
    """
    counts = torch.as_tensor(class_counts, dtype=torch.float64)
    check_none_empty("a loss with log π", counts, "another method")
    return tau * (torch.log(counts) - torch.log(counts.sum()))


def check_none_empty(what: str, counts: Tensor, instead: str) -> None:
    """Raises ValueError where a class has no images, so that its log π would be −∞."""
    empty = (counts == 0).nonzero().flatten().tolist()
    if empty:
        raise ValueError(
            f"{what} needs training images of every class, and "
            f"{counted(len(empty), 'class')} {has(len(empty))} none (the first is class "
            f"{empty[0]}), so that log π is infinite: leave them out, or take {instead}"
        )


def margins(class_counts: list[int], max_margin: float = 0.5, scale: float = 30.0) -> Tensor:
    """s·Δ_k, `[K]` float64: Δ_k ∝ n_k^(−1/4), the rarest class has the largest, `max_margin`.

    No image has the label of a class without images: its margin is 0.
    """
    counts = torch.as_tensor(class_counts, dtype=torch.float64)
    rarest = counts[counts > 0].min()
    shares = torch.where(counts > 0, rarest / counts.clamp(min=1), 0.0)
    return scale * max_margin * shares**0.25


def cross_entropy(logits: Tensor, labels: Tensor, per_class: Tensor | None) -> Tensor:
    """CE: −log p_y, p = softmax(logits)."""
    if logits.ndim == 3:
        labels = labels[:, None].expand(-1, logits.shape[2])
    return F.cross_entropy(logits, labels, reduction="none", ignore_index=NO_LABEL)


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
    """Focal: −(1 − p_y)^γ·log p_y. Source: Lin et al., ICCV 2017.

    Where p_y rounds to 1 the slope of the power is infinite for γ < 1, and 0·∞ no number: the
    loss is 0 there, and so is its gradient.
    """
    cross_entropies = cross_entropy(logits, labels, None)
    wrong = (1 - torch.exp(-cross_entropies)).clamp(min=torch.finfo(logits.dtype).tiny)
    return wrong**gamma * cross_entropies


def class_balanced_focal(
    logits: Tensor, labels: Tensor, per_class: Tensor, *, gamma: float = GAMMA
) -> Tensor:
    """CB focal: −v_y·(1 − p_y)^γ·log p_y."""
    return per_class[labels] * focal(logits, labels, None, gamma=gamma)


def adjusted(logits: Tensor, labels: Tensor, per_class: Tensor) -> Tensor:
    """CE of z_k + τ·log π_k. Source: Menon et al., ICLR 2021, equation 10.

    With τ = 1 balanced softmax, whose log n_k is a shift away (Ren et al., NeurIPS 2020).
    """
    return cross_entropy(logits + per_class, labels, None)


def ldam(logits: Tensor, labels: Tensor, per_class: Tensor) -> Tensor:
    """CE of s·(c_k − Δ_y·[k = y]), logits s·c. Source: Cao et al., NeurIPS 2019, equation 13."""
    is_own = labels[:, None] == torch.arange(logits.shape[1], device=labels.device)
    is_own = is_own.view(*is_own.shape, *[1] * (logits.ndim - 2))
    return cross_entropy(torch.where(is_own, logits - per_class, logits), labels, None)


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
    "balanced-softmax": Loss(adjusted, log_prior),
    "logit-adjustment": Loss(adjusted, log_prior, of_statistic=("tau",)),
    "ldam": Loss(ldam, margins, of_statistic=("max_margin", "scale")),
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
