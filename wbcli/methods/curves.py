"""Scores of an adjustment at many values of its number at once: what choosing the number looks at.

Legend: B images, K classes, D features, T values.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from wbcli.balance.ops import row_norms
from wbcli.methods.adjustments import tde
from wbcli.methods.losses import log_prior
from wbcli.models.linear import linear_form


@torch.no_grad()
def scores_at(
    name: str, classifier: nn.Module, class_counts: list[int], values: list[float]
) -> Callable[[Tensor], Tensor]:
    """features `[B, D]` → scores `[B, K, T]`, those of `adjust` at each value.

    The product of features and weights is computed once for all values.

    Args:
        name: one of `config.methods.NUMBERS`.

    Raises:
        ValueError: a classifier for which the adjustment is not defined, or without images of a
            class a prior that is not.
    """
    if name == "tde":  # linear in α
        counts = torch.tensor(class_counts, dtype=torch.float64)
        at_0, at_1 = (tde(classifier, counts, alpha=alpha).eval() for alpha in (0.0, 1.0))
        device = at_0.weight.device

        def scores(features: Tensor) -> Tensor:
            start = at_0(features)
            slope = at_1(features) - start
            return start[..., None] + slope[..., None] * torch.tensor(values, device=device)

        return scores
    feature_map, layer = linear_form(classifier)
    weight, bias = layer.weight.detach(), layer.bias.detach()
    exponents = torch.tensor(values, device=bias.device)
    shifts = bias[:, None].expand(-1, len(values))
    if name == "tau":
        norms = row_norms(weight)
        factors = torch.where(norms > 0, norms, 1.0)[:, None] ** -exponents  # [K, T]
    else:
        priors = log_prior(class_counts).to(bias.device)[:, None] * exponents  # τ·log π_k
        factors = torch.exp(-priors).float() if name == "mla" else torch.ones_like(shifts)
        shifts = shifts * factors if name == "mla" else shifts - priors.float()

    def scores(features: Tensor) -> Tensor:
        return (feature_map(features) @ weight.T)[:, :, None] * factors + shifts

    return scores
