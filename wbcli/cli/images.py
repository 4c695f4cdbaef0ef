"""Options that say which images of a data set train, and how they are seen."""

from collections.abc import Callable

import click

from wbcli.cli.options import apply
from wbcli.config.settings import FITS

IMBALANCE = [
    click.option(
        "--imbalance-factor",
        type=float,
        help="Images of the head class over the tail's.  [default: 100; digits 50; on disk: all "
        "images train]",
    ),
    click.option(
        "--imbalance-type",
        type=click.Choice(["exp", "step"]),
        help="Class sizes fall exponentially, or by one step.  [default: exp]",
    ),
    click.option(
        "--val-per-class",
        type=int,
        metavar="N",
        help="Hold N images of each class out of training, for validation.",
    ),
]


def imbalance_options(command: Callable) -> Callable:
    return apply(IMBALANCE, command)


def data_options(command: Callable) -> Callable:
    """Which images of a data set train."""
    options = [
        *IMBALANCE,
        click.option(
            "--limits",
            type=int,
            nargs=2,
            metavar="MANY FEW",
            help="Classes of more than MANY images are Many, of fewer than FEW are Few.",
        ),
        click.option(
            "--image-size",
            type=int,
            help="Side of the squares that pictures on disk become.  [default: 224; by the "
            "recipe small 32]",
        ),
        click.option(
            "--fit",
            type=click.Choice(FITS),
            help="How they become squares: cropped, padded with the mean colour, or squashed.  "
            "[default: crop]",
        ),
        click.option(
            "--subset",
            type=click.Choice(["first", "shuffled"]),
            help="Images kept: the first of each class (default), or LDAM-DRW's.",
        ),
    ]
    return apply(options, command)
