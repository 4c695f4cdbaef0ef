"""Options of the network: whose weights it starts from, what of it trains, by which optimiser."""

from collections.abc import Callable

import click

from wbcli import console
from wbcli.cli.options import apply
from wbcli.config.settings import CACHES, OPTIMIZERS, Config
from wbcli.data.pictures.preprocessing import split_arch

OPTIMIZER = click.option(
    "--optimizer",
    type=click.Choice(OPTIMIZERS),
    help="SGD (default), or AdamW, which wants --lr and --wd of its own.",
)


def network_options(command: Callable) -> Callable:
    """Where the network of stage 1 starts, and what of it trains."""
    options = [
        click.option(
            "--pretrained",
            is_flag=True,
            default=None,
            help="Start from the library's weights, downloaded into its own cache; the recipe is "
            "finetune then.",
        ),
        click.option(
            "--freeze",
            type=click.Choice(["backbone"]),
            help="Train the classifier alone, on cached features.",
        ),
        click.option(
            "--views",
            type=int,
            metavar="V",
            help="With --freeze: augmented views that are cached.  [default: one for each epoch; "
            "on disk 1]",
        ),
        click.option(
            "--cache",
            type=click.Choice(CACHES),
            help="With --freeze: what features are kept in.  [default: fp32]",
        ),
        click.option(
            "--backbone-lr-factor",
            type=float,
            metavar="F",
            help="Learning rate of the backbone over that of the classifier.  [default: 1; "
            "finetune 0.1]",
        ),
    ]
    return apply(options, command)


def describe_network(settings: Config) -> None:
    """Say what the network brought along, and warn of what cannot be meant."""
    if split_arch(settings.arch):
        console.say(f"network: {settings.arch}, for which its library has {_pictures(settings)}")
    if settings.pretrained:
        console.say("weights: the library's, downloaded into its cache if they are not there yet")
    if settings.freeze and not (settings.pretrained or settings.init_from):
        console.warn(
            "--freeze backbone: the network starts at random, and stays so: start it with "
            "--pretrained or --init"
        )


def _pictures(settings: Config) -> str:
    """What a library's network sees of a picture."""
    words = []
    if size := settings.image_size:
        words = [f"{size}×{size}", settings.interpolation, f"crop {settings.crop_fraction:.4g}"]
    for key, values in (("mean", settings.mean), ("std", settings.std)):
        if values:
            words.append(f"{key} {' '.join(f'{value:.4g}' for value in values)}")
    return "pictures " + ", ".join(words) if words else "other channels: normalised as ever"
