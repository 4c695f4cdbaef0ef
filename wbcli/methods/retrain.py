"""Stage 2 of weight balancing: the last layers of a trained network, trained again.

Legend: K classes.
"""

from wbcli.config.settings import STAGE2_LOSSES
from wbcli.methods.about import About, Figure
from wbcli.methods.method import Group
from wbcli.methods.plain import Plain
from wbcli.models.layers import freeze_all_but, last_layers
from wbcli.models.networks import Network

ABOUT = {
    "wb": About(
        "Weight balancing: the classifier trained on with a class-balanced loss, weight decay and "
        "‖w_k‖ ≤ δ",
        "Alshammari et al., CVPR 2022",
        "10 epochs of the classifier, on cached features",
        (Figure("cifar100lt", 100, "resnet34", 10, 53.35),),
        (
            "On a classifier without row lengths, such as a cosine, it starts from the linear "
            "layer that equals it.",
        ),
    )
}


class WeightBalancing(Plain):
    """A class-balanced loss, weight decay and MaxNorm on the last `layers` layers.

    The rest of the network is frozen. Source: the paper, section 4.2.
    """

    def __init__(self, network: Network, class_counts: list[int], *, layers: int = 1, **options):
        if options.get("loss") not in STAGE2_LOSSES:
            words = ", ".join(STAGE2_LOSSES)
            raise ValueError(f"loss must be one of {words} in stage 2, got {options.get('loss')!r}")
        super().__init__(network, class_counts, **options)
        self.layers = last_layers(network, layers)
        self.trained = freeze_all_but(network, self.layers)

    def groups(self) -> list[Group]:
        """The rows of each of the layers may be constrained, output first."""
        return [Group(self.trained, rows=[layer[0].weight for layer in self.layers])]
