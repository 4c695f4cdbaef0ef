"""fit: the one training loop, for both stages.

Nothing in a step waits for the device: losses and hits are summed there, and read after every
`CHECK_EVERY` steps and at the end of an epoch.
"""

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from wbcli.balance.optim import SGD, project
from wbcli.config.settings import Config
from wbcli.data.batches import Batches
from wbcli.device import autocast
from wbcli.methods.losses import LOSSES
from wbcli.models.layers import set_training_mode
from wbcli.training.graph import GraphedEpochs
from wbcli.training.signals import whole

CHECK_EVERY = 100  # steps after which a loss that is not finite is noticed


class Position:
    """How far a training has come: epochs, steps of the next one, and what these summed up.

    row: what `fit` says of an epoch, until the one who listens has dealt with it.
    """

    def __init__(self, device: torch.device):
        self.epoch = self.step = 0
        self.row: dict[str, float] | None = None
        self.loss_sum = torch.zeros((), device=device)  # over images
        self.hits = torch.zeros((), dtype=torch.int64, device=device)
        self.finite_steps = torch.zeros((), dtype=torch.int64, device=device)

    def state(self) -> dict[str, Any]:
        """What `restore` makes this position again from; a float32 is a float without loss."""
        return {
            "epoch": self.epoch,
            "step": self.step,
            "row": self.row,
            "loss_sum": self.loss_sum.item(),
            "hits": self.hits.item(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        self.epoch, self.step, self.row = state["epoch"], state["step"], state["row"]
        self.loss_sum.fill_(state["loss_sum"])
        self.hits.fill_(state["hits"])
        self.finite_steps.fill_(self.step)

    def end_epoch(self, row: dict[str, float]) -> None:
        self.row = row
        self.epoch, self.step = self.epoch + 1, 0
        for total in (self.loss_sum, self.hits, self.finite_steps):
            total.zero_()


def fit(
    network: nn.Module,
    batches: Batches,
    optimizer: torch.optim.Optimizer,
    class_weights: Tensor,
    config: Config,
    *,
    position: Position | None = None,
    after_step: Callable[[int], None] = lambda images: None,
) -> Iterator[dict[str, float]]:
    """Train epoch after epoch; after each, yield its epoch (from 1), lr, train loss and accuracy.

    Between two steps, wherever it is left, `position` says what the network has seen.

    Args:
        batches: the training split on the network's device.
        optimizer: from `make_optimizer`.
        class_weights: [K] on the device, for the class-balanced losses.
        config: loss, lr schedule, epochs, seed, precision, projection, batch norm.
        position: where to go on, and what is moved on; None starts.
        after_step: told the number of images after every step.

    Raises:
        ArithmeticError: the loss is NaN or infinite.
        RuntimeError: CUDA graphs were asked for, and the step cannot be captured.
    """
    position = position or Position(batches.labels.device)
    step = _Step(network, optimizer, class_weights, config, position)
    graphs = _capture(step, batches) if config.graph else None
    if position.row:
        yield position.row
    while position.epoch < config.epochs:
        epoch, lr = position.epoch, config.lr_at(position.epoch)
        step.start_epoch(lr)
        at = (config.seed, epoch, position.step)
        for take, images in graphs.train(*at) if graphs else _steps(step, batches.train(*at)):
            with whole():
                take()
                position.step += 1
            if position.step % CHECK_EVERY == 0:
                check_finite(position, config)
            after_step(images)
        check_finite(position, config)
        row = {
            "epoch": epoch + 1,
            "lr": lr,
            "train_loss": position.loss_sum.item() / batches.size,
            "train_accuracy": 100 * position.hits.item() / batches.size,
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


def _steps(
    step: "_Step", batches: Iterator[tuple[Tensor, Tensor]]
) -> Iterator[tuple[Callable[[], None], int]]:
    """For each batch what trains on it, and its size."""
    for images, labels in batches:
        yield partial(step, images, labels), len(labels)


class _Step:
    """An optimiser step on (images, labels); sums losses and hits in `position`."""

    def __init__(
        self,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        class_weights: Tensor,
        config: Config,
        position: Position,
    ):
        self.network, self.optimizer = network, optimizer
        self.class_weights, self.config, self.position = class_weights, config, position
        self.device = position.loss_sum.device
        self.loss_function = LOSSES[config.loss]
        self.lr = torch.zeros((), device=self.device) if config.graph else None

    def start_epoch(self, lr: float) -> None:
        if self.lr is not None:  # captured: the tensor stays, its value changes
            self.lr.fill_(lr)
        for group in self.optimizer.param_groups:
            group["lr"] = lr if self.lr is None else self.lr
        set_training_mode(self.network, self.config.frozen_batch_norm)

    def __call__(self, images: Tensor, labels: Tensor) -> None:
        self.optimizer.zero_grad()
        for part, answers in _parts(images, labels, self.config.accumulate):
            with autocast(self.device, self.config.precision, cache=not self.config.graph):
                logits = self.network(part)
            loss = self.loss_function(logits.float(), answers, self.class_weights[answers])
            if len(answers) < len(labels):
                loss = loss * (len(answers) / len(labels))
            loss.backward()
            self.position.loss_sum += loss.detach() * len(labels)
            self.position.hits += (logits.argmax(1) == answers).sum()
        self.position.finite_steps += self.position.loss_sum.isfinite()
        self.optimizer.step()

    def state(self) -> list[Tensor]:
        """Every tensor that a step changes; momentum exists from here on, as zeros."""
        for group in self.optimizer.param_groups:
            for p in group["params"]:
                if group["momentum"] and "momentum_buffer" not in self.optimizer.state[p]:
                    self.optimizer.state[p]["momentum_buffer"] = torch.zeros_like(p)
        buffers = [state["momentum_buffer"] for state in self.optimizer.state.values() if state]
        sums = [self.position.loss_sum, self.position.hits, self.position.finite_steps]
        return [*self.network.state_dict().values(), *buffers, *sums]


def _capture(step: _Step, batches: Batches) -> GraphedEpochs:
    """The epochs as CUDA graphs.

    Raises:
        RuntimeError: they cannot be captured.
    """
    reason = "only images in memory can be drawn within a graph"
    if step.config.project == "epoch":
        reason = "with --project epoch its optimiser reads the learning rate on the host"
    elif isinstance(batches, Batches):
        step.start_epoch(0.0)
        try:
            return GraphedEpochs(batches, step, step.state())
        except RuntimeError as error:
            if "out of memory" in str(error):
                raise
            reason = str(error).splitlines()[0]
    raise RuntimeError(f"--graph: the step cannot be captured ({reason}): train without --graph")


def _parts(images: Tensor, labels: Tensor, count: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The batch in `count` parts, or fewer: batch norm wants two images in each."""
    count = max(1, min(count, len(labels) // 2))
    return zip(images.tensor_split(count), labels.tensor_split(count), strict=True)


def make_optimizer(
    parameters: list[nn.Parameter],
    constrained: list[nn.Parameter],
    radii: list[float | None],
    config: Config,
) -> torch.optim.Optimizer:
    """SGD over `parameters`; each constrained weight has a group of its own with its radius.

    With `--project step` the constraint is part of every step (`wbcli.SGD`); with
    `epoch` the groups only carry it, for `project` at the end of the epoch.
    """
    own_group = {id(p) for p in constrained}
    groups = [{"params": [p for p in parameters if id(p) not in own_group]}]
    for p, radius in zip(constrained, radii, strict=True):
        constraint = {"unit_norm": True} if config.unit_norm else {"max_norm": radius}
        groups.append({"params": [p]} | constraint)
    groups = [group for group in groups if group["params"]]
    optimizer = SGD if config.project == "step" else torch.optim.SGD
    return optimizer(groups, lr=config.lr, momentum=config.momentum, weight_decay=config.wd)
