"""What the training commands do: stage 1, stage 2 and normalisation, each writing a run.

Legend: K classes.
"""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from wbcli.config.settings import SAVE_EVERY, Config
from wbcli.data import datasets
from wbcli.data.batches.splits import batches_of
from wbcli.device import prepare
from wbcli.evaluate import measured
from wbcli.methods.adjustments import adjust
from wbcli.methods.make import for_run
from wbcli.methods.method import Method
from wbcli.models import init, networks
from wbcli.models.feature_maps import Standard
from wbcli.runs.find import find, part, weights_of
from wbcli.runs.run import Run
from wbcli.training import epochs, features
from wbcli.training.session import Listener, Training, circumstances


def train(
    config: Config,
    run: Run,
    dataset: datasets.Dataset,
    device: torch.device,
    runs_dir: Path,
    listener: Listener | None = None,
    cached: dict[str, features.Features] | None = None,
    save_every: int = SAVE_EVERY,
) -> dict[str, Any]:
    """Train a stage-1 or stage-2 run to its last epoch, from its checkpoint where it has one.

    Where the classifier alone trains (`features.can_cache`), it trains on cached features.
    Ctrl-C and SIGTERM leave a checkpoint of the last whole step.

    Args:
        runs_dir: the folder in which the parent is found by its name.
        cached: features of the parent network that others have computed (`of_splits`).
        save_every: steps between checkpoints within an epoch.

    Returns:
        The metrics of the last epoch.

    Raises:
        ArithmeticError: a loss or a weight became NaN or infinite; the last good checkpoint stays.
        ValueError: the run has a checkpoint that is damaged, or of other settings or classes.
    """
    prepare(device, config.precision, config.seed, config.deterministic)
    listener = listener or Listener()
    method = _set_up(config, dataset, runs_dir, begins=not run.resumable)
    training = Training(config, run, dataset, device, listener, method)
    training.begin()
    view = _view(config, run, method, dataset, device, cached)
    training.run_epochs(*view, save_every)
    return training.finish()


def train_part(
    config: Config,
    studies: Path,
    dataset: datasets.Dataset,
    device: torch.device,
    listener: Listener | None = None,
    cached: dict[str, features.Features] | None = None,
) -> Run:
    """The finished run of these settings under `studies`: found, or continued, or trained."""
    run = part(studies, config)
    if not run.finished:
        with run.locked():
            train(config, run, dataset, device, studies, listener, cached)
            (run.path / "checkpoint.pt").unlink(missing_ok=True)
    return run


def normalize(
    config: Config, run: Run, parent: Run, dataset: datasets.Dataset, device: torch.device
) -> dict[str, Any]:
    """Write a run whose classifier is its parent's, adjusted; returns its metrics."""
    started = time.perf_counter()
    network = starting_network(config, parent, dataset, device)
    options = config.options()
    if config.method == "ncm":
        options |= _training_features(network, config, dataset, device, run.path)
    network.classifier = adjust(config.method, network, dataset.class_counts, **options)
    run.write_record(config, circumstances(dataset, device, config.arch), dataset.chosen)
    splits = epochs.splits_to_measure(dataset, device)
    row = {"epoch": 1} | epochs.norms(config, network, [], [], [])
    row |= epochs.accuracies(config, network, dataset, splits)
    row |= {"seconds": time.perf_counter() - started}
    if "val" in splits:
        measured.keep_temperature(run, config, network, splits["val"])
    run.write_metrics([row])
    run.save_weights(network.state_dict())
    return row


def starting_network(
    config: Config, parent: Run, dataset: datasets.Dataset, device: torch.device
) -> networks.Network:
    """The parent's network on the device, which is made ready for these settings."""
    prepare(device, config.precision, config.seed, config.deterministic)
    network = parent.network(dataset.class_names, starting_checkpoint(config, parent.config()))
    return network.to(device, memory_format=torch.channels_last)


def starting_checkpoint(config: Config, parent: Config) -> str:
    """What stage 2 starts from: the last epoch, or under `released` the best on the test set.

    A parent that did not keep a best-on-test checkpoint is taken at its last epoch.
    """
    released = config.checkpoint == parent.checkpoint == "best-on-test"
    return "best" if released else "last"


def _training_features(
    network: networks.Network,
    config: Config,
    dataset: datasets.Dataset,
    device: torch.device,
    folder: Path,
) -> dict[str, torch.Tensor]:
    """`features` [N, D] and `labels` [N] of the training images, seen as test images are."""
    cached = features.of_splits(network, dataset, config, device, folder)["train"]
    rows, labels = zip(*cached.evaluate(), strict=True)
    return {"features": torch.cat(rows), "labels": torch.cat(labels)}


def _set_up(config: Config, dataset: datasets.Dataset, runs_dir: Path, *, begins: bool) -> Method:
    """The method of a run, on the network that it starts from; that of one which goes on gets its
    weights from the checkpoint.
    """
    if config.stage == "stage1":
        network = networks.for_run(config, dataset.num_classes)
        if config.normalise == "standard":
            moments = map(torch.from_numpy, dataset.train.images.moments())
            next(m for m in network.modules() if isinstance(m, Standard)).set_moments(*moments)
        if begins:
            init.start(network, config, config.init_from and weights_of(runs_dir, config.init_from))
        if config.freeze:
            network.backbone.requires_grad_(False)
    else:
        parent = find(runs_dir, config.parent)
        checkpoint = starting_checkpoint(config, parent.config())
        network = parent.network(dataset.class_names, checkpoint)
    return for_run(config, network, dataset.class_counts)


def _view(
    config: Config,
    run: Run,
    method: Method,
    dataset: datasets.Dataset,
    device: torch.device,
    cached: dict[str, features.Features] | None,
) -> tuple[Config, dict[str, Any]]:
    """With which settings the method trains, and on which splits: on images, or where its
    classifier alone trains on cached features.
    """
    takes_features = method.takes_features and len(method.views) == 1
    if not (features.can_cache(config) and takes_features):
        train = batches_of(dataset, "train", device, config.batch_size)
        if features.is_frozen(config) and config.views:
            train = features.Views(train, config.views)
        return config, {"train": train} | epochs.splits_to_measure(dataset, device)
    cached = cached or features.of_splits(method.network, dataset, config, device, run.path)
    method.on_features = True
    # What is cached is float32, and so small a layer gains nothing from less.
    return replace(config, precision="fp32"), dict(cached)
