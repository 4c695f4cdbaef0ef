"""The methods by name: where each one lives, and its own options with their defaults.

What a method is, costs and is cited for stands beside its code, in `ABOUT`.
"""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from wbcli.config.checks import check_number, option_name, shown


class Own(NamedTuple):
    """An option that some methods have: its type, its range, and what it is."""

    kind: type
    help: str
    bounds: dict[str, float] | None = None


OWN = {
    "scale": Own(float, "s of a normalised classifier: logits are s times a cosine.", {"above": 0}),
    "tau": Own(float, "τ ≥ 0, how much of log π is in the loss.", {"low": 0, "high": 100}),
    "gamma": Own(float, "γ of the focal losses, at least 0.", {"low": 0, "high": 100}),
    "max_margin": Own(float, "Margin of the rarest class, a cosine.", {"low": 0, "high": 2}),
}


class Option(NamedTuple):
    """What an option is in a method, and where its default comes from."""

    default: Any
    help: str
    source: str


@dataclass(frozen=True)
class Entry:
    """A method.

    place: `room:name` within `wbcli.methods`.
    fixed: arguments that make it what it is.
    heads: the classifiers that it can have, the first by default; in stage 2 what becomes of the
        run's classifier.
    holds_prior: whether what it trains is corrected for the class frequencies already.
    """

    place: str
    fixed: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Option] = field(default_factory=dict)
    heads: tuple[str, ...] = ("linear", "cosine", "etf")
    holds_prior: bool = False


_BETA = {
    "beta": Option(
        0.9999,
        "β of the effective number of images, in [0, 1)",
        "Cui et al., CVPR 2019; the released code",
    )
}
_WB = _BETA | {
    "loss": Option("cb", "the loss, one of stage 1's five", "the paper, section 4.2"),
    "layers": Option(1, "how many of the last layers train", "the paper, section 4.2"),
}
_GAMMA = {"gamma": Option(2.0, "γ ≥ 0; 0 is cross-entropy", "Lin et al., ICCV 2017")}
_PRIOR = {"tau": Option(1.0, "τ ≥ 0; 0 is cross-entropy", "Menon et al., ICLR 2021")}
_LDAM = "Cao et al., NeurIPS 2019"
_MARGINS = {
    "max_margin": Option(0.5, "margin of the rarest class; 0.3 on iNaturalist", _LDAM),
    "scale": Option(30.0, "s of s·(c − Δ)", f"the code of {_LDAM}"),
}
_TAU = {"tau": Option(1.0, "τ ≥ 0; 1 divides by the norm itself", "Kang et al., ICLR 2020")}

METHODS: dict[int, dict[str, Entry]] = {
    1: {  # trains a network
        "ce": Entry("plain:Plain", {"loss": "ce"}),
        "cb": Entry("plain:Plain", {"loss": "cb"}, _BETA, holds_prior=True),
        "cb-bce": Entry("plain:Plain", {"loss": "cb-bce"}, _BETA, holds_prior=True),
        "focal": Entry("plain:Plain", {"loss": "focal"}, _GAMMA),
        "cb-focal": Entry("plain:Plain", {"loss": "cb-focal"}, _BETA | _GAMMA, holds_prior=True),
        "balanced-softmax": Entry("plain:Plain", {"loss": "balanced-softmax"}, holds_prior=True),
        "logit-adjustment": Entry(
            "plain:Plain", {"loss": "logit-adjustment"}, _PRIOR, holds_prior=True
        ),
        "ldam": Entry("plain:Plain", {"loss": "ldam"}, _MARGINS, ("cosine",), holds_prior=True),
    },
    2: {  # retrains the classifier of a run
        "wb": Entry("retrain:WeightBalancing", {}, _WB, heads=("kept", "fresh")),
    },
    0: {  # needs no training
        "tau": Entry("adjustments:tau", {}, _TAU, heads=("kept",)),
    },
}
HEADS: dict[str, dict[str, Option]] = {  # options of the classifiers
    "linear": {},
    "cosine": {"scale": Option(30.0, "s of s·cos(w_k, h)", "Cao et al., NeurIPS 2019, the code")},
    "etf": {},
}


def entry_of(stage: int, name: str) -> Entry:
    """Raises ValueError for a name that is none of the stage's."""
    if name not in METHODS[stage]:
        raise ValueError(f"--method must be one of {', '.join(METHODS[stage])}, got {shown(name)}")
    return METHODS[stage][name]


def settle_options(
    name: str, options: dict[str, Option], given: dict[str, Any], of: str = "method"
) -> dict[str, Any]:
    """The options of a method (or a head): what was given, else its defaults.

    Raises:
        ValueError: an option that it does not have, or one out of its range.
    """
    for key, value in given.items():
        if key not in options:
            have = ", ".join(map(option_name, options)) or "none of its own"
            raise ValueError(f"{option_name(key)}: the {of} {name} does not have it; it has {have}")
        if key in OWN and OWN[key].bounds:
            check_number(key, value, **OWN[key].bounds)
    return {key: option.default for key, option in options.items()} | given


def settle_head(
    name: str, entry: Entry, head: str | None, given: dict[str, Any]
) -> tuple[str, dict[str, Any]]:
    """The classifier of a method, and its options among those that were given.

    Raises:
        ValueError: a classifier that the method cannot have.
    """
    head = head or entry.heads[0]
    if head not in entry.heads:
        raise ValueError(f"--head {head}: the method {name} needs {' or '.join(entry.heads)}")
    own = HEADS.get(head, {})
    return head, settle_options(head, own, {k: v for k, v in given.items() if k in own}, "head")
