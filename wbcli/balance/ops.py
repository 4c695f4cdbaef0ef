"""The public ops: checks that say what was expected and what came, then the dispatcher.

The kernels behind it, compiled or torch twins, are registered in `extension.py`.
"""

import math
from numbers import Real

import torch
from torch import Tensor

from wbcli.balance import (
    extension,  # noqa: F401 (registers the ops)
    reference,
)

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
_ROW_NORMS = torch.ops.wbcli.row_norms.default
_MAX_NORM = torch.ops.wbcli.max_norm_.default
_TAU_NORM = torch.ops.wbcli.tau_norm_.default
_SGD_MAX_NORM = torch.ops.wbcli.sgd_max_norm_.default


def row_norms(w: Tensor) -> Tensor:
    """Euclidean norm of every row: ‖w_k‖₂ = (Σ_d w_kd²)^½.

    Args:
        w: `[K, D]`, or `[K, ...]` whose rows are read flattened (a filter of a
            convolution); float64, float32, bfloat16 or float16, any strides.

    Returns:
        `[K]`, float32 (float64 for float64 input); differentiable (reverse mode).

    Raises:
        ValueError: `w` is not a floating-point tensor of at least two dimensions.
    """
    check_rows(w)
    return _ROW_NORMS(w)


def max_norm_(w: Tensor, radius: float | Tensor) -> Tensor:
    """Project every row onto the ball of its radius: w_k ← min(1, δ_k/‖w_k‖₂) · w_k, in place.

    Rows inside their ball are not written; zero rows stay zero; rows with NaN stay as
    they are. Source: Alshammari et al., CVPR 2022 (arXiv 2203.14197), the MaxNorm
    constraint, solved by projected gradient descent.

    Args:
        w: `[K, D]` or `[K, ...]`, dtypes and strides as for `row_norms`; a leaf that
            requires grad is taken as it is, for autograd does not see this op.
        radius: δ ≥ 0, one number or 0-d tensor for all rows, or a `[K]` tensor of any
            floating dtype.

    Returns:
        `w` itself.

    Raises:
        ValueError: wrong shape, dtype or device; a radius that is negative or NaN
            (looked at in numbers and CPU tensors only: a device tensor is not read);
            a result of a computation that autograd records.
    """
    check_rows(w)
    _check_writable("w", w)
    check_per_row("radius", radius, w)
    _MAX_NORM(w, *_number_and_rows(radius, w))
    return _mutated(w)


def tau_norm_(w: Tensor, tau: float = 1.0) -> Tensor:
    """Divide every row by a power of its norm: w_k ← w_k/‖w_k‖₂^τ, in place.

    τ = 1 is the L2-norm constraint (every row of unit length), τ = 0 changes nothing.
    Zero rows stay zero. Source: Kang et al., ICLR 2020 (arXiv 1910.09217), τ-normalisation.

    Args:
        w: `[K, D]` or `[K, ...]`, dtypes and strides as for `row_norms`.
        tau: τ ≥ 0.

    Returns:
        `w` itself.

    Raises:
        ValueError: wrong shape or dtype, or τ negative or not finite.
    """
    check_rows(w)
    _check_writable("w", w)
    if not isinstance(tau, Real) or not (tau >= 0 and math.isfinite(tau)):
        raise ValueError(f"tau must be a finite number of at least 0, got {tau}")
    _TAU_NORM(w, tau)
    return _mutated(w)


def sgd_max_norm_(
    w: Tensor,
    grad: Tensor,
    buf: Tensor | None = None,
    *,
    lr: float | Tensor,
    momentum: float = 0.0,
    dampening: float = 0.0,
    weight_decay: float | Tensor = 0.0,
    nesterov: bool = False,
    maximize: bool = False,
    radius: float | Tensor | None = None,
    unit_norm: bool = False,
) -> Tensor:
    """One step of SGD on the rows of `w`, then the projection, in one pass, in place.

    g ← ±grad + λ·w;  m ← μ·m + (1 − dampening)·g;  w ← w − η·(g + μ·m, m or g);  then
    w_k ← min(1, δ_k/‖w_k‖₂) · w_k, or w_k ← w_k/‖w_k‖₂ with `unit_norm`. The same sums as
    torch.optim.SGD followed by `max_norm_` or `tau_norm_`; reads w, grad and buf, writes w
    and buf. Source: Alshammari et al., CVPR 2022 (arXiv 2203.14197), projected gradient
    descent.

    Args:
        w: `[K, D]` or `[K, ...]`, dtypes and strides as for `row_norms`.
        grad: as `w`.
        buf: m, as `w`; None for a step without momentum.
        lr, weight_decay, radius: η, λ and δ ≥ 0, each a number, a 0-d tensor or a `[K]`
            tensor of any floating dtype; without a radius there is no projection.
        momentum, dampening, nesterov, maximize: as in torch.optim.SGD.

    Returns:
        `w` itself.

    Raises:
        ValueError: wrong shape, dtype or device, or a setting out of range; device
            tensors are not read.
    """
    check_rows(w)
    _check_writable("w", w)
    _check_alike("grad", grad, w)
    if buf is not None:
        _check_alike("buf", buf, w)
        _check_writable("buf", buf)
    elif momentum:
        raise ValueError("a momentum above 0 needs a buf: zeros before the first step")
    check_momentum(momentum, dampening, nesterov)
    if unit_norm and radius is not None:
        raise ValueError("unit_norm and a radius exclude each other: give one of them")
    radius = math.inf if radius is None else radius
    for name, value in [("lr", lr), ("weight_decay", weight_decay), ("radius", radius)]:
        check_per_row(name, value, w)
    lr, lr_rows = _number_and_rows(lr, w)
    weight_decay, weight_decay_rows = _number_and_rows(weight_decay, w)
    radius, radius_rows = _number_and_rows(radius, w)
    _SGD_MAX_NORM(
        w,
        grad,
        buf,
        lr,
        momentum,
        dampening,
        weight_decay,
        nesterov,
        maximize,
        radius,
        unit_norm,
        lr_rows,
        weight_decay_rows,
        radius_rows,
    )
    return _mutated(w) if buf is None else _mutated(w, buf)


def check_per_row(name: str, value: float | Tensor, w: Tensor) -> None:
    """Refuse a setting that is neither one non-negative number nor one per row of `w`.

    Raises:
        ValueError: it says what was expected and what came; values are looked at in
            numbers and CPU tensors only.
    """
    if not isinstance(value, Tensor):
        _check_number(name, value)
        return
    if value.ndim and value.shape != w.shape[:1]:
        raise ValueError(
            f"{name} must be one value or one per row ({list(w.shape[:1])} for a weight of shape "
            f"{list(w.shape)}), got shape {list(value.shape)}"
        )
    if value.dtype not in DTYPES:
        raise ValueError(f"{name} must be a floating-point tensor, got {value.dtype}")
    if value.device != w.device and (value.ndim or value.device.type != "cpu"):
        raise ValueError(f"{name} is on {value.device}, the weight on {w.device}: move one")
    has_values = type(value) in (Tensor, torch.nn.Parameter) and not torch.compiler.is_compiling()
    if has_values and value.device.type == "cpu" and not bool((value >= 0).all()):
        raise ValueError(f"{name} must be at least 0 in every row, got {value.min().item()}")


def check_momentum(momentum: float, dampening: float, nesterov: bool) -> None:
    """Refuse a negative momentum, and Nesterov's without momentum or with dampening."""
    _check_number("momentum", momentum)
    if not isinstance(dampening, Real) or not math.isfinite(dampening):
        raise ValueError(f"dampening must be a finite number, got {dampening!r}")
    if nesterov and (momentum == 0 or dampening != 0):
        raise ValueError("nesterov needs a momentum above 0 and no dampening")


def _check_number(name: str, value: float) -> None:
    if not isinstance(value, Real):
        raise ValueError(f"{name} must be a number or a tensor, got {value!r}")
    if not value >= 0:
        raise ValueError(f"{name} must be at least 0, got {value}")


def check_rows(w: Tensor) -> None:
    """Refuse what is not a dense floating-point tensor of rows."""
    if not isinstance(w, Tensor):
        raise ValueError(f"expected a tensor of rows [K, D], got {type(w).__name__}")
    if w.dtype not in DTYPES or w.ndim < 2 or w.layout != torch.strided:
        raise ValueError(
            "expected a floating-point tensor of rows [K, D] (or [K, ...]; float64, float32, "
            f"bfloat16 or float16; dense), got {w.dtype} of shape {list(w.shape)}, {w.layout}"
        )


def _check_writable(name: str, t: Tensor) -> None:
    if 0 in t.stride() and any(s == 0 and n > 1 for s, n in zip(t.stride(), t.shape, strict=True)):
        raise ValueError(f"{name} is expanded: its elements share memory, clone it first")
    if t.requires_grad and not t.is_leaf and torch.is_grad_enabled():
        raise ValueError(
            f"{name} is the result of a computation that autograd records, and this op has no "
            "gradient: call it under torch.no_grad(), or on a detached tensor"
        )


def _check_alike(name: str, other: Tensor, w: Tensor) -> None:
    if not isinstance(other, Tensor):
        raise ValueError(f"{name} must be a tensor like the weight, got {type(other).__name__}")
    for what in ("shape", "dtype", "device", "layout"):
        expected, got = getattr(w, what), getattr(other, what)
        if expected != got:
            expected, got = (list(x) if what == "shape" else x for x in (expected, got))
            raise ValueError(f"{name} must have the {what} of the weight, {expected}, got {got}")


def _number_and_rows(value: float | Tensor, w: Tensor) -> tuple[float, Tensor | None]:
    """A setting as the schemas take it: a number, or a tensor that stands in for it."""
    if not isinstance(value, Tensor):
        return float(value), None
    if value.device != w.device:  # one value on the CPU
        return value.item(), None
    return 0.0, value.to(reference.accumulation_dtype(w.dtype))


def _mutated(w: Tensor, *others: Tensor) -> Tensor:
    """Tell autograd that these have new values, so that a stale backward pass is refused."""
    torch.autograd.graph.increment_version((w, *others))
    return w
