"""fit: the one training loop, for both stages.

Nothing in a step waits for the device: losses and hits are summed there and read once
an epoch.
"""

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from wbcli.config import Config
from wbcli.data.batches import Batches
from wbcli.device import autocast
from wbcli.graph import GraphedEpochs
from wbcli.losses import LOSSES
from wbcli.models import set_training_mode
from wbcli.optim import SGD, project


def fit(
    network: nn.Module,
    batches: Batches,
    optimizer: torch.optim.Optimizer,
    class_weights: Tensor,
    config: Config,
    *,
    first_epoch: int = 0,
    on_batch: Callable[[int], None] = lambda images: None,
    on_note: Callable[[str], None] = lambda text: None,
) -> Iterator[dict[str, float]]:
    """Train epoch after epoch; after each, yield its epoch (from 1), lr, train loss and accuracy.

    Args:
        batches: the training split on the network's device.
        optimizer: from `make_optimizer`.
        class_weights: [K] on the device, for the class-balanced losses.
        config: loss, lr schedule, epochs, seed, precision, projection, batch norm.
        first_epoch: epochs that are done already.
        on_batch: told the number of images after every step.
        on_note: told why the steps are not captured as CUDA graphs, where that was asked for.

    Raises:
        ArithmeticError: the loss of an epoch is NaN or infinite.
    """
    step = _Step(network, optimizer, class_weights, config, batches.labels.device)
    graphs = _capture(step, batches, on_note) if config.graph else None
    for epoch in range(first_epoch, config.epochs):
        lr = config.lr_at(epoch)
        step.start_epoch(lr)
        if graphs:
            graphs.train(config.seed, epoch, on_batch)
        else:
            for images, labels in batches.train(config.seed, epoch):
                step(images, labels)
                on_batch(len(labels))
        if config.project == "epoch":
            project(optimizer)
        train_loss = step.loss_sum.item() / batches.size
        if not math.isfinite(train_loss):
            raise ArithmeticError(
                f"the training loss became {train_loss} in epoch {epoch + 1} "
                f"(lr {lr:g}, weight decay {config.wd:g}): lower --lr or --wd"
            )
        yield {
            "epoch": epoch + 1,
            "lr": lr,
            "train_loss": train_loss,
            "train_accuracy": 100 * step.hits.item() / batches.size,
        }


class _Step:
    """An optimiser step on (images, labels); sums losses and hits of an epoch on the device."""

    def __init__(
        self,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        class_weights: Tensor,
        config: Config,
        device: torch.device,
    ):
        self.network, self.optimizer = network, optimizer
        self.class_weights, self.config, self.device = class_weights, config, device
        self.loss_function = LOSSES[config.loss]
        self.loss_sum = torch.zeros((), device=device)
        self.hits = torch.zeros((), dtype=torch.int64, device=device)
        self.lr = torch.zeros((), device=device) if config.graph else None

    def start_epoch(self, lr: float) -> None:
        if self.lr is not None:  # captured: the tensor stays, its value changes
            self.lr.fill_(lr)
        for group in self.optimizer.param_groups:
            group["lr"] = lr if self.lr is None else self.lr
        set_training_mode(self.network, self.config.frozen_batch_norm)
        self.loss_sum.zero_()
        self.hits.zero_()

    def __call__(self, images: Tensor, labels: Tensor) -> None:
        self.optimizer.zero_grad()
        for part, answers in _parts(images, labels, self.config.accumulate):
            with autocast(self.device, self.config.precision, cache=not self.config.graph):
                logits = self.network(part)
            loss = self.loss_function(logits.float(), answers, self.class_weights[answers])
            if len(answers) < len(labels):
                loss = loss * (len(answers) / len(labels))
            loss.backward()
            self.loss_sum += loss.detach() * len(labels)
            self.hits += (logits.argmax(1) == answers).sum()
        self.optimizer.step()

    def state(self) -> list[Tensor]:
        """Every tensor that a step changes; momentum exists from here on, as zeros."""
        for group in self.optimizer.param_groups:
            for p in group["params"]:
                if group["momentum"] and "momentum_buffer" not in self.optimizer.state[p]:
                    self.optimizer.state[p]["momentum_buffer"] = torch.zeros_like(p)
        buffers = [state["momentum_buffer"] for state in self.optimizer.state.values() if state]
        return [*self.network.state_dict().values(), *buffers, self.loss_sum, self.hits]


def _capture(step: _Step, batches: Batches, on_note: Callable[[str], None]) -> GraphedEpochs | None:
    """The epochs as CUDA graphs; None, and a note that says why, where they cannot be captured."""
    step.start_epoch(0.0)
    reason = "only images in memory can be drawn within a graph"
    if isinstance(batches, Batches):
        try:
            return GraphedEpochs(batches, step, step.state())
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
    on_note(f"--graph: the step cannot be captured ({reason}); it goes on without graphs")
    step.lr = None
    return None


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
