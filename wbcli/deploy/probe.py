"""A balanced classifier for features that are in memory: both stages in one call.

Legend: N rows, D features, K classes.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wbcli.balance.radius import clipped_fraction, radius_of, rows_at
from wbcli.config.settings import Config
from wbcli.data.batches.rows import FeatureBatches
from wbcli.data.batches.splits import Data
from wbcli.data.datasets import Split
from wbcli.device import resolve
from wbcli.evaluate.metrics import fit_temperature
from wbcli.files.rows import Rows
from wbcli.methods.make import for_run
from wbcli.models.feature_maps import Standard
from wbcli.models.networks import Network, build
from wbcli.training.fit import fit, make_optimizer

STEPS, EPOCHS = 2000, (10, 100)  # how long it trains unless that is said
VAL_SHARE = 0.1  # of each class, held out where a temperature is asked for
PLACE = {"dataset": "tensors", "data_dir": ".", "recipe": "paper", "arch": "linear"}


@dataclass
class Balanced:
    """What `balanced_head` made.

    network: features [B, D] → logits [B, K], with its normalisation inside.
    class_counts: rows of each class that trained it.
    radius, clipped_fraction: δ, and the share of rows that it holds back; None without MaxNorm.
    temperature: T of softmax(logits/T); None where it was not asked for, or any would do.
    """

    network: Network
    class_counts: list[int]
    radius: float | None
    clipped_fraction: float | None
    temperature: float | None


def balanced_head(
    features: Tensor,
    labels: Tensor,
    *,
    num_classes: int | None = None,
    epochs: int | None = None,
    lr: float = 0.05,
    wd: float = 5e-3,
    stage2_epochs: int | None = None,
    stage2_lr: float = 0.05,
    stage2_wd: float = 1e-2,
    loss: str = "cb",
    beta: float = 0.9999,
    maxnorm: float | None = 0.1,
    radius: float | None = None,
    unit_norm: bool = False,
    momentum: float = 0.9,
    batch_size: int = 64,
    normalise: str = "standard",
    calibrate: bool = False,
    device: str = "auto",
    seed: int = 0,
) -> Balanced:
    """Train a linear classifier, then balance it: `wbcli stage1` and `stage2` on tensors.

    Stage 1 minimises cross-entropy; stage 2 goes on from there with a class-balanced loss, weight
    decay λ₂ and ‖w_k‖ ≤ δ. Both end on a cosine schedule. The caller's random numbers are left
    as they are.

    Args:
        features: `[N, D]`, of any real dtype.
        labels: `[N]`, from 0 to K−1, each of which has a row.
        num_classes: K; None: the largest label and 1.
        epochs, lr, wd: of stage 1; momentum and batch_size of both stages. Without `epochs` as
            many as make 2,000 steps, from 10 to 100.
        stage2_epochs, stage2_lr, stage2_wd, loss, beta: of stage 2, half as many epochs; 0 leave
            it out.
        maxnorm: δ's place between the shortest (0) and the longest (1) row of stage 1; None: no
            MaxNorm. `radius`, δ itself, or `unit_norm` take its place.
        normalise: `standard`, `l2` or `none`, as `--normalise`.
        calibrate: hold a tenth of each class out, and fit a temperature on it.
        device: `auto`, `cpu`, `cuda`, `cuda:N`.

    Raises:
        ValueError: an option out of its range; features or labels that are none.
        ArithmeticError: the loss became NaN or infinite.

    Source: Alshammari et al., CVPR 2022.
    """
    x, y = _checked(features, labels, num_classes)
    num_classes = num_classes or int(y.max()) + 1
    if epochs is None:
        epochs = min(max(math.ceil(STEPS * batch_size / len(y)), EPOCHS[0]), EPOCHS[1])
    if stage2_epochs is None:
        stage2_epochs = max(epochs // 2, 1)
    common = PLACE | {"num_features": x.shape[1], "normalise": normalise, "seed": seed}
    common |= {"momentum": momentum, "batch_size": batch_size, "imbalance_factor": None}
    first = Config(stage="stage1", epochs=epochs, lr=lr, wd=wd, **common)
    second = Config(
        stage="stage2",
        epochs=stage2_epochs or 1,
        lr=stage2_lr,
        wd=stage2_wd,
        loss=loss,
        beta=beta,
        maxnorm=None if radius is not None or unit_norm else maxnorm,
        radius=radius,
        unit_norm=unit_norm,
        layers=1,
        classifier="kept",
        **common,
    )
    place = resolve(device)
    held_out = _held_out(y, num_classes) if calibrate else np.zeros(len(y), dtype=bool)
    counts = np.bincount(y[~held_out], minlength=num_classes).tolist()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = build("linear", num_classes, x.shape[1], normalise=normalise).to(place)
    x = _normalised(network, x, ~held_out)
    train = _batches(x[~held_out], y[~held_out], batch_size, place)
    stages = [first, second] if stage2_epochs else [first]
    *_, (radius, clipped) = [_train(config, network, counts, train) for config in stages]
    temperature = None
    if calibrate:
        val = _batches(x[held_out], y[held_out], 500, place)
        temperature = fit_temperature(network.classifier, val.evaluate())
    return Balanced(network.requires_grad_(True), counts, radius, clipped, temperature)


def _train(
    config: Config, network: Network, counts: list[int], batches: FeatureBatches
) -> tuple[float | None, float | None]:
    """Train the classifier on normalised rows; returns δ and the share of clipped rows."""
    method = for_run(config, network, counts)
    method.on_features = True
    method.to(batches.labels.device)
    groups, constraint = method.groups(), config.constraint()
    rows = [p for group in groups for p in group.rows] if constraint else []
    radii = [radius_of(config.maxnorm, config.radius, w) for w in rows]
    starts = [rows_at(w, radius) for w, radius in zip(rows, radii, strict=True) if radius]
    _run(fit(method, Data(batches), make_optimizer(groups, radii, config), config))
    if constraint != "max_norm":
        return None, None
    return radii[0], clipped_fraction(rows, radii, starts)


def _run(epochs: Iterator[dict[str, Any]]) -> None:
    for _ in epochs:
        pass


def _checked(
    features: Tensor, labels: Tensor, num_classes: int | None
) -> tuple[Tensor, np.ndarray]:
    """Features on the CPU in float32 or float64, and labels int64."""
    x, y = torch.as_tensor(features).detach().cpu(), torch.as_tensor(labels).detach().cpu()
    if x.ndim != 2 or not x.numel() or x.is_complex():
        raise ValueError(f"features: expected numbers [N, D], got {x.dtype} {list(x.shape)}")
    if y.shape != x.shape[:1] or y.is_floating_point() or y.is_complex() or y.dtype == torch.bool:
        raise ValueError(
            f"labels: expected {len(x)} whole numbers, one for each row of features, got {y.dtype} "
            f"{list(y.shape)}"
        )
    x = x if x.dtype == torch.float64 else x.float()
    if not x.isfinite().all():
        raise ValueError("features are nan or infinite")
    found = y.unique().tolist()
    if len(found) < 2 or found != list(range(num_classes or found[-1] + 1)):
        raise ValueError(
            f"labels: expected each number from 0 to {(num_classes or max(found[-1] + 1, 2)) - 1}, "
            f"got {', '.join(map(str, found[:10]))}"
        )
    return x, y.numpy().astype(np.int64)


def _held_out(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Mask [N] of a tenth of each class, rounded up; of a class of one row, none."""
    mask = np.zeros(len(labels), dtype=bool)
    generator = np.random.default_rng(0)
    for k in range(num_classes):
        places = generator.permutation(np.flatnonzero(labels == k))
        mask[places[: min(len(places) - 1, -int(-len(places) * VAL_SHARE // 1))]] = True
    if not mask.any():
        raise ValueError("calibrate: no class has two rows, of which one could be held out")
    return mask


@torch.no_grad()
def _normalised(network: Network, x: Tensor, train: np.ndarray) -> Tensor:
    """What the classifier takes, float32 [N, D]; in float64 until then."""
    backbone = network.backbone
    if isinstance(backbone, Standard):
        rows = x[torch.from_numpy(train)].double()
        mean, std = rows.mean(0), rows.std(0, correction=0)
        backbone.set_moments(mean, std)
        x = (x.double() - mean) / torch.where(std > 0, std, 1.0)
    else:
        x = backbone(x)
    if not (x := x.float()).isfinite().all():
        raise ValueError("features are infinite in float32: take normalise='standard'")
    return x


def _batches(
    x: Tensor, labels: np.ndarray, batch_size: int, device: torch.device
) -> FeatureBatches:
    return FeatureBatches(Split(Rows(x.numpy()), labels), batch_size, device)
