"""Many classifiers trained together on the same features, as one classifier of K·M rows.

The rows of all heads are one matrix, so a step is one matrix product forward, one backward
and one fused SGD step whose λ, η and δ are values per row. Heads are the inner index: a
softmax over a few classes is vectorised over the heads.

Legend: M heads, B batch, K classes, D features.
"""

from collections.abc import Callable
from dataclasses import replace
from itertools import groupby
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wbcli.balance.optim import SGD
from wbcli.balance.radius import radius_of
from wbcli.config.settings import Config
from wbcli.methods.curves import scores_at
from wbcli.methods.losses import statistic_of, terms_of
from wbcli.models.linear import linear_form
from wbcli.training.features import Features, can_cache

OWN = ("wd", "lr", "maxnorm", "radius", "beta", "loss", "tau")  # settings that differ among heads


class Heads:
    """M classifiers on a map of the features, class by class: `weight` [K·M, D], `bias` [K·M]."""

    def __init__(self, start: nn.Linear, count: int, feature_map: nn.Module):
        self.feature_map = feature_map
        self.num_classes, self.count = start.out_features, count
        self.weight = nn.Parameter(start.weight.detach().repeat_interleave(count, 0))
        self.bias = nn.Parameter(start.bias.detach().repeat_interleave(count))

    def logits(self, features: Tensor) -> Tensor:
        """Mapped features [B, D] → [B, K, M]."""
        return F.linear(features, self.weight, self.bias).view(-1, self.num_classes, self.count)

    def head(self, index: int) -> tuple[Tensor, Tensor]:
        """Weight [K, D] and bias [K] of one of them."""
        return self.weight.detach()[index :: self.count], self.bias.detach()[index :: self.count]

    def is_finite(self, index: int) -> bool:
        return all(bool(t.isfinite().all()) for t in self.head(index))


def train_heads(
    start: nn.Module, features: Features, configs: list[Config], class_counts: list[int]
) -> Heads:
    """Train a head for each Config, all from `start`, on the same batches.

    Each ends where `fit.fit` would have taken it alone, but for the order of summation in
    the matrix products: within 1e-6 of the row's norm in float32 after 60 steps, with cb-bce
    within 1e-3 (it amplifies rounding where p is near 1).

    Args:
        start: the classifier of stage 1, on the device of the features; the heads are on the
            linear layer that equals it.
        configs: stage-2 settings that differ in `OWN` only.
        class_counts: n_k, for the losses that need them.

    Raises:
        ValueError: settings that cannot share a batch.
    """
    shared = _check_shared(configs)
    feature_map, layer = linear_form(start)
    device, num_classes = layer.weight.device, layer.out_features
    heads = Heads(layer, len(configs), feature_map)

    def per_row(values: list[float]) -> Tensor:
        return torch.tensor(values, device=device).repeat(num_classes)

    rows = {"params": [heads.weight], "unit_norm": shared.unit_norm}
    radii = [radius_of(config.maxnorm, config.radius, layer.weight) for config in configs]
    if any(radius is not None for radius in radii):
        rows["max_norm"] = per_row([torch.inf if r is None else r for r in radii])
    optimizer = SGD(
        [rows, {"params": [heads.bias]}],
        lr=per_row([config.lr for config in configs]),
        weight_decay=per_row([config.wd for config in configs]),
        momentum=shared.momentum,
    )
    losses = _by_loss(configs, class_counts, device)
    for epoch in range(shared.epochs):
        lr = per_row([config.lr_at(epoch) for config in configs])
        for group in optimizer.param_groups:
            group["lr"] = lr
        drawn = (shared.sampling,), (shared.aug,)
        progress = epoch / shared.epochs
        for batch in features.steps(shared.seed, epoch, *drawn, progress=progress):
            _gradients(heads, feature_map(batch.images), batch.labels, losses)
            optimizer.step()
    return heads


def evaluate_candidates(
    start: nn.Module,
    train: Features,
    chosen_on: Features,
    base: Config,
    class_counts: list[int],
    candidates: list[dict[str, Any]],
) -> list[float]:
    """Accuracy on `chosen_on` of the heads that `base` with each candidate's settings trains.

    Per cent, mean over the classes that have images; 0 for weights that are not finite.
    """
    configs = [replace(base, **settings) for settings in candidates]
    by_loss = sorted(range(len(configs)), key=lambda i: configs[i].loss)
    heads = train_heads(start, train, [configs[i] for i in by_loss], class_counts)

    def logits(features: Tensor) -> Tensor:
        return heads.logits(heads.feature_map(features))

    found = dict(zip(by_loss, _accuracies(logits, heads.count, chosen_on), strict=True))
    return [found[i] if heads.is_finite(by_loss.index(i)) else 0.0 for i in range(len(configs))]


def evaluate_adjusted(
    name: str,
    classifier: nn.Module,
    class_counts: list[int],
    chosen_on: Features,
    values: list[float],
) -> list[float]:
    """Accuracy of an adjustment at each value of its number: see `curves.scores_at`."""
    scores = scores_at(name, classifier, class_counts, values)
    return _accuracies(scores, len(values), chosen_on)


@torch.no_grad()
def _accuracies(logits: Callable[[Tensor], Tensor], count: int, features: Features) -> list[float]:
    """Mean over classes of the accuracy of each of `count` heads; logits(x) is [B, K, count]."""
    num_classes = int(features.labels.max()) + 1
    hits = torch.zeros(num_classes, count, dtype=torch.float64, device=features.labels.device)
    images = torch.bincount(features.labels)
    for x, labels in features.evaluate():
        hits.index_add_(0, labels, (logits(x).argmax(1) == labels[:, None]).double())
    present = images > 0
    return (100 * (hits[present] / images[present, None]).mean(0)).tolist()


def _gradients(heads: Heads, x: Tensor, labels: Tensor, losses: "list[_Slice]") -> None:
    """Gradient of the sum of all heads' losses.

    Autograd goes as far as the logits; the products behind them write into the gradients
    that are there, since new ones of K·M·D entries each step would cost more than the products.
    """
    logits = heads.logits(x).detach().requires_grad_()  # [B, K, M]
    loss = 0.0
    for part in losses:
        terms = part.terms(logits[..., part.heads], labels, part.per_class)
        loss = loss + terms.sum() / len(x)
    loss.backward()
    gradient = logits.grad.view(len(x), -1)  # [B, K·M]
    if heads.weight.grad is None:
        heads.weight.grad = torch.empty_like(heads.weight)
    torch.mm(gradient.T, x, out=heads.weight.grad)
    heads.bias.grad = gradient.sum(0)


def _check_shared(configs: list[Config]) -> Config:
    """What all heads have in common."""
    blank = dict.fromkeys(("maxnorm", "radius", "tau")) | {
        "wd": 0.0,
        "lr": 1.0,
        "beta": 0.0,
        "loss": "ce",
    }
    shared = {replace(config, **blank) for config in configs}
    if len(shared) != 1:
        raise ValueError(f"heads trained together may differ in {', '.join(OWN)} only")
    return shared.pop()


def can_share(config: Config) -> bool:
    """Whether heads with these settings can train together: they are projected in every step."""
    return can_cache(config) and config.project == "step"


def check(config: Config) -> None:
    """Raises ValueError for settings with which heads cannot be trained together."""
    if not can_share(config):
        raise ValueError(
            "candidates train together on cached features: they need --layers 1, --project step, "
            "a --cache and --recipe paper (under released the frozen batch norms move)"
        )


class _Slice(NamedTuple):
    """Neighbours with the same loss: which heads, its function and its statistics [K, heads]."""

    heads: slice
    terms: Callable[[Tensor, Tensor, Tensor | None], Tensor]
    per_class: Tensor | None


def _by_loss(configs: list[Config], class_counts: list[int], device: torch.device) -> list[_Slice]:
    def key(config: Config) -> tuple:
        return config.loss, config.method_options

    slices: list[_Slice] = []
    for (loss, options), neighbours in groupby(configs, key):
        found = [statistic_of(loss, class_counts, one.options()) for one in neighbours]
        start = slices[-1].heads.stop if slices else 0
        per_class = None if found[0] is None else torch.stack(found, 1).float().to(device)
        heads = slice(start, start + len(found))
        slices.append(_Slice(heads, terms_of(loss, options), per_class))
    return slices
