"""Layers of a network: which train, and in which mode."""

from torch import nn


def last_layers(network: nn.Module, count: int) -> list[list[nn.Module]]:
    """The last `count` weight layers, counted from the output, each with its batch norm.

    A weight layer is a convolution or a linear layer; the batch norm that follows it
    belongs to it.

    Returns:
        One list for each layer, output first: [layer] or [layer, batch norm].
    """
    layers: list[list[nn.Module]] = []
    for module in network.modules():  # registration order is forward order in these networks
        if isinstance(module, nn.Conv2d | nn.Linear):
            layers.append([module])
        elif isinstance(module, nn.BatchNorm2d) and layers:
            layers[-1].append(module)
    return layers[::-1][:count]


def freeze_all_but(network: nn.Module, layers: list[list[nn.Module]]) -> list[nn.Parameter]:
    """Leave only `layers` trainable and return their parameters."""
    network.requires_grad_(False)
    for module in (module for layer in layers for module in layer):
        module.requires_grad_(True)
    return [p for p in network.parameters() if p.requires_grad]


def set_training_mode(network: nn.Module, frozen_batch_norm: str) -> None:
    """Training mode; batch norms whose weights are frozen stay in `frozen_batch_norm` mode.

    `eval` keeps their running statistics, `train` lets them move (the released code). With `eval`
    a backbone that is frozen as a whole drops nothing out either: it is what its features are.
    """
    network.train()
    backbone = getattr(network, "backbone", None)
    frozen = backbone is not None and not any(p.requires_grad for p in backbone.parameters())
    if frozen and frozen_batch_norm == "eval":
        backbone.eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d) and module.affine and not module.weight.requires_grad:
            module.train(frozen_batch_norm == "train")


def num_parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())
