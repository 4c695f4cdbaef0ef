"""What the training commands do: stage 1, stage 2 and normalisation, each writing a run.

Legend: K classes.
"""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
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
from wbcli.signals import whole
from wbcli.train import Position, check_finite, diverged, fit, make_optimizer

SAVE_EVERY = 500  # steps between checkpoints within an epoch


def ignore(*values: Any) -> None:
    """The listener of a caller who does not listen."""


@dataclass
class Listener:
    """Who is told what while a run goes on."""

    on_batch: Callable[[int], None] = ignore  # images of the step
    on_epoch: Callable[[dict], None] = ignore  # the epoch's metrics
    on_note: Callable[[str], None] = ignore  # what the user should know
    on_save: Callable[[int, int], None] = ignore  # epochs, and steps of the next, that are saved


def train(
    config: Config,
    run: Run,
    dataset: data.Dataset,
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
    training = _Training(config, run, dataset, device, runs_dir, listener or Listener())
    training.begin()
    training.run_epochs(cached, save_every)
    return training.finish()


class _Training:
    """A run while it trains: all that its checkpoint holds, and the files that are made of it."""

    def __init__(
        self,
        config: Config,
        run: Run,
        dataset: data.Dataset,
        device: torch.device,
        runs_dir: Path,
        listener: Listener,
    ):
        self.config, self.run, self.dataset, self.device = config, run, dataset, device
        self.listener = listener
        self.network, parameters, self.constrained = _set_up(config, dataset, runs_dir)
        if config.parent:
            _note_changes(find(runs_dir, config.parent), config, dataset, listener)
        self.network.to(device, memory_format=torch.channels_last)
        self.radii = [radius_of(config.maxnorm, config.radius, w) for w in self.constrained]
        state = run.load_state("checkpoint.pt") if run.resumable else None
        if state:
            _check_same(config, run, dataset, state)
            self.radii = state["radii"]
        self.optimizer = make_optimizer(parameters, self.constrained, self.radii, config)
        self.position = Position(device)
        self.seconds = 0.0  # that the epoch has taken
        self.best: dict[str, Any] | None = None  # epoch and accuracy
        self.lines = ""  # of metrics.jsonl
        self.saved = "there is no checkpoint yet"
        if state:
            self._restore(state)

    def begin(self) -> None:
        """Write what a run has from its start; metrics.jsonl as the checkpoint knows it."""
        if not self.run.resumable:
            (self.run.path / "best.pt").unlink(missing_ok=True)  # of a start that was killed
        self.run.write_metrics([json.loads(line) for line in self.lines.splitlines()])
        self.run.write_record(self.config, _circumstances(self.dataset, self.device))

    def run_epochs(self, cached: dict[str, features.Features] | None, save_every: int) -> None:
        """Train to the last epoch."""
        view = _view(self.config, self.run, self.network, self.dataset, self.device, cached)
        self.trained, self.settings, self.splits = view
        batches = self.splits.pop("train")
        weights = class_balanced_weights(self.dataset.class_counts, self.config.beta)
        self.started = time.perf_counter()

        def after_step(images: int) -> None:
            self.listener.on_batch(images)
            if self.position.step % save_every == 0:
                self.save()

        try:
            for row in fit(
                torch.compile(self.trained) if self.config.compile else self.trained,
                batches,
                self.optimizer,
                weights.float().to(self.device),
                self.settings,
                position=self.position,
                after_step=after_step,
                on_note=self.listener.on_note,
            ):
                self.end_epoch(row, batches.size)
        except (KeyboardInterrupt, SystemExit):
            self.save()
            raise
        except ArithmeticError as error:
            raise ArithmeticError(f"{error}; {self.saved}") from error

    def end_epoch(self, row: dict[str, Any], num_images: int) -> None:
        """Measure, and write the epoch's line, best.pt and checkpoint.pt."""
        config, epoch = self.config, row["epoch"]
        self._stop_clock()
        self._check_finite()
        row = row | {"seconds": self.seconds, "images_per_second": num_images / self.seconds}
        row |= _weight_metrics(config, self.network, self.constrained, self.radii)
        row["accuracy"] = None
        if epoch % config.eval_every == 0 or epoch == config.epochs:
            row |= _epoch_accuracies(self.settings, self.trained, self.dataset, self.splits)
        with whole():
            self.lines += self.run.append_metrics(row)
            self._keep_best(row)
            self.position.row, self.seconds = None, 0.0
            self._write_checkpoint()
        self.listener.on_epoch(row)
        self.started = time.perf_counter()

    def save(self) -> None:
        """Write checkpoint.pt within an epoch, or after one that is not yet measured."""
        if not self.position.row:
            self._stop_clock()
        self._check_finite()
        self._write_checkpoint()

    def _check_finite(self) -> None:
        """Raises ArithmeticError where a loss, a weight or a momentum is NaN or infinite."""
        config, position = self.config, self.position
        check_finite(position, config)
        momenta = [kept["momentum_buffer"] for kept in self.optimizer.state.values()]
        tensors = [*self.network.state_dict().values(), *momenta]
        floats = [t for t in tensors if t is not None and t.is_floating_point()]
        if not torch.stack([t.isfinite().all() for t in floats]).all():
            at = (position.epoch, position.step) if position.step else (position.epoch - 1, "last")
            raise diverged("a weight", *at, config)

    def _write_checkpoint(self) -> None:
        state = self.position.state() | {
            "settings": _settings(self.config),
            "seconds": self.seconds,
            "model": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "radii": self.radii,
            "best": self.best,
            "metrics": self.lines,
        }
        with whole():
            self.run.save_state("checkpoint.pt", state)
        self._note_saved()

    def finish(self) -> dict[str, Any]:
        """Fit the temperature and write the weights; returns the metrics of the last epoch."""
        weights = {key: value.clone() for key, value in self.network.state_dict().items()}
        if "val" in self.splits:
            if evaluate.default_checkpoint(self.config) == "best":
                self.network.load_state_dict(self.run.load_state("best.pt")["model"])
            val = self.splits["val"]
            evaluate.keep_temperature(self.run, self.settings, self.trained, val)
        self.run.save_weights(weights)  # last: with them the run is finished
        return json.loads(self.lines.splitlines()[-1])

    def _restore(self, state: dict[str, Any]) -> None:
        try:
            self.network.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            for p, kept in self.optimizer.state.items():
                if kept["momentum_buffer"] is not None:
                    kept["momentum_buffer"].view_as(p)
            self.position.restore(state)
            measured = state["epoch"] - (state["row"] is not None)
            if state["metrics"].count("\n") != measured:
                raise ValueError("a line of metrics is missing")
        except Exception as error:  # a changed file can hold anything under these names
            path = self.run.path / "checkpoint.pt"
            raise ValueError(f"{path} does not fit this run: delete it to start anew") from error
        self.seconds, self.best, self.lines = state["seconds"], state["best"], state["metrics"]
        self._note_saved()

    def _note_saved(self) -> None:
        epoch, step = self.position.epoch, self.position.step
        self.saved = f"the last good checkpoint is of epoch {epoch}"
        self.saved += f" and {step} steps" if step else ""
        self.saved += f" ({self.run.path / 'checkpoint.pt'})"
        self.listener.on_save(epoch, step)

    def _stop_clock(self) -> None:
        now = time.perf_counter()
        self.seconds, self.started = self.seconds + now - self.started, now

    def _keep_best(self, row: dict[str, Any]) -> None:
        """Write best.pt after the best epoch so far."""
        score = _selection_score(self.config, row)
        if score is not None and (self.best is None or score > self.best["accuracy"]):
            self.best = {"epoch": row["epoch"], "accuracy": score}
            self.run.save_state("best.pt", {"model": self.network.state_dict()} | self.best)


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
        with run.locked():
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
    network = parent.network(dataset.class_names, starting_checkpoint(config, parent.config()))
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
        network = parent.network(dataset.class_names, checkpoint)
        layers = models.last_layers(network, config.layers)
        parameters = models.freeze_all_but(network, layers)
        constrained = [layer[0].weight for layer in layers]
    return network, parameters, constrained if config.constraint() else []


def _note_changes(parent: Run, config: Config, dataset: data.Dataset, listener: Listener) -> None:
    """Say so where the same choice of images is now another number of them."""
    first, now = parent.config(), sum(dataset.class_counts)
    before = sum(parent.record().get("class_counts") or dataset.class_counts)
    same = all(getattr(first, key) == getattr(config, key) for key in data.SELECTION)
    if same and before != now:
        listener.on_note(
            f"run {parent.name} was trained on {before} training images, the data set now has {now}"
        )


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
    names, counts = dataset.class_names, dataset.class_counts
    return environment(device) | {"class_names": names, "class_counts": counts}


def _settings(config: Config) -> dict[str, Any]:
    """The settings that a checkpoint belongs to; where the data lie is none."""
    return {key: value for key, value in asdict(config).items() if key != "data_dir"}


def _check_same(config: Config, run: Run, dataset: data.Dataset, state: dict[str, Any]) -> None:
    """Raises ValueError where a run would not go on as it began."""
    if state["settings"] != _settings(config):
        raise ValueError(
            f"{run.path / 'checkpoint.pt'} is of a run with other settings: delete it to start anew"
        )
    if not run.started:  # config.json is gone, and will be written again
        return
    run.check_classes(dataset.class_names)
    before, now = run.record().get("class_counts"), dataset.class_counts
    if before not in (None, now):
        raise ValueError(
            f"the data set has changed since run {run.name} was interrupted: "
            f"{sum(before)} training images then, {sum(now)} now, or in other classes; "
            "put it back as it was, or start another run"
        )


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


def _selection_score(config: Config, row: dict[str, Any]) -> float | None:
    """What best.pt is chosen by: validation accuracy, or under `released` test accuracy.

    None where there is none, or in an epoch that was not measured.
    """
    key = "accuracy" if config.checkpoint == "best-on-test" else "val_accuracy"
    measured = row.get(key)
    return measured["all"] if measured else None
