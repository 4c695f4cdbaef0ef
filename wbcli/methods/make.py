"""Methods by name."""

from importlib import import_module
from typing import Any

from torch import nn

from wbcli.config.methods import METHODS, settle_head, settle_options
from wbcli.config.published import PUBLISHED
from wbcli.config.settings import Config
from wbcli.methods.losses import checked_counts
from wbcli.methods.method import Method
from wbcli.models.assembled import followed, is_made
from wbcli.models.classifiers import Rotations
from wbcli.models.linear import Linear
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
        class_counts: n_k, training images of each class of the network. Where it told rotations
            (`ssp`), it gets a new classifier of so many classes.
        epochs: that will be trained.
        head: the classifier that the network gets; None: what the method wants. In stage 2 `kept`
            or `fresh`.
        options: as on the command line, with _ for -; what is left out takes its default.

    Raises:
        ValueError: a name that is none, counts of other classes, or an option that the method
            does not have, or one out of its range.
    """
    trained = METHODS[1] | METHODS[2]
    if name not in trained:
        raise ValueError(f"unknown method {name!r}: choose one of {', '.join(trained)}")
    entry = trained[name]
    head, of_head = settle_head(name, entry, head, options)
    step = entry.step or head
    if entry.classifies:
        if isinstance(network.classifier, Rotations):
            _replace(network, Linear(network.num_features, len(class_counts)))
        counts = checked_counts(class_counts, network.classifier.num_classes).tolist()
        class_counts = [int(n) if n.is_integer() else n for n in counts]
    if not is_made(network.classifier, step, **of_head):
        made = followed(network.classifier, step, network.num_features, **of_head)
        _replace(network, made)
    own = {k: v for k, v in options.items() if k in entry.options or k not in of_head}
    chosen = settle_options(name, entry.options, own)
    module, kind = entry.place.split(":")
    method = getattr(import_module(f"wbcli.methods.{module}"), kind)
    return method(network, class_counts, epochs=epochs, **(entry.fixed | chosen))


def _replace(network: Network, classifier: nn.Module) -> None:
    like = next(iter(network.classifier.state_dict().values()))
    network.classifier = classifier.to(like.device, like.dtype)


def for_run(config: Config, network: Network, class_counts: list[int]) -> Method:
    """The method of a run, with its settings."""
    head, options = config.classifier, config.options()
    if config.stage == "stage1":
        ((head, of_head),) = config.heads
        options = of_head | options
    return make(config.method, network, class_counts, epochs=config.epochs, head=head, **options)


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
        "options": {key: o._asdict() for key, o in (entry.options | entry.settings).items()},
        "recipe": {
            group: {key: default._asdict() for key, default in values.items()}
            for group, values in (PUBLISHED.get(name, {}) if stage == 1 else {}).items()
        },
        "published": [figure._asdict() for figure in about.published],
        "notes": list(about.notes),
    }
