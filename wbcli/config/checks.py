"""Range checks of settings: what each may be, and the sentences that refuse it."""

import math
from dataclasses import fields
from types import NoneType, UnionType
from typing import Any, get_args, get_origin

BOUNDS: dict[str, dict[str, float]] = {
    "wd": {"low": 0},
    "lr": {"above": 0},
    "momentum": {"low": 0, "below": 1},
    "epochs": {"low": 1},
    "eval_every": {"low": 1},
    "batch_size": {"low": 2},
    "imbalance_factor": {"low": 1},
    "image_size": {"low": 8, "high": 4096},
    "val_per_class": {"low": 0},
    "seed": {"low": 0, "below": 2**63},
    "beta": {"low": 0, "high": 1},
    "defer_from": {"low": 0, "below": 1},
    "step_factor": {"above": 0, "high": 1},
    "views": {"low": 1},
    "bottleneck": {"low": 1},
    "num_features": {"low": 1},
    "val": {"low": 0, "below": 1},
    "test": {"low": 0, "below": 1},
    "radius": {"above": 0},
    "maxnorm": {"low": 0, "high": 1},
    "crop_fraction": {"above": 0, "high": 1},
    "backbone_lr_factor": {"above": 0, "high": 1e6},
    "tau": {"low": 0},
}
LARGEST = {  # more can only be a mistake: it never ends, fills the memory, or is inf in float32
    "epochs": 10**6,
    "batch_size": 10**6,
    "val_per_class": 10**6,
    "views": 10**4,
    "bottleneck": 2**16,
    "num_features": 2**24,
    "wd": 1e30,
    "lr": 1e30,
    "radius": 1e30,
    "tau": 100,
}
MAX_BITS = 64  # of an integer
NO_OPTION = ("stage", "dataset", "init", "cosine_end", "frozen_batch_norm", "checkpoint")
NO_OPTION += (
    "selected_on",
    "parent",
    "init_from",
    "milestones",
    "step_factor",
    "init_digest",
    "left_out",
    "method_options",
    "mean",
    "std",
    "crop_fraction",
    "interpolation",
    "num_features",
)  # settings that have none of their name


def check_limits(many: int, few: int) -> None:
    if not many >= few >= 0:
        raise ValueError(
            f"--limits MANY FEW: expected MANY ≥ FEW ≥ 0, got {many} and {few}: classes of more "
            "than MANY images are Many, of fewer than FEW are Few"
        )


def check_types(kind: type, values: dict[str, Any]) -> None:
    """Refuse what the annotations of a dataclass do not allow."""
    for field in fields(kind):
        if field.name in values and not _fits(values[field.name], field.type):
            raise ValueError(
                f"{option_name(field.name)} must be {_described(field.type)}, "
                f"got {shown(values[field.name])}"
            )


def _fits(value: Any, kind: Any) -> bool:
    """Whether a value is of an annotated type; an int is a float, a bool is no int."""
    if isinstance(kind, UnionType):
        return any(_fits(value, one) for one in get_args(kind))
    if get_origin(kind) is tuple:
        parts = get_args(kind)
        if not isinstance(value, tuple):
            return False
        if parts[-1] is Ellipsis:
            return all(_fits(part, parts[0]) for part in value)
        return len(value) == len(parts) and all(map(_fits, value, parts))
    if kind in (int, float) and isinstance(value, int):
        return not isinstance(value, bool) and value.bit_length() <= MAX_BITS
    return isinstance(value, kind) and not (kind is str and "\0" in value)


def _described(kind: Any) -> str:
    """An annotated type in words."""
    if isinstance(kind, UnionType):
        return " or ".join(_described(one) for one in get_args(kind))
    if get_origin(kind) is tuple:
        parts = get_args(kind)
        if parts[-1] is Ellipsis:
            return "a list of texts" if parts[0] is str else "a list of numbers"
        return f"{len(parts)} integers"
    words = {
        int: f"an integer of at most {MAX_BITS} bits",
        float: "a number",
        bool: "true or false",
        str: "a text without NUL",
        dict: "an object",
        tuple: "a list",
        NoneType: "none",
    }
    return words[kind]


def option_name(name: str) -> str:
    """What a setting is called on the command line, else its key."""
    return name if name in NO_OPTION else "--" + name.replace("_", "-")


def shown(value: Any) -> str:
    """What came, for a message: short, and on one line."""
    if isinstance(value, int) and value.bit_length() > MAX_BITS:
        return f"one of {value.bit_length()} bits"
    if isinstance(value, dict | list | tuple):
        return f"{'an object' if isinstance(value, dict) else 'a list'} of {len(value)}"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"


def check_number(
    name: str,
    value: float,
    *,
    low: float | None = None,
    above: float | None = None,
    high: float | None = None,
    below: float | None = None,
) -> None:
    if not _fits(value, float):
        raise ValueError(f"{option_name(name)} must be a number, got {shown(value)}")
    bounds = [
        (low, "at least", lambda bound: value >= bound),
        (above, "above", lambda bound: value > bound),
        (high, "at most", lambda bound: value <= bound),
        (below, "below", lambda bound: value < bound),
    ]
    wanted = [(word, bound, holds) for bound, word, holds in bounds if bound is not None]
    if not math.isfinite(value) or not all(holds(bound) for _, bound, holds in wanted):
        words = " and ".join(f"{word} {_number(bound)}" for word, bound, _ in wanted)
        raise ValueError(
            f"{option_name(name)} must be a finite number {words}, got {_number(value)}"
        )


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:g}"
