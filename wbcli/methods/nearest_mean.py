"""The classifier of nearest class means, which needs the training features and no training.

Legend: N images, K classes, D features.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wbcli.methods.about import About, Figure
from wbcli.models.feature_maps import unit
from wbcli.models.linear import NearestMean

ABOUT = {
    "ncm": About(
        "Nearest class mean: −‖x − c_k‖², c_k the mean of x over class k, x the direction of the "
        "feature less the mean of all",
        "Kang et al., ICLR 2020, section 4.2",
        "one pass over the training images",
        (Figure("imagenetlt", None, "resnext50", 90, 47.3),),
        (
            "Means are of training images as they are, without crops and mirror images. Those of "
            "directions are left shorter than 1, as in the authors' code (cl2n); the paper speaks "
            "of cosine or Euclidean distance to normalised means.",
            "The run's own classifier is not used. A class without training images is never said.",
        ),
    )
}
VARIANTS = ("cl2n", "l2n", "un")
PART = 4096  # features that are in float64 at a time


def nearest_mean(
    classifier: nn.Module,
    counts: Tensor,
    *,
    features: Tensor | None = None,
    labels: Tensor | None = None,
    means: Tensor | None = None,
    centre: Tensor | None = None,
    variant: str = "cl2n",
) -> nn.Module:
    """−‖x − c_k‖² with class means c_k of x. Source: Kang et al., ICLR 2020, section 4.2.

    x is the feature (`un`), its direction (`l2n`), or that of the feature less the mean of all
    training features (`cl2n`, what the authors' code does). A mean of directions is left as it is,
    shorter than 1. A class without images is never predicted (`NearestMean.set_means`).

    Args:
        features, labels: `[N, D]` and `[N]` of training images, seen as test images are.
        means, centre: instead, what `class_means` gives: `[K, D]`, and for `cl2n` `[D]`.
    """
    if variant not in VARIANTS:
        raise ValueError(f"variant must be one of {', '.join(VARIANTS)}, got {variant!r}")
    num_classes = len(counts)
    if features is not None and labels is not None:
        means, centre, present = class_means(features, labels, num_classes, variant)
    elif means is None or (centre is None) == (variant == "cl2n"):
        raise ValueError(
            "ncm needs features= and labels= of the training images, or means= of their classes "
            "(with centre= for cl2n, and only there)"
        )
    else:
        means, present = means.double(), (counts > 0).to(means.device)
        centre = torch.zeros_like(means[0]) if centre is None else centre.double()
    if not present.any():
        raise ValueError("ncm needs at least one training image")
    if not bool(means[present].isfinite().all()):
        raise ValueError("ncm needs finite features: the mean of a class is NaN or infinite")
    found = NearestMean(means.shape[1], num_classes, normalised=variant != "un")
    like = next(iter(classifier.state_dict().values()))
    found.to(like.device, like.dtype)
    found.set_means(means.to(like.device), centre.to(like.device), present.to(like.device))
    return found


@torch.no_grad()
def class_means(
    features: Tensor, labels: Tensor, num_classes: int, variant: str = "cl2n"
) -> tuple[Tensor, Tensor, Tensor]:
    """Means of x by class `[K, D]`, what is subtracted first `[D]`, and which classes have images.

    Sums are float64, and the same every time on a GPU, too (products, no atomic additions).

    Raises:
        ValueError: shapes that do not fit, or labels outside [0, K).
    """
    if features.ndim != 2 or labels.shape != features.shape[:1]:
        raise ValueError(
            "expected features [N, D] and labels [N], got "
            f"{list(features.shape)} and {list(labels.shape)}"
        )
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
        raise ValueError(
            f"labels must be in [0, {num_classes}), got {int(labels.min())} to {int(labels.max())}"
        )
    labels = labels.to(features.device)
    centre = torch.zeros(features.shape[1], dtype=torch.float64, device=features.device)
    if variant == "cl2n" and len(features):
        centre = sum(part.double().sum(0) for part in features.split(PART)) / len(features)
    sums = centre.new_zeros(num_classes, len(centre))
    for part, of_part in zip(features.split(PART), labels.split(PART), strict=True):
        x = part.double() - centre
        sums += F.one_hot(of_part, num_classes).double().T @ (x if variant == "un" else unit(x))
    images = torch.bincount(labels, minlength=num_classes)
    return sums / images[:, None].clamp(min=1), centre, images > 0
