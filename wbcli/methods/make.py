"""Methods by name."""

from importlib import import_module
from typing import Any

from wbcli.config.methods import METHODS, options_of
from wbcli.config.settings import Config
from wbcli.methods.method import Method
from wbcli.models.networks import Network


def make(
    name: str, network: Network, class_counts: list[int], *, epochs: int = 1, **options: Any
) -> Method:
    """The method of that name, which trains `network`.

    Args:
        name: a method that trains: see `wbcli methods`.
        class_counts: n_k, training images of each class.
        epochs: that will be trained.
        options: as on the command line, with _ for -; what is left out takes its default.

    Raises:
        ValueError: a name that is none, or an option that the method does not have.
    """
    entry = METHODS.get(name)
    if entry is None or not entry.place:
        known = ", ".join(name for name, entry in METHODS.items() if entry.place)
        raise ValueError(f"unknown method {name!r}: choose one of {known}")
    chosen = options_of(name, options)
    module, kind = entry.place.split(":")
    method = getattr(import_module(f"wbcli.methods.{module}"), kind)
    return method(network, class_counts, epochs=epochs, **(entry.fixed | chosen))


def for_run(config: Config, network: Network, class_counts: list[int]) -> Method:
    """The method of a run, with its settings."""
    return make(config.method, network, class_counts, epochs=config.epochs, **config.options())
