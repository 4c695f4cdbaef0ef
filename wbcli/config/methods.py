"""The methods by name: where each one lives, and its own options with their defaults.

What a method is, costs and is cited for stands beside its code (`ABOUT`).
"""

from dataclasses import dataclass, field
from typing import Any, NamedTuple


class Option(NamedTuple):
    """A number or a name of a method's own.

    source: where the default comes from.
    """

    default: Any
    help: str
    source: str


@dataclass(frozen=True)
class Entry:
    """A method.

    stage: 1 trains a network, 2 retrains a classifier on a run, 0 needs no training.
    place: `room:name` within `wbcli.methods`.
    fixed: arguments that make it what it is.
    """

    stage: int
    place: str
    fixed: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Option] = field(default_factory=dict)


_BETA = {
    "beta": Option(
        0.9999,
        "β of the effective number of images, in [0, 1)",
        "Cui et al., CVPR 2019; the released code",
    )
}
_STAGE2_LOSS = Option("cb", "the loss, one of the five of stage 1", "the paper, section 4.2")
_LAYERS = Option(1, "how many of the last layers train", "the paper, section 4.2")
_TAU = Option(1.0, "τ ≥ 0; 1 divides by the norm itself", "Kang et al., ICLR 2020")

METHODS = {
    "ce": Entry(1, "plain:Plain", {"loss": "ce"}),
    "cb": Entry(1, "plain:Plain", {"loss": "cb"}, _BETA),
    "cb-bce": Entry(1, "plain:Plain", {"loss": "cb-bce"}, _BETA),
    "focal": Entry(1, "plain:Plain", {"loss": "focal"}),
    "cb-focal": Entry(1, "plain:Plain", {"loss": "cb-focal"}, _BETA),
    "wb": Entry(
        2, "retrain:WeightBalancing", {}, {"loss": _STAGE2_LOSS, "layers": _LAYERS} | _BETA
    ),
    "tau": Entry(0, "normalization:", {}, {"tau": _TAU}),
}


def of_stage(stage: int) -> tuple[str, ...]:
    """The names of a stage's methods."""
    return tuple(name for name, entry in METHODS.items() if entry.stage == stage)


def options_of(name: str, given: dict[str, Any]) -> dict[str, Any]:
    """The options of a method: what was given, else its defaults.

    Raises:
        ValueError: an option that the method does not have.
    """
    options = METHODS[name].options
    for key in given:
        if key not in options:
            have = ", ".join(f"--{key.replace('_', '-')}" for key in options) or "none"
            flag = f"--{key.replace('_', '-')}"
            raise ValueError(f"{flag}: the method {name} does not have it; its options: {have}")
    return {key: option.default for key, option in options.items()} | given
