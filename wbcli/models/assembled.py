"""Classifiers as their runs made them: a head, and what stages that followed made of it.

Legend: K classes, D features.
"""

import copy
import math
from typing import Any

from torch import nn

from wbcli.config.methods import STAY_LINEAR
from wbcli.models.classifiers import HEADS, make
from wbcli.models.kept import DisAlign, Scaled
from wbcli.models.linear import Linear, NearestMean, joined, linear_form

BESIDE = {"lws": Scaled, "disalign": DisAlign}  # steps that keep it and train numbers beside it


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
    """What a step makes of a classifier, before it trains or its weights are loaded.

    `kept`, `lws` and `disalign` start from the linear layer that equals it, `fresh` from a new one.
    The adjustments that need no training (`methods.adjustments`) give the modules that theirs are,
    with other values. Any other step is a head of that name.

    Raises:
        ValueError: there is no linear layer that equals it.
    """
    if step == "fresh":
        return Linear(num_features, classifier.num_classes)
    if step == "ncm":
        normalised = options["variant"] != "un"
        return NearestMean(num_features, classifier.num_classes, normalised=normalised)
    if step == "tde":
        return copy.deepcopy(classifier)
    if step not in STAY_LINEAR and step not in BESIDE:
        return make(step, num_features, classifier.num_classes, **options)
    form = linear_form(classifier)
    if form is None:
        raise ValueError(f"no linear layer equals a {type(classifier).__name__}: take a fresh one")
    feature_map, layer = form
    if step in BESIDE:
        layer = BESIDE[step](layer.in_features, layer.out_features, base=layer)
    return joined(feature_map, layer)


def is_made(classifier: nn.Module, head: str, **options: float) -> bool:
    """Whether a classifier is what a step would make: it stays as it is then."""
    if head in BESIDE:
        return False
    alike = type(classifier) is (Linear if head in STAY_LINEAR else HEADS.get(head))
    return alike and all(
        math.isclose(getattr(classifier, key), value, rel_tol=1e-6)  # some are float32
        for key, value in options.items()
    )
