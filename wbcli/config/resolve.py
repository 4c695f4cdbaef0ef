"""Options become settings: what was not given comes from a recipe or the parent run.

Options that the user did not give are None until `resolve_stage1`, `resolve_stage2` or
`resolve_normalize` fills them.
"""

from pathlib import Path
from typing import Any

from wbcli.config.checks import option_name
from wbcli.config.methods import entry_of
from wbcli.config.networks import check_layers, check_optimizer, settle_network
from wbcli.config.published import published
from wbcli.config.recipes import recipe_defaults
from wbcli.config.settings import Config
from wbcli.config.settling import (
    check_one_constraint,
    check_rows,
    followed_by,
    method_of_stage1,
    own_defaults,
    settle_method,
    start_of,
)
from wbcli.data import features, sources


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
    check_one_constraint(options)
    if source.features:
        _settle_features(Path(options["data_dir"]) / options["dataset"], options)
    recipe = options.get("recipe") or ("finetune" if options.get("pretrained") else "paper")
    defaults = recipe_defaults(recipe, source.name, "stage1")
    options = {
        "recipe": recipe,
        "imbalance_factor": source.imbalance_factor,
        "image_size": defaults.pop("image_size", source.image_size),
        **settle_network(options, defaults, source),
    } | options
    if options.get("limits") == tuple(source.limits.values()):
        options["limits"] = None
    factor = options["imbalance_factor"]
    if factor is not None and abs(factor) < 2**53 and factor == int(factor):  # 50.0 is 50
        options["imbalance_factor"] = int(factor)
    method = method_of_stage1(options, defaults)
    if options["recipe"] == "published":
        defaults |= {key: value for key, (value, _) in published(method, source).items()}
    settle_method(1, method, options)
    check_rows(options)
    return Config(**(defaults | options))


def resolve_stage2(parent: Config, parent_name: str, options: dict[str, Any]) -> Config:
    """Fill what was not given from the parent run and its recipe's stage-2 defaults."""
    options = _given(options)
    check_one_constraint(options)
    check_optimizer(options)
    _check_fits_parent(parent, options)
    recipe = options.get("recipe", "paper" if parent.recipe == "published" else parent.recipe)
    if recipe == "published":
        raise ValueError("--recipe published is of stage 1: use paper or released")
    options["recipe"] = recipe
    defaults = recipe_defaults(recipe, parent.dataset, "stage2")
    if options.get("radius") is not None or options.get("unit_norm"):
        defaults["maxnorm"] = None
    if options.get("maxnorm") == "none":
        options["maxnorm"] = None
    method = options.get("method", "wb")
    entry = entry_of(2, method)
    settle_method(2, method, options)
    options["classifier"] = start_of(method, options.get("classifier"))
    options["heads"] = followed_by(parent.heads, entry.step or options["classifier"])
    defaults |= own_defaults(method, entry, options)
    loss = options.get("loss", defaults["loss"])
    if loss == "logit-adjustment":
        defaults["tau"] = entry.options["tau"].default
    elif "tau" in options:
        raise ValueError(f"--tau: the loss {loss} does not have it; logit-adjustment has")
    return Config(**(_inherited(parent, parent_name) | defaults | options))


def stage2_options(settings: Config, given: dict[str, Any]) -> dict[str, Any]:
    """The options with which `resolve_stage2` makes `settings` again, but for what is given."""
    keys = ("recipe", "loss", "beta", "wd", "lr", "momentum", "epochs", "batch_size", "project")
    keys += ("schedule", "warmup")
    keys += (
        "method",
        "classifier",
        "sampling",
        "layers",
        "views",
        "cache",
        "eval_every",
        "accumulate",
        "compile",
        "graph",
        "seed",
    )
    keys += ("deterministic", "imbalance_factor", "imbalance_type")
    options = {key: getattr(settings, key) for key in keys}
    constraint = {"maxnorm": settings.maxnorm, "radius": settings.radius}
    constraint["unit_norm"] = settings.unit_norm or None
    if given.get("loss", settings.loss) == "logit-adjustment":
        options["tau"] = settings.tau
    if not constraint.keys() & given.keys():
        options |= constraint if settings.constraint() else {"maxnorm": "none"}
    return options


def resolve_normalize(parent: Config, parent_name: str, options: dict[str, Any]) -> Config:
    """A run that is its parent but for its classifier."""
    options = _given(options)
    inherited = _inherited(parent, parent_name)
    method = options.get("method", "tau")
    settle_method(0, method, options)
    options["heads"] = followed_by(parent.heads, method, options["method_options"])
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
        "fit",
        "left_out",
        "num_features",
        "normalise",
        "val",
        "test",
        "bottleneck",
        "init",
        "mean",
        "std",
        "crop_fraction",
        "interpolation",
        "seed",
        "selected_on",
        "aug",
    )
    return {key: getattr(parent, key) for key in keys} | {"parent": parent_name}


def _check_fits_source(source: sources.Source, options: dict[str, Any]) -> None:
    """Refuse what the data set settles, or has of its own."""
    if source.features != (options.get("arch", "linear") == "linear") and "arch" in options:
        what = "features, whose network is linear" if source.features else "pictures, no features"
        raise ValueError(f"--arch {options['arch']}: {source.name} has {what}")
    for key in ("normalise", "val", "test") if not source.features else ():
        if key in options:
            raise ValueError(f"--{key}: it is for a file of features, {source.name} has pictures")
    for key in ("image_size", "fit", "aug") if source.features else ():
        if options.get(key) not in (None, "basic", "none"):
            raise ValueError(f"--{key.replace('_', '-')}: {source.name} has features, no pictures")
    for key in ("image_size", "fit"):
        if source.image_size is None and key in options:
            size = "×".join(map(str, source.image[1:]))
            raise ValueError(
                f"{option_name(key)}: the pictures of {source.name} are {size}; it is for sets on "
                "disk"
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


def _settle_features(path: Path, options: dict[str, Any]) -> None:
    """Put in place what a file of features says of itself, and the shares of a single pair."""
    width, pair = features.layout_of(path)
    options |= {"num_features": width, "normalise": options.get("normalise", "none")}
    if pair:
        shares = features.SHARES | ({"val": 0.0} if options.get("val_per_class") else {})
        for key, share in shares.items():
            options.setdefault(key, share)
        if not 0 < options["val"] + options["test"] < 1:
            raise ValueError(
                f"--val {options['val']:g} and --test {options['test']:g}: expected shares that "
                "together are above 0 and below 1"
            )
        return
    for key in features.SHARES:
        if key in options:
            raise ValueError(f"--{key}: it divides {features.PAIR}; {path.name} is divided already")


def _check_fits_parent(parent: Config, options: dict[str, Any]) -> None:
    """Refuse what stage 1 has settled: the network, and which images are validation images."""
    check_layers(options.get("layers"), parent.arch)
    fixed = ["arch", "val_per_class"]
    if parent.val_per_class:
        fixed += ["imbalance_factor", "imbalance_type"]
    for key in fixed:
        if key in options and options[key] != getattr(parent, key):
            raise ValueError(
                f"--{key.replace('_', '-')} {options[key]}: the stage-1 run has "
                f"{getattr(parent, key)}, which stage 2 cannot change; train another stage 1"
            )
