"""A run while it trains: what its checkpoint holds, and when its files are written."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from wbcli.balance.radius import radius_of, rows_at, share_above
from wbcli.config.settings import Config, from_dict
from wbcli.data import datasets
from wbcli.data.batches.batch import bounds
from wbcli.data.batches.splits import Data
from wbcli.data.record import check_classes
from wbcli.device import environment
from wbcli.evaluate import measured
from wbcli.methods.method import Method
from wbcli.runs.metrics import rows_of
from wbcli.runs.run import Run
from wbcli.runs.states import REMEDIES
from wbcli.training import epochs
from wbcli.training.fit import Position, check_finite, diverged, fit, make_optimizer
from wbcli.training.optimizers import check_remembered, remembered, slowed
from wbcli.training.signals import whole

ANEW = REMEDIES["checkpoint.pt"]


def ignore(*values: Any) -> None:
    """The listener of a caller who does not listen."""


@dataclass
class Listener:
    """Who is told what while a run goes on."""

    on_batch: Callable[[int], None] = ignore  # images of the step
    on_epoch: Callable[[dict], None] = ignore  # the epoch's metrics
    on_note: Callable[[str], None] = ignore  # what the user should know
    on_save: Callable[[int, int], None] = ignore  # epochs, and steps of the next, that are saved


class Training:
    """A run that trains, from its checkpoint where it has one.

    Raises:
        ValueError: a checkpoint that is damaged, or of other settings or classes.
    """

    def __init__(
        self,
        config: Config,
        run: Run,
        dataset: datasets.Dataset,
        device: torch.device,
        listener: Listener,
        method: Method,
    ):
        self.config, self.run, self.dataset, self.device = config, run, dataset, device
        self._path = run.path / "checkpoint.pt"
        self.listener, self.method, self.network = listener, method, method.network
        self.method.to(device, memory_format=torch.channels_last)
        groups = slowed(method.groups(), self.network, config.backbone_lr_factor)
        constrained = [p for group in groups for p in group.rows] if config.constraint() else []
        self.constrained = constrained  # the weights whose rows are bounded, output first
        self.radii = [radius_of(config.maxnorm, config.radius, w) for w in self.constrained]
        state = run.load_state("checkpoint.pt") if run.resumable else None
        if state:
            _check_same(config, run, dataset, state)
            self.radii = self._radii_of(state)
        bounds_of = zip(self.constrained, self.radii, strict=True)
        self.starts = [rows_at(w, radius) for w, radius in bounds_of if radius]
        self.started_above = share_above(self.constrained, self.radii) if self.starts else None
        self.optimizer = make_optimizer(groups, self.radii, config)
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
        told = circumstances(self.dataset, self.device, self.config.arch)
        self.run.write_record(self.config, told, self.dataset.chosen)
        self.run.write_metrics([json.loads(line) for line in self.lines.splitlines()])

    def run_epochs(self, settings: Config, splits: dict[str, Any], save_every: int) -> None:
        """Train to the last epoch.

        Args:
            settings: those with which the method trains.
            splits: batches of `train`, `test` and perhaps `val` as the method takes them.
        """
        self.settings, self.splits = settings, splits
        data = Data(self.splits.pop("train"), self.splits.get("val"))
        num_steps = len(bounds(data.train.size, self.config.batch_size))
        if not 0 <= self.position.step <= num_steps:
            raise ValueError(f"{self._path} does not fit this run: {ANEW}")
        if self.config.compile:
            self.method.evaluated().compile()
        self.started = time.perf_counter()

        def told(images: int) -> None:
            self.listener.on_batch(images)
            if self.position.step % save_every == 0:
                self.save()

        try:
            for row in fit(
                self.method,
                data,
                self.optimizer,
                self.settings,
                position=self.position,
                told=told,
            ):
                self.end_epoch(row, data.train.size)
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
        row |= epochs.norms(config, self.network, self.constrained, self.radii, self.starts)
        row["started_above"] = self.started_above
        row["accuracy"] = None
        due = epoch % config.eval_every == 0 or epoch == config.epochs
        if due and config.entry().classifies:
            row |= epochs.accuracies(
                self.settings, self.method.evaluated(), self.dataset, self.splits
            )
        with whole():
            self.lines += self.run.append_metrics(row)
            self._keep_best(row)
            self.position.row, self.seconds = None, 0.0
            self._write_checkpoint()
        self.listener.on_epoch(row)
        self.started = time.perf_counter()

    def save(self) -> None:
        """Write checkpoint.pt within an epoch, or after one that is not yet measured."""
        if not (self.position.begun or self.position.row):
            return  # what the method does before an epoch was stopped: the last one is whole
        if not self.position.row:
            self._stop_clock()
        self._check_finite()
        self._write_checkpoint()

    def _check_finite(self) -> None:
        """Raises ArithmeticError where a loss, a weight or what goes with it is NaN or infinite."""
        config, position = self.config, self.position
        check_finite(position, config)
        tensors = [*self.method.state_dict().values(), *remembered(self.optimizer)]
        floats = [t for t in tensors if t.is_floating_point()]
        if not torch.stack([t.isfinite().all() for t in floats]).all():
            epoch, step = position.epoch, f"step {position.step}"
            at = (epoch, step) if position.step else (epoch - 1, "its last step")
            raise diverged("a weight", *at, config)

    def _write_checkpoint(self) -> None:
        state = self.position.state() | {
            "settings": self.config.identity(),
            "seconds": self.seconds,
            "model": self.method.state_dict(),
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
        if "val" in self.splits and self.config.entry().classifies:
            if measured.default_checkpoint(self.config) == "best":
                self.network.load_state_dict(self.run.load_state("best.pt")["model"])
            val = self.splits["val"]
            measured.keep_temperature(self.run, self.settings, self.method.evaluated(), val)
        self.run.save_weights(weights)  # last: with them the run is finished
        return json.loads(self.lines.splitlines()[-1])

    def _radii_of(self, state: dict[str, Any]) -> list[float | None]:
        """Those of the first start: the rows of a network that trained have other lengths."""
        radii = state["radii"]
        if [type(radius) for radius in radii] != [type(radius) for radius in self.radii]:
            raise ValueError(f"{self._path} does not fit this run: {ANEW}")
        return radii

    def _restore(self, state: dict[str, Any]) -> None:
        self.seconds, self.best, self.lines = state["seconds"], state["best"], state["metrics"]
        try:
            self.method.load_state_dict(_of_method(state["model"]))
            groups = self.optimizer.state_dict()["param_groups"]  # the settings' own
            momenta = {"state": state["optimizer"]["state"], "param_groups": groups}
            self.optimizer.load_state_dict(momenta)
            check_remembered(self.optimizer, self.config.optimizer)
            self.position.restore(state)
            if self.best is not None:
                float(self.best["accuracy"]), int(self.best["epoch"])
            rows = [row["epoch"] for row in rows_of(self.lines.encode())]
            if rows != list(range(1, state["epoch"] + (state["row"] is None))):
                raise ValueError("a line of metrics is missing")
        except Exception as error:  # a changed file can hold anything under these names
            raise ValueError(f"{self._path} does not fit this run: {ANEW}") from error
        self._note_saved()

    def _note_saved(self) -> None:
        epoch, step = self.position.epoch, self.position.step
        self.saved = f"the last good checkpoint is of epoch {epoch}"
        self.saved += f" and {step} steps" if step else ""
        self.saved += f" ({self._path})"
        self.listener.on_save(epoch, step)

    def _stop_clock(self) -> None:
        now = time.perf_counter()
        self.seconds, self.started = self.seconds + now - self.started, now

    def _keep_best(self, row: dict[str, Any]) -> None:
        """Write best.pt after the best epoch so far."""
        score = epochs.score(self.config, row)
        if score is not None and (self.best is None or score > self.best["accuracy"]):
            self.best = {"epoch": row["epoch"], "accuracy": score}
            self.run.save_state("best.pt", {"model": self.network.state_dict()} | self.best)


def circumstances(dataset: datasets.Dataset, device: torch.device, arch: str) -> dict[str, Any]:
    """What config.json says beside the settings: with the names of the classes a run can
    classify pictures where its data set is not, and with the counts be measured where it changed.
    """
    return environment(device, arch) | {
        "class_names": dataset.class_names,
        "class_counts": dataset.class_counts,
        "original_counts": dataset.original_counts,
    }


def _of_method(state: dict[str, Any]) -> dict[str, Any]:
    """A method's state; before there were methods, checkpoints held their network's."""
    if any(key.startswith("network.") for key in state):
        return state
    return {f"network.{key}": value for key, value in state.items()}


def _check_same(config: Config, run: Run, dataset: datasets.Dataset, state: dict[str, Any]) -> None:
    """Raises ValueError where a run would not go on as it began."""
    try:  # settings younger than the checkpoint take their default
        before = from_dict(state["settings"] | {"data_dir": config.data_dir})
        same = bool(before.identity() == config.identity())
    except (ValueError, TypeError, RuntimeError):  # a file that was changed can hold anything
        same = False
    if not same:
        raise ValueError(f"{run.path / 'checkpoint.pt'} is of a run with other settings: {ANEW}")
    images = run.images()
    if images and not images.same(dataset.chosen):
        raise _changed(run, images.counts(), dataset)
    try:
        run.record()
    except (FileNotFoundError, ValueError):  # config.json will be written anew
        return
    check_classes(run.name, run.class_names(), dataset.class_names)
    before = run.class_counts()
    if before not in (None, dataset.class_counts):
        raise _changed(run, before, dataset)


def _changed(run: Run, before: list[int], dataset: datasets.Dataset) -> ValueError:
    return ValueError(
        f"the data set has changed since run {run.name} was interrupted: {sum(before)} training "
        f"images then, {sum(dataset.class_counts)} now, or other ones; put it back as it was, or "
        "start another run"
    )
