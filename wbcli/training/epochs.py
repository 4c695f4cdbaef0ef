"""What metrics.jsonl says of an epoch: accuracies, row norms, and what the constraint clipped.

Legend: K classes.
"""

from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.compiler import set_stance

from wbcli.balance.radius import clipped_fraction
from wbcli.config.settings import Config
from wbcli.data import datasets
from wbcli.data.batches.memory import Batches
from wbcli.data.batches.splits import batches_of
from wbcli.device import autocast
from wbcli.evaluate.metrics import group_means, measure
from wbcli.models import networks
from wbcli.models.linear import linear_form


def splits_to_measure(dataset: datasets.Dataset, device: torch.device) -> dict[str, Batches]:
    return {name: batches_of(dataset, name, device) for name in dataset.measurable()}


def norms(
    config: Config,
    network: networks.Network,
    constrained: list[nn.Parameter],
    radii: list[float],
    starts: list[tuple[Tensor, Tensor]],
) -> dict[str, Any]:
    """Row norms of the classifier; radius (one per layer if several) and share of clipped rows.

    starts: see `radius.clipped_fraction`.
    """
    bound = config.constraint() == "max_norm" and bool(constrained)
    classifier, drawn = network.classifier, {}
    if config.bottleneck == 2:  # the paper's figure 7
        form = linear_form(classifier)
        if form and form[1].in_features == 2:
            drawn = {"weight": form[1].weight.tolist()}
    lengths = classifier.row_norms()
    return drawn | {
        "row_norms": None if lengths is None else lengths.tolist(),
        "radius": (radii[0] if len(radii) == 1 else radii) if bound else None,
        "clipped_fraction": clipped_fraction(constrained, radii, starts) if bound else None,
    }


def accuracies(
    config: Config, network: nn.Module, dataset: datasets.Dataset, splits: dict
) -> dict[str, Any]:
    """`test_loss`, `accuracy` and `per_class_accuracy` on the test set; `val_…` beside them.

    Without a test set `accuracy` is None.
    """
    row: dict[str, Any] = {"accuracy": None}
    for split, batches in splits.items():
        prefix = "" if split == "test" else f"{split}_"
        eager = set_stance("force_eager") if config.compile else nullcontext()
        with autocast(batches.labels.device, config.precision), eager:
            metrics = measure(network, batches.evaluate(), dataset.num_classes)
        row[f"{split}_loss"] = metrics["nll"]
        row[f"{prefix}accuracy"] = group_means(metrics["accuracy"], dataset.groups())
        row[f"{prefix}per_class_accuracy"] = [
            None if np.isnan(value) else value for value in metrics["accuracy"].tolist()
        ]
    return row


def score(config: Config, row: dict[str, Any]) -> float | None:
    """What best.pt is chosen by: validation accuracy, or under `released` test accuracy.

    None where there is none, or in an epoch that was not measured.
    """
    key = "accuracy" if config.checkpoint == "best-on-test" else "val_accuracy"
    measured = row.get(key)
    return measured["all"] if measured else None
