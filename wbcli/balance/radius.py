"""Weight balancing: the relative MaxNorm threshold and how often it binds."""

import torch
from torch import Tensor

from wbcli.balance.ops import row_norms

TOLERANCE = 1e-5  # of δ, within which a row lies on the surface of its ball


def relative_radius(weight: Tensor, t: float) -> float:
    """Absolute MaxNorm radius from a relative threshold: δ = min + t·(max − min) of the ‖w_k‖.

    Args:
        weight: `[K, D]` or `[K, ...]`, the layer as it is before stage 2.
        t: in [0, 1]; 0 puts δ at the shortest row, 1 at the longest.

    Returns:
        δ as a Python number, read from the device once.

    Raises:
        ValueError: t outside [0, 1], or a δ that is not above 0 (a zero row at t = 0).

    Source: the released code of Alshammari et al., CVPR 2022.
    """
    if not 0 <= t <= 1:
        raise ValueError(f"the relative MaxNorm threshold must be in [0, 1], got {t}")
    norms = row_norms(weight.detach())
    low, high = norms.min().item(), norms.max().item()
    radius = low + t * (high - low)
    if not radius > 0:
        raise ValueError(
            f"t = {t} puts the MaxNorm radius at {radius:g} (row norms {low:g} to {high:g}): "
            "choose a larger t, or an absolute --radius above 0"
        )
    return radius


def radius_of(t: float | None, radius: float | None, weight: Tensor) -> float | None:
    """The absolute δ of a layer: placed by the relative t where there is one, else `radius`."""
    return radius if t is None else relative_radius(weight, t)


def rows_at(weight: Tensor, radius: float) -> tuple[Tensor, Tensor]:
    """The rows of length δ to 1e-5, and their places [n]: at t = 0 and 1 there is one."""
    norms = row_norms(weight.detach())
    (places,) = ((norms - radius).abs() <= TOLERANCE * radius).nonzero(as_tuple=True)
    return weight.detach()[places], places


def share_above(weights: list[Tensor], radii: list[float]) -> float:
    """Share of the rows that are longer than δ by more than 1e-5: a projection would cut them."""
    above = [
        row_norms(weight.detach()) > (1 + TOLERANCE) * radius
        for weight, radius in zip(weights, radii, strict=True)
    ]
    return torch.cat(above).float().mean().item()


def clipped_fraction(
    weights: list[Tensor], radii: list[float], starts: list[tuple[Tensor, Tensor]]
) -> float:
    """Share of rows that lie on the surface of their ball, where a projection has put them.

    A row counts when ‖w_k‖ ≥ (1 − 1e-5)·δ, unless it started there and has not moved. Measured
    after an epoch's last projection, it is the share of rows that MaxNorm holds back; a row that
    weight decay keeps inside does not count.

    Args:
        weights: constrained layers, each `[K, ...]`.
        radii: one δ for each layer.
        starts: `rows_at` of each layer before it trained.
    """
    clipped = []
    for weight, radius, (rows, places) in zip(weights, radii, starts, strict=True):
        on_surface = row_norms(weight.detach()) >= (1 - TOLERANCE) * radius
        moved = (weight.detach()[places] != rows).flatten(1).any(1)
        on_surface[places] &= moved
        clipped.append(on_surface)
    return torch.cat(clipped).float().mean().item()
