"""Maps of features [B, D] → [B, D'], after which a classifier is a linear layer.

Legend: B batch, K classes, D features, M parts of a feature vector. A map owns what it needs as
buffers, so that it is saved with a network; it has no parameters.
"""

import functools
from collections.abc import Callable

import torch
from torch import Tensor, nn


def outside_autocast(forward: Callable) -> Callable:
    """A module's `forward(features)` that runs outside autocast, in the dtype of its `weight`.

    bf16 keeps 8 bits of a logit, so that the two largest of an image may tie; and a tie goes to
    the class of lower index, which is the more frequent one. A module without `weight` runs in
    float32.
    """

    @functools.wraps(forward)
    def run(module: nn.Module, features: Tensor) -> Tensor:
        device_type = features.device.type
        if not torch.is_autocast_enabled(device_type):
            return forward(module, features)
        weight = getattr(module, "weight", None)
        with torch.autocast(device_type, enabled=False):
            dtype = torch.float32 if weight is None else weight.dtype
            return forward(module, features.to(dtype))

    return run


def unit(vectors: Tensor) -> Tensor:
    """v/‖v‖₂ along the last dimension; a zero vector stays zero, and its gradient is finite."""
    norms = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    return vectors / torch.where(norms > 0, norms, 1.0)


def normalisation(name: str, num_features: int) -> nn.Module:
    """What is done with a vector first: `none`, `l2` (its direction) or `standard`."""
    if name == "standard":
        return Standard(num_features)
    return Unit(1.0) if name == "l2" else nn.Identity()


def without_context(parts: Tensor, context: Tensor, alpha: Tensor) -> Tensor:
    """x − α·cos(x, u)·u for unit vectors x `[B, M, D/M]` and u `[M, D/M]`."""
    return parts - alpha * (parts * context).sum(-1, keepdim=True) * context


class Unit(nn.Module):
    """f → s·f/‖f‖."""

    def __init__(self, scale: float):
        super().__init__()
        self.scale = scale

    @outside_autocast
    def forward(self, features: Tensor) -> Tensor:
        return self.scale * unit(features)


class Standard(nn.Module):
    """f → (f − μ)/σ; μ = 0 and σ = 1 until they are set, or loaded."""

    def __init__(self, num_features: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(num_features))
        self.register_buffer("std", torch.ones(num_features))

    def set_moments(self, mean: Tensor, std: Tensor) -> None:
        """Take μ and σ `[D]`, of any floating dtype; a feature that never changes has σ = 1."""
        self.mean.copy_(mean)
        self.std.copy_(torch.where(std > 0, std, 1.0))

    @outside_autocast
    def forward(self, features: Tensor) -> Tensor:
        return (features - self.mean) / self.std


class Directions(nn.Module):
    """f → s·[x¹ … xᴹ] with xᵐ = f̂ᵐ − α·cos(f̂ᵐ, uᵐ)·uᵐ, f̂ᵐ the direction of the m-th part of f.

    Args:
        context: u `[M, D/M]`, unit vectors.
        alpha: α, 0-d.
    """

    def __init__(self, scale: float, context: Tensor, alpha: Tensor):
        super().__init__()
        self.scale = scale
        self.register_buffer("context", context.detach().clone())
        self.register_buffer("alpha", alpha.detach().clone())

    @outside_autocast
    def forward(self, features: Tensor) -> Tensor:
        parts = unit(features.unflatten(1, (len(self.context), -1)))
        return self.scale * without_context(parts, self.context, self.alpha).flatten(1)


class Points(nn.Module):
    """f → [x, ‖x‖²] with x = f − m, or its direction: what a distance to points is linear in.

    Args:
        num_features: D.
        normalised: whether x is of unit length.
    """

    def __init__(self, num_features: int, normalised: bool):
        super().__init__()
        self.normalised = normalised
        self.register_buffer("centre", torch.zeros(num_features))  # m

    @outside_autocast
    def forward(self, features: Tensor) -> Tensor:
        points = features - self.centre
        if self.normalised:
            points = unit(points)
        return torch.cat([points, points.square().sum(1, keepdim=True)], 1)
