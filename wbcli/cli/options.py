"""Options that several commands share, and how every command reads the environment."""

from collections.abc import Callable
from pathlib import Path

import click

from wbcli import console
from wbcli.cli.parameters import Arch, Count, NamedPath
from wbcli.config.settings import (
    LOSSES,
    PRECISIONS,
    RECIPES,
    SAMPLINGS,
    SAVE_EVERY,
    SCHEDULES,
)
from wbcli.data.batches.augment import AUGMENTATIONS


def everywhere(command: Callable) -> Callable:
    """The options that stand after every command."""
    options = [
        click.option(
            "--device",
            default="auto",
            metavar="auto|cpu|cuda[:N]",
            show_default=True,
            help="Where it computes; auto takes a GPU where there is one.",
        ),
        click.option(
            "--seed", type=int, help="Seed of everything random.  [default: 0, or the run's]"
        ),
        click.option(
            "--precision",
            type=click.Choice(PRECISIONS),
            default="auto",
            show_default=True,
            help="Arithmetic; auto is bf16 on a GPU that has it, but fp32 under --recipe released, "
            "and fp32 elsewhere.",
        ),
        click.option(
            "--data-dir",
            type=NamedPath(),
            envvar="WBCLI_DATA",
            help="Folder with the data set's files.  [default: data, or the run's]",
        ),
        click.option(
            "--runs-dir",
            type=NamedPath(),
            envvar="WBCLI_RUNS",
            default="runs",
            callback=_refuse_a_file,
            show_default=True,
            help="Folder that holds the runs.",
        ),
        click.option(
            "--workers",
            type=Count(0, most=1024),
            expose_value=False,
            callback=_set_workers,
            help="Processes that decode pictures on disk.  [default: one for each CPU]",
        ),
        click.option(
            "--max-pixels",
            type=Count(1, most=10**10),
            expose_value=False,
            callback=_set_max_pixels,
            metavar="N",
            help="Pixels of a picture; a larger one is taken for an attack.  [default: 100000000]",
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
    return apply(options, command)


def training_options(command: Callable, losses: tuple[str, ...] = LOSSES) -> Callable:
    """What both stages take, with what a run of one's own is called."""
    options = [
        click.option("--name", help="Name of the run.  [default: DATASET-STAGE-NNN]"),
        click.option("--resume", is_flag=True, help="Continue an unfinished run, or start it."),
        click.option(
            "--save-every",
            type=click.IntRange(1),
            default=SAVE_EVERY,
            show_default=True,
            metavar="N",
            help="Write a checkpoint after every N steps, too, not only after an epoch.",
        ),
        click.option("--dry-run", is_flag=True, help="Print the settings and stop."),
        json_option,
    ]
    return setting_options(apply(options, command), losses)


def setting_options(command: Callable, losses: tuple[str, ...] = LOSSES) -> Callable:
    """Settings of a training; what is not given comes from the recipe."""
    options = [
        click.option("--wd", type=float, help="Weight decay λ."),
        click.option("--lr", type=float, help="Largest learning rate."),
        click.option(
            "--schedule",
            type=click.Choice(SCHEDULES),
            help="How the rate falls: cosine (default), or by a hundredth after 80 and 90 % of the "
            "epochs.",
        ),
        click.option(
            "--warmup",
            type=int,
            metavar="EPOCHS",
            help="Epochs in which the rate grows to --lr.  [default: 0]",
        ),
        click.option("--momentum", type=float, help="Momentum of SGD."),
        click.option("--epochs", type=int, help="Epochs that are trained."),
        click.option("--batch-size", type=int, help="Images of a step."),
        click.option(
            "--eval-every",
            type=int,
            metavar="N",
            help="Measure after every N epochs, and after the last.  [default: 1]",
        ),
        click.option(
            "--accumulate",
            type=int,
            metavar="N",
            help="Send a batch through the network in N parts, for less memory; the same step, "
            "but that batch norm sees the parts.",
        ),
        click.option("--compile", is_flag=True, default=None, help="torch.compile the network."),
        click.option(
            "--graph",
            is_flag=True,
            default=None,
            help="Capture whole steps as CUDA graphs (images in memory).",
        ),
        click.option("--arch", type=Arch(), help="Network."),
        click.option(
            "--loss",
            type=click.Choice(losses),
            help="Cross-entropy (ce) or focal; cb: class-balanced; cb-bce: the released code's."
            + " The last two have log π in them." * (losses is not LOSSES),
        ),
        click.option(
            "--sampling",
            type=click.Choice(SAMPLINGS),
            help="Order of an epoch: every image once (instance, default), or classes drawn more "
            "evenly.",
        ),
        click.option(
            "--aug",
            type=click.Choice(list(AUGMENTATIONS)),
            help="What is random of an image: what the data set defines (basic, default), its "
            "crop, its mirror image, or nothing.",
        ),
        click.option("--beta", type=float, help="β of the class-balanced losses, in [0, 1]."),
        click.option("--radius", type=float, help="MaxNorm radius δ > 0 of the rows itself."),
        click.option("--unit-norm", is_flag=True, default=None, help="Keep rows at length 1."),
        click.option(
            "--project",
            type=click.Choice(["step", "epoch"]),
            help="Project after every step, or once an epoch.",
        ),
        click.option(
            "--recipe",
            type=click.Choice(RECIPES),
            help="Defaults of the paper's text, of the released code, those that a method's "
            "authors published (stage 1), for fine-tuning, or for a folder of few pictures.",
        ),
        click.option(
            "--deterministic",
            is_flag=True,
            default=None,
            help="Deterministic kernels only (a GPU is slower for it).",
        ),
    ]
    return apply(options, command)


def json_option(command: Callable) -> Callable:
    return click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")(command)


def _refuse_a_file(ctx, param, folder: Path) -> Path:
    if folder.is_file():
        raise click.UsageError(f"--runs-dir {folder}: expected a folder, this is a file", ctx)
    return folder


def _set_workers(ctx, param, count: int | None) -> None:
    if count is not None:
        from wbcli.data.pictures import decoding

        decoding.workers = count


def _set_max_pixels(ctx, param, count: int | None) -> None:
    if count is not None:
        from wbcli.data.pictures import decoding

        decoding.max_pixels = count


def _set_verbosity(level: int) -> Callable:
    def callback(ctx, param, given):
        if given:
            console.verbosity = level

    return callback


def apply(options: list[Callable], command: Callable) -> Callable:
    for option in reversed(options):
        command = option(command)
    return command
