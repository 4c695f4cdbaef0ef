"""Options that choose a method, its classifier, and its own numbers."""

from collections.abc import Callable

import click

from wbcli.cli.options import apply
from wbcli.config.methods import HEADS, METHODS, OWN

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
    if stage == 1:
        known |= {key for own in HEADS.values() for key in own}
        heads = click.Choice(FREE)
        options.append(click.option("--head", type=heads, help="Classifier.  [default: linear]"))
    if stage == 2:
        choice = click.Choice(["kept", "fresh"])
        text = "Start from the run's classifier (default), or from a fresh one."
        options.append(click.option("--classifier", type=choice, help=text))
    for key, own in OWN.items():
        if key in known:
            flag = "--" + key.replace("_", "-")
            kind = click.Choice(own.words) if own.words else own.kind
            options.append(click.option(flag, type=kind, help=own.help))
    return lambda command: apply(options, command)
