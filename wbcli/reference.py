"""Torch twin of every op: the readable specification that any faster kernel must equal.

Legend: K rows, D entries of a row. A row is `w[k]` read flattened: a class of a
classifier `[K, D]`, or one output filter of a convolution `[K, C, h, w]`.
Norms are accumulated in float32 (float64 for float64) and no formula has an epsilon.
"""

import torch
from torch import Tensor


def row_norms(w: Tensor) -> Tensor:
    """‖w_k‖₂ of every row, `[K]`."""
    dtype = torch.float64 if w.dtype == torch.float64 else torch.float32
    return torch.linalg.vector_norm(w, dim=tuple(range(1, w.ndim)), dtype=dtype)


def scale_rows_(w: Tensor, factors: Tensor) -> Tensor:
    """w_k ← factor_k · w_k."""
    return w.mul_(column(factors, w))


def max_norm_(w: Tensor, radius: float | Tensor) -> Tensor:
    """w_k ← min(1, δ_k/‖w_k‖₂) · w_k."""
    norms = row_norms(w)
    if isinstance(radius, Tensor):
        radius = radius.to(norms.dtype)
    return scale_rows_(w, torch.where(norms > radius, radius / norms, 1.0))


def tau_norm_(w: Tensor, tau: float) -> Tensor:
    """w_k ← w_k/‖w_k‖₂^τ; a zero row stays zero."""
    norms = row_norms(w)
    return scale_rows_(w, torch.where(norms > 0, norms**-tau, 1.0))


def sgd_(
    w: Tensor,
    grad: Tensor,
    buffer: Tensor | None,
    *,
    lr: float | Tensor,
    momentum: float,
    dampening: float,
    weight_decay: float | Tensor,
    nesterov: bool,
    maximize: bool,
    max_norm: float | Tensor | None,
    unit_norm: bool,
) -> Tensor:
    """One step of SGD on the rows of `w`, then the projection; the same sums as torch.optim.SGD.

    g ← ±grad + λ·w;  m ← μ·m + (1 − dampening)·g;  w ← w − η·(g + μ·m or m or g).
    """
    g = -grad if maximize else grad
    g = _add_scaled_(g.clone(), w, weight_decay)
    if buffer is not None:
        buffer.mul_(momentum).add_(g, alpha=1 - dampening)
        g = g.add_(buffer, alpha=momentum) if nesterov else buffer
    _add_scaled_(w, g, -lr)
    if unit_norm:
        return tau_norm_(w, 1.0)
    return w if max_norm is None else max_norm_(w, max_norm)


def column(values: Tensor, w: Tensor) -> Tensor:
    """`[K]` values shaped to scale the rows of `w`; a 0-d tensor stays as it is."""
    return values.reshape(-1, *[1] * (w.ndim - 1)) if values.ndim else values


def _add_scaled_(x: Tensor, y: Tensor, scale: float | Tensor) -> Tensor:
    if isinstance(scale, Tensor):
        return x.add_(column(scale, y) * y)
    return x.add_(y, alpha=scale)
