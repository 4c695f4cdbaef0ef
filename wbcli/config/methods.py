"""The methods by name: where each one lives, and its own options with their defaults.

What a method is, costs and is cited for stands beside its code, in `ABOUT`.
"""

import math
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from wbcli.config.checks import check_number, option_name, shown


class Own(NamedTuple):
    """An option that some methods have: its type, what it is, and its range or its words."""

    kind: type
    help: str
    bounds: dict[str, float] | None = None
    choices: tuple[str, ...] = ()


OWN = {
    "scale": Own(float, "s of a normalised classifier: logits are s times a cosine.", {"above": 0}),
    "tau": Own(float, "τ ≥ 0, how much of log π is in the loss.", {"low": 0, "high": 100}),
    "gamma": Own(
        float,
        "γ of the focal losses; of deconfound what is added to lengths.",
        {"low": 0, "high": 100},
    ),
    "alpha": Own(
        float, "α of deconfound and tde at evaluation; 0 is without it.", {"low": 0, "high": 100}
    ),
    "feature_decay": Own(float, "Decay λ_F of the features.", {"low": 0, "high": 1e6}),
    "max_margin": Own(float, "Margin of the rarest class, a cosine.", {"low": 0, "high": 2}),
    "defer": Own(
        str,
        "From --defer-from on: class weights (drw), or balanced sampling (drs).",
        choices=("drw", "drs"),
    ),
    "defer_from": Own(
        float, "Share of the epochs after which --defer begins.", {"low": 0, "below": 1}
    ),
    "variant": Own(
        str,
        "ncm's features: centred directions (cl2n), directions (l2n), or as they are (un).",
        choices=("cl2n", "l2n", "un"),
    ),
    "rho": Own(float, "ρ of DisAlign's weights of classes: π_k to the power −ρ.", {"low": 0}),
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
    classifies: whether what it trains scores the classes of the data set.
    settings: settings of every training that it has other defaults for than the recipe.
    step: what it makes of a run's classifier (`models.assembled`), where `heads` does not say it.
    rows: whether rows of its classifier train, so that they can be constrained.
    """

    place: str
    fixed: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Option] = field(default_factory=dict)
    heads: tuple[str, ...] = ("linear", "cosine", "etf")
    holds_prior: bool = False
    classifies: bool = True
    settings: dict[str, Option] = field(default_factory=dict)
    step: str | None = None
    rows: bool = True


_BETA = {
    "beta": Option(
        0.9999,
        "β of the effective number of images, in [0, 1]; 1 weighs by 1/n",
        "Cui et al., CVPR 2019; the released code",
    )
}
_FROM = {
    "defer_from": Option(
        0.8, "share of the epochs after which it begins", "Cao et al., NeurIPS 2019: 160 of 200"
    )
}
_DEFER = _FROM | {
    "defer": Option(None, "class weights (drw) or balanced sampling (drs), late", "no deferral"),
    "beta": Option(0.9999, "β of the weights of --defer drw", "the code of LDAM"),
}
_WB = _BETA | {
    "loss": Option("cb", "the loss; beside stage 1's, two with log π", "the paper, section 4.2"),
    "layers": Option(1, "how many of the last layers train", "the paper, section 4.2"),
    "tau": Option(1.0, "τ ≥ 0 of the loss logit-adjustment", "Menon et al., ICLR 2021"),
}
_GAMMA = {"gamma": Option(2.0, "γ ≥ 0; 0 is cross-entropy", "Lin et al., ICCV 2017")}
_PRIOR = {"tau": Option(1.0, "τ ≥ 0; 0 is cross-entropy", "Menon et al., ICLR 2021")}
_LDAM = "Cao et al., NeurIPS 2019"
_MARGINS = {
    "max_margin": Option(0.5, "margin of the rarest class; 0.3 on iNaturalist", _LDAM),
    "scale": Option(30.0, "s of s·(c − Δ)", f"the code of {_LDAM}"),
}
_KANG = "Kang et al., ICLR 2020"
_ZHANG = "Zhang et al., CVPR 2021, the code"
_RHO = {"rho": Option(1.2, "ρ ≥ 0 of the weights w_k ∝ π_k^(−ρ)", _ZHANG)}


def _retrained(source: str, **settings: Any) -> dict[str, Option]:
    """Defaults where λ, MaxNorm and sampling of weight balancing are not the method's."""
    texts = {
        "sampling": "order of an epoch",
        "lr": "first learning rate; the recipe's hardly moves so few numbers in 10 epochs",
        "wd": "weight decay λ",
        "maxnorm": "relative MaxNorm threshold",
    }
    return {key: Option(value, texts[key], source) for key, value in settings.items()}


_TAU = {"tau": Option(1.0, "τ ≥ 0; 1 divides by the norm itself", _KANG)}
_ADDED = {"tau": Option(1.0, "τ ≥ 0; 0 changes nothing", "Menon et al., ICLR 2021")}
_HASEGAWA = "Hasegawa & Sato, ICLR 2024, the code for CIFAR-100-LT (1.6 for CIFAR-10-LT)"
_MULTIPLIED = {"tau": Option(0.65, "τ ≥ 0; 0 changes nothing", _HASEGAWA)}
_NCM = {"variant": Option("cl2n", "which features are compared", f"the code of {_KANG}")}
_TANG = "Tang et al., NeurIPS 2020"
_TDE = {
    "alpha": Option(
        1.5, "α ≥ 0; 0 is the classifier as it trained", f"{_TANG} (3.0 on ImageNet-LT)"
    )
}

_NORMALISED = {
    "scale": Option(16.0, "s of the normalised classifier, the paper's τ", _TANG),
    "gamma": Option(1 / 32, "γ > 0, added to the lengths of rows", _TANG),
    "alpha": Option(0.0, "α at evaluation: 0 is De-confound, TDE is 1.5 on CIFAR-100", _TANG),
}
_FEATURES = {
    "feature_decay": Option(0.01, "λ_F of λ_F/2·‖h‖²", "Hasegawa & Sato, ICLR 2024, the code")
}


def _loss(name: str, options: dict[str, Option] | None = None, **more: Any) -> Entry:
    """A method that is a loss: its weights or its sampling can change late."""
    return Entry("plain:Plain", {"loss": name}, _DEFER | (options or {}), **more)


METHODS: dict[int, dict[str, Entry]] = {
    1: {  # trains a network
        "ce": _loss("ce"),
        "cb": _loss("cb", _BETA, holds_prior=True),
        "cb-bce": _loss("cb-bce", _BETA, holds_prior=True),
        "focal": _loss("focal", _GAMMA),
        "cb-focal": _loss("cb-focal", _BETA | _GAMMA, holds_prior=True),
        "balanced-softmax": _loss("balanced-softmax", holds_prior=True),
        "logit-adjustment": _loss("logit-adjustment", _PRIOR, holds_prior=True),
        "ldam": _loss("ldam", _MARGINS, heads=("cosine",), holds_prior=True),
        "ldam-drw": Entry(
            "plain:Plain",
            {"loss": "ldam", "defer": "drw"},
            _MARGINS | _FROM | _BETA,
            ("cosine",),
            holds_prior=True,
        ),
        "deconfound": Entry("deconfound:Deconfound", {}, _NORMALISED, ("normalised",)),
        "ssp": Entry("ssp:RotationPrediction", heads=("rotations",), classifies=False),
        "wd-fr-etf": Entry("feature_decay:FeatureDecay", {}, _FEATURES, ("etf",)),
    },
    2: {  # retrains the classifier of a run
        "wb": Entry("retrain:WeightBalancing", {}, _WB, heads=("kept", "fresh")),
        "crt": Entry(
            "decoupled:ClassifierRetraining",
            {"loss": "ce"},
            heads=("fresh", "kept"),
            settings=_retrained(_KANG, sampling="balanced", wd=5e-4, maxnorm=None),
        ),
        "lws": Entry(
            "decoupled:Scaling",
            {"loss": "ce"},
            heads=("kept",),
            settings=_retrained(_KANG, sampling="balanced", lr=0.2, wd=5e-4),
            step="lws",
            rows=False,
        ),
        "disalign": Entry(
            "disalign:Alignment",
            {},
            _RHO,
            heads=("kept",),
            settings=_retrained(_ZHANG, lr=0.1, wd=5e-4),
            step="disalign",
            rows=False,
        ),
    },
    0: {  # needs no training
        "tau": Entry("adjustments:tau", {}, _TAU, heads=("kept",)),
        "l2": Entry("adjustments:l2", heads=("kept",)),
        "logit-adjustment": Entry("adjustments:logit_adjustment", {}, _ADDED, heads=("kept",)),
        "mla": Entry("adjustments:multiplicative", {}, _MULTIPLIED, heads=("kept",)),
        "ncm": Entry("nearest_mean:nearest_mean", {}, _NCM, heads=("fresh",)),
        "tde": Entry("adjustments:tde", {}, _TDE, heads=("kept",)),
    },
}
NUMBERS = {  # the adjustments that have a number, and its name
    name: number
    for name, entry in METHODS[0].items()
    for number in ("tau", "alpha")
    if number in entry.options
}
HEADS: dict[str, dict[str, Option]] = {  # options of the classifiers
    "linear": {},
    "cosine": {"scale": Option(30.0, "s of s·cos(w_k, h)", "Cao et al., NeurIPS 2019, the code")},
    "etf": {},
    "normalised": _NORMALISED,
    "rotations": {},
}


LINEAR = (("linear", {}),)  # `heads` of a run whose classifier is a plain layer
# what can follow, after which a classifier is linear in what the one before is linear in
STAY_LINEAR = ("kept", "tau", "l2", "logit-adjustment", "mla")


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
            heads = [head for head in ("cosine", "etf") if key in HEADS[head]] * (of == "method")
            has = "".join(f"; --head {head} has it" for head in heads)
            raise ValueError(
                f"{option_name(key)}: the {of} {name} does not have it; it has {have}{has}"
            )
        if key in OWN and OWN[key].bounds:
            check_number(key, value, **OWN[key].bounds)
        if key in OWN and OWN[key].choices and value not in (None, *OWN[key].choices):
            words = ", ".join(OWN[key].choices)
            raise ValueError(f"{option_name(key)} must be one of {words}, got {shown(value)}")
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


def first_epoch(share: float, epochs: int) -> int:
    """The first epoch (from 0) after a share of them: ⌊share·epochs⌋, 160 for 0.8 of 200."""
    return math.floor(share * epochs + 1e-9)
