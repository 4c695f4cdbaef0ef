"""Classifiers of a trained network that are fairer to rare classes, without training.

Each is a new classifier (`models/linear.py`: `num_classes`, `row_norms`, `linear`); the network
stays as it is. One on `linear()` of the trained classifier is a plain linear layer again, so that a
cosine or a fixed classifier can be adjusted, too.

Legend: N images, K classes, D features; n_k training images of class k, π_k = n_k/N.
"""

import copy
import math
import reprlib
from collections.abc import Sequence
from numbers import Real
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wbcli import console
from wbcli.balance.ops import row_norms, tau_norm_
from wbcli.methods.about import About, Figure
from wbcli.methods.losses import check_none_empty, log_prior
from wbcli.models.classifiers import Normalised, check_options
from wbcli.models.feature_maps import unit
from wbcli.models.linear import Form, NearestMean, joined, linear_form
from wbcli.words import counted, has

ABOUT = {
    "tau": About(
        "τ-normalisation: w_k/‖w_k‖^τ, the bias as it is",
        "Kang et al., ICLR 2020",
        "no training",
        (Figure("cifar100lt", 100, "resnet34", 320, 51.31),),
        (
            "51.31 is of the weight-balancing paper, τ = 1.9 on a network with tuned weight decay; "
            "Kang et al. leave the bias out.",
        ),
    )
}
VARIANTS = ("cl2n", "l2n", "un")
PART = 4096  # features that are in float64 at a time


def adjust(name: str, network: nn.Module, class_counts: Sequence[int], **options: Any) -> nn.Module:
    """features `[B, D]` → scores `[B, K]`: the network's classifier, adjusted.

    Args:
        name: one of `ADJUSTMENTS`.
        network: has a `classifier`; it is not changed.
        class_counts: n_k of the training images.
        options: of the adjustment, by name; `ncm` needs `features` and `labels`, or `means`.

    Returns:
        A classifier in evaluation mode that does not train, on the network's device.

    Raises:
        ValueError: unknown name or option, an option out of range, or a classifier or counts for
            which the adjustment is not defined.
    """
    if name not in ADJUSTMENTS:
        raise ValueError(f"unknown adjustment {name!r}: choose one of {', '.join(ADJUSTMENTS)}")
    check_options(name, ADJUSTMENTS[name], options)
    counts = torch.as_tensor(class_counts, dtype=torch.float64, device="cpu")
    num_classes = _num_classes(network.classifier)
    if counts.shape != (num_classes,) or not bool((counts >= 0).all()):
        raise ValueError(
            f"class_counts must be {num_classes} numbers of at least 0, one for each class, got "
            f"{reprlib.repr(counts.tolist())}"
        )
    scores = ADJUSTMENTS[name](network.classifier, counts, **options)
    return scores.eval().requires_grad_(False)


def blank(
    name: str, classifier: nn.Module, num_features: int, *, variant: str = "cl2n", **_: Any
) -> nn.Module:
    """What `adjust` gives, before its numbers are loaded: the same modules, other values.

    Args:
        classifier: one like that which was adjusted, of any values, on features of this number.
        variant: of `ncm`; what else was given to `adjust` is in the numbers.
    """
    if name == "ncm":
        return NearestMean(num_features, _num_classes(classifier), normalised=variant != "un")
    return copy.deepcopy(classifier) if name == "tde" else joined(*_linear(name, classifier))


@torch.no_grad()
def tau(classifier: nn.Module, counts: Tensor, *, tau: float = 1.0) -> nn.Module:
    """w_k·h/‖w_k‖^τ + b_k: the bias is kept as it is. Source: Kang et al., ICLR 2020."""
    feature_map, layer = _linear("tau", classifier)
    norms = row_norms(layer.weight)
    tau_norm_(layer.weight, _at_least_0("tau", tau))
    _check_finite(layer, "tau", tau)
    if (norms == 0).any():
        zero = int((norms == 0).sum())
        console.warn(
            f"{counted(zero, 'row')} of the classifier {has(zero)} a length of 0 and "
            "stays 0: only the bias scores there"
        )
    elif tau and bool(((norms - 1).abs() < 1e-5).all()):
        console.warn("every row of the classifier has length 1 already: tau changes nothing")
    return joined(feature_map, layer)


def l2(classifier: nn.Module, counts: Tensor) -> nn.Module:
    """w_k·h/‖w_k‖ + b_k: `tau` with τ = 1."""
    return tau(classifier, counts, tau=1.0)


@torch.no_grad()
def logit_adjustment(classifier: nn.Module, counts: Tensor, *, tau: float = 1.0) -> nn.Module:
    """z_k − τ·log π_k. Source: Menon et al., ICLR 2021, section 4.1."""
    feature_map, layer = _linear("logit-adjustment", classifier)
    log_prior = _log_prior("logit-adjustment", counts).to(layer.bias.device)
    layer.bias.copy_(layer.bias.double() - _at_least_0("tau", tau) * log_prior)
    return joined(feature_map, layer)


@torch.no_grad()
def multiplicative(classifier: nn.Module, counts: Tensor, *, tau: float = 0.65) -> nn.Module:
    """π_k^(−τ)·z_k, the bias included. Not invariant to a shift of z: a negative score of a rare
    class becomes more negative. Source: Hasegawa & Sato, ICLR 2024 (τ = 0.65 on CIFAR-100).
    """
    feature_map, layer = _linear("mla", classifier)
    log_prior = _log_prior("mla", counts).to(layer.bias.device)
    factors = torch.exp(-_at_least_0("tau", tau) * log_prior)
    layer.weight.copy_(layer.weight.double() * factors[:, None])
    layer.bias.copy_(layer.bias.double() * factors)
    _check_finite(layer, "tau", tau)
    return joined(feature_map, layer)


def nearest_mean(
    classifier: nn.Module,
    counts: Tensor,
    *,
    features: Tensor | None = None,
    labels: Tensor | None = None,
    means: Tensor | None = None,
    centre: Tensor | None = None,
    variant: str = "cl2n",
) -> nn.Module:
    """−‖x − c_k‖² with class means c_k of x. Source: Kang et al., ICLR 2020, section 4.2.

    x is the feature (`un`), its direction (`l2n`), or that of the feature less the mean of all
    training features (`cl2n`, what the authors' code does). A mean of directions is left as it is,
    shorter than 1. A class without images is never predicted (`NearestMean.set_means`).

    Args:
        features, labels: `[N, D]` and `[N]` of training images, seen as test images are.
        means, centre: instead, what `class_means` gives: `[K, D]`, and for `cl2n` `[D]`.
    """
    if variant not in VARIANTS:
        raise ValueError(f"variant must be one of {', '.join(VARIANTS)}, got {variant!r}")
    num_classes = len(counts)
    if features is not None and labels is not None:
        means, centre, present = class_means(features, labels, num_classes, variant)
    elif means is None or (centre is None) == (variant == "cl2n"):
        raise ValueError(
            "ncm needs features= and labels= of the training images, or means= of their classes "
            "(with centre= for cl2n, and only there)"
        )
    else:
        means, present = means.double(), (counts > 0).to(means.device)
        centre = torch.zeros_like(means[0]) if centre is None else centre.double()
    if not present.any():
        raise ValueError("ncm needs at least one training image")
    if not bool(means[present].isfinite().all()):
        raise ValueError("ncm needs finite features: the mean of a class is NaN or infinite")
    found = NearestMean(means.shape[1], num_classes, normalised=variant != "un")
    like = next(iter(classifier.state_dict().values()))
    found.to(like.device, like.dtype)
    found.set_means(means.to(like.device), centre.to(like.device), present.to(like.device))
    return found


@torch.no_grad()
def class_means(
    features: Tensor, labels: Tensor, num_classes: int, variant: str = "cl2n"
) -> tuple[Tensor, Tensor, Tensor]:
    """Means of x by class `[K, D]`, what is subtracted first `[D]`, and which classes have images.

    Sums are float64, and the same every time on a GPU, too (products, no atomic additions).

    Raises:
        ValueError: shapes that do not fit, or labels outside [0, K).
    """
    if features.ndim != 2 or labels.shape != features.shape[:1]:
        raise ValueError(
            "expected features [N, D] and labels [N], got "
            f"{list(features.shape)} and {list(labels.shape)}"
        )
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
        raise ValueError(
            f"labels must be in [0, {num_classes}), got {int(labels.min())} to {int(labels.max())}"
        )
    labels = labels.to(features.device)
    centre = torch.zeros(features.shape[1], dtype=torch.float64, device=features.device)
    if variant == "cl2n" and len(features):
        centre = sum(part.double().sum(0) for part in features.split(PART)) / len(features)
    sums = centre.new_zeros(num_classes, len(centre))
    for part, of_part in zip(features.split(PART), labels.split(PART), strict=True):
        x = part.double() - centre
        sums += F.one_hot(of_part, num_classes).double().T @ (x if variant == "un" else unit(x))
    images = torch.bincount(labels, minlength=num_classes)
    return sums / images[:, None].clamp(min=1), centre, images > 0


def tde(classifier: nn.Module, counts: Tensor, *, alpha: float = 1.5) -> nn.Module:
    """The total direct effect: what features have in common with their mean counts α times less.

    Source: Tang et al., NeurIPS 2020 (α = 1.5 on CIFAR-100, 3 on ImageNet-LT).
    """
    if not isinstance(classifier, Normalised):
        raise ValueError(
            "tde needs a network with the normalised classifier, which --method deconfound trains, "
            f"got one of the class {type(classifier).__name__}"
        )
    found = copy.deepcopy(classifier)
    found.update_mean()
    if not found.feature_mean.any():
        raise ValueError("tde needs a mean of features, and this classifier has not trained yet")
    found.alpha.fill_(_at_least_0("alpha", alpha))
    return found


ADJUSTMENTS = {
    "tau": tau,
    "l2": l2,
    "logit-adjustment": logit_adjustment,
    "mla": multiplicative,
    "ncm": nearest_mean,
    "tde": tde,
}


def _num_classes(classifier: nn.Module) -> int:
    is_linear = isinstance(classifier, nn.Linear)
    return classifier.out_features if is_linear else classifier.num_classes


def _linear(name: str, classifier: nn.Module) -> Form:
    form = linear_form(classifier)
    if form is None:
        kind = type(classifier).__name__
        raise ValueError(f"{name} needs a classifier that can be written as linear, got {kind}")
    return form


def _log_prior(name: str, counts: Tensor) -> Tensor:
    """log π `[K]`, float64."""
    check_none_empty(name, counts, "tau, l2 or ncm")
    return log_prior(counts)


def _at_least_0(name: str, value: float) -> float:
    if not isinstance(value, Real) or not (value >= 0 and math.isfinite(value)):
        raise ValueError(f"{name} must be a finite number of at least 0, got {value}")
    return value


def _check_finite(layer: nn.Linear, option: str, value: float) -> None:
    if not (layer.weight.isfinite().all() and layer.bias.isfinite().all()):
        raise ValueError(
            f"{option} {value:g} takes the classifier beyond {layer.weight.dtype}, or it was not "
            f"finite before: take a smaller {option}"
        )
