"""De-confounded training: a normalised classifier in parts, and the moving mean of features."""

from torch import Tensor

from wbcli.methods.about import About, Figure
from wbcli.methods.plain import Plain
from wbcli.models.networks import Network

ABOUT = {
    "deconfound": About(
        "De-confounded training: cross-entropy of s/M·Σ_m w_k^m·h^m / ((‖w_k^m‖ + γ)·‖h^m‖), "
        "M = 2, and the mean of features, which TDE takes out at test time",
        "Tang et al., NeurIPS 2020",
        "1",
        (
            Figure("cifar100lt", 100, "resnet32", 200, 40.5),
            Figure("cifar100lt", 50, "resnet32", 200, 46.2),
            Figure("cifar100lt", 10, "resnet32", 200, 58.9),
        ),
        (
            "With TDE (--alpha 1.5, or normalize --method tde) they have 44.1, 50.3 and 59.6.",
            "Their ResNet-32 has its last block twice and 128 features; these are of a second "
            "version of the table, since the first began from ImageNet's weights.",
            "The mean is e ← 0.9·e + mean of the step, without 0.1, as in the code: only its "
            "direction counts.",
            "Weight decay that brings ‖w_k^m‖ below γ turns the classifier into a linear one.",
        ),
    )
}


class Deconfound(Plain):
    """Cross-entropy; the mean of features is the classifier's, and so in its state.

    Args:
        options: of the classifier `normalised`, which has them already.
    """

    def __init__(self, network: Network, class_counts: list[int], *, epochs: int = 1, **options):
        super().__init__(network, class_counts, loss="ce", epochs=epochs)

    def after_step(self) -> None:
        self.network.classifier.update_mean()

    def shared(self) -> tuple[list[Tensor], list[Tensor]]:
        classifier = self.network.classifier
        return [classifier.feature_sum, classifier.feature_count], []
