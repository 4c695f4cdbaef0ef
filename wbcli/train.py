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
) -> Iterator[dict[str, float]]:
    """Train epoch after epoch; after each, yield its epoch (from 1), lr, train loss and accuracy.

    Args:
        batches: the training split on the network's device.
        optimizer: from `make_optimizer`.
        class_weights: [K] on the device, for the class-balanced losses.
        config: loss, lr schedule, epochs, seed, precision, projection, batch norm.
        first_epoch: epochs that are done already.
        on_batch: told the number of images after every step.

    Raises:
        ArithmeticError: the loss of an epoch is NaN or infinite.
    """
    loss_function = LOSSES[config.loss]
    device = batches.labels.device
    for epoch in range(first_epoch, config.epochs):
        lr = config.lr_at(epoch)
        for group in optimizer.param_groups:
            group["lr"] = lr
        set_training_mode(network, config.frozen_batch_norm)
        loss_sum = torch.zeros((), device=device)
        hits = torch.zeros((), dtype=torch.int64, device=device)
        for images, labels in batches.train(config.seed, epoch):
            optimizer.zero_grad()
            for part, answers in _parts(images, labels, config.accumulate):
                with autocast(device, config.precision):
                    logits = network(part)
                loss = loss_function(logits.float(), answers, class_weights[answers])
                if len(answers) < len(labels):
                    loss = loss * (len(answers) / len(labels))
                loss.backward()
                loss_sum += loss.detach() * len(labels)
                hits += (logits.argmax(1) == answers).sum()
            optimizer.step()
            on_batch(len(labels))
        if config.project == "epoch":
            project(optimizer)
        train_loss = loss_sum.item() / batches.size
        if not math.isfinite(train_loss):
            raise ArithmeticError(
                f"the training loss became {train_loss} in epoch {epoch + 1} "
                f"(lr {lr:g}, weight decay {config.wd:g}): lower --lr or --wd"
            )
        yield {
            "epoch": epoch + 1,
            "lr": lr,
            "train_loss": train_loss,
            "train_accuracy": 100 * hits.item() / batches.size,
        }


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
