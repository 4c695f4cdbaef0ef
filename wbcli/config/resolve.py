"""Options become settings: what was not given comes from a recipe or the parent run.

Options that the user did not give are None until `resolve_stage1`, `resolve_stage2` or
`resolve_normalize` fills them.
"""

from typing import Any

from wbcli.config.checks import option_name
from wbcli.config.methods import OWN, Entry, entry_of, settle_head, settle_options
from wbcli.config.networks import check_optimizer, settle_network
from wbcli.config.published import published
from wbcli.config.recipes import recipe_defaults
from wbcli.config.settings import LINEAR, LOSSES, SHARED, Config
from wbcli.data import sources
from wbcli.data.pictures.preprocessing import split_arch

CONSTRAINTS = ("maxnorm", "radius", "unit_norm")
STAY_LINEAR = ("kept", "tau", "l2", "logit-adjustment", "mla")  # other weights of the same layer


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
    recipe = options.get("recipe") or ("finetune" if options.get("pretrained") else "paper")
    defaults = recipe_defaults(recipe, source.name, "stage1")
    options = {
        "recipe": recipe,
        "imbalance_factor": source.imbalance_factor,
        "image_size": source.image_size,
        **settle_network(options, defaults, source),
    } | options
    if options.get("limits") == tuple(source.limits.values()):
        options["limits"] = None
    factor = options["imbalance_factor"]
    if factor is not None and abs(factor) < 2**53 and factor == int(factor):  # 50.0 is 50
        options["imbalance_factor"] = int(factor)
    method = _method_of_stage1(options, defaults)
    if options["recipe"] == "published":
        defaults |= {key: value for key, (value, _) in published(method, source).items()}
    _settle_method(1, method, options)
    _check_rows(options)
    return Config(**(defaults | options))


def resolve_stage2(parent: Config, parent_name: str, options: dict[str, Any]) -> Config:
    """Fill what was not given from the parent run and its recipe's stage-2 defaults."""
    options = _given(options)
    _check_one_constraint(options)
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
    _settle_method(2, method, options)
    options["classifier"] = _classifier(method, options.get("classifier"))
    options["heads"] = _followed_by(parent.heads, entry.step or options["classifier"])
    defaults |= _own_defaults(method, entry, options)
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
    _settle_method(0, method, options)
    options["heads"] = _followed_by(parent.heads, method, options["method_options"])
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


def _check_one_constraint(options: dict[str, Any]) -> None:
    given = [name for name in CONSTRAINTS if options.get(name) not in (None, False, "none")]
    if len(given) > 1:
        flags = " and ".join("--" + name.replace("_", "-") for name in given)
        raise ValueError(f"{flags} exclude each other: give one of them")


def _check_rows(options: dict[str, Any]) -> None:
    """Refuse a constraint on rows whose lengths change nothing, or that do not train."""
    ((head, _),) = options["heads"]
    given = [key for key in ("radius", "unit_norm") if options.get(key)]
    if given and head in ("cosine", "etf"):
        raise ValueError(
            f"{option_name(given[0])}: the logits of a classifier of the kind {head} do not depend "
            "on lengths of rows that train, so that it would change nothing: leave it out"
        )


def _settle_method(stage: int, method: str, options: dict[str, Any]) -> None:
    """Put the method's own options where the settings have them, in place."""
    entry = entry_of(stage, method)
    taken = [key for key in OWN if key not in SHARED]
    if stage == 1:
        if "defer_from" in options and not (options.get("defer") or "defer" in entry.fixed):
            raise ValueError("--defer-from: nothing is deferred without --defer drw or drs")
        taken = [*OWN, "beta"]
    own = {key: options.pop(key) for key in taken if key in options}
    shared = [key for key in SHARED if stage == 0 or key in taken]
    own |= {key: options[key] for key in SHARED if stage != 1 and key in options}
    if stage == 1:
        head, chosen = settle_head(method, entry, options.pop("head", None), own)
        options["heads"] = ((head, chosen),)
        own = {k: value for k, value in own.items() if k in entry.options or k not in chosen}
    chosen = settle_options(method, entry.options, own)
    options |= {key: chosen[key] for key in shared if key in chosen}
    chosen = {key: value for key, value in chosen.items() if key not in SHARED}
    options |= {"method": method, "method_options": chosen}
    if "defer" in entry.fixed:
        options["defer"] = entry.fixed["defer"]


def _method_of_stage1(options: dict[str, Any], recipe: dict[str, Any]) -> str:
    """Of a method that is a loss, --method and --loss say the same."""
    method, loss = options.get("method"), options.get("loss")
    if method is None:
        return loss or recipe["loss"]
    if method in LOSSES:
        if loss not in (None, method):
            raise ValueError(f"--loss {loss}: --method {method} is a loss itself, give one of them")
        options["loss"] = method
    elif loss:
        raise ValueError(f"--loss {loss}: the method {method} has a loss of its own")
    else:
        recipe["loss"] = None
    return method


def _own_defaults(method: str, entry: Entry, options: dict[str, Any]) -> dict[str, Any]:
    """What a stage-2 method has for a default instead of the recipe; refuses a constraint that
    would act on nothing.
    """
    given = [key for key in CONSTRAINTS if options.get(key) not in (None, False)]
    if given and not entry.rows:
        raise ValueError(
            f"{option_name(given[0])}: {method} keeps the rows of the classifier as they are and "
            "trains numbers beside them, so that there is none to constrain: leave it out"
        )
    own = {key: option.default for key, option in entry.settings.items()}
    if not entry.rows:
        own["maxnorm"] = None
    if "loss" not in entry.options:
        own["loss"] = entry.fixed.get("loss")
    if options["classifier"] == "fresh":
        if options.get("maxnorm") is not None:
            raise ValueError(
                f"--maxnorm {options['maxnorm']:g} places the radius between the rows of the run's "
                "classifier, and a fresh one has not learned any: give the radius itself (--radius)"
            )
        own["maxnorm"] = None
    return own


def _classifier(method: str, given: str | None) -> str:
    """What becomes of the run's classifier in stage 2."""
    can = entry_of(2, method).heads
    if given not in (None, *can):
        raise ValueError(f"--classifier {given}: the method {method} needs {' or '.join(can)}")
    return given or can[0]


def _followed_by(heads: tuple, step: str, options: dict[str, Any] | None = None) -> tuple:
    """How the classifier came to be, with one step more; a linear one stays one."""
    plain = heads == LINEAR and step in STAY_LINEAR
    return heads if plain else (*heads, (step, options or {}))


def _check_fits_source(source: sources.Source, options: dict[str, Any]) -> None:
    """Refuse what the data set settles, or has of its own."""
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


def _check_fits_parent(parent: Config, options: dict[str, Any]) -> None:
    """Refuse what stage 1 has settled: the network, and which images are validation images."""
    layers = options.get("layers") or 1
    if layers > 1 and split_arch(parent.arch):
        raise ValueError(
            f"--layers {layers}: which layers of {parent.arch} are the last ones is known of our "
            "own networks only; take --layers 1"
        )
    fixed = ["arch", "val_per_class"]
    if parent.val_per_class:
        fixed += ["imbalance_factor", "imbalance_type"]
    for key in fixed:
        if key in options and options[key] != getattr(parent, key):
            raise ValueError(
                f"--{key.replace('_', '-')} {options[key]}: the stage-1 run has "
                f"{getattr(parent, key)}, which stage 2 cannot change; train another stage 1"
            )
