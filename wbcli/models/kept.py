"""Classifiers that keep a trained one as it is, and train some numbers beside it (stage 2).

What is kept is a buffer: it is saved, and no optimiser can find it.

Legend: B batch, K classes, D features.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wbcli.balance.ops import row_norms
from wbcli.models.feature_maps import outside_autocast
from wbcli.models.linear import Form, linear_of


class Scaled(nn.Module):
    """LWS: f_k·(w_k·h + b_k) with f = 1 + gain, the only parameter, so that decay pulls f to 1.

    Source: Kang et al., ICLR 2020, section 4.3.

    Args:
        base: the classifier whose w and b are kept; without one they are 0, to be loaded.
    """

    def __init__(self, num_features: int, num_classes: int, *, base: nn.Linear | None = None):
        super().__init__()
        _keep(self, num_features, num_classes, base)
        self.gain = nn.Parameter(torch.zeros_like(self.bias))

    @property
    def num_classes(self) -> int:
        return len(self.weight)

    def row_norms(self) -> Tensor:
        return row_norms(self.weight.detach()) * (1 + self.gain.detach()).abs()

    def linear(self) -> Form:
        factors = 1 + self.gain
        return nn.Identity(), linear_of(factors[:, None] * self.weight, factors * self.bias)

    @outside_autocast
    def forward(self, features: Tensor) -> Tensor:
        return (1 + self.gain) * F.linear(features, self.weight, self.bias)


class DisAlign(nn.Module):
    """(1 + σ·stretch_k)·z_k + σ·shift_k with z = w·h + b kept as it is and σ = sigmoid(v·h + c).

    The paper's α_k is 1 + stretch_k: both start at 0, the identity, to which decay pulls, too.
    v starts at 1/D, so that v·h is the mean feature; the published 0.1 takes σ to 1 on wide
    networks (2048 features with a mean of 0.4 give 80), where v has no gradient.
    Source: Zhang et al., CVPR 2021, equations 7 to 10.

    Args:
        base: the classifier whose w and b are kept; without one they are 0, to be loaded.
    """

    def __init__(self, num_features: int, num_classes: int, *, base: nn.Linear | None = None):
        super().__init__()
        _keep(self, num_features, num_classes, base)
        self.stretch = nn.Parameter(torch.zeros_like(self.bias))
        self.shift = nn.Parameter(torch.zeros_like(self.bias))
        self.confidence = nn.Parameter(torch.full_like(self.weight[0], 1 / num_features))  # v
        self.confidence_bias = nn.Parameter(torch.zeros_like(self.bias[:1]))  # c

    @property
    def num_classes(self) -> int:
        return len(self.weight)

    def row_norms(self) -> Tensor:
        """Of the classifier that is kept: the factors of its rows differ from image to image."""
        return row_norms(self.weight.detach())

    def linear(self) -> Form:
        """On [h, σh, σ]: rows [w_k, stretch_k·w_k, stretch_k·b_k + shift_k]."""
        last = self.stretch * self.bias + self.shift
        weight = torch.cat([self.weight, self.stretch[:, None] * self.weight, last[:, None]], 1)
        return Confident(self.confidence, self.confidence_bias), linear_of(weight, self.bias)

    @outside_autocast
    def forward(self, features: Tensor) -> Tensor:
        confidence = confidence_of(features, self.confidence, self.confidence_bias)
        logits = F.linear(features, self.weight, self.bias)
        return (1 + confidence * self.stretch) * logits + confidence * self.shift


class Confident(nn.Module):
    """f → [f, σf, σ] with σ = sigmoid(v·f + c).

    Args:
        weight: v `[D]`.
        bias: c `[1]`.
    """

    def __init__(self, weight: Tensor, bias: Tensor):
        super().__init__()
        self.register_buffer("weight", weight.detach().clone())
        self.register_buffer("bias", bias.detach().clone())

    @outside_autocast
    def forward(self, features: Tensor) -> Tensor:
        confidence = confidence_of(features, self.weight, self.bias)
        return torch.cat([features, confidence * features, confidence], 1)


def confidence_of(features: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """σ = sigmoid(v·f + c), `[B, 1]`."""
    return torch.sigmoid(features @ weight[:, None] + bias)


def _keep(module: nn.Module, num_features: int, num_classes: int, base: nn.Linear | None) -> None:
    """Give `module` the weight and bias of `base` as buffers."""
    if base is None:
        weight, bias = torch.zeros(num_classes, num_features), None
    else:
        weight, bias = base.weight.detach().clone(), base.bias
    if weight.shape != (num_classes, num_features):
        raise ValueError(
            f"base has a weight of {list(weight.shape)}, expected {[num_classes, num_features]}"
        )
    bias = torch.zeros_like(weight[:, 0]) if bias is None else bias.detach().clone()
    module.register_buffer("weight", weight)
    module.register_buffer("bias", bias)
