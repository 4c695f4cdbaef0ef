"""Options of a search, and what they make it."""

from collections.abc import Callable
from importlib.util import find_spec

import click

from wbcli import console
from wbcli.cli.options import (
    json_option,
)
from wbcli.cli.parameters import Count
from wbcli.config.settings import Config
from wbcli.words import counted

OWN_OPTIONS = ("tau", "gamma", "max-margin", "scale", "alpha", "feature-decay", "defer-from")
SEARCHED = {  # stage: what can be searched, and what is unless an option settles it
    "stage1": (("wd", "lr", "beta", *OWN_OPTIONS), ("wd",)),
    "stage2": (("wd", "lr", "maxnorm", "radius", "beta", "loss", "tau"), ("wd", "lr", "maxnorm")),
}
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


def how_to_search(options: dict):
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


def searched_names(stage: str, names: tuple, ranges: tuple, options: dict) -> list[str]:
    """What is searched: what was named, else the default but for what is given; and every range."""
    given = [key for key in SEARCHED[stage][0] if options.get(key.replace("-", "_")) is not None]
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


def space_of(base: Config, names: list[str], ranges: tuple) -> dict:
    """The search space; both ends of every range must be values that the option can have."""
    from wbcli.tune import search

    given = {name: (low, high) for name, low, high in ranges}
    own = search.RANGES.get(base.method, {})
    space = search.make_space(base.stage, names, own | given)
    for name, distribution in space.items():
        if name not in CHOICES:
            for end in (distribution.low, distribution.high):
                base.changed({name: end})
    return space
