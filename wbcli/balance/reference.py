"""Torch twin of every op: the readable specification that the compiled kernels must equal.

Legend: K rows, D entries of a row. A row is `w[k]` read flattened: a class of a
classifier `[K, D]`, or one output filter of a convolution `[K, C, h, w]`.
Everything is computed in float32 (float64 for float64), and each result is rounded once to
the dtype of the weight. No formula has an epsilon.
"""

import torch
from torch import Tensor


def row_norms(w: Tensor) -> Tensor:
    """‖w_k‖₂ of every row, `[K]`."""
    return torch.linalg.vector_norm(
        w, dim=tuple(range(1, w.ndim)), dtype=accumulation_dtype(w.dtype)
    )


def scale_rows_(w: Tensor, factors: Tensor) -> Tensor:
    """w_k ← factor_k · w_k."""
    return w.copy_(w * column(factors, w))


def max_norm_(w: Tensor, radius: float | Tensor) -> Tensor:
    """w_k ← min(1, δ_k/‖w_k‖₂) · w_k."""
    norms = row_norms(w)
    return scale_rows_(w, torch.where(norms > radius, radius / norms, 1.0))


def tau_norm_(w: Tensor, tau: float) -> Tensor:
    """w_k ← w_k/‖w_k‖₂^τ; a zero row stays zero."""
    norms = row_norms(w)
    return scale_rows_(w, torch.where(norms > 0, norms**-tau, 1.0))


def sgd_(
    w: Tensor,
    grad: Tensor,
    buf: Tensor | None,
    *,
    lr: float | Tensor,
    momentum: float = 0.0,
    dampening: float = 0.0,
    weight_decay: float | Tensor = 0.0,
    nesterov: bool = False,
    maximize: bool = False,
) -> Tensor:
    """One step of SGD on the rows of `w`, the same sums as torch.optim.SGD.

    g ← ±grad + λ·w;  m ← μ·m + (1 − dampening)·g;  w ← w − η·(g + μ·m or m or g).
    """
    dtype = accumulation_dtype(w.dtype)
    x, g = w.to(dtype), grad.to(dtype)
    g = _add_scaled(-g if maximize else g, x, weight_decay)
    if buf is not None:
        m = (buf.to(dtype) * momentum).add(g, alpha=1 - dampening)
        buf.copy_(m)
        g = g.add(m, alpha=momentum) if nesterov else m
    return w.copy_(_add_scaled(x, g, -lr))


def sgd_max_norm_(
    w: Tensor,
    grad: Tensor,
    buf: Tensor | None,
    *,
    radius: float | Tensor,
    unit_norm: bool,
    **settings,
) -> Tensor:
    """`sgd_`, then `max_norm_` or, for `unit_norm`, `tau_norm_` with τ = 1."""
    sgd_(w, grad, buf, **settings)
    return tau_norm_(w, 1.0) if unit_norm else max_norm_(w, radius)


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def column(values: Tensor, w: Tensor) -> Tensor:
    """`[K]` values shaped to scale the rows of `w`; a 0-d tensor stays as it is."""
    return values.reshape(-1, *[1] * (w.ndim - 1)) if values.ndim else values


def _add_scaled(x: Tensor, y: Tensor, scale: float | Tensor) -> Tensor:
    if isinstance(scale, Tensor):
        return x + column(scale, y) * y
    return x.add(y, alpha=scale) if scale else x
