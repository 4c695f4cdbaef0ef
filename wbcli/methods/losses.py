"""One function per loss; each takes logits, labels and image weights and returns a mean.

Legend: B batch, K classes. logits `[B, K]` of a floating dtype, labels `[B]` int64,
image_weights `[B]`: v_y, the entries of `class_balanced_weights` for the labels (read by
the `cb` losses only). All three may have one more dimension, M heads: `[B, K, M]`, `[B, M]`.
"""

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


def cross_entropy(logits: Tensor, labels: Tensor, image_weights: Tensor) -> Tensor:
    """CE: mean over the batch of −log p_y, p = softmax(logits)."""
    if logits.ndim == 3:  # the mean of these has no deterministic kernel on a GPU
        return F.cross_entropy(logits, labels, reduction="none").mean()
    return F.cross_entropy(logits, labels)


def class_balanced(logits: Tensor, labels: Tensor, image_weights: Tensor) -> Tensor:
    """CB: mean over the batch of −v_y·log p_y (divided by B, not by Σ v_y)."""
    return (image_weights * F.cross_entropy(logits, labels, reduction="none")).mean()


def class_balanced_bce(logits: Tensor, labels: Tensor, image_weights: Tensor) -> Tensor:
    """CB as in the released code: mean over batch *and classes* of v_y·BCE(p_k, [k = y]).

    p = softmax(logits) and BCE(p, 1) = −log p, BCE(p, 0) = −log(1 − p), logarithms cut
    at −100. Near uniform predictions its gradient is nearly parallel to CB's and about
    K/(1 + p_y) times smaller.
    NaN logits make a NaN loss, as in the others (PyTorch's BCE refuses them, on a GPU with an
    assertion that ends the process).
    """
    p = logits.softmax(1)
    target = F.one_hot(labels, logits.shape[1]).movedim(-1, 1).to(logits.dtype)
    weight = image_weights.unsqueeze(1).expand_as(target)
    loss = F.binary_cross_entropy(p.nan_to_num(), target, weight)
    return loss + 0 * p.detach().sum()


def focal(logits: Tensor, labels: Tensor, image_weights: Tensor) -> Tensor:
    """Focal: mean over the batch of −(1 − p_y)²·log p_y. Source: Lin et al., ICCV 2017."""
    return _focal_terms(logits, labels).mean()


def class_balanced_focal(logits: Tensor, labels: Tensor, image_weights: Tensor) -> Tensor:
    """CB focal: mean over the batch of −v_y·(1 − p_y)²·log p_y."""
    return (image_weights * _focal_terms(logits, labels)).mean()


def _focal_terms(logits: Tensor, labels: Tensor) -> Tensor:
    cross_entropies = F.cross_entropy(logits, labels, reduction="none")  # [B]
    return (1 - torch.exp(-cross_entropies)) ** GAMMA * cross_entropies


LOSSES = {
    "ce": cross_entropy,
    "cb": class_balanced,
    "cb-bce": class_balanced_bce,
    "focal": focal,
    "cb-focal": class_balanced_focal,
}
