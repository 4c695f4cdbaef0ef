"""tune stage1, stage2, normalize: search settings on validation images."""

from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import click

from wbcli import console
from wbcli.cli.choosing import head_options, method_options
from wbcli.cli.features import feature_options
from wbcli.cli.images import data_options, imbalance_options
from wbcli.cli.inputs import (
    find_parent,
    kept_when_stopped,
    load,
    needs_extra,
    on_device,
    reference_to,
    wrong_usage,
)
from wbcli.cli.networks import network_options
from wbcli.cli.options import everywhere, json_option, setting_options
from wbcli.cli.parameters import Command, Count
from wbcli.cli.running import warn_if_corrected_twice
from wbcli.cli.searching import (
    how_to_search,
    search_options,
    searched_names,
    select_option,
    space_of,
)
from wbcli.config import resolve
from wbcli.config.methods import NUMBERS
from wbcli.config.settings import STAGE2_LOSSES, Config
from wbcli.runs.find import first_part, same_images

SPLITS = {"val": "validation", "test": "test"}
SHOWN = 10  # rows of the table
NO_VALIDATION = "{run} needs another stage 1, trained with --val-per-class N"


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
@feature_options
@method_options(1)
@network_options
@setting_options
@everywhere
def stage1_command(dataset, as_json, device, data_dir, runs_dir, **options):
    """Search the weight decay of stage 1.

    Every trial is a training; one that does worse than the median of the others at the same
    epoch ends there.

    \b
    Example:
      wbcli tune stage1 digitslt --val-per-class 20 --trials 12
      wbcli tune stage1 digitslt --val-per-class 20 --method logit-adjustment --search tau
    """
    needs_extra("study", "optuna", "matplotlib")
    from wbcli.training import stages
    from wbcli.tune import tune

    with wrong_usage():
        how, names, ranges = how_to_search(options), options.pop("names"), options.pop("ranges")
        device, options = on_device(device, options, data_dir or Path("data"))
        names = searched_names("stage1", names, ranges, options)
        base = resolve.resolve_stage1(options | {"dataset": dataset})
        if not base.entry().classifies:
            raise ValueError(
                f"--method {base.method} scores no classes: there is nothing to choose by"
            )
        space = space_of(base, names, ranges)
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
@partial(setting_options, losses=STAGE2_LOSSES)
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
        how, names, ranges = how_to_search(options), options.pop("names"), options.pop("ranges")
        parent = find_parent(runs_dir, run)
        reference = reference_to(parent, runs_dir)
        device, options = on_device(device, options, data_dir, parent)
        options["layers"] = options["layers"] and int(options["layers"])
        names = searched_names("stage2", names, ranges, options)
        if "maxnorm" not in names and "radius" in names:
            options["maxnorm"] = "none"
        base = resolve.resolve_stage2(parent.config(), reference, options)
        base = replace(base, views=base.views or min(base.epochs, tune.VIEWS))
        space = space_of(base, names, ranges)
        if "tau" in names and "loss" not in names and base.loss != "logit-adjustment":
            raise ValueError(
                f"tau is searched, and the loss {base.loss} has none: give --loss "
                "logit-adjustment, or search the loss, too"
            )
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
    "--method",
    type=click.Choice(list(NUMBERS)),
    default="tau",
    show_default=True,
    help="Whose number is searched: τ, or α of tde.",
)
@click.option(
    "--trials", type=Count(1), default=61, show_default=True, help="Values that are tried."
)
@select_option
@json_option
@everywhere
def normalize_command(run, trials, select, as_json, device, data_dir, runs_dir, **options):
    """Search the number of what needs no training: τ from 0 to 3, α of tde from 0 to 6.

    On an even grid, in one pass over the features. Without RUN it takes the newest finished
    stage-1 run.

    \b
    Example:
      wbcli tune normalize
      wbcli tune normalize --method logit-adjustment
    """
    needs_extra("study", "optuna", "matplotlib")
    from wbcli.tune import tune

    with wrong_usage():
        parent = find_parent(runs_dir, run)
        reference = reference_to(parent, runs_dir)
        device, options = on_device(device, options, data_dir, parent)
        base = resolve.resolve_normalize(parent.config(), reference, options)
    warn_if_corrected_twice(parent.config(), base.method)
    data = load(base, parent, "train", "val")
    with wrong_usage():
        base = _selected(base, data, select, NO_VALIDATION.format(run=parent.name))
    studies = runs_dir / "studies"
    _report(tune.tune_normalize(base, parent, trials, select, studies, data, device), as_json)


def _selected(base: Config, data, select: str, remedy: str) -> Config:
    """The settings with the split that chooses among them, which must be there."""
    if select == "val" and data.val is None:
        raise ValueError(
            f"there are no validation images to choose on: {remedy}, or choose on the test set "
            "with --select test, which every result will say"
        )
    if select == "test" and data.test is None:
        raise ValueError(f"--select test: {data.name} has no test images, only validation images")
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
