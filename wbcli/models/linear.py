"""The linear classifier, and what others become when they are written as one.

A classifier takes features [B, D] to logits [B, K], in the dtype of its weights also within
autocast. Whichever it is, it has

- `num_classes`: K;
- `row_norms()`: ‖w_k‖₂ `[K]`, or None where the logits do not depend on the lengths of rows;
- `linear()`: (feature_map, layer), new modules for which layer(feature_map(features)) are the
  logits that it gives in evaluation mode, or None where there are none such.

Ask these, not `.weight`: stage 2 starts from `layer`, whose rows' lengths mean something.

Legend: B batch, K classes, D features.
"""

import copy

import torch
from torch import Tensor, nn

from wbcli.balance.ops import row_norms
from wbcli.models.feature_maps import Points, outside_autocast


class Linear(nn.Linear):
    """w_k·h + b_k."""

    @property
    def num_classes(self) -> int:
        return self.out_features

    def row_norms(self) -> Tensor:
        return row_norms(self.weight.detach())

    def linear(self) -> "Form":
        return nn.Identity(), linear_of(self.weight, self.bias)

    @outside_autocast
    def forward(self, features: Tensor) -> Tensor:
        return super().forward(features)


Form = tuple[nn.Module, Linear]  # what `linear()` returns


class Mapped(nn.Module):
    """A classifier on a map of the features."""

    def __init__(self, feature_map: nn.Module, classifier: nn.Module):
        super().__init__()
        self.feature_map, self.classifier = feature_map, classifier

    @property
    def num_classes(self) -> int:
        return self.classifier.num_classes

    def row_norms(self) -> Tensor | None:
        return self.classifier.row_norms()

    def linear(self) -> Form | None:
        form = self.classifier.linear()
        return form and (nn.Sequential(copy.deepcopy(self.feature_map), form[0]), form[1])

    def forward(self, features: Tensor) -> Tensor:
        return self.classifier(self.feature_map(features))


class NearestMean(Mapped):
    """−‖x − c_k‖², x = `Points` of the features: 2·c_k·x − ‖x‖² − ‖c_k‖², linear in [x, ‖x‖²].

    Means c_k and centre are 0 until they are set, or loaded.

    Args:
        normalised: whether x is of unit length.
    """

    def __init__(self, num_features: int, num_classes: int, *, normalised: bool):
        layer = linear_of(torch.zeros(num_classes, num_features + 1))
        super().__init__(Points(num_features, normalised), layer)

    def row_norms(self) -> None:
        """Means are no rows that have learned their lengths."""
        return None

    @torch.no_grad()
    def set_means(self, means: Tensor, centre: Tensor, present: Tensor) -> None:
        """Take c_k `[K, D]` and m `[D]`, of any floating dtype.

        A class that is not `present` `[K]` has no mean; it scores 100 less than the first that is,
        so that it is never the largest and its probability is 0 (e⁻¹⁰⁰) without any infinity.
        """
        means = torch.where(present[:, None], means, means[present][0])
        self.feature_map.centre.copy_(centre)
        layer = self.classifier
        layer.weight.copy_(torch.cat([2 * means, -torch.ones_like(means[:, :1])], 1))
        layer.bias.copy_(-means.square().sum(1) - torch.where(present, 0.0, 100.0))


def linear_of(weight: Tensor, bias: Tensor | None = None) -> Linear:
    """A new layer with a copy of this weight [K, D] and this bias [K], or one of 0.

    No random number is drawn for it.
    """
    layer = Linear(weight.shape[1], weight.shape[0], device="meta")
    bias = weight.new_zeros(len(weight)) if bias is None else bias
    layer.weight = nn.Parameter(weight.detach().clone())
    layer.bias = nn.Parameter(bias.detach().clone())
    return layer


def linear_form(classifier: nn.Module) -> Form | None:
    """`linear()` of one of ours, and that of any nn.Linear."""
    if isinstance(classifier, nn.Linear):
        return nn.Identity(), linear_of(classifier.weight, classifier.bias)
    return classifier.linear()


def joined(feature_map: nn.Module, layer: nn.Module) -> nn.Module:
    """One classifier of both: the layer itself where the map changes nothing."""
    return layer if isinstance(feature_map, nn.Identity) else Mapped(feature_map, layer)
