"""Methods that are a loss: the network is trained on it, image by image.

Legend: B batch, b images of a part of it, K classes.
"""

import torch
from torch import Tensor

from wbcli.config.methods import first_epoch
from wbcli.data.batches.batch import Batch
from wbcli.methods.about import About, Figure
from wbcli.methods.losses import class_balanced_weights, statistic_of, terms_of
from wbcli.methods.method import Method, statistic_for
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
        (Figure(*_R32, 200, 33.99),),
        (
            "33.99 is of β = 0.9999 from the first epoch on, measured by Cao et al., NeurIPS 2019, "
            "beside 38.32 of ce: weights do better late (--method ce --defer drw).",
            "The mean divides by the number of images, as in its authors' code; other code, and "
            "--defer drw, divides by Σ v_y.",
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
    "ldam-drw": About(
        "LDAM, from 80 % of the epochs on with class weights: Σ v_y·loss / Σ v_y",
        "Cao et al., NeurIPS 2019, algorithm 1",
        "1",
        (
            Figure(*_R32, 200, 42.04),
            Figure("cifar100lt", 50, "resnet32", 200, 46.62),
            Figure("cifar100lt", 10, "resnet32", 200, 58.71),
        ),
        (
            "The paper weighs by 1/n_y, its code by the effective number (β = 0.9999), as here.",
            "In the paper the weights come with a drop of the rate, at epoch 160 of 200; on a "
            "cosine they come at 80 % of the epochs (--defer-from).",
            "The code's train rule Resample, deferred sampling, has no effect; --method ldam "
            "--defer drs has.",
        ),
    ),
}


class Plain(Method):
    """The mean over the images of a batch of one of `losses.LOSSES`.

    From epoch ⌊defer_from·epochs⌋ (from 0) on, `drw` makes it the weighted mean Σ v_y·loss / Σ v_y
    with the weights v of class-balanced losses, and `drs` draws balanced batches.
    Source: Cao et al., NeurIPS 2019, section 3.3, and its code for v.

    Args:
        loss: its name.
        defer, defer_from: `drw`, `drs` or None, and after which share of the epochs.
        options: what the loss takes: beta (also for drw), gamma, tau, max_margin, scale.
    """

    per_class: Tensor | None
    late_weights: Tensor
    class_weights: Tensor

    def __init__(
        self,
        network: Network,
        class_counts: list[int],
        *,
        loss: str,
        epochs: int = 1,
        defer: str | None = None,
        defer_from: float = 0.8,
        **options,
    ):
        super().__init__(network, class_counts, epochs=epochs)
        self.defer, self.late = defer, first_epoch(defer_from, epochs)
        if defer == "drw":
            weights = class_balanced_weights(class_counts, options["beta"])
            weights = statistic_for(network, weights)
            self.register_buffer("late_weights", weights, persistent=False)
            self.register_buffer("class_weights", torch.ones_like(weights), persistent=False)
        self.terms = terms_of(loss, options)
        per_class = statistic_of(loss, class_counts, options)
        per_class = None if per_class is None else statistic_for(network, per_class)
        self.register_buffer("per_class", per_class, persistent=False)
        self.start_epoch(0)

    def streams(self, epoch: int) -> tuple[str, ...]:
        return ("balanced",) if self.defer == "drs" and epoch >= self.late else (self.sampling,)

    def start_epoch(self, epoch: int) -> None:
        if self.defer == "drw":
            late = self.late_weights if epoch >= self.late else torch.ones_like(self.late_weights)
            self.class_weights.copy_(late)

    def weigh(self, batch: Batch) -> Tensor:
        return self.class_weights[batch.labels] if self.defer == "drw" else super().weigh(batch)

    def losses(self, part: Batch) -> Tensor:
        logits = self.logits(part.images)
        self.hits.add_((logits.argmax(1) == part.labels).sum())
        terms = self.terms(logits, part.labels, self.per_class)
        return terms * self.class_weights[part.labels] if self.defer == "drw" else terms
