"""Decoupled training: on a frozen network, a new classifier, or a factor for each class.

Legend: K classes.
"""

from wbcli.methods.about import About, Figure
from wbcli.methods.method import Group
from wbcli.methods.plain import Plain
from wbcli.methods.retrain import WeightBalancing
from wbcli.models.layers import freeze_all_but
from wbcli.models.networks import Network

_KANG = "Kang et al., ICLR 2020"
_COST = "10 epochs of the classifier, on cached features"
_FROZEN = (
    "In the authors' code the batch norms of the frozen network go on moving to the statistics of "
    "balanced batches; here they stand still (--recipe released lets them move)."
)
_TEST = (
    "The authors' released network has 48.1 on the test images of ImageNet-LT where the paper has "
    "49.6, which is nearer to its validation images."
)
ABOUT = {
    "crt": About(
        "Classifier re-training (cRT): a fresh linear classifier on the frozen network, with "
        "−log p_y on balanced batches",
        _KANG,
        _COST,
        (
            Figure("imagenetlt", None, "resnext50", 90, 49.6),
            Figure("inat18", None, "resnet50", 90, 65.2),
            Figure("cifar100lt", 100, "resnet32", 200, 40.26),
        ),
        (
            "Epochs are those of the network; its classifier trained for 10 (iNaturalist and CIFAR "
            "30). The CIFAR figure is a re-run by others.",
            "MaxNorm needs an absolute --radius: a fresh classifier has no rows of stage 1.",
            _TEST,
            _FROZEN,
        ),
    ),
    "lws": About(
        "Learnable weight scaling (LWS): f_k·(w_k·h + b_k) with the trained w and b, of which "
        "f = 1 + g alone trains, with −log p_y on balanced batches",
        _KANG,
        _COST,
        (
            Figure("imagenetlt", None, "resnext50", 90, 49.9),
            Figure("inat18", None, "resnet50", 90, 65.9),
            Figure("cifar100lt", 100, "resnet32", 200, 40.16),
        ),
        (
            "The paper scales w, its code w·h + b, as here. Both decay f to 0; here g decays, so "
            "that f goes to 1, where nothing is changed.",
            "Epochs are those of the network; the factors trained for 5. The CIFAR figure is a "
            "re-run by others.",
            _FROZEN,
        ),
    ),
}


class ClassifierRetraining(WeightBalancing):
    """A classifier, fresh or kept: cross-entropy on balanced batches. Source: section 4.1."""

    sampling = "balanced"


class Scaling(Plain):
    """A factor for each class of the classifier (`models.kept.Scaled`). Source: section 4.3."""

    sampling = "balanced"

    def __init__(self, network: Network, class_counts: list[int], **options):
        super().__init__(network, class_counts, **options)
        self.trained = freeze_all_but(network, [[network.classifier]])

    def groups(self) -> list[Group]:
        """No rows: those of the classifier stay as they are."""
        return [Group(self.trained)]
