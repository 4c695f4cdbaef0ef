"""Options that choose a method, its classifier and its own numbers, and those of stage 2 alone."""

from collections.abc import Callable

import click

from wbcli.cli.options import apply
from wbcli.cli.parameters import RelativeThreshold
from wbcli.config.methods import HEADS, METHODS, OWN
from wbcli.config.settings import CACHES, LAYERS

FREE = ("linear", "cosine", "etf")  # that most methods can have


def method_options(stage: int) -> Callable:
    """Which method, and the numbers that some methods of the stage have."""
    options = [
        click.option(
            "--method",
            type=click.Choice(list(METHODS[stage])),
            help="What is trained: see wbcli methods.",
        )
    ]
    known = {key for entry in METHODS[stage].values() for key in entry.options}
    if stage == 0:
        known -= {"tau"}  # which the command has itself
    if stage == 1:
        known |= {key for own in HEADS.values() for key in own}
        heads = click.Choice(FREE)
        options.append(click.option("--head", type=heads, help="Classifier.  [default: linear]"))
    if stage == 2:
        choice = click.Choice(["kept", "fresh"])
        text = "Start from the run's classifier (default but for crt), or from a fresh one."
        options.append(click.option("--classifier", type=choice, help=text))
    for key, own in OWN.items():
        if key in known:
            flag = "--" + key.replace("_", "-")
            kind = click.Choice(own.choices) if own.choices else own.kind
            options.append(click.option(flag, type=kind, help=own.help))
    return lambda command: apply(options, command)


def head_options(command: Callable) -> Callable:
    """What only stage 2 takes."""
    options = [
        click.option(
            "--maxnorm",
            type=RelativeThreshold(),
            help="MaxNorm radius between the shortest (0) and longest (1) row of stage 1; none "
            "leaves MaxNorm out.",
        ),
        click.option(
            "--layers",
            type=click.Choice(LAYERS),
            help="How many of the last layers train; 1 is the classifier alone.",
        ),
        click.option(
            "--views",
            type=int,
            metavar="V",
            help="Augmented views that are cached, for epochs to take turns with.  "
            "[default: one for each epoch; on disk 1, by the recipe small 10; in a search at most "
            "10]",
        ),
        click.option(
            "--cache",
            type=click.Choice(CACHES),
            help="What features of the frozen network are kept in, or none to run it every "
            "epoch.  [default: fp32]",
        ),
    ]
    return apply(options, command)
