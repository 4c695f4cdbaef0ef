"""Settings of a run: the recipes with the source of every default, and one place for range checks.

Options that the user did not give are None until `resolve_stage1`, `resolve_stage2` or
`resolve_normalize` fills them from a recipe or from the parent run.
"""

import math
from dataclasses import MISSING, asdict, dataclass, fields
from types import NoneType, UnionType
from typing import Any, NamedTuple, get_args, get_origin

from wbcli.data import sources

LOSSES = ("ce", "cb", "cb-bce", "focal", "cb-focal")
ARCHS = ("resnet8", "resnet20", "resnet32", "resnet32x4", "resnet34", "resnet50", "resnext50")
PRECISIONS = ("auto", "fp32", "tf32", "bf16")
LAYERS = ("1", "2", "5")
CACHES = ("fp32", "bf16", "none")
RECIPES = ("paper", "released")
CHOICES: dict[str, tuple] = {  # where a setting can have these values only
    "stage": ("stage1", "stage2", "normalize"),
    "recipe": RECIPES,
    "arch": ARCHS,
    "imbalance_type": ("exp", "step"),
    "subset": ("first", "shuffled"),
    "init": ("he", "conv-default"),
    "precision": PRECISIONS[1:],
    "loss": LOSSES,
    "schedule": ("from-lr", "to-zero"),
    "project": ("step", "epoch"),
    "layers": tuple(map(int, LAYERS)),
    "frozen_batch_norm": ("eval", "train"),
    "cache": CACHES,
    "checkpoint": ("last", "best-on-test"),
    "selected_on": ("val", "test"),
}
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
    "beta": {"low": 0, "below": 1},
    "views": {"low": 1},
    "bottleneck": {"low": 1},
    "radius": {"above": 0},
    "maxnorm": {"low": 0, "high": 1},
    "tau": {"low": 0},
}
LARGEST = {  # more can only be a mistake: it never ends, fills the memory, or is inf in float32
    "epochs": 10**6,
    "batch_size": 10**6,
    "val_per_class": 10**6,
    "views": 10**4,
    "bottleneck": 2**16,
    "wd": 1e30,
    "lr": 1e30,
    "radius": 1e30,
    "tau": 100,
}
SAVE_EVERY = 500  # steps between checkpoints within an epoch
MAX_BITS = 64  # of an integer
NO_OPTION = ("stage", "dataset", "init", "schedule", "frozen_batch_norm", "checkpoint")
NO_OPTION += ("selected_on", "parent", "left_out")  # settings that have none of their name

# Where a default comes from; the README's table shows the letter.
SOURCES = {
    "p": "the paper",
    "r": "the released code",
    "s": "our search on validation images of this data set",
    "f": "our search on Fashion-MNIST-LT, not measured on this data set",
    "o": "our choice, not from the paper",
}


class Default(NamedTuple):
    value: Any
    source: str


def _defaults(source: str, **values) -> dict[str, Default]:
    return {key: Default(value, source) for key, value in values.items()}


_PAPER_STAGE1 = (
    _defaults("p", epochs=200, batch_size=64, lr=0.01, momentum=0.9, loss="ce")
    | _defaults("r", arch="resnet34", wd=5e-3)
    | _defaults("o", init="he", schedule="from-lr", checkpoint="last", tta=False)
)
_PAPER_STAGE2 = (
    _defaults("p", batch_size=64, momentum=0.9, project="step", layers=1)
    | _defaults("r", epochs=10, lr=0.01, wd=0.1, loss="cb-bce", maxnorm=0.1)
    | _defaults("o", frozen_batch_norm="eval", schedule="from-lr", checkpoint="last", tta=False)
)
_RELEASED_COMMON = _defaults(
    "r",
    batch_size=64,
    lr=0.01,
    momentum=0.9,
    schedule="to-zero",
    checkpoint="best-on-test",
    tta=True,
)
_RELEASED_STAGE1 = _RELEASED_COMMON | _defaults(
    "r", epochs=320, loss="ce", arch="resnet34", wd=5e-3, init="conv-default"
)
_RELEASED_STAGE2 = _RELEASED_COMMON | _defaults(
    "r",
    epochs=10,
    wd=0.1,
    loss="cb-bce",
    maxnorm=0.1,
    project="epoch",
    layers=1,
    frozen_batch_norm="train",
)
_FASHION_STAGE2 = {"epochs": 10, "lr": 0.01, "wd": 5e-4, "loss": "cb", "maxnorm": 0.1}
# The large sets: the paper tuned λ, λ₂ and δ on them and does not give the values.
_LARGE_STAGE1 = _PAPER_STAGE1 | _defaults("o", arch="resnet50", wd=5e-4)
_LARGE_STAGE2 = (
    _PAPER_STAGE2
    | _defaults("p", loss="cb")
    | _defaults("o", epochs=10, lr=0.01, wd=5e-4, maxnorm=0.1, views=1)
)
_OURS = {"epochs": 200, "batch_size": 64, "lr": 0.01}  # where the paper trained nothing

FOLDER = "folder"  # of one's own pictures, whatever its name
DEFAULTS: dict[tuple[str, str, str], dict[str, Default]] = {
    ("paper", "cifar100lt", "stage1"): _PAPER_STAGE1,
    ("paper", "cifar100lt", "stage2"): _PAPER_STAGE2,
    ("paper", "cifar10lt", "stage1"): _PAPER_STAGE1,
    ("paper", "cifar10lt", "stage2"): _PAPER_STAGE2 | _defaults("f", **_FASHION_STAGE2),
    ("paper", "fashionmnistlt", "stage1"): _PAPER_STAGE1
    | _defaults("o", arch="resnet20", epochs=20)
    | _defaults("s", wd=5e-4),
    ("paper", "fashionmnistlt", "stage2"): _PAPER_STAGE2 | _defaults("s", **_FASHION_STAGE2),
    ("paper", "digitslt", "stage1"): _PAPER_STAGE1
    | _defaults("o", arch="resnet8")
    | _defaults("s", epochs=100, batch_size=16, lr=0.05, wd=2e-3),
    ("paper", "digitslt", "stage2"): _PAPER_STAGE2
    | _defaults("s", epochs=10, lr=0.01, wd=5e-4, loss="cb", maxnorm=0.1),
    ("paper", "imagenetlt", "stage1"): _LARGE_STAGE1 | _defaults("p", arch="resnext50"),
    ("paper", "imagenetlt", "stage2"): _LARGE_STAGE2,
    ("paper", "placeslt", "stage1"): _LARGE_STAGE1 | _defaults("o", **_OURS),
    ("paper", "placeslt", "stage2"): _LARGE_STAGE2 | _defaults("o", batch_size=64),
    ("paper", "inat18", "stage1"): _LARGE_STAGE1 | _defaults("p", arch="resnet50", batch_size=512),
    ("paper", "inat18", "stage2"): _LARGE_STAGE2 | _defaults("p", batch_size=512),
    ("paper", FOLDER, "stage1"): _LARGE_STAGE1 | _defaults("o", **_OURS),
    ("paper", FOLDER, "stage2"): _LARGE_STAGE2 | _defaults("o", batch_size=64),
    ("released", "cifar100lt", "stage1"): _RELEASED_STAGE1,
    ("released", "cifar100lt", "stage2"): _RELEASED_STAGE2,
    ("released", "cifar10lt", "stage1"): _RELEASED_STAGE1,
    ("released", "cifar10lt", "stage2"): _RELEASED_STAGE2,
    ("released", "fashionmnistlt", "stage1"): _RELEASED_STAGE1
    | _defaults("o", arch="resnet20", init="he"),
    ("released", "fashionmnistlt", "stage2"): _RELEASED_STAGE2,
    ("released", "digitslt", "stage1"): _RELEASED_STAGE1
    | _defaults("o", arch="resnet8", init="he"),
    ("released", "digitslt", "stage2"): _RELEASED_STAGE2,
}


@dataclass(frozen=True)
class Config:
    """Every setting of a run, resolved. Fields are named as their options and JSON keys."""

    stage: str
    dataset: str
    data_dir: str
    recipe: str
    arch: str
    imbalance_factor: float | None  # None: every image of a set that is long-tailed as it is
    imbalance_type: str = "exp"
    subset: str = "first"
    val_per_class: int = 0
    limits: tuple[int, int] | None = None  # Many over, Few under; None: the data set's
    image_size: int | None = None  # side of the crops of pictures on disk
    left_out: tuple[str, ...] | None = None  # broken files, by --skip-broken
    bottleneck: int | None = None
    init: str = "he"
    init_from: str | None = None  # --init: a file of weights to start from
    seed: int = 0
    precision: str = "fp32"
    deterministic: bool = False
    loss: str = "ce"
    beta: float = 0.9999  # Cui et al., CVPR 2019, and the released code
    wd: float = 0.0
    lr: float = 0.01
    momentum: float = 0.9
    epochs: int = 1
    batch_size: int = 64
    accumulate: int = 1  # parts of a batch that go through the network one after another
    eval_every: int = 1  # epochs
    compile: bool = False
    graph: bool = False  # whole steps as CUDA graphs
    schedule: str = "from-lr"  # or to-zero: one epoch further along the cosine
    radius: float | None = None
    maxnorm: float | None = None
    unit_norm: bool = False
    project: str = "step"
    layers: int | None = None  # None: all of them train (stage 1)
    frozen_batch_norm: str = "eval"
    views: int | None = None  # augmented views of a frozen network; None: one for each epoch
    cache: str = "fp32"  # what features of a frozen network are kept in; none: not at all
    checkpoint: str = "last"  # what eval and stage 2 read: last, or best-on-test
    tta: bool = False
    tau: float | None = None
    parent: str | None = None
    selected_on: str | None = None  # the split on which `tune` chose these settings

    def __post_init__(self):
        _check_types(vars(self))
        given = {key: value for key, value in vars(self).items() if value is not None}
        for key, allowed in CHOICES.items():
            if key in given and given[key] not in allowed:
                words = ", ".join(map(str, allowed))
                raise ValueError(f"{_option(key)} must be one of {words}, got {_shown(given[key])}")
        for key, bounds in BOUNDS.items():
            if key in given:
                _check_number(key, given[key], **bounds)
        for key, most in LARGEST.items():
            if key in given:
                _check_number(key, given[key], high=most)
        _check_number("accumulate", self.accumulate, low=1, high=self.batch_size)
        if self.graph and self.compile:
            raise ValueError("--graph and --compile exclude each other: give one of them")
        if self.limits is not None:
            _check_limits(*self.limits)
        if self.stage == "normalize" and self.tau is None:
            raise ValueError("--tau is missing: a normalize run divides by norms to its power")

    def identity(self) -> dict[str, Any]:
        """The settings that make a run what it is; where the data lie is none of them."""
        return {key: value for key, value in asdict(self).items() if key != "data_dir"}

    def constraint(self) -> str | None:
        """`max_norm`, `unit_norm` or None."""
        if self.unit_norm:
            return "unit_norm"
        return "max_norm" if self.radius is not None or self.maxnorm is not None else None

    def lr_at(self, epoch: int) -> float:
        """Cosine, stepped per epoch (counted from 0): η·(1 + cos(π·e/E))/2.

        `from-lr` starts at η; `to-zero` is one epoch further along and ends at 0, as in
        the released code, whose last epoch moves batch-norm statistics only.
        """
        e = epoch + (self.schedule == "to-zero")
        return self.lr * (1 + math.cos(math.pi * e / self.epochs)) / 2


def from_dict(values: Any) -> Config:
    """The Config inside a run's config.json; settings younger than the run take their default.

    Raises:
        ValueError: a setting is missing, of the wrong type or out of range.
    """
    if not isinstance(values, dict):
        raise ValueError(f"config.json: expected an object of settings, got {_shown(values)}")
    missing = [f.name for f in fields(Config) if f.default is MISSING and f.name not in values]
    if missing:
        raise ValueError(f"config.json lacks {', '.join(missing)}: was it edited by hand?")
    found = {f.name: values[f.name] for f in fields(Config) if f.name in values}
    found = {k: tuple(v) if isinstance(v, list) else v for k, v in found.items()}
    if isinstance(found.get("limits"), dict):
        found["limits"] = _limits_given(found["limits"], found["dataset"])
    try:
        _check_types(found)
    except ValueError as error:
        raise ValueError(f"config.json holds a value of the wrong type: {error}") from error
    config = Config(**found)
    if config.stage != "stage1" and config.parent is None:
        raise ValueError(f"config.json: a {config.stage} run comes from another, parent is null")
    return config


def resolved_limits(config: Config) -> dict[str, int]:
    """The limits that hold for a run, as config.json and `eval --json` have them."""
    many_few = config.limits
    own = sources.find(config.dataset).limits
    return own if many_few is None else dict(zip(("many", "few"), many_few, strict=True))


def _limits_given(limits: dict[str, Any], dataset: Any) -> tuple | None:
    """What `resolved_limits` made of the setting: None where they are the data set's own."""
    if isinstance(dataset, str) and limits == sources.find(dataset).limits:
        return None
    return limits.get("many"), limits.get("few")


def resolve_stage1(options: dict[str, Any]) -> Config:
    """Fill what was not given from the recipe's defaults for this data set."""
    options = _given(options)
    if not options["dataset"]:
        raise ValueError("expected the name of a data set, or a folder, got ''")
    options["dataset"], options["data_dir"] = sources.locate(
        options["dataset"], options["data_dir"]
    )
    source = sources.find(options["dataset"])
    _check_fits_source(source, options)
    _check_one_constraint(options)
    options = {
        "recipe": "paper",
        "imbalance_factor": source.imbalance_factor,
        "image_size": source.image_size,
    } | options
    if options.get("limits") == tuple(source.limits.values()):
        options["limits"] = None
    factor = options["imbalance_factor"]
    if factor is not None and abs(factor) < 2**53 and factor == int(factor):  # 50.0 is 50
        options["imbalance_factor"] = int(factor)
    return Config(**(_recipe(options["recipe"], source.name, "stage1") | options))


def resolve_stage2(parent: Config, parent_name: str, options: dict[str, Any]) -> Config:
    """Fill what was not given from the parent run and its recipe's stage-2 defaults."""
    options = _given(options)
    _check_one_constraint(options)
    _check_fits_parent(parent, options)
    recipe = options.get("recipe", parent.recipe)
    defaults = _recipe(recipe, parent.dataset, "stage2")
    if options.get("radius") is not None or options.get("unit_norm"):
        defaults["maxnorm"] = None
    if options.get("maxnorm") == "none":
        options["maxnorm"] = None
    return Config(**(_inherited(parent, parent_name) | defaults | options))


def stage2_options(settings: Config, given: dict[str, Any]) -> dict[str, Any]:
    """The options with which `resolve_stage2` makes `settings` again, but for what is given."""
    keys = ("recipe", "loss", "beta", "wd", "lr", "momentum", "epochs", "batch_size", "project")
    keys += ("layers", "views", "cache", "eval_every", "accumulate", "compile", "graph", "seed")
    keys += ("deterministic", "imbalance_factor", "imbalance_type")
    options = {key: getattr(settings, key) for key in keys}
    constraint = {"maxnorm": settings.maxnorm, "radius": settings.radius}
    constraint["unit_norm"] = settings.unit_norm or None
    if not constraint.keys() & given.keys():
        options |= constraint if settings.constraint() else {"maxnorm": "none"}
    return options


def resolve_normalize(parent: Config, parent_name: str, options: dict[str, Any]) -> Config:
    """A run that is its parent but for the rows of the classifier."""
    options = _given(options)
    inherited = _inherited(parent, parent_name)
    kept = {key: getattr(parent, key) for key in ("checkpoint", "tta")}
    return Config(**(inherited | kept | {"stage": "normalize"} | options))


def resolve_precision(
    precision: str, device_type: str, has_bf16: bool, recipe: str | None = None
) -> str:
    """`auto` is bf16 autocast on a GPU that has it, and fp32 elsewhere and under `released`.

    Raises:
        ValueError: tf32 away from a GPU, bf16 on a GPU without it.
    """
    if precision == "auto":
        return "bf16" if device_type == "cuda" and has_bf16 and recipe != "released" else "fp32"
    if precision == "tf32" and device_type != "cuda":
        raise ValueError("--precision tf32 needs a CUDA device: use fp32 or bf16 here")
    if precision == "bf16" and device_type == "cuda" and not has_bf16:
        raise ValueError("--precision bf16: this GPU does not have it, use fp32 or tf32")
    return precision


def _given(options: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in options.items() if value is not None}


def _recipe(recipe: str, dataset: str, stage: str) -> dict[str, Any]:
    known = dataset if dataset in sources.SOURCES else FOLDER
    if (recipe, known, stage) not in DEFAULTS:
        raise ValueError(
            f"--recipe {recipe}: the released code says nothing of {dataset}; use --recipe paper"
        )
    table = DEFAULTS[recipe, known, stage]
    return {"stage": stage} | {key: default.value for key, default in table.items()}


def _inherited(parent: Config, parent_name: str) -> dict[str, Any]:
    keys = (
        "dataset",
        "data_dir",
        "recipe",
        "arch",
        "imbalance_factor",
        "imbalance_type",
        "subset",
        "val_per_class",
        "limits",
        "image_size",
        "left_out",
        "bottleneck",
        "init",
        "seed",
        "selected_on",
    )
    return {key: getattr(parent, key) for key in keys} | {"parent": parent_name}


def _check_one_constraint(options: dict[str, Any]) -> None:
    names = ("maxnorm", "radius", "unit_norm")
    given = [name for name in names if options.get(name) not in (None, False, "none")]
    if len(given) > 1:
        flags = " and ".join("--" + name.replace("_", "-") for name in given)
        raise ValueError(f"{flags} exclude each other: give one of them")


def _check_fits_source(source: sources.Source, options: dict[str, Any]) -> None:
    """Refuse what the data set settles, or has of its own."""
    if source.image_size is None and "image_size" in options:
        size = "×".join(map(str, source.image[1:]))
        raise ValueError(
            f"--image-size: the pictures of {source.name} are {size}; it is for sets on disk"
        )
    if source.has_val and options.get("val_per_class"):
        raise ValueError(
            f"--val-per-class: {source.name} has validation images of its own, leave it out"
        )
    if source.imbalance_factor is None and "imbalance_factor" not in options:
        for key in ("imbalance_type", "subset"):
            if key in options:
                raise ValueError(
                    f"--{key.replace('_', '-')}: all of {source.name} trains unless "
                    "--imbalance-factor is given, too"
                )


def _check_limits(many: int, few: int) -> None:
    if not many >= few >= 0:
        raise ValueError(
            f"--limits MANY FEW: expected MANY ≥ FEW ≥ 0, got {many} and {few}: classes of more "
            "than MANY images are Many, of fewer than FEW are Few"
        )


def _check_fits_parent(parent: Config, options: dict[str, Any]) -> None:
    """Refuse what stage 1 has settled: the network, and which images are validation images."""
    fixed = ["arch", "val_per_class"]
    if parent.val_per_class:
        fixed += ["imbalance_factor", "imbalance_type"]
    for key in fixed:
        if key in options and options[key] != getattr(parent, key):
            raise ValueError(
                f"--{key.replace('_', '-')} {options[key]}: the stage-1 run has "
                f"{getattr(parent, key)}, which stage 2 cannot change; train another stage 1"
            )


def _check_types(values: dict[str, Any]) -> None:
    """Refuse what the annotations of Config do not allow."""
    for field in fields(Config):
        if field.name in values and not _fits(values[field.name], field.type):
            raise ValueError(
                f"{_option(field.name)} must be {_described(field.type)}, "
                f"got {_shown(values[field.name])}"
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
        return "a list of texts" if parts[-1] is Ellipsis else f"{len(parts)} integers"
    words = {
        int: f"an integer of at most {MAX_BITS} bits",
        float: "a number",
        bool: "true or false",
        str: "a text without NUL",
        NoneType: "none",
    }
    return words[kind]


def _option(name: str) -> str:
    """What a setting is called on the command line, else its key."""
    return name if name in NO_OPTION else "--" + name.replace("_", "-")


def _shown(value: Any) -> str:
    """What came, for a message: short, and on one line."""
    if isinstance(value, int) and value.bit_length() > MAX_BITS:
        return f"one of {value.bit_length()} bits"
    if isinstance(value, dict | list | tuple):
        return f"{'an object' if isinstance(value, dict) else 'a list'} of {len(value)}"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"


def _check_number(
    name: str,
    value: float,
    *,
    low: float | None = None,
    above: float | None = None,
    high: float | None = None,
    below: float | None = None,
) -> None:
    bounds = [
        (low, "at least", lambda bound: value >= bound),
        (above, "above", lambda bound: value > bound),
        (high, "at most", lambda bound: value <= bound),
        (below, "below", lambda bound: value < bound),
    ]
    wanted = [(word, bound, holds) for bound, word, holds in bounds if bound is not None]
    if not math.isfinite(value) or not all(holds(bound) for _, bound, holds in wanted):
        words = " and ".join(f"{word} {_number(bound)}" for word, bound, _ in wanted)
        raise ValueError(f"{_option(name)} must be a finite number {words}, got {_number(value)}")


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:g}"
