"""Classifiers as their runs made them: a head, and what stages that followed made of it.

Legend: K classes, D features.
"""

from typing import Any

from torch import nn

from wbcli.models.classifiers import HEADS, make
from wbcli.models.linear import Linear, joined, linear_form

KEEP = ("kept", "tau")  # steps after which the classifier is linear in a map of the features


def assembled(heads: tuple, num_features: int, num_classes: int) -> nn.Module:
    """The classifier that these steps make, before its weights are loaded.

    Args:
        heads: (name, options) of the first classifier, then of each step that followed.
    """
    (name, options), *steps = heads
    classifier = make(name, num_features, num_classes, **options)
    for step, more in steps:
        classifier = followed(classifier, step, num_features, **more)
    return classifier


def followed(classifier: nn.Module, step: str, num_features: int, **options: Any) -> nn.Module:
    """What a step makes of a classifier: `kept` starts from the linear layer that equals it,
    `fresh` from a new one; else it is a head of that name.

    Raises:
        ValueError: there is no linear layer that equals it.
    """
    num_classes = classifier.num_classes
    if step in KEEP:
        return joined(*linear_form(classifier))
    if step == "fresh":
        return Linear(num_features, num_classes)
    return make(step, num_features, num_classes, **options)


def is_made(classifier: nn.Module, head: str) -> bool:
    """Whether a classifier is what a step would make: it stays as it is then."""
    return type(classifier) is (Linear if head in KEEP else HEADS.get(head))
