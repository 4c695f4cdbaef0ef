"""Methods that are a loss: the network is trained on it, image by image.

Legend: B batch, b images of a part of it, K classes.
"""

from torch import Tensor

from wbcli.data.batches.batch import Batch
from wbcli.methods.about import About, Figure
from wbcli.methods.losses import statistic_of, terms_of
from wbcli.methods.method import Method
from wbcli.models.networks import Network

_CUI = "Cui et al., CVPR 2019"
_OWN = "cifar100lt", 100, "resnet34"  # the released code's network
_R32 = "cifar100lt", 100, "resnet32"
ABOUT = {
    "ce": About(
        "Cross-entropy: −log p_y",
        "the baseline of every paper",
        "1",
        (Figure(*_OWN, 320, 38.38), Figure(*_R32, 200, 38.32)),
        ("38.38 is the paper's naive training; with its tuned weight decay it has 46.08.",),
    ),
    "cb": About(
        "Class-balanced cross-entropy: −v_y·log p_y, v_k ∝ (1−β)/(1−β^n_k) with a mean of 1",
        _CUI,
        "1",
        notes=(
            "The mean divides by the number of images, as in its authors' code; other code "
            "divides by Σ v_y.",
        ),
    ),
    "cb-bce": About(
        "Class-balanced binary cross-entropy of softmax: v_y/K·(−log p_y − Σ_{j≠y} log(1−p_j))",
        "the released code of the weight-balancing paper",
        "1",
        notes=(
            "It is what the released code calls CB; its gradient is about K/(1 + p_y) times "
            "smaller, so that weight decay weighs more.",
        ),
    ),
    "focal": About(
        "Focal loss: −(1 − p_y)^γ·log p_y",
        "Lin et al., ICCV 2017",
        "1",
        (Figure(*_R32, 200, 38.41),),
    ),
    "cb-focal": About(
        "Class-balanced focal loss: −v_y·(1 − p_y)^γ·log p_y",
        _CUI,
        "1",
        (Figure(*_R32, 200, 39.60),),
        ("39.60 is of the sigmoid form with the best β and γ; here p is a softmax.",),
    ),
    "balanced-softmax": About(
        "Balanced softmax: cross-entropy of z_k + log n_k; at test time of z alone",
        "Ren et al., NeurIPS 2020",
        "1",
        (Figure(*_R32, 614, 50.3),),
        (
            "50.3 is with AutoAugment and Cutout; with crops and flips others measured 42.99 in "
            "200 epochs (the code base Bag of Tricks).",
            "It is logit-adjustment with τ = 1.",
        ),
    ),
    "logit-adjustment": About(
        "Logit-adjusted cross-entropy: that of z_k + τ·log π_k; at test time of z alone",
        "Menon et al., ICLR 2021, equation 10",
        "1",
        (Figure(*_R32, 200, 43.89),),
        (
            "The code adds 1e-12 within log π^τ, which bends rare classes, and trains 1,419 "
            "epochs; here it is τ·log π in float64, and no ε.",
            "Weight decay shrinks z and not log π: tune τ with it.",
        ),
    ),
    "ldam": About(
        "LDAM: cross-entropy of s·(c_k − Δ_y·[k = y]), c a cosine, Δ_k ∝ n_k^(−1/4)",
        "Cao et al., NeurIPS 2019, equation 13",
        "1",
        (Figure(*_R32, 200, 39.60),),
        (
            "The paper's equations have no s; it is 30 in the code, and here.",
            "Its classifier is a cosine, since s on a linear one diverges; MaxNorm and τ change "
            "nothing there, and stage 2 starts from the linear layer that equals it.",
            "39.60 is of the best epoch on the test set.",
        ),
    ),
}


class Plain(Method):
    """The mean over the images of a batch of one of `losses.LOSSES`.

    Args:
        loss: its name.
        options: what the loss takes: beta, gamma, tau, max_margin, scale.
    """

    per_class: Tensor | None

    def __init__(
        self, network: Network, class_counts: list[int], *, loss: str, epochs: int = 1, **options
    ):
        super().__init__(network, class_counts, epochs=epochs)
        self.terms = terms_of(loss, options)
        per_class = statistic_of(loss, class_counts, options)
        per_class = None if per_class is None else per_class.float()
        self.register_buffer("per_class", per_class, persistent=False)

    def losses(self, part: Batch) -> Tensor:
        logits = self.logits(part.images)
        self.hits.add_((logits.argmax(1) == part.labels).sum())
        return self.terms(logits, part.labels, self.per_class)
