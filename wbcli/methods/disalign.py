"""DisAlign: logits of a trained classifier are stretched and shifted, where the image asks for it.

Legend: B batch, b images of a part of it, K classes; n_k training images of class k, π_k = n_k/N.
"""

import torch
from torch import Tensor

from wbcli.data.batches.batch import Batch
from wbcli.methods.about import About, Figure
from wbcli.methods.losses import cross_entropy
from wbcli.methods.method import Group, Method, statistic_for
from wbcli.models.layers import freeze_all_but
from wbcli.models.networks import Network

ABOUT = {
    "disalign": About(
        "DisAlign: (1 + σ·a_k)·z_k + σ·c_k with the trained logits z and σ = sigmoid(v·h + u); a, "
        "c, v and u train with −w_y·log p_y, w_k ∝ π_k^(−ρ), averaged by Σ w_y",
        "Zhang et al., CVPR 2021",
        "10 epochs of the classifier, on cached features",
        (
            Figure("imagenetlt", None, "resnext50", 90, 52.9),
            Figure("inat18", None, "resnet50", 200, 70.6),
        ),
        (
            "a and c start at 0, the identity, to which decay pulls, too: the paper's form. The "
            "authors' code for images starts at (1 + σ)·z and decays to z.",
            "v starts at 1/D, where the code has 0.1, which takes σ to 1 on wide networks, where v "
            "has no gradient.",
            "ρ = 1.2 is of ImageNet-LT. The authors have no experiment on CIFAR.",
            "The gain was questioned: the authors' stage 1 has 46.9, and on one of 43.9 others "
            "found 48.8, less than cRT.",
        ),
    )
}


def generalised_weights(class_counts: list[int], rho: float) -> Tensor:
    """w_k ∝ π_k^(−ρ) with a mean of 1 over the classes that have images; 0 for the others.

    Args:
        class_counts: n_k ≥ 0.
        rho: ρ ≥ 0; 0 weighs all classes alike, 1 by 1/n_k.

    Returns:
        `[K]` float64.

    Raises:
        ValueError: no image in any class.

    Source: Zhang et al., CVPR 2021, equation 12.
    """
    counts = torch.tensor(class_counts, dtype=torch.float64)
    present = counts > 0
    if not present.any():
        raise ValueError("DisAlign's weights need at least one training image")
    logs = torch.where(present, -rho * torch.log(counts.clamp(min=1)), -torch.inf)
    return torch.softmax(logs, 0) * present.sum()


class Alignment(Method):
    """What `models.kept.DisAlign` trains, with cross-entropy weighted by class.

    The mean divides by Σ w_y of the batch, not by its images.
    """

    def __init__(
        self, network: Network, class_counts: list[int], *, epochs: int = 1, rho: float = 1.2
    ):
        super().__init__(network, class_counts, epochs=epochs)
        weights = statistic_for(network, generalised_weights(class_counts, rho))
        self.register_buffer("per_class", weights, persistent=False)
        self.trained = freeze_all_but(network, [[network.classifier]])

    def weigh(self, batch: Batch) -> Tensor:
        return self.per_class[batch.labels]

    def losses(self, part: Batch) -> Tensor:
        logits = self.logits(part.images)
        self.hits += (logits.argmax(1) == part.labels).sum()
        return self.weigh(part) * cross_entropy(logits, part.labels, None)

    def groups(self) -> list[Group]:
        """No rows: those of the classifier stay as they are."""
        return [Group(self.trained)]
