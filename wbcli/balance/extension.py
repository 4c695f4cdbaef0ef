"""The ops in PyTorch's dispatcher: schemas, torch twins, fake kernels, compiled kernels.

Each op is registered under `torch.ops.wbcli` with its torch twin from `reference.py` as the
kernel for every device; the compiled kernels of csrc/ stand in for it where they were built and
fit this torch. A missing library is no error, and `MISSING` says why it is missing; a library
that is there and cannot be loaded is one. Mutation is declared, so the ops trace under
`torch.compile`; none waits for a device, so a CUDA graph can capture them.
"""

import json
from pathlib import Path

import torch
from torch import Tensor

from wbcli.balance import reference

FOLDER = Path(__file__).parent
RECORD = "_build.json"
_library = torch.library.Library("wbcli", "DEF")
_ROW_SETTINGS = "Tensor? lr_rows=None, Tensor? weight_decay_rows=None, Tensor? radius_rows=None"
_SCHEMAS = (
    "row_norms(Tensor w) -> Tensor",
    "max_norm_(Tensor(a!) w, float radius, Tensor? radius_rows=None) -> ()",
    "tau_norm_(Tensor(a!) w, float tau) -> ()",
    "sgd_max_norm_(Tensor(a!) w, Tensor grad, Tensor(b!)? buf, float lr, float momentum, "
    "float dampening, float weight_decay, bool nesterov, bool maximize, float radius, "
    f"bool unit_norm, {_ROW_SETTINGS}) -> ()",
)


def kernels(device_type: str) -> str:
    """What runs behind the ops on such a device: `compiled` kernels, or `torch`, their twins."""
    return "compiled" if MISSING.get(device_type) == "" else "torch"


def library(device_type: str) -> Path | None:
    """The shared library with the kernels for `cpu` or `cuda`, where it was built."""
    return next(iter(sorted(FOLDER.glob(f"_{device_type}*.so"))), None)


def _load() -> dict[str, str]:
    """Load what was built; returns, for `cpu` and `cuda`, why there are no kernels, or "".

    Raises:
        RuntimeError: a library is there and cannot be loaded.
    """
    reasons = {}
    for device_type in ("cpu", "cuda"):
        reasons[device_type] = _reason_against(device_type)
        if reasons[device_type]:
            continue
        path = library(device_type)
        try:
            torch.ops.load_library(path)
        except OSError as error:
            raise RuntimeError(
                f"the compiled kernels {path} cannot be loaded ({error}): reinstall wbcli, "
                "or delete that file to go on without them"
            ) from error
    return reasons


def _reason_against(device_type: str) -> str:
    record = build_record()
    if library(device_type) is None:
        return record[device_type] or f"not built: no library in {FOLDER} (pip install makes it)"
    if device_type == "cuda":
        built, runs = record["cuda_version"], torch.version.cuda
        if built is None:
            return f"left by another build: {FOLDER / RECORD} does not know it"
        if runs is None:
            return f"built for CUDA {built}, but torch {torch.__version__} has no CUDA"
        if built.split(".")[0] != runs.split(".")[0]:
            return f"built for CUDA {built}, but torch {torch.__version__} is for CUDA {runs}"
    return ""


def build_record() -> dict[str, str | None]:
    """What setup.py left beside this file: why it left out a library, and nvcc's version."""
    record = {"cpu": None, "cuda": None, "cuda_version": None}
    try:
        return record | json.loads((FOLDER / RECORD).read_text())
    except FileNotFoundError:
        return record
    except (ValueError, TypeError) as error:
        raise RuntimeError(f"{FOLDER / RECORD} is damaged ({error}): reinstall wbcli") from error


@torch.no_grad()
def _max_norm_twin(w, radius, radius_rows=None):
    reference.max_norm_(w, radius if radius_rows is None else radius_rows)


@torch.no_grad()
def _tau_norm_twin(w, tau):
    reference.tau_norm_(w, tau)


@torch.no_grad()
def _sgd_max_norm_twin(
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
    lr_rows=None,
    weight_decay_rows=None,
    radius_rows=None,
):
    reference.sgd_max_norm_(
        w,
        grad,
        buf,
        lr=lr if lr_rows is None else lr_rows,
        momentum=momentum,
        dampening=dampening,
        weight_decay=weight_decay if weight_decay_rows is None else weight_decay_rows,
        nesterov=nesterov,
        maximize=maximize,
        radius=radius if radius_rows is None else radius_rows,
        unit_norm=unit_norm,
    )


def _row_norms_fake(w):
    return w.new_empty(w.shape[:1], dtype=reference.accumulation_dtype(w.dtype))


def _row_norms_backward(ctx, grad_norms: Tensor) -> Tensor:
    """∂‖w_k‖/∂w_k = w_k/‖w_k‖, 0 for a zero row."""
    w, norms = ctx.saved_tensors
    factors = torch.where(norms > 0, grad_norms / norms, 0.0)
    return (w * reference.column(factors, w)).to(w.dtype)


def _save_for_backward(ctx, inputs, output) -> None:
    ctx.save_for_backward(inputs[0], output)


_TWINS = {
    "row_norms": reference.row_norms,
    "max_norm_": _max_norm_twin,
    "tau_norm_": _tau_norm_twin,
    "sgd_max_norm_": _sgd_max_norm_twin,
}
for _schema in _SCHEMAS:
    _name = _library.define(_schema, tags=(torch.Tag.pt2_compliant_tag,))
    _library.impl(_name, _TWINS[_name], "CompositeExplicitAutograd")
    if _name == "row_norms":
        torch.library.register_fake("wbcli::row_norms", _row_norms_fake, lib=_library)
        torch.library.register_autograd(
            "wbcli::row_norms", _row_norms_backward, setup_context=_save_for_backward, lib=_library
        )
    else:  # in place, on leaves too: nothing to differentiate
        torch.library.register_fake(f"wbcli::{_name}", lambda *args: None, lib=_library)
        _library.impl(_name, torch.library.fallthrough_kernel, "Autograd")
MISSING = _load()  # device type: why it has no compiled kernels, "" where it has
