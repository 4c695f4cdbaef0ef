"""Metrics of a classifier on a split: accuracy by class and group, likelihoods, calibration.

Counts and sums stay on the device and are read once, at the end; no [N, K] is kept.

Legend: N images, B batch, K classes.
"""

from collections.abc import Callable, Iterable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wbcli.models.linear import linear_form
from wbcli.models.networks import Network

ECE_BINS = 15


@torch.no_grad()
def measure(
    network: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    num_classes: int,
    *,
    tta: bool = False,
    temperature: float | None = None,
    groups: Tensor | None = None,
) -> dict:
    """Run `network` in evaluation mode over (images, labels) batches.

    Args:
        tta: average the logits of each image and its mirror image.
        temperature: T of which also the `nll` and `ece` of softmax(logits/T) are asked for.
        groups: int64 [K] on the device, the group 0..G-1 of each class; asks for `confusion`.

    Returns:
        num_images, `image_accuracy` (per cent of them); per class [K] arrays `images`, `accuracy`
        (the recall), `precision` and `f1` (per cent, NaN as below), `marginal_likelihood` (mean
        probability of the class over all images);
        `top5` (per cent, mean over classes), `macro_f1` (per cent), `nll` (nats, mean over
        images), `ece` (per cent, 15 equal-width bins of the top probability); per bin
        [15] arrays `bin_images`, and sums `bin_confidence` and `bin_hits`;
        `nll_with_temperature` and `ece_with_temperature`, None without; with `groups`
        also `confusion` int64 [G, G], images by the group of their label and of their prediction.
        Of TP hits, P predictions and N images of a class, precision is TP/P, NaN for a class that
        is never predicted; recall is TP/N and F1 is 2·TP/(P + N), NaN for a class without images.
    """
    network.eval()
    num_groups = 0 if groups is None else int(groups.max()) + 1
    sums, confusion = None, None
    for images, labels in batches:
        logits = logits_of(network, images, tta)
        terms, predicted = _batch_sums(logits, labels, num_classes)
        if groups is not None:  # one [G²] for all batches: G may be thousands of classes
            if confusion is None:
                confusion = torch.zeros(num_groups**2, dtype=torch.int64, device=labels.device)
            pairs = groups[labels] * num_groups + groups[predicted]
            confusion.index_add_(0, pairs, torch.ones_like(pairs))
        if temperature is not None:
            tempered = F.log_softmax(logits / temperature, 1)
            tempered = _calibration_sums(tempered, *tempered.exp().max(1), labels)
            terms |= {f"tempered_{key}": value for key, value in tempered.items()}
        sums = terms if sums is None else {key: sums[key] + terms[key] for key in sums}
    found = _metrics({key: value.cpu().numpy() for key, value in sums.items()})
    if confusion is not None:
        found["confusion"] = confusion.view(num_groups, num_groups).cpu().numpy()
    return found


def logits_of(network: nn.Module, images: Tensor, tta: bool) -> Tensor:
    """float32 logits [B, K], averaged with those of the mirror images if `tta`."""
    logits = network(images).float()
    return (logits + network(images.flip(3)).float()) / 2 if tta else logits


def _batch_sums(
    logits: Tensor, labels: Tensor, num_classes: int
) -> tuple[dict[str, Tensor], Tensor]:
    """What is summed over batches, and the predictions [B]."""
    log_probabilities = F.log_softmax(logits, 1)
    probabilities = log_probabilities.exp()
    top = logits.topk(min(5, num_classes), 1).indices  # [B, ≤5]
    confidence, predicted = probabilities.max(1)
    in_top5 = (top == labels[:, None]).any(1).double()
    sums = {
        "images": _sums_at(labels, num_classes),
        "hits": _sums_at(labels, num_classes, (predicted == labels).double()),
        "hits5": _sums_at(labels, num_classes, in_top5),
        "predicted": _sums_at(predicted, num_classes),
        "likelihood": probabilities.double().sum(0),
        **_calibration_sums(log_probabilities, confidence, predicted, labels),
    }
    return sums, predicted


def _calibration_sums(
    log_probabilities: Tensor, confidence: Tensor, predicted: Tensor, labels: Tensor
) -> dict[str, Tensor]:
    bins = (confidence * ECE_BINS).ceil().long().clamp(1, ECE_BINS) - 1  # (l, u]
    return {
        "nll": F.nll_loss(log_probabilities.double(), labels, reduction="sum"),
        "bin_images": _sums_at(bins, ECE_BINS),
        "bin_confidence": _sums_at(bins, ECE_BINS, confidence.double()),
        "bin_hits": _sums_at(bins, ECE_BINS, (predicted == labels).double()),
    }


def _sums_at(index: Tensor, size: int, weights: Tensor | None = None) -> Tensor:
    """float64 [size]: how often each place stands in `index`, or the sum of its weights."""
    if weights is None:
        weights = torch.ones_like(index, dtype=torch.float64)
    return torch.zeros(size, dtype=torch.float64, device=index.device).index_add_(0, index, weights)


def _metrics(sums: dict[str, np.ndarray]) -> dict:
    images, hits, predicted = sums["images"], sums["hits"], sums["predicted"]
    present, total = images > 0, images.sum()
    with np.errstate(invalid="ignore"):
        accuracy, top5 = 100 * hits / images, 100 * sums["hits5"] / images
        precision = 100 * hits / predicted
        f1 = np.where(present, 200 * hits / (images + predicted), np.nan)
    tempered = "tempered_nll" in sums
    return {
        "num_images": int(total),
        "image_accuracy": 100 * hits.sum() / total,
        "images": images.astype(int),
        "accuracy": accuracy,
        "precision": precision,
        "f1": f1,
        "marginal_likelihood": sums["likelihood"] / total,
        "top5": top5[present].mean(),
        "macro_f1": f1[present].mean(),
        "nll": sums["nll"].item() / total,
        "ece": _ece(sums, total),
        "nll_with_temperature": sums["tempered_nll"].item() / total if tempered else None,
        "ece_with_temperature": _ece(sums, total, "tempered_") if tempered else None,
        **{key: sums[key] for key in ("bin_images", "bin_confidence", "bin_hits")},
    }


def _ece(sums: dict[str, np.ndarray], total: float, of: str = "") -> float:
    return 100 * np.abs(sums[f"{of}bin_hits"] - sums[f"{of}bin_confidence"]).sum() / total


def group_means(accuracy: np.ndarray, groups: dict[str, np.ndarray]) -> dict[str, float | None]:
    """Mean accuracy over all classes and over each group; None where no class has an image.

    Args:
        accuracy: [K] per cent, NaN for a class without test images (left out of means).
        groups: name → mask [K].
    """
    present = ~np.isnan(accuracy)
    masks = {"all": np.ones_like(present)} | groups
    return {
        name: float(accuracy[mask & present].mean()) if (mask & present).any() else None
        for name, mask in masks.items()
    }


@torch.no_grad()
def fit_temperature(
    network: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], *, tta: bool = False
) -> float | None:
    """The T > 0 that minimises the NLL of softmax(logits/T) on validation batches.

    The NLL is convex in β = 1/T, so the sign of its derivative Σ_i (E_p[z_i] − z_iy), with
    p = softmax(β·z_i), brackets the minimum: bisection of ln T between -12 and 12. None where
    every image is classified correctly: the NLL then falls all the way to T = 0. Features
    [N, D] are kept and logits made of them again, [B, K] at a time. Of an image and its mirror
    image what is kept is the mean of what the classifier's linear form sees, else of their logits.
    Source: Guo et al., ICML 2017.
    """
    network.eval()
    whole = isinstance(network, Network)
    backbone = network.backbone if whole else nn.Identity()
    classifier = network.classifier if whole else network
    if tta and not isinstance(classifier, nn.Linear):
        form = linear_form(classifier) if whole else None
        feature_map, classifier = form or (classifier, nn.Identity())
        backbone = nn.Sequential(backbone, feature_map).eval()

    def features_of(images: Tensor) -> Tensor:
        features = backbone(images)
        return (features + backbone(images.flip(3))) / 2 if tta else features

    pairs = [(features_of(images), labels) for images, labels in batches]

    def over_images(term: Callable[[Tensor, Tensor], Tensor]) -> float:
        return sum(term(classifier(x).double(), y[:, None]).sum() for x, y in pairs).item()

    if not over_images(lambda z, y: z.argmax(1, keepdim=True) != y):
        return None

    def slope(z: Tensor, y: Tensor) -> Tensor:
        return (torch.softmax(beta * z, 1) * z).sum(1) - z.gather(1, y)[:, 0]

    low, high = -12.0, 12.0
    while high - low > 1e-4:
        middle = (low + high) / 2
        beta = float(np.exp(-middle))
        low, high = (middle, high) if over_images(slope) > 0 else (low, middle)
    return float(np.exp((low + high) / 2))
