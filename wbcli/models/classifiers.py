"""Classifiers that a network trains with, and all classifiers by name.

What each has, `num_classes`, `row_norms()` and `linear()`, is said in `linear.py`.

Legend: B batch, K classes, D features.
"""

import inspect
import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wbcli.balance.ops import row_norms
from wbcli.models.feature_maps import (
    Directions,
    Unit,
    outside_autocast,
    unit,
    without_context,
)
from wbcli.models.kept import DisAlign, Scaled
from wbcli.models.linear import Form, Linear, linear_of


class Cosine(nn.Module):
    """s·cos(w_k, h), without bias. Source: Cao et al., "LDAM", NeurIPS 2019 (s = 30 in its code).

    Rows start at unit length, as normal directions from torch's global generator.
    """

    def __init__(self, num_features: int, num_classes: int, *, scale: float = 30.0):
        super().__init__()
        self.scale = _above_0("scale", scale)
        self.weight = nn.Parameter(unit(torch.randn(num_classes, num_features)))

    @property
    def num_classes(self) -> int:
        return len(self.weight)

    def row_norms(self) -> None:
        return None

    def linear(self) -> Form:
        """f' = s·h/‖h‖, w' = w/‖w‖ and a bias of 0, which may train."""
        return Unit(self.scale), linear_of(unit(self.weight))

    @outside_autocast
    def forward(self, features: Tensor) -> Tensor:
        return F.linear(self.scale * unit(features), unit(self.weight))


class ETF(nn.Module):
    """w_k·h + b_k with the rows of a fixed simplex, of which the bias alone trains.

    W = √(K/(K−1))·(I − 11ᵀ/K)·Uᵀ with K random orthonormal columns U `[D, K]`: rows of unit length,
    −1/(K−1) between any two. The bias starts uniform in ±1/D.
    Source: Hasegawa & Sato, ICLR 2024, section 4 (and its code for the bias).

    Args:
        num_features, num_classes: D ≥ K ≥ 2.
        seed: of U, which is drawn on the CPU in float64.

    Raises:
        ValueError: fewer features than classes, or one class.
    """

    def __init__(self, num_features: int, num_classes: int, *, seed: int = 0):
        super().__init__()
        if not num_features >= num_classes >= 2:
            raise ValueError(
                "an etf classifier needs at least 2 classes and as many features as classes, got "
                f"{num_features} features and {num_classes} classes: take an --arch with more "
                "features, or another --head"
            )
        self.register_buffer("weight", simplex(num_features, num_classes, seed))
        bound = 1 / num_features
        self.bias = nn.Parameter(torch.empty(num_classes).uniform_(-bound, bound))

    @property
    def num_classes(self) -> int:
        return len(self.weight)

    def row_norms(self) -> None:
        return None

    def linear(self) -> Form:
        return nn.Identity(), linear_of(self.weight, self.bias)

    @outside_autocast
    def forward(self, features: Tensor) -> Tensor:
        return F.linear(features, self.weight, self.bias)


class Normalised(nn.Module):
    """De-confounded training and TDE: normalised rows in M parts, and the mean of features.

    z_k = s/M·Σ_m w_k^m/(‖w_k^m‖ + γ)·(x^m − α·cos(x^m, u^m)·u^m), where x^m is the direction of the
    m-th part of h and u^m that of the moving mean of features. In training mode α is 0, and every
    forward adds its features to `feature_sum` and `feature_count`; `update_mean`, once a step,
    takes them into the mean: e ← μ·e + mean of the step, so that it does not matter into how many
    parts a batch is cut. What no call has taken in yet counts, too.
    Rows start uniform in ±1/√D. Source: Tang et al., NeurIPS 2020.

    Args:
        num_features: D, a multiple of `parts`.
        parts, scale, gamma: M, s (the paper's τ) and γ.
        alpha: α at evaluation; 0 is the plain classifier. It is saved with the weights.
        momentum: μ. Only the direction of e counts, hence no factor 1 − μ.
    """

    def __init__(
        self,
        num_features: int,
        num_classes: int,
        *,
        parts: int = 2,
        scale: float = 16.0,
        gamma: float = 1 / 32,
        alpha: float = 0.0,
        momentum: float = 0.9,
    ):
        super().__init__()
        if parts < 1 or num_features % parts:
            raise ValueError(f"{num_features} features cannot be cut into {parts} equal parts")
        self.parts, self.momentum = parts, momentum
        self.scale, self.gamma = _above_0("scale", scale), _above_0("gamma", gamma)
        bound = num_features**-0.5
        self.weight = nn.Parameter(torch.empty(num_classes, num_features).uniform_(-bound, bound))
        self.register_buffer("alpha", torch.tensor(float(alpha)))
        self.register_buffer("feature_mean", torch.zeros(num_features))  # e
        self.register_buffer("feature_sum", torch.zeros(num_features))
        self.register_buffer("feature_count", torch.zeros(()))

    @property
    def num_classes(self) -> int:
        return len(self.weight)

    def row_norms(self) -> Tensor:
        return row_norms(self.weight.detach())

    def linear(self) -> Form:
        """The classifier of evaluation mode, with a bias of 0, which may train."""
        feature_map = Directions(self.scale / self.parts, self._context(), self.alpha)
        return feature_map, linear_of(self._rows())

    @outside_autocast
    def forward(self, features: Tensor) -> Tensor:
        parts = unit(features.unflatten(1, (self.parts, -1)))
        if self.training:
            self.feature_sum += features.detach().sum(0)
            self.feature_count += len(features)
        else:
            parts = without_context(parts, self._context(), self.alpha)
        return F.linear(self.scale / self.parts * parts.flatten(1), self._rows())

    @torch.no_grad()
    def update_mean(self) -> None:
        """Take the features since the last call into the moving mean: once a step."""
        kept = self.momentum ** (self.feature_count > 0).to(self.feature_mean.dtype)
        self.feature_mean.mul_(kept).add_(self._new_mean())
        self.feature_sum.zero_()
        self.feature_count.zero_()

    def _new_mean(self) -> Tensor:
        return self.feature_sum / self.feature_count.clamp(min=1)

    def _context(self) -> Tensor:
        """u `[M, D/M]`."""
        mean = self.momentum * self.feature_mean + self._new_mean()
        return unit(mean.unflatten(0, (self.parts, -1)))

    def _rows(self) -> Tensor:
        rows = self.weight.unflatten(1, (self.parts, -1))
        norms = torch.linalg.vector_norm(rows, dim=-1, keepdim=True)
        return (rows / (norms + self.gamma)).flatten(1)


class Rotations(Linear):
    """Four scores, of the turn of an image by 0, 90, 180 and 270 degrees, whatever K is."""

    def __init__(self, num_features: int, num_classes: int):
        super().__init__(num_features, 4)


HEADS: dict[str, Callable[..., nn.Module]] = {
    "linear": Linear,
    "cosine": Cosine,
    "etf": ETF,
    "normalised": Normalised,
    "rotations": Rotations,
    "scaled": Scaled,
    "disalign": DisAlign,
}


def make(head: str, num_features: int, num_classes: int, **options: Any) -> nn.Module:
    """A new classifier by its name in `HEADS`.

    Args:
        options: what the class takes by name, such as `scale` of `cosine`.

    Raises:
        ValueError: unknown name or option, or one out of range.
    """
    if head not in HEADS:
        raise ValueError(f"unknown head {head!r}: choose one of {', '.join(HEADS)}")
    check_options(head, HEADS[head], options)
    return HEADS[head](num_features, num_classes, **options)


def check_options(name: str, function: Callable, options: dict[str, Any]) -> None:
    """Refuse options that `function` does not take by keyword alone, and say which it has."""
    parameters = inspect.signature(function).parameters.values()
    known = [p.name for p in parameters if p.kind == p.KEYWORD_ONLY]
    if unknown := [option for option in options if option not in known]:
        has = f"it has {', '.join(known)}" if known else "it has none"
        raise ValueError(f"{name} has no option {', '.join(unknown)}: {has}")


def simplex(num_features: int, num_classes: int, seed: int) -> Tensor:
    """K unit rows `[K, D]`, float32, turned at random; any two have a cosine of −1/(K−1)."""
    generator = torch.Generator().manual_seed(seed)
    shape = (num_features, num_classes)
    normal = torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu")
    u, triangle = torch.linalg.qr(normal)
    u = u * triangle.diagonal().sign()  # every rotation is as likely as another
    centred = u - u.mean(1, keepdim=True)  # U·(I − 11ᵀ/K)
    return (math.sqrt(num_classes / (num_classes - 1)) * centred.T).float().contiguous()


def _above_0(name: str, value: float) -> float:
    if not (value > 0 and math.isfinite(value)):
        raise ValueError(f"{name} must be a finite number above 0, got {value}")
    return float(value)
