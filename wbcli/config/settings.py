"""The settings of a run, resolved and checked: what config.json holds."""

import math
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from typing import Any

from wbcli.config.checks import (
    BOUNDS,
    LARGEST,
    check_limits,
    check_number,
    check_types,
    option_name,
    shown,
)
from wbcli.config.methods import LINEAR, METHODS, OWN, Entry, entry_of, first_epoch, settle_options
from wbcli.config.networks import INTERPOLATIONS, check_arch, check_pixels
from wbcli.data import sources
from wbcli.data.batches.augment import AUGMENTATIONS

STAGES = {"stage1": 1, "stage2": 2, "normalize": 0}  # the stage of their methods
LOSSES = ("ce", "cb", "cb-bce", "focal", "cb-focal")
STAGE2_LOSSES = (*LOSSES, "balanced-softmax", "logit-adjustment")
ARCHS = ("resnet8", "resnet20", "resnet32", "resnet32x4", "resnet34", "resnet50", "resnext50")
ARCHS += ("linear",)  # of features
NORMALISATIONS = ("none", "l2", "standard")
PRECISIONS = ("auto", "fp32", "tf32", "bf16")
LAYERS = ("1", "2", "5")
OPTIMIZERS = ("sgd", "adamw")
CACHES = ("fp32", "bf16", "none")
RECIPES = ("paper", "released", "published", "finetune", "small")
SCHEDULES = ("cosine", "step")
SAMPLINGS = ("instance", "balanced", "sqrt", "progressive", "class-aware", "reversed")
FITS = ("crop", "pad", "squash")
CHOICES: dict[str, tuple] = {  # where a setting can have these values only
    "stage": tuple(STAGES),
    "recipe": RECIPES,
    "imbalance_type": ("exp", "step"),
    "subset": ("first", "shuffled"),
    "fit": FITS,
    "init": ("he", "conv-default"),
    "normalise": NORMALISATIONS,
    "precision": PRECISIONS[1:],
    "loss": LOSSES,
    "cosine_end": ("from-lr", "to-zero"),
    "schedule": SCHEDULES,
    "sampling": SAMPLINGS,
    "aug": tuple(AUGMENTATIONS),
    "defer": OWN["defer"].choices,
    "project": ("step", "epoch"),
    "layers": tuple(map(int, LAYERS)),
    "frozen_batch_norm": ("eval", "train"),
    "cache": CACHES,
    "checkpoint": ("last", "best-on-test"),
    "selected_on": ("val", "test"),
    "interpolation": INTERPOLATIONS,
    "freeze": ("backbone",),
    "optimizer": OPTIMIZERS,
}
SHARED = (
    "beta",
    "loss",
    "layers",
    "tau",
    "defer",
    "defer_from",
)  # options of methods that are settings of their own
SAVE_EVERY = 500  # steps between checkpoints within an epoch


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
    fit: str = "crop"  # how these become squares
    left_out: tuple[str, ...] | None = None  # broken files, by --skip-broken
    num_features: int | None = None  # of a file of features: how many stand in a row
    normalise: str | None = None  # what is done with such a row first
    val: float | None = None  # shares of a single pair of features and labels
    test: float | None = None
    bottleneck: int | None = None
    init: str = "he"
    init_from: str | None = None  # --init: a run, or a file of weights, to start from
    init_digest: str | None = None  # SHA-256 of these weights
    pretrained: bool = False  # start from the library's weights
    mean: tuple[float, ...] | None = None  # by which pixels are normalised; None: the data set's
    std: tuple[float, ...] | None = None
    crop_fraction: float | None = None  # of a picture on disk, what evaluation sees of its side
    interpolation: str | None = None  # of pictures on disk
    seed: int = 0
    precision: str = "fp32"
    deterministic: bool = False
    method: str | None = None  # None: the loss's name in stage 1, wb in stage 2, else tau
    method_options: dict = field(default_factory=dict, hash=False)  # the method's own
    heads: tuple = field(default=LINEAR, hash=False)  # how the classifier came to be: see models
    classifier: str | None = None  # in stage 2: the run's, kept, or a fresh one
    sampling: str = "instance"
    aug: str = "basic"
    defer: str | None = None  # what comes late: class weights (drw) or balanced sampling (drs)
    defer_from: float = 0.8  # of the epochs: Cao et al., NeurIPS 2019
    loss: str | None = "ce"
    beta: float = 0.9999  # Cui et al., CVPR 2019, and the released code
    wd: float = 0.0
    lr: float = 0.01
    momentum: float = 0.9  # of AdamW: β₁
    optimizer: str = "sgd"
    freeze: str | None = None  # in stage 1: backbone, so that the classifier alone trains
    backbone_lr_factor: float = 1.0
    epochs: int = 1
    batch_size: int = 64
    accumulate: int = 1  # parts of a batch that go through the network one after another
    eval_every: int = 1  # epochs
    compile: bool = False
    graph: bool = False  # whole steps as CUDA graphs
    cosine_end: str = "from-lr"  # or to-zero: one epoch further along the cosine
    schedule: str = "cosine"
    warmup: int = 0  # epochs in which the rate grows linearly to lr
    milestones: tuple[float, ...] = (0.8, 0.9)  # shares of the epochs after which a step falls
    step_factor: float = 0.01  # by which: Cao et al., NeurIPS 2019
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
        check_types(type(self), vars(self))
        if self.stage == "stage1" and self.method in (None, *LOSSES):
            if self.loss in LOSSES:  # which is the method then
                object.__setattr__(self, "method", self.loss)
        elif self.method is None:
            object.__setattr__(self, "method", "wb" if self.stage == "stage2" else "tau")
        given = {key: value for key, value in vars(self).items() if value is not None}
        choices = CHOICES | ({"loss": STAGE2_LOSSES} if self.stage == "stage2" else {})
        for key, allowed in choices.items():
            if key in given and given[key] not in allowed:
                words = ", ".join(map(str, allowed))
                raise ValueError(
                    f"{option_name(key)} must be one of {words}, got {shown(given[key])}"
                )
        for key, bounds in BOUNDS.items():
            if key in given:
                check_number(key, given[key], **bounds)
        for key, most in LARGEST.items():
            if key in given:
                check_number(key, given[key], high=most)
        check_number("accumulate", self.accumulate, low=1, high=self.batch_size)
        check_number("warmup", self.warmup, low=0, below=self.epochs)
        for share in self.milestones:
            check_number("milestones", share, low=0, high=1)
        if self.graph and self.compile:
            raise ValueError("--graph and --compile exclude each other: give one of them")
        if self.limits is not None:
            check_limits(*self.limits)
        if self.stage == "normalize" and self.tau is None and self.method == "tau":
            raise ValueError("--tau is missing: a normalize run divides by norms to its power")
        if self.arch == "linear" and (self.layers or 1) > 1 + bool(self.bottleneck):
            raise ValueError(f"--layers {self.layers}: a linear network on features has one layer")
        self.entry()
        check_arch(self.arch, ARCHS)
        for key in ("mean", "std"):
            if key in given:
                check_pixels(key, given[key], sources.find(self.dataset).image[0])

    def identity(self) -> dict[str, Any]:
        """The settings that make a run what it is; where the data lie is none of them."""
        return {key: value for key, value in asdict(self).items() if key != "data_dir"}

    def options(self) -> dict[str, Any]:
        """What `methods.make` is told of the method."""
        own = self.entry().options
        shared = {key: getattr(self, key) for key in SHARED if key in own}
        shared = {key: value for key, value in shared.items() if value is not None}
        return shared | self.method_options

    def entry(self) -> Entry:
        """What is known of the method by its name."""
        return entry_of(STAGES[self.stage], self.method)

    def corrections(self) -> list[str]:
        """What makes up for the class frequencies in training: its sampling, weights and loss."""
        found = [f"the sampling {self.sampling}"] if self.sampling != "instance" else []
        if self.defer is not None:
            found.append(f"--defer {self.defer}")
        losses = {self.method, self.loss} & METHODS[1].keys()
        return found + [f"the loss {name}" for name in losses if METHODS[1][name].holds_prior]

    def corrects_twice(self) -> bool:
        """Whether it makes up for them more than once; margins are made to go with what is late."""
        margins = "max_margin" in self.entry().options and self.sampling == "instance"
        return len(self.corrections()) > 1 + margins

    def constraint(self) -> str | None:
        """`max_norm`, `unit_norm` or None."""
        if self.unit_norm:
            return "unit_norm"
        return "max_norm" if self.radius is not None or self.maxnorm is not None else None

    def lr_at(self, epoch: int) -> float:
        """The learning rate of an epoch (counted from 0), of E.

        In W epochs of warm-up η·(e + 1)/W. Then cosine: η·(1 + cos(π·(e − W)/(E − W)))/2, where
        `from-lr` starts at η; `to-zero` is one epoch further along and ends at 0, as in
        the released code, whose last epoch moves batch-norm statistics only. Or step:
        η·step_factor^m, m milestones passed.
        """
        if epoch < self.warmup:
            return self.lr * (epoch + 1) / self.warmup
        if self.schedule == "step":
            passed = [epoch >= first_epoch(share, self.epochs) for share in self.milestones]
            return self.lr * self.step_factor ** sum(passed)
        e = epoch - self.warmup + (self.cosine_end == "to-zero")
        return self.lr * (1 + math.cos(math.pi * e / (self.epochs - self.warmup))) / 2

    def changed(self, options: dict[str, Any]) -> "Config":
        """With other values of options, by their names on the command line, the method's own, too.

        Raises:
            ValueError: a value out of range, or an option that the method does not have.
        """
        values = {name.replace("-", "_"): value for name, value in options.items()}
        own = {key: value for key, value in values.items() if key in OWN}
        settle_options(self.method, self.entry().options, own)
        fields_of = {key: value for key, value in values.items() if hasattr(self, key)}
        more = {key: value for key, value in own.items() if key not in fields_of}
        heads = [(name, of | {k: v for k, v in more.items() if k in of}) for name, of in self.heads]
        options = self.method_options | more
        return replace(self, **fields_of, method_options=options, heads=tuple(heads))


def from_dict(values: Any) -> Config:
    """The Config inside a run's config.json; settings younger than the run take their default.

    Raises:
        ValueError: a setting is missing, of the wrong type or out of range.
    """
    if not isinstance(values, dict):
        raise ValueError(f"config.json: expected an object of settings, got {shown(values)}")
    if "schedule" in values and "cosine_end" not in values:  # of 0.1.0
        values = values | {"cosine_end": values["schedule"], "schedule": "cosine"}
    needed = [f.name for f in fields(Config) if f.default is f.default_factory is MISSING]
    missing = [name for name in needed if name not in values]
    if missing:
        raise ValueError(f"config.json lacks {', '.join(missing)}: was it edited by hand?")
    found = {f.name: values[f.name] for f in fields(Config) if f.name in values}
    found = {key: _tuples(value) for key, value in found.items()}
    if isinstance(found.get("limits"), dict):
        found["limits"] = _limits_given(found["limits"], found["dataset"])
    try:
        check_types(Config, found)
    except ValueError as error:
        raise ValueError(f"config.json holds a value of the wrong type: {error}") from error
    stage = found["stage"]
    if stage != "stage1" and found.get("parent") is None:
        raise ValueError(f"config.json: a {stage} run comes from another, parent is null")
    return Config(**found)


def _tuples(value: Any) -> Any:
    """Lists as tuples, also within lists."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


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
