"""SGD whose step ends on the constraint set, and the same constraint for any other optimiser."""

import functools
import sys
from collections.abc import Callable

import torch
from torch import Tensor
from torch.optim.sgd import sgd

from wbcli.balance import ops

CONSTRAINTS = ("max_norm", "unit_norm")


def _unguarded(name: str) -> Callable:
    """Optimizer's method without its guard against torch.compile, where nobody compiles.

    The guard imports torch._dynamo when it is first met: a second, of three until a first step.
    """
    guarded = getattr(torch.optim.Optimizer, name)
    bare = getattr(guarded, "__wrapped__", guarded)

    @functools.wraps(guarded)
    def method(self, *args, **kwargs):
        return (guarded if "torch._dynamo" in sys.modules else bare)(self, *args, **kwargs)

    return method


_add_param_group, _load_state_dict = _unguarded("add_param_group"), _unguarded("load_state_dict")


class SGD(torch.optim.Optimizer):
    """`torch.optim.SGD` with a norm constraint on the rows of its weights.

    g ← ∇ + λ·w;  m ← μ·m + (1 − dampening)·g;  w ← w − η·m;  then per row
    w_k ← min(1, δ_k/‖w_k‖₂)·w_k (`max_norm`) or w_k ← w_k/‖w_k‖₂ (`unit_norm`).
    Constraints act on parameters of at least two dimensions, whose rows are indexed by
    the first one (classes of a classifier, filters of a convolution); biases and norm
    layers in the same group are stepped and left unconstrained. Source: Alshammari et
    al., CVPR 2022 (arXiv 2203.14197), projected gradient descent after every step.

    Args:
        params: parameters, or groups as for every torch optimiser; a group may set any
            of the options below.
        lr, weight_decay: η and λ ≥ 0, one value or a `[K]` tensor, one per row (PyTorch's
            schedulers set one lr: they want a number or a 0-d tensor).
        max_norm: δ ≥ 0, one value or a `[K]` tensor; None leaves rows alone.
        unit_norm: keep every row at length 1; excludes `max_norm`.
        momentum, dampening, nesterov, maximize, foreach, fused: as in torch.optim.SGD;
            the last two choose PyTorch's kernel for parameters without per-row work.
        differentiable: False: no gradient goes through a step.

    The state dict is interchangeable with torch.optim.SGD's, but for values per row, which
    that one cannot use; loading one without constraints keeps those given here.

    Raises:
        ValueError: a setting out of range or of the wrong shape, both constraints at once.
    """

    def __init__(
        self,
        params,
        lr: float | Tensor = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float | Tensor = 0.0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        fused: bool | None = None,
        differentiable: bool = False,
        max_norm: float | Tensor | None = None,
        unit_norm: bool = False,
    ):
        if differentiable:
            raise ValueError("differentiable=True: no gradient goes through a step of wbcli.SGD")
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "dampening": dampening,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
            "maximize": maximize,
            "foreach": foreach,
            "fused": fused,
            "max_norm": max_norm,
            "unit_norm": unit_norm,
        }
        super().__init__(params, defaults)

    zero_grad = _unguarded("zero_grad")
    state_dict = _unguarded("state_dict")

    def add_param_group(self, param_group: dict) -> None:
        _add_param_group(self, param_group)
        try:
            _check_group(self.param_groups[-1])
        except ValueError:
            self.param_groups.pop()
            raise

    def __setstate__(self, state: dict) -> None:
        super().__setstate__(state)
        for group in self.param_groups:  # a state of another optimiser, or of an older version
            for key, value in self.defaults.items():
                group.setdefault(key, value)

    def load_state_dict(self, state_dict: dict) -> None:
        constraints = [{key: group[key] for key in CONSTRAINTS} for group in self.param_groups]
        _load_state_dict(self, state_dict)
        loaded_groups = state_dict["param_groups"]
        for group, loaded, own in zip(self.param_groups, loaded_groups, constraints, strict=True):
            if loaded.get("max_norm") is None and not loaded.get("unit_norm"):
                group.update(own)

    @torch.no_grad()
    def step(self, closure=None):
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            per_row, constrained, plain = _is_per_row(group), _is_constrained(group), []
            for p in group["params"]:
                if p.grad is None:
                    continue
                if per_row or (constrained and p.ndim > 1):
                    self._step_rows(p, group)
                else:
                    plain.append(p)
            self._step_plain(plain, group)
        return loss

    def _step_rows(self, p: Tensor, group: dict) -> None:
        state, dampening, buffer = self.state[p], group["dampening"], None
        if group["momentum"]:
            buffer = state.get("momentum_buffer")
            if buffer is None:
                buffer = torch.zeros_like(p)
                dampening = 0.0  # the first buffer is the gradient itself, as in torch.optim.SGD
        ops.sgd_max_norm_(
            *[t if t is None or t.ndim > 1 else t.reshape(-1, 1) for t in (p, p.grad, buffer)],
            lr=group["lr"],
            momentum=group["momentum"],
            dampening=dampening,
            weight_decay=group["weight_decay"],
            nesterov=group["nesterov"],
            maximize=group["maximize"],
            radius=group["max_norm"] if p.ndim > 1 else None,
            unit_norm=group["unit_norm"] and p.ndim > 1,
        )
        if buffer is not None:
            state["momentum_buffer"] = buffer

    def _step_plain(self, params: list[Tensor], group: dict) -> None:
        alike: dict[tuple[bool, bool], list[Tensor]] = {}
        for p in params:
            buffer = self.state[p].get("momentum_buffer")
            alike.setdefault((buffer is None, _fits_fused(p, buffer)), []).append(p)
        for (_, fits_fused), together in alike.items():
            self._call_torch(together, group, fits_fused)

    def _call_torch(self, params: list[Tensor], group: dict, fits_fused: bool) -> None:
        foreach, fused = group["foreach"], group["fused"]
        if fused and not fits_fused:
            raise ValueError(
                "fused=True: PyTorch's fused SGD needs weights, gradients and buffers of one dtype "
                "that are contiguous in the same order; leave fused out"
            )
        buffers = [self.state[p].get("momentum_buffer") for p in params]
        gradients = [p.grad for p in params]
        begins = buffers[0] is None  # for all or none of them
        sgd(
            params,
            gradients,
            buffers,
            has_sparse_grad=any(gradient.is_sparse for gradient in gradients),
            foreach=foreach,
            fused=fits_fused if foreach is None and fused is None else fused,
            weight_decay=float(group["weight_decay"]),
            momentum=group["momentum"],
            lr=group["lr"],
            dampening=group["dampening"],
            nesterov=group["nesterov"],
            maximize=group["maximize"],
        )
        if begins and group["momentum"]:
            for p, buffer in zip(params, buffers, strict=True):
                self.state[p]["momentum_buffer"] = buffer


@torch.no_grad()
def project(optimizer: torch.optim.Optimizer, args=None, kwargs=None) -> None:
    """Project the weights of any optimiser: fits `optimizer.register_step_post_hook`.

    Reads `max_norm` (one value or `[K]`) or `unit_norm` from each parameter group and
    applies it to the group's parameters of at least two dimensions, as `SGD` does:

        optimizer = torch.optim.AdamW([{"params": head.parameters(), "max_norm": 1.3}])
        optimizer.register_step_post_hook(wbcli.project)

    Raises:
        ValueError: a radius out of range or of the wrong shape, both constraints at once.
    """
    for group in optimizer.param_groups:
        _check_constraint(group)
        for p in group["params"]:
            if p.ndim > 1 and group.get("unit_norm"):
                ops.tau_norm_(p)
            elif p.ndim > 1 and group.get("max_norm") is not None:
                ops.max_norm_(p, group["max_norm"])


def _is_constrained(group: dict) -> bool:
    return group["unit_norm"] or group["max_norm"] is not None


def _is_per_row(group: dict) -> bool:
    """Whether a setting is a value per row, or one that PyTorch's SGD would wait for."""
    lr, decay = group["lr"], group["weight_decay"]
    per_row = any(isinstance(value, Tensor) and value.ndim for value in (lr, decay))
    return per_row or (isinstance(decay, Tensor) and decay.device.type != "cpu")


def _fits_fused(p: Tensor, buffer: Tensor | None) -> bool:
    """Whether PyTorch's fused SGD takes these: it walks memory, and looks at no strides.

    It is asked for every parameter in every step, in which a microsecond counts.
    """
    if not (p.is_cuda or p.is_cpu) or p.dtype not in ops.DTYPES or p.layout != torch.strided:
        return False
    others = (p.grad,) if buffer is None else (p.grad, buffer)
    dtype, alike, strides = p.dtype, p.is_contiguous(), p.stride()
    for t in others:
        if t.layout != torch.strided or t.dtype != dtype:
            return False
        alike = alike and t.stride() == strides
    if alike:
        return True  # as almost always
    orders = [torch.contiguous_format] + ([torch.channels_last] if p.ndim == 4 else [])
    return any(all(t.is_contiguous(memory_format=o) for t in (p, *others)) for o in orders)


def _check_constraint(group: dict) -> None:
    if group.get("unit_norm") and group.get("max_norm") is not None:
        raise ValueError("unit_norm and max_norm exclude each other: give one of them")


def _check_group(group: dict) -> None:
    _check_constraint(group)
    if group["foreach"] and group["fused"]:
        raise ValueError("foreach and fused exclude each other: give one of them")
    ops.check_momentum(group["momentum"], group["dampening"], group["nesterov"])
    for p in group["params"]:
        for key in ("lr", "weight_decay"):
            ops.check_per_row(key, group[key], p)
        if p.ndim > 1 and _is_constrained(group):
            ops.check_rows(p)
        if p.ndim > 1 and group["max_norm"] is not None:
            ops.check_per_row("max_norm", group["max_norm"], p)
