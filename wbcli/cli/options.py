"""Options that several commands share, and how every command reads the environment."""

from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import click

from wbcli import config, console


class Command(click.Command):
    """A command whose every option can come from WBCLI_COMMAND_OPTION or WBCLI_OPTION."""

    def __init__(self, name: str, **kwargs):
        super().__init__(name, **kwargs)
        for param in self.params:
            if isinstance(param, click.Option):
                option = max(param.opts, key=len).strip("-").replace("-", "_").upper()
                special = [param.envvar] if param.envvar else []
                param.envvar = [f"WBCLI_{name.upper()}_{option}", *special, f"WBCLI_{option}"]


class RelativeThreshold(click.ParamType):
    name = "t|none"

    def convert(self, value, param, ctx):
        if value == "none":
            return value
        try:
            return float(value)
        except ValueError:
            self.fail(f"expected a number in [0, 1] or 'none', got {value!r}", param, ctx)


def everywhere(command: Callable) -> Callable:
    """The options that stand after every command."""
    options = [
        click.option("--device", default="auto", metavar="auto|cpu|cuda[:N]", show_default=True),
        click.option("--seed", type=int, help="[default: 0, or the run's]"),
        click.option(
            "--precision", type=click.Choice(config.PRECISIONS), default="auto", show_default=True
        ),
        click.option(
            "--data-dir",
            type=click.Path(path_type=Path),
            envvar="WBCLI_DATA",
            help="Folder with the data set's files.  [default: data, or the run's]",
        ),
        click.option(
            "--runs-dir",
            type=click.Path(path_type=Path),
            envvar="WBCLI_RUNS",
            default="runs",
            show_default=True,
        ),
        click.option(
            "-q",
            "--quiet",
            is_flag=True,
            expose_value=False,
            callback=_set_verbosity(-1),
            help="Print results and warnings only.",
        ),
        click.option(
            "-v",
            "--verbose",
            is_flag=True,
            expose_value=False,
            callback=_set_verbosity(1),
            help="Say more.",
        ),
    ]
    return _apply(options, command)


def data_options(command: Callable) -> Callable:
    """Which images of a data set train."""
    options = [
        *IMBALANCE,
        click.option(
            "--subset",
            type=click.Choice(["first", "shuffled"]),
            help="Images kept: the first of each class (default), or LDAM-DRW's.",
        ),
    ]
    return _apply(options, command)


def training_options(command: Callable) -> Callable:
    """What both stages take; what is not given comes from the recipe."""
    options = [
        click.option("--wd", type=float, help="Weight decay λ."),
        click.option("--lr", type=float, help="First learning rate of the cosine."),
        click.option("--momentum", type=float),
        click.option("--epochs", type=int),
        click.option("--batch-size", type=int),
        click.option("--arch", type=click.Choice(config.ARCHS), help="Network."),
        click.option("--loss", type=click.Choice(config.LOSSES)),
        click.option("--radius", type=float, help="Absolute MaxNorm radius δ > 0 of the rows."),
        click.option("--unit-norm", is_flag=True, default=None, help="Keep rows at length 1."),
        click.option(
            "--project",
            type=click.Choice(["step", "epoch"]),
            help="Project after every step, or once an epoch.",
        ),
        click.option(
            "--recipe",
            type=click.Choice(config.RECIPES),
            help="Defaults of the paper's text, or of the released code.",
        ),
        click.option("--name", help="Name of the run.  [default: DATASET-STAGE-NNN]"),
        click.option("--resume", is_flag=True, help="Continue an unfinished run, or start it."),
        click.option("--dry-run", is_flag=True, help="Print the settings and stop."),
        click.option(
            "--deterministic",
            is_flag=True,
            default=None,
            help="Deterministic kernels only (a GPU is slower for it).",
        ),
        json_option,
    ]
    return _apply(options, command)


def json_option(command: Callable) -> Callable:
    return click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")(command)


IMBALANCE = [
    click.option(
        "--imbalance-factor",
        type=float,
        help="Images of the head class over the tail's.  [default: 100; digits 50]",
    ),
    click.option("--imbalance-type", type=click.Choice(["exp", "step"])),
    click.option(
        "--val-per-class",
        type=int,
        metavar="N",
        help="Hold N images of each class out of training, for validation.",
    ),
]


def imbalance_options(command: Callable) -> Callable:
    return _apply(IMBALANCE, command)


@contextmanager
def wrong_usage():
    """What is refused before any work starts is wrong usage: exit code 2."""
    try:
        yield
    except ValueError as error:
        raise click.UsageError(str(error), click.get_current_context()) from error


def load(settings: config.Config):
    """The data set of these settings; an imbalance factor it cannot have is wrong usage."""
    from wbcli import data
    from wbcli.data.longtail import FactorError

    try:
        dataset = data.for_run(settings)
    except FactorError as error:
        raise click.UsageError(str(error), click.get_current_context()) from error
    for note in dataset.notes:
        console.warn(note)
    return dataset


def _set_verbosity(level: int) -> Callable:
    def callback(ctx, param, given):
        if given:
            console.verbosity = level

    return callback


def _apply(options: list[Callable], command: Callable) -> Callable:
    for option in reversed(options):
        command = option(command)
    return command
