"""The optimisers that a run can have, what each remembers, and which parameters go slower."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from wbcli.balance.optim import SGD, project
from wbcli.config.settings import Config
from wbcli.methods.method import Group

BETA2 = 0.999  # of AdamW; β₁ is the momentum
REMEMBERED = {  # of each parameter, by optimiser
    "sgd": ("momentum_buffer",),
    "adamw": ("step", "exp_avg", "exp_avg_sq"),
}


def optimizer_over(groups: list[dict], config: Config) -> torch.optim.Optimizer:
    """The optimiser of the settings over groups that may carry a constraint on their rows.

    With `--project step` the constraint is part of every step: of `wbcli.SGD`'s own, or by
    `wbcli.project` after that of torch's AdamW.
    """
    how = {"lr": config.lr, "weight_decay": config.wd}
    if config.optimizer == "adamw":
        optimizer = torch.optim.AdamW(groups, betas=(config.momentum, BETA2), fused=True, **how)
        if config.project == "step":
            optimizer.register_step_post_hook(project)
        return optimizer
    kind = SGD if config.project == "step" else torch.optim.SGD
    return kind(groups, momentum=config.momentum, **how)


def slowed(groups: list[Group], network: nn.Module, factor: float) -> list[Group]:
    """The groups, with `factor` times the rate for what of them is of the backbone."""
    if factor == 1:
        return groups
    inside, made = {id(p) for p in network.backbone.parameters()}, []
    for group in groups:
        slow = [p for p in group.parameters if id(p) in inside]
        rest = [p for p in group.parameters if id(p) not in inside]
        for parameters, rate in ((slow, group.rate * factor), (rest, group.rate)):
            own = {id(p) for p in parameters}
            rows = [p for p in group.rows if id(p) in own]
            made.append(replace(group, parameters=parameters, rate=rate, rows=rows))
    return made


def remembered(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """Every tensor that it remembers of its parameters."""
    values = [value for state in optimizer.state.values() for value in state.values()]
    return [value for value in values if isinstance(value, Tensor)]


def check_remembered(optimizer: torch.optim.Optimizer, name: str) -> None:
    """Raises ValueError, TypeError or RuntimeError where a loaded state is none of this optimiser:
    a changed file can hold anything.
    """
    for p, state in optimizer.state.items():
        if not isinstance(p, Tensor) or not set(state) <= set(REMEMBERED[name]):
            raise ValueError("what is remembered is of another optimiser")
        if name == "adamw" and set(state) != set(REMEMBERED[name]):
            raise ValueError("something that AdamW remembers is missing")
        for key, value in state.items():
            if value is None and name == "sgd":  # without momentum
                continue
            shape = () if key == "step" else p.shape
            if not isinstance(value, Tensor) or value.shape != shape:
                raise ValueError(f"{key} is none of this parameter")
