"""fit: the one training loop, for every method.

Nothing in a step waits for the device: losses and hits are summed there, and read after every
`CHECK_EVERY` steps and at the end of an epoch.
"""

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wbcli.balance.optim import project
from wbcli.config.settings import Config
from wbcli.data.batches.batch import Batch
from wbcli.data.batches.memory import Batches
from wbcli.data.batches.splits import Data
from wbcli.data.pictures.preprocessing import split_arch
from wbcli.device import autocast
from wbcli.methods.method import Group, Method, averaged, shares
from wbcli.models.layers import set_training_mode
from wbcli.training.graph import GraphedEpochs
from wbcli.training.optimizers import optimizer_over
from wbcli.training.signals import whole

CHECK_EVERY = 100  # steps after which a loss that is not finite is noticed


class Position:
    """How far a training has come: epochs, steps of the next one, and what these summed up.

    begun: whether the method's pass before the next epoch is over.
    row: what `fit` says of an epoch, until the one who listens has dealt with it.
    """

    def __init__(self, device: torch.device):
        self.epoch = self.step = 0
        self.begun = False
        self.row: dict[str, float] | None = None
        self.loss_sum = torch.zeros((), device=device)  # over images
        self.hits = torch.zeros((), dtype=torch.int64, device=device)
        self.finite_steps = torch.zeros((), dtype=torch.int64, device=device)

    def state(self) -> dict[str, Any]:
        """What `restore` makes this position again from; a float32 is a float without loss."""
        return {
            "epoch": self.epoch,
            "step": self.step,
            "begun": self.begun,
            "row": self.row,
            "loss_sum": self.loss_sum.item(),
            "hits": self.hits.item(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        self.epoch, self.step, self.row = state["epoch"], state["step"], state["row"]
        self.begun = state.get("begun", self.step > 0)  # 0.1.0 had no such pass
        self.loss_sum.fill_(state["loss_sum"])
        self.hits.fill_(state["hits"])
        self.finite_steps.fill_(self.step)

    def end_epoch(self, row: dict[str, float]) -> None:
        self.row = row
        self.epoch, self.step, self.begun = self.epoch + 1, 0, False
        for total in (self.loss_sum, self.hits, self.finite_steps):
            total.zero_()


def fit(
    method: Method,
    data: Data,
    optimizer: torch.optim.Optimizer,
    config: Config,
    *,
    position: Position | None = None,
    told: Callable[[int], None] = lambda images: None,
) -> Iterator[dict[str, float]]:
    """Train epoch after epoch; after each, yield its epoch (from 1), lr, train loss and accuracy.

    It never asks which method it trains. Between two steps, wherever it is left, `position` says
    what the network has seen.

    Args:
        method: on the device, as are its batches.
        data: the training split, and validation images for methods that look at them.
        optimizer: from `make_optimizer`.
        config: lr schedule, epochs, seed, precision, sampling, augmentation, projection, parts.
        position: where to go on, and what is moved on; None starts.
        told: told the number of images after every step.

    Raises:
        ArithmeticError: the loss is NaN or infinite.
        ValueError: a batch is to come in parts, and the method needs it whole.
        RuntimeError: CUDA graphs were asked for, and the step cannot be captured.
    """
    if method.whole_batch and config.accumulate > 1:
        raise ValueError(
            f"--accumulate {config.accumulate}: {config.method} compares a batch's images with "
            "each other, so that it cannot come in parts: leave it out"
        )
    position = position or Position(data.train.labels.device)
    method.hits = position.hits
    step = _Step(method, optimizer, config, position)
    epochs = _capture(step, data.train) if config.graph else _Epochs(data.train, step)
    if position.row:
        yield position.row
    while position.epoch < config.epochs:
        epoch, lr = position.epoch, config.lr_at(position.epoch)
        if not position.begun:
            method.eval()  # whether it was measured before, or has just been made
            method.before_epoch(epoch, data)
            position.begun = True
        step.start_epoch(epoch, lr)
        how = {"first": position.step, "progress": epoch / config.epochs}
        for take, images in epochs.steps(config.seed, epoch, *step.drawn(epoch), **how):
            with whole():
                take()
                position.step += 1
            if position.step % CHECK_EVERY == 0:
                check_finite(position, config)
            told(images)
        check_finite(position, config)
        size = data.train.size
        row = {
            "epoch": epoch + 1,
            "lr": lr,
            "train_loss": position.loss_sum.item() / size,
            "train_accuracy": 100 * position.hits.item() / size,
        }
        with whole():
            if config.project == "epoch":
                project(optimizer)
            position.end_epoch(row)
        yield row


def check_finite(position: Position, config: Config) -> None:
    """Raises ArithmeticError where the loss of a step of this epoch was NaN or infinite."""
    if not math.isfinite(position.loss_sum.item()):
        step = f"step {position.finite_steps.item() + 1}"
        raise diverged("the training loss", position.epoch, step, config)


def diverged(what: str, epoch: int, step: str, config: Config) -> ArithmeticError:
    """The error that says what is not finite, in which step of which epoch (from 0), and why."""
    return ArithmeticError(
        f"{what} became nan or infinite in epoch {epoch + 1}, {step} "
        f"(lr {config.lr_at(epoch):g}, weight decay {config.wd:g}): lower --lr or --wd"
    )


class _Epochs:
    """The epochs of a split: for each batch what trains on it, and its size."""

    def __init__(self, batches: Batches, step: "_Step"):
        self.batches, self.step = batches, step

    def steps(self, *drawn, **how) -> Iterator[tuple[Callable[[], None], int]]:
        for batch in self.batches.steps(*drawn, **how):
            yield partial(self.step, batch), len(batch)


class _Step:
    """An optimiser step on a batch; sums losses and hits in `position`."""

    def __init__(
        self,
        method: Method,
        optimizer: torch.optim.Optimizer,
        config: Config,
        position: Position,
    ):
        self.method, self.optimizer = method, optimizer
        self.config, self.position = config, position
        self.device = position.loss_sum.device
        self.draws = split_arch(config.arch) is not None and not config.graph  # may drop out
        self.rates = [group.get("rate", 1.0) for group in optimizer.param_groups]
        # captured: the tensors stay, their values change
        self.lrs = [torch.zeros((), device=self.device) for _ in self.rates] * config.graph

    def drawn(self, epoch: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The streams and views of an epoch, with what the user chose for the plain ones."""
        streams = (self.method.sampling, self.config.sampling), self.method.streams(epoch)
        views = ("basic", self.config.aug), self.method.views
        return tuple(
            tuple(chosen if name == plain else name for name in names)
            for (plain, chosen), names in (streams, views)
        )

    def start_epoch(self, epoch: int, lr: float) -> None:
        for captured, value in zip(self.lrs, self.rates, strict=False):
            captured.fill_(lr * value)
        lrs = self.lrs or [lr * rate for rate in self.rates]
        for group, value in zip(self.optimizer.param_groups, lrs, strict=True):
            group["lr"] = value
        self.method.train()
        set_training_mode(self.method.network, self.config.frozen_batch_norm)
        self.method.start_epoch(epoch)

    def __call__(self, batch: Batch) -> None:
        self.optimizer.zero_grad()
        if self.draws:  # from torch's generator: a function of the step, as all that is random
            _seed(self.device, seed_of(batch.key))
        batch = self.method.prepare(batch)
        share = shares(self.method.weigh(batch))
        for part in batch.parts(self.config.accumulate):
            with autocast(self.device, self.config.precision, cache=not self.config.graph):
                losses = self.method.losses(part)
            loss = averaged(losses, share)
            loss.backward()
            self.position.loss_sum.add_(loss.detach(), alpha=len(batch))
        self.position.finite_steps += self.position.loss_sum.isfinite()
        self.optimizer.step()
        self.method.after_step()

    def state(self) -> list[Tensor]:
        """Every tensor that a step changes; momentum exists from here on, as zeros."""
        for group in self.optimizer.param_groups:
            for p in group["params"]:
                if group["momentum"] and "momentum_buffer" not in self.optimizer.state[p]:
                    self.optimizer.state[p]["momentum_buffer"] = torch.zeros_like(p)
        buffers = [state["momentum_buffer"] for state in self.optimizer.state.values() if state]
        sums = [self.position.loss_sum, self.position.hits, self.position.finite_steps]
        return [*self.method.state_dict().values(), *buffers, *sums]


def seed_of(key: tuple[int, int, int]) -> int:
    """A seed for torch's generator, another for every (seed, epoch, step)."""
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0])


def _seed(device: torch.device, seed: int) -> None:
    """torch.manual_seed where a step draws: that one formats a stack for every kind of device that
    is not in use, which takes longer than all else that we add to a step.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed_all(seed)


def _capture(step: _Step, batches: Batches) -> GraphedEpochs:
    """The epochs as CUDA graphs.

    Raises:
        RuntimeError: they cannot be captured.
    """
    reason = "only images in memory can be drawn within a graph"
    if not step.method.graphable:
        reason = f"{step.config.method} reads on the host what a step makes"
    elif step.config.project == "epoch":
        reason = "with --project epoch its optimiser reads the learning rate on the host"
    elif isinstance(batches, Batches):
        step.start_epoch(0, 0.0)
        try:
            return GraphedEpochs(batches, step, step.state(), step.drawn(0))
        except RuntimeError as error:
            if "out of memory" in str(error):
                raise
            reason = str(error).splitlines()[0]
    raise RuntimeError(f"--graph: the step cannot be captured ({reason}): train without --graph")


def make_optimizer(
    groups: list[Group], radii: list[float | None], config: Config
) -> torch.optim.Optimizer:
    """An optimiser over the groups of a method; each constrained weight is alone, with its radius.

    With `--project step` the constraint is part of every step; with `epoch` the groups only carry
    it, for `project` at the end of the epoch.

    Args:
        radii: of each of the groups' `rows`, in their order; none where nothing is constrained.
    """
    made, left = [], list(radii)
    for group in groups:
        common = {"rate": group.rate, "weight_decay": config.wd if group.wd is None else group.wd}
        rows = group.rows if radii else []
        own = {id(p) for p in rows}
        made.append({"params": [p for p in group.parameters if id(p) not in own]} | common)
        for p in rows:
            radius = left.pop(0)
            constraint = {"unit_norm": True} if config.unit_norm else {"max_norm": radius}
            made.append({"params": [p]} | common | constraint)
    return optimizer_over([group for group in made if group["params"]], config)
