"""What is known of the methods: one sentence, source, cost, published figures, traps."""

from importlib import import_module
from typing import Any, NamedTuple

from wbcli.config.methods import METHODS


class Figure(NamedTuple):
    """A published accuracy, per cent, mean over classes."""

    dataset: str
    imbalance_factor: float | None
    network: str
    epochs: int
    all: float


class About(NamedTuple):
    """What a method is in one sentence with its equation, where it comes from, what it costs
    against plain training, what its authors measured, and what one has to know.
    """

    title: str
    source: str
    cost: str
    published: tuple[Figure, ...] = ()
    notes: tuple[str, ...] = ()


def described(name: str | None = None) -> list[dict[str, Any]]:
    """The methods of that name, or all, as `wbcli methods --json` prints them.

    Raises:
        ValueError: there is none of that name.
    """
    found = [
        _described(stage, method)
        for stage, methods in METHODS.items()
        for method in methods
        if name in (None, method)
    ]
    if not found:
        known = dict.fromkeys(method for methods in METHODS.values() for method in methods)
        raise ValueError(f"unknown method {name!r}: choose one of {', '.join(known)}")
    return found


def _described(stage: int, name: str) -> dict[str, Any]:
    entry = METHODS[stage][name]
    room = entry.place.partition(":")[0]
    about = import_module(f"wbcli.methods.{room}").ABOUT[name]
    return {
        "name": name,
        "stage": stage,
        "title": about.title,
        "source": about.source,
        "cost": about.cost,
        "options": {key: option._asdict() for key, option in entry.options.items()},
        "published": [figure._asdict() for figure in about.published],
        "notes": list(about.notes),
    }
