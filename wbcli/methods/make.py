"""Methods by name."""

from importlib import import_module
from typing import Any

from wbcli.config.methods import METHODS, settle_head, settle_options
from wbcli.config.settings import Config
from wbcli.methods.method import Method
from wbcli.models.assembled import followed, is_made
from wbcli.models.networks import Network


def make(
    name: str,
    network: Network,
    class_counts: list[int],
    *,
    epochs: int = 1,
    head: str | None = None,
    **options: Any,
) -> Method:
    """The method of that name, which trains `network`.

    Args:
        name: a method that trains: see `wbcli methods`.
        class_counts: n_k, training images of each class.
        epochs: that will be trained.
        head: the classifier that the network gets; None: what the method wants. In stage 2 `kept`
            or `fresh`.
        options: as on the command line, with _ for -; what is left out takes its default.

    Raises:
        ValueError: a name that is none, or an option that the method does not have.
    """
    trained = METHODS[1] | METHODS[2]
    if name not in trained:
        raise ValueError(f"unknown method {name!r}: choose one of {', '.join(trained)}")
    entry = trained[name]
    head, of_head = settle_head(name, entry, head, options)
    if not is_made(network.classifier, head):
        features = network.num_features
        network.classifier = followed(network.classifier, head, features, **of_head)
    own = {k: v for k, v in options.items() if k in entry.options or k not in of_head}
    chosen = settle_options(name, entry.options, own)
    module, kind = entry.place.split(":")
    method = getattr(import_module(f"wbcli.methods.{module}"), kind)
    return method(network, class_counts, epochs=epochs, **(entry.fixed | chosen))


def for_run(config: Config, network: Network, class_counts: list[int]) -> Method:
    """The method of a run, with its settings."""
    head, options = config.classifier, config.options()
    if config.stage == "stage1":
        ((head, of_head),) = config.heads
        options = of_head | options
    return make(config.method, network, class_counts, epochs=config.epochs, head=head, **options)
