"""Classifiers of a trained network that are fairer to rare classes, without training.

Each is a new classifier (`models/linear.py`: `num_classes`, `row_norms`, `linear`); the network
stays as it is. One on `linear()` of the trained classifier is a plain linear layer again, so that a
cosine or a fixed classifier can be adjusted, too.

Legend: B images, K classes, D features; n_k training images of class k, π_k = n_k/N.
"""

import copy
import math
from collections.abc import Sequence
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn

from wbcli import console
from wbcli.balance.ops import row_norms, tau_norm_
from wbcli.methods.about import About, Figure
from wbcli.methods.losses import check_none_empty, checked_counts, log_prior
from wbcli.methods.nearest_mean import nearest_mean
from wbcli.models.classifiers import Normalised, check_options
from wbcli.models.linear import Form, joined, linear_form
from wbcli.words import counted, has

_NONE = "no training"
_OWN = "cifar100lt", 100, "resnet34", 320  # the weight-balancing paper's, with tuned weight decay
ABOUT = {
    "tau": About(
        "τ-normalisation: w_k/‖w_k‖^τ, the bias as it is",
        "Kang et al., ICLR 2020",
        _NONE,
        (Figure(*_OWN, 51.31), Figure("imagenetlt", None, "resnext50", 90, 49.4)),
        (
            "51.31 is of the weight-balancing paper, τ = 1.9 on a network with tuned weight decay; "
            "Kang et al. leave the bias out.",
            "The better the weight decay, the more alike the rows, and the larger the best τ. It "
            "does nothing on rows of one length (a cosine), and after stage 2 little.",
        ),
    ),
    "l2": About(
        "L2 normalisation: w_k/‖w_k‖, the bias as it is",
        "Kang et al., ICLR 2020",
        _NONE,
        (Figure(*_OWN, 49.60),),
        ("It is tau with τ = 1. 49.60 is of the weight-balancing paper.",),
    ),
    "logit-adjustment": About(
        "Logit adjustment after training: z_k − τ·log π_k",
        "Menon et al., ICLR 2021, section 4.1",
        _NONE,
        (
            Figure("cifar100lt", 100, "resnet32", 200, 41.76),
            Figure("imagenetlt", None, "resnet50", 90, 50.34),
            Figure("inat18", None, "resnet50", 90, 66.02),
        ),
        (
            "For a network that was trained without regard to the class frequencies; after a loss "
            "that holds them it corrects twice.",
            "The published code takes log(π^τ + 1e-12), which bends rare classes of large sets; "
            "here it is τ·log π in float64.",
            "Weight decay makes z smaller and not log π: choose τ with wbcli tune normalize.",
        ),
    ),
    "mla": About(
        "Multiplicative logit adjustment: π_k^(−τ)·z_k, the bias included",
        "Hasegawa & Sato, ICLR 2024",
        _NONE,
        notes=(
            "The scores depend on where z is 0: a negative one of a rare class becomes more "
            "negative, so that nothing may be subtracted from z before, and a cosine, whose scores "
            "are mostly below 0, loses by it.",
            "The authors use it on their fixed simplex classifier (wd-fr-etf); it works on any "
            "classifier that can be written as linear. They chose τ on validation images.",
        ),
    ),
    "tde": About(
        "Total direct effect: the direction of the mean feature counts α times less, "
        "x − α·cos(x, u)·u before each normalised row",
        "Tang et al., NeurIPS 2020",
        _NONE,
        (
            Figure("cifar100lt", 100, "resnet32", 200, 44.1),
            Figure("cifar100lt", 50, "resnet32", 200, 50.3),
            Figure("cifar100lt", 10, "resnet32", 200, 59.6),
            Figure("imagenetlt", None, "resnext50", 90, 51.8),
        ),
        (
            "It needs a run of --method deconfound, which keeps the mean of features.",
            "The authors' ResNet-32 on CIFAR is wider than others' (128 features), and α was "
            "chosen on the test images there.",
            "α·cos(x, u) above 1 turns the direction around.",
        ),
    ),
}


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
    counts = checked_counts(class_counts, _num_classes(network.classifier))
    scores = ADJUSTMENTS[name](network.classifier, counts, **options)
    return scores.eval().requires_grad_(False)


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
    _check_finite(layer, "tau", tau)
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
