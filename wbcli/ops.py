"""The public ops: one door, behind which a compiled kernel or its torch twin does the work.

This version has no compiled kernels: every op runs its twin in `reference.py`.
"""

import math

import torch
from torch import Tensor

from wbcli import reference

KERNELS = "torch"  # what runs behind the door: recorded in every run


def row_norms(w: Tensor) -> Tensor:
    """Euclidean norm of every row: ‖w_k‖₂ = (Σ_d w_kd²)^½.

    Args:
        w: `[K, D]`, or `[K, ...]` whose rows are read flattened (a filter of a
            convolution); any floating dtype, any strides.

    Returns:
        `[K]`, float32 (float64 for float64 input); differentiable.

    Raises:
        ValueError: `w` is not a floating-point tensor of at least two dimensions.
    """
    _check_rows(w)
    return reference.row_norms(w)


@torch.no_grad()
def max_norm_(w: Tensor, radius: float | Tensor) -> Tensor:
    """Project every row onto the ball of its radius: w_k ← min(1, δ_k/‖w_k‖₂) · w_k, in place.

    Rows inside their ball keep their bits; zero rows stay zero; rows with NaN stay as
    they are. Source: Alshammari et al., CVPR 2022 (arXiv 2203.14197), the MaxNorm
    constraint, solved by projected gradient descent.

    Args:
        w: `[K, D]` or `[K, ...]`, any floating dtype, any strides; a leaf that
            requires grad is taken as it is.
        radius: δ ≥ 0, one number or 0-d tensor for all rows, or a `[K]` tensor of any
            floating dtype.

    Returns:
        `w` itself.

    Raises:
        ValueError: wrong shape, dtype or device; a radius that is negative or NaN
            (looked at in numbers and CPU tensors only: a device tensor is not read).
    """
    _check_rows(w)
    check_per_row("max_norm", radius, w)
    return reference.max_norm_(w, radius)


@torch.no_grad()
def tau_norm_(w: Tensor, tau: float = 1.0) -> Tensor:
    """Divide every row by a power of its norm: w_k ← w_k/‖w_k‖₂^τ, in place.

    τ = 1 is the L2-norm constraint (every row of unit length), τ = 0 changes nothing.
    Zero rows stay zero. Source: Kang et al., ICLR 2020 (arXiv 1910.09217), τ-normalisation.

    Args:
        w: `[K, D]` or `[K, ...]`, any floating dtype, any strides.
        tau: τ ≥ 0.

    Returns:
        `w` itself.

    Raises:
        ValueError: wrong shape or dtype, or τ negative or not finite.
    """
    _check_rows(w)
    if not (tau >= 0 and math.isfinite(tau)):
        raise ValueError(f"tau must be a finite number of at least 0, got {tau}")
    return reference.tau_norm_(w, tau)


@torch.no_grad()
def sgd_(w: Tensor, grad: Tensor, buffer: Tensor | None, **settings) -> Tensor:
    """One SGD step on the rows of `w` and the projection after it; see `reference.sgd_`.

    `lr`, `weight_decay` and `max_norm` are each a number, a 0-d tensor or one value per
    row. The arguments are checked by `wbcli.SGD`, once, not at every step.
    """
    return reference.sgd_(w, grad, buffer, **settings)


def check_per_row(name: str, value: float | Tensor, w: Tensor) -> None:
    """Refuse a setting that is neither one non-negative number nor one per row of `w`."""
    if not isinstance(value, Tensor):
        if not value >= 0:
            raise ValueError(f"{name} must be at least 0, got {value}")
        return
    rows = w.shape[0]
    if value.ndim > 1 or (value.ndim == 1 and value.shape[0] != rows):
        raise ValueError(
            f"{name} must be one value or one per row ([{rows}] for a weight of shape "
            f"{list(w.shape)}), got shape {list(value.shape)}"
        )
    if not value.is_floating_point():
        raise ValueError(f"{name} must be a floating-point tensor, got {value.dtype}")
    if value.ndim and value.device != w.device:
        raise ValueError(f"{name} is on {value.device}, the weight on {w.device}: move one")
    if value.device.type == "cpu" and not bool((value >= 0).all()):
        raise ValueError(f"{name} must be at least 0 in every row, got {value.min().item()}")


def _check_rows(w: Tensor) -> None:
    if not isinstance(w, Tensor):
        raise ValueError(f"expected a tensor of rows [K, D], got {type(w).__name__}")
    if not w.is_floating_point() or w.ndim < 2:
        raise ValueError(
            "expected a floating-point tensor of rows [K, D] (or [K, ...]), "
            f"got {w.dtype} of shape {list(w.shape)}"
        )
