"""Weight decay, feature decay, and a fixed simplex for a classifier: one stage."""

from torch import Tensor

from wbcli.data.batches.batch import Batch
from wbcli.methods.about import About
from wbcli.methods.losses import cross_entropy
from wbcli.methods.method import Method, at_least_float32
from wbcli.models.networks import Network

ABOUT = {
    "wd-fr-etf": About(
        "WD & FR & ETF: −log p_y + λ_F/2·‖h‖² under weight decay, the classifier's rows a fixed "
        "simplex of which the bias alone trains",
        "Hasegawa & Sato, ICLR 2024",
        "1",
        notes=(
            "λ is that of stage 1 of weight balancing, whose network the paper trains (ResNet-34, "
            "320 epochs); its accuracies on CIFAR could not be checked.",
            "The paper follows it with normalize --method mla. The rows are fixed, so that weight "
            "decay, MaxNorm and τ change nothing of them.",
            "It needs as many features as classes: not ResNet-34 on ImageNet-LT.",
        ),
    )
}


class FeatureDecay(Method):
    """−log p_y + λ_F/2·‖h‖², the mean over images; h are the features of the backbone.

    Args:
        feature_decay: λ_F.
    """

    takes_features = False

    def __init__(
        self,
        network: Network,
        class_counts: list[int],
        *,
        epochs: int = 1,
        feature_decay: float = 0.01,
    ):
        super().__init__(network, class_counts, epochs=epochs)
        self.feature_decay = feature_decay

    def losses(self, part: Batch) -> Tensor:
        logits, features = self.network(part.images, with_features=True)
        self.hits += (logits.argmax(1) == part.labels).sum()
        decay = self.feature_decay / 2 * at_least_float32(features).square().sum(1)
        return cross_entropy(at_least_float32(logits), part.labels, None) + decay
