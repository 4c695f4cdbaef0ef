"""What the training commands do: stage 1, stage 2 and normalisation, each writing a run.

Legend: K classes.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from wbcli import data, evaluate, features, models
from wbcli.balance import clipped_fraction, radius_of
from wbcli.config import Config
from wbcli.data.batches import Batches, batches_of
from wbcli.device import autocast, environment, prepare
from wbcli.losses import class_balanced_weights
from wbcli.ops import row_norms, tau_norm_
from wbcli.runs import Run, find, part
from wbcli.train import fit, make_optimizer


def ignore(value: Any) -> None:
    """The listener of a caller who does not listen."""


@dataclass
class Listener:
    """Who is told what while a run goes on."""

    on_batch: Callable[[int], None] = ignore  # images of the step
    on_epoch: Callable[[dict], None] = ignore  # the epoch's metrics
    on_note: Callable[[str], None] = ignore  # what the user should know


def train(
    config: Config,
    run: Run,
    dataset: data.Dataset,
    device: torch.device,
    runs_dir: Path,
    listener: Listener | None = None,
    cached: dict[str, features.Features] | None = None,
) -> dict[str, Any]:
    """Train a stage-1 or stage-2 run to its last epoch, from its checkpoint where it has one.

    Where the classifier alone trains (`features.can_cache`), it trains on cached features.

    Args:
        runs_dir: the folder in which the parent is found by its name.
        cached: features of the parent network that others have computed (`of_splits`).

    Returns:
        The metrics of the last epoch.

    Raises:
        ArithmeticError: the loss became NaN or infinite; the checkpoint of the last
            good epoch stays.
    """
    listener = listener or Listener()
    prepare(device, config.precision, config.seed, config.deterministic)
    network, parameters, constrained = _set_up(config, dataset, runs_dir)
    network.to(device, memory_format=torch.channels_last)
    state = run.load_state("checkpoint.pt") if (run.path / "checkpoint.pt").is_file() else None
    radii = [radius_of(config.maxnorm, config.radius, w) for w in constrained]
    if state:
        radii = state["radii"]
    optimizer = make_optimizer(parameters, constrained, radii, config)
    if state:
        network.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
    first_epoch = state["epoch"] if state else 0
    best = state["best"] if state else None
    rows = [row for row in run.metrics() if row["epoch"] <= first_epoch]
    run.write_metrics(rows)
    run.write_record(config, _circumstances(dataset, device))

    trained, settings, splits = _view(config, run, network, dataset, device, cached)
    batches = splits.pop("train")
    weights = class_balanced_weights(dataset.class_counts, config.beta).float().to(device)

    row = rows[-1] if rows else {}
    started = time.perf_counter()
    for row in fit(
        torch.compile(trained) if config.compile else trained,
        batches,
        optimizer,
        weights,
        settings,
        first_epoch=first_epoch,
        on_batch=listener.on_batch,
        on_note=listener.on_note,
    ):
        seconds = time.perf_counter() - started
        row |= {"seconds": seconds, "images_per_second": batches.size / seconds}
        row |= _weight_metrics(config, network, constrained, radii)
        measured = row["epoch"] % config.eval_every == 0 or row["epoch"] == config.epochs
        row["accuracy"] = None
        if measured:
            row |= _epoch_accuracies(settings, trained, dataset, splits)
        run.append_metrics(row)
        best = _save_epoch(config, run, network, optimizer, radii, row, best)
        listener.on_epoch(row)
        started = time.perf_counter()
    weights = {key: value.clone() for key, value in network.state_dict().items()}
    if "val" in splits:
        if evaluate.default_checkpoint(config) == "best":
            network.load_state_dict(run.load_state("best.pt")["model"])
        evaluate.keep_temperature(run, settings, trained, splits["val"])
    run.save_weights(weights)  # last: with them the run is finished
    return row


def train_part(
    config: Config,
    studies: Path,
    dataset: data.Dataset,
    device: torch.device,
    listener: Listener | None = None,
    cached: dict[str, features.Features] | None = None,
) -> Run:
    """The finished run of these settings under `studies`: found, or continued, or trained."""
    run = part(studies, config)
    if not run.finished:
        run.path.mkdir(parents=True, exist_ok=True)
        train(config, run, dataset, device, studies, listener, cached)
        (run.path / "checkpoint.pt").unlink(missing_ok=True)
    return run


def normalize(
    config: Config, run: Run, parent: Run, dataset: data.Dataset, device: torch.device
) -> dict[str, Any]:
    """Write a run whose classifier rows are its parent's over ‖w_k‖^τ; returns its metrics."""
    started = time.perf_counter()
    network = starting_network(config, parent, dataset, device)
    tau_norm_(network.classifier.weight, config.tau)
    run.write_record(config, _circumstances(dataset, device))
    splits = _evaluation_splits(dataset, device)
    row = {"epoch": 1} | _weight_metrics(config, network, [], [])
    row |= _epoch_accuracies(config, network, dataset, splits)
    row |= {"seconds": time.perf_counter() - started}
    if "val" in splits:
        evaluate.keep_temperature(run, config, network, splits["val"])
    run.write_metrics([row])
    run.save_weights(network.state_dict())
    return row


def starting_network(
    config: Config, parent: Run, dataset: data.Dataset, device: torch.device
) -> models.Network:
    """The parent's network on the device, which is made ready for these settings."""
    prepare(device, config.precision, config.seed, config.deterministic)
    network = parent.network(dataset.num_classes, starting_checkpoint(config, parent.config()))
    return network.to(device, memory_format=torch.channels_last)


def starting_checkpoint(config: Config, parent: Config) -> str:
    """What stage 2 starts from: the last epoch, or under `released` the best on the test set.

    A parent that did not keep a best-on-test checkpoint is taken at its last epoch.
    """
    released = config.checkpoint == parent.checkpoint == "best-on-test"
    return "best" if released else "last"


def _set_up(
    config: Config, dataset: data.Dataset, runs_dir: Path
) -> tuple[models.Network, list[nn.Parameter], list[nn.Parameter]]:
    """Network, parameters that train, and weights under the constraint (output first)."""
    if config.stage == "stage1":
        network = models.for_run(config, dataset.num_classes)
        if config.init_from:
            models.load_init(network, Path(config.init_from))
        parameters = list(network.parameters())
        constrained = [network.classifier.weight]
    else:
        parent = find(runs_dir, config.parent)
        checkpoint = starting_checkpoint(config, parent.config())
        network = parent.network(dataset.num_classes, checkpoint)
        layers = models.last_layers(network, config.layers)
        parameters = models.freeze_all_but(network, layers)
        constrained = [layer[0].weight for layer in layers]
    return network, parameters, constrained if config.constraint() else []


def _view(
    config: Config,
    run: Run,
    network: models.Network,
    dataset: data.Dataset,
    device: torch.device,
    cached: dict[str, features.Features] | None,
) -> tuple[nn.Module, Config, dict[str, Any]]:
    """What trains, with which settings, on which splits: the network on images, or its
    classifier on cached features.
    """
    if not features.can_cache(config):
        train = batches_of(dataset, "train", device, config.batch_size)
        if features.is_frozen(config) and config.views:
            train = features.Views(train, config.views)
        return network, config, {"train": train} | _evaluation_splits(dataset, device)
    cached = cached or features.of_splits(network, dataset, config, device, run.path)
    # What is cached is float32, and so small a layer gains nothing from less.
    return network.classifier, replace(config, precision="fp32"), dict(cached)


def _circumstances(dataset: data.Dataset, device: torch.device) -> dict[str, Any]:
    """What config.json says beside the settings; with the names of the classes, a run can
    classify pictures where its data set is not.
    """
    return environment(device) | {"class_names": dataset.class_names}


def _weight_metrics(
    config: Config, network: models.Network, constrained: list[nn.Parameter], radii: list[float]
) -> dict[str, Any]:
    """Row norms of the classifier; radius (one per layer if several) and share of clipped rows."""
    bound = config.constraint() == "max_norm"
    weight = network.classifier.weight.detach()
    drawn = {"weight": weight.tolist()} if config.bottleneck == 2 else {}  # the paper's figure 7
    return drawn | {
        "row_norms": row_norms(weight).tolist(),
        "radius": (radii[0] if len(radii) == 1 else radii) if bound else None,
        "clipped_fraction": clipped_fraction(constrained, radii) if bound else None,
    }


def _evaluation_splits(dataset: data.Dataset, device: torch.device) -> dict[str, Batches]:
    names = ["test"] + ["val"] * (dataset.val is not None)
    return {name: batches_of(dataset, name, device) for name in names}


def _epoch_accuracies(
    config: Config, network: nn.Module, dataset: data.Dataset, splits: dict
) -> dict[str, Any]:
    """`test_loss`, `accuracy` and `per_class_accuracy` on the test set; `val_…` beside them."""
    row: dict[str, Any] = {}
    for split, batches in splits.items():
        prefix = "" if split == "test" else f"{split}_"
        with autocast(batches.labels.device, config.precision):
            metrics = evaluate.measure(network, batches.evaluate(), dataset.num_classes)
        row[f"{split}_loss"] = metrics["nll"]
        row[f"{prefix}accuracy"] = evaluate.group_means(metrics["accuracy"], dataset.groups())
        row[f"{prefix}per_class_accuracy"] = [
            None if np.isnan(value) else value for value in metrics["accuracy"].tolist()
        ]
    return row


def _save_epoch(
    config: Config,
    run: Run,
    network: models.Network,
    optimizer: torch.optim.Optimizer,
    radii: list[float | None],
    row: dict[str, Any],
    best: dict[str, Any] | None,
) -> dict[str, Any] | None:
    """Write checkpoint.pt and, after the best epoch so far, best.pt; returns what is best now."""
    score = _selection_score(config, row)
    if score is not None and (best is None or score > best["accuracy"]):
        best = {"epoch": row["epoch"], "accuracy": score}
        run.save_state("best.pt", {"model": network.state_dict()} | best)
    state = {
        "epoch": row["epoch"],
        "model": network.state_dict(),
        "optimizer": optimizer.state_dict(),
        "radii": radii,
        "best": best,
    }
    run.save_state("checkpoint.pt", state)
    return best


def _selection_score(config: Config, row: dict[str, Any]) -> float | None:
    """What best.pt is chosen by: validation accuracy, or under `released` test accuracy.

    None where there is none, or in an epoch that was not measured.
    """
    key = "accuracy" if config.checkpoint == "best-on-test" else "val_accuracy"
    measured = row.get(key)
    return measured["all"] if measured else None
