"""tune stage1, stage2, normalize: search settings on validation images."""

from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import click

from wbcli import console
from wbcli.cli.options import (
    Command,
    Count,
    data_options,
    everywhere,
    find_parent,
    head_options,
    imbalance_options,
    json_option,
    kept_when_stopped,
    load,
    needs_extra,
    on_device,
    reference_to,
    setting_options,
    wrong_usage,
)
from wbcli.config import settings
from wbcli.config.settings import Config
from wbcli.runs.run import first_part, same_images
from wbcli.words import counted

SEARCHED = {  # stage: what can be searched, and what is unless an option settles it
    "stage1": (("wd", "lr"), ("wd",)),
    "stage2": (("wd", "lr", "maxnorm", "radius", "beta", "loss"), ("wd", "lr", "maxnorm")),
}
SPLITS = {"val": "validation", "test": "test"}
SHOWN = 10  # rows of the table
NO_VALIDATION = "{run} needs another stage 1, trained with --val-per-class N"
CHOICES = ("beta", "loss")  # searched among values, not in a range
CONSTRAINTS = ("maxnorm", "radius", "unit_norm")


def search_options(stage: str, trials: int, round_size: int) -> Callable:
    names, default = SEARCHED[stage]
    in_ranges = [name for name in names if name not in CHOICES]
    options = [
        click.option(
            "--trials",
            type=Count(1),
            default=trials,
            show_default=True,
            help="Candidates that are tried.",
        ),
        click.option(
            "--search",
            "names",
            type=click.Choice(names),
            multiple=True,
            help="What is searched; repeat for several.  "
            f"[default: {', '.join(default)}, but for what is given]",
        ),
        click.option(
            "--range",
            "ranges",
            type=(click.Choice(in_ranges), float, float),
            multiple=True,
            metavar="NAME LOW HIGH",
            help="Search this option between LOW and HIGH.",
        ),
        click.option(
            "--sampler",
            type=click.Choice(["tpe", "gp", "random"]),
            default="tpe",
            show_default=True,
            help="How candidates are proposed: Bayesian (tpe, gp), or random.",
        ),
        click.option(
            "--round",
            "round_size",
            type=Count(1),
            default=round_size,
            show_default=True,
            help="Candidates that are asked for at a time.",
        ),
        click.option(
            "--storage",
            metavar="URL",
            help="Optuna storage that processes share.  [default: a file of this search]",
        ),
        select_option,
        json_option,
    ]

    def decorate(command: Callable) -> Callable:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


select_option = click.option(
    "--select",
    type=click.Choice(["val", "test"]),
    default="val",
    show_default=True,
    help="Images on which the winner is chosen.",
)


@click.group("tune")
def tune_command():
    """Search weight decay, MaxNorm and τ on validation images.

    \b
    Example:
      wbcli stage1 digitslt --val-per-class 20
      wbcli tune stage2
      wbcli stage2 --from-tune
    """


@tune_command.command("stage1", cls=Command, group="tune")
@click.argument("dataset")
@search_options("stage1", trials=20, round_size=1)
@data_options
@setting_options
@everywhere
def stage1_command(dataset, as_json, device, data_dir, runs_dir, **options):
    """Search the weight decay of stage 1.

    Every trial is a training; one that does worse than the median of the others at the same
    epoch ends there.

    \b
    Example:
      wbcli tune stage1 digitslt --val-per-class 20 --trials 12
    """
    needs_extra("study", "optuna", "matplotlib")
    from wbcli.training import stages
    from wbcli.tune import tune

    with wrong_usage():
        how, names, ranges = _how(options), options.pop("names"), options.pop("ranges")
        device, options = on_device(device, options, data_dir or Path("data"))
        names = _searched("stage1", names, ranges, options)
        base = settings.resolve_stage1(options | {"dataset": dataset})
        space = _space(base, names, ranges)
    data = load(base, first_part(runs_dir / "studies", base), "train", "val")
    with wrong_usage():
        base = _selected(base, data, how.select, "repeat this with --val-per-class N")

    @contextmanager
    def listener(trial):
        console.say(f"trial {trial.number}: {console.format_settings(trial.params)}")
        with console.Progress(base.epochs, len(data.train.labels), lines=False) as progress:
            yield stages.Listener(progress.on_batch, progress.on_epoch, on_save=progress.on_save)

    with kept_when_stopped():
        found = tune.tune_stage1(base, space, how, runs_dir / "studies", data, device, listener)
    _report(found, as_json)


@tune_command.command("stage2", cls=Command, group="tune")
@click.argument("run", required=False)
@search_options("stage2", trials=64, round_size=16)
@head_options
@imbalance_options
@setting_options
@everywhere
def stage2_command(run, as_json, device, data_dir, runs_dir, **options):
    """Search the settings of stage 2.

    Features are computed once, and the candidates of a round train together. Without RUN it
    takes the newest finished stage-1 run.

    \b
    Example:
      wbcli tune stage2
      wbcli tune stage2 --search wd --search maxnorm --range wd 1e-5 1e-2
    """
    needs_extra("study", "optuna", "matplotlib")
    from wbcli.training import heads
    from wbcli.tune import tune

    with wrong_usage():
        how, names, ranges = _how(options), options.pop("names"), options.pop("ranges")
        parent = find_parent(runs_dir, run)
        reference = reference_to(parent, runs_dir)
        device, options = on_device(device, options, data_dir, parent)
        options["layers"] = options["layers"] and int(options["layers"])
        names = _searched("stage2", names, ranges, options)
        if "maxnorm" not in names and "radius" in names:
            options["maxnorm"] = "none"
        base = settings.resolve_stage2(parent.config(), reference, options)
        base = replace(base, views=base.views or min(base.epochs, tune.VIEWS))
        space = _space(base, names, ranges)
        heads.check(base)
    follows = same_images(parent.config(), base)
    data = load(base, parent if follows else None, "train", "val")
    with wrong_usage():
        base = _selected(base, data, how.select, NO_VALIDATION.format(run=parent.name))
    with kept_when_stopped():
        found = tune.tune_stage2(base, parent, space, how, runs_dir / "studies", data, device)
    _report(found, as_json)


@tune_command.command("normalize", cls=Command, group="tune")
@click.argument("run", required=False)
@click.option(
    "--trials", type=Count(1), default=61, show_default=True, help="Values of τ that are tried."
)
@select_option
@json_option
@everywhere
def normalize_command(run, trials, select, as_json, device, data_dir, runs_dir, **options):
    """Search τ of τ-normalisation, on an even grid from 0 to 3.

    Without RUN it takes the newest finished stage-1 run.

    \b
    Example:
      wbcli tune normalize
    """
    needs_extra("study", "optuna", "matplotlib")
    from wbcli.tune import tune

    with wrong_usage():
        parent = find_parent(runs_dir, run)
        reference = reference_to(parent, runs_dir)
        device, options = on_device(device, options, data_dir, parent)
        base = settings.resolve_normalize(parent.config(), reference, options | {"tau": 1.0})
    data = load(base, parent, "train", "val")
    with wrong_usage():
        base = _selected(base, data, select, NO_VALIDATION.format(run=parent.name))
    studies = runs_dir / "studies"
    _report(tune.tune_normalize(base, parent, trials, select, studies, data, device), as_json)


def _how(options: dict):
    """How the search goes; its options are taken out of `options`."""
    from wbcli.tune import search

    def say(done: int, best: float | None) -> None:
        console.say(f"{counted(done, 'trial')}, best accuracy {console.format_cell(best)}")

    if options["storage"] == "":
        raise ValueError("--storage: expected the URL of an Optuna storage, got ''")
    keys = ("trials", "round_size", "sampler", "select", "storage")
    if options["sampler"] == "gp" and find_spec("scipy") is None:
        raise click.ClickException("--sampler gp needs scipy: pip install scipy")
    return search.How(**{key: options.pop(key) for key in keys}, on_round=say)


def _searched(stage: str, names: tuple, ranges: tuple, options: dict) -> list[str]:
    """What is searched: what was named, else the default but for what is given; and every range."""
    given = [key for key in SEARCHED[stage][0] if options.get(key) is not None]
    asked = [*names, *[name for name, _, _ in ranges]]
    both = [name for name in asked if name in given]
    if both:
        raise ValueError(f"--{both[0]} is given and searched: leave one of them out")
    if "maxnorm" in asked and "radius" in asked:
        raise ValueError("maxnorm and radius exclude each other: search one of them")
    rivals = [key for key in CONSTRAINTS if options.get(key) not in (None, "none")]
    bound = [name for name in asked if name in CONSTRAINTS]
    if bound and rivals:
        flag = rivals[0].replace("_", "-")
        raise ValueError(f"--{bound[0]} is searched: leave --{flag} out")
    default = [name for name in SEARCHED[stage][1] if name not in given]
    if rivals or "radius" in asked:
        default = [name for name in default if name != "maxnorm"]
    found = list(dict.fromkeys([*(names or default), *asked]))
    if not found:
        raise ValueError(
            "every option is given, and nothing is left to search: leave one of them out"
        )
    return found


def _space(base: Config, names: list[str], ranges: tuple) -> dict:
    """The search space; both ends of every range must be values that the option can have."""
    from wbcli.tune import search

    space = search.make_space(base.stage, names, {name: (low, high) for name, low, high in ranges})
    for name, distribution in space.items():
        if name not in CHOICES:
            for end in (distribution.low, distribution.high):
                replace(base, **{name: end})
    return space


def _selected(base: Config, data, select: str, remedy: str) -> Config:
    """The settings with the split that chooses among them, which must be there."""
    if select == "val" and data.val is None:
        raise ValueError(
            f"there are no validation images to choose on: {remedy}, or choose on the test set "
            "with --select test, which every result will say"
        )
    if select == "test":
        console.warn("the winner is chosen on the test set; every result of it will say so")
    return replace(base, selected_on="test" if base.selected_on == "test" else select)


def _report(found: dict, as_json: bool) -> None:
    if as_json:
        keys = ("best", "trials", "selected_on", "seconds")
        console.print_json({key: found[key] for key in keys})
        return
    ranked = sorted(found["trials"], key=lambda trial: (trial["pruned"], -(trial["accuracy"] or 0)))
    names = list(found["best"]["params"])
    console.print_table(
        [*names, "accuracy", "pruned"],
        [
            [_cell(trial["params"][name]) for name in names]
            + [trial["accuracy"], "yes" if trial["pruned"] else ""]
            for trial in ranked[: None if console.verbosity > 0 else SHOWN]
        ],
        f"best first of {len(ranked)} (-v shows all); accuracy in per cent, mean over "
        f"classes, {SPLITS[found['selected_on']]} images; {found['seconds']:.1f} s; "
        f"{found['path']}",
    )


def _cell(value) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
