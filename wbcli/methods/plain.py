"""Methods that are a loss: the network is trained on it, image by image.

Legend: B batch, b images of a part of it, K classes.
"""

from torch import Tensor

from wbcli.data.batches.batch import Batch
from wbcli.methods.losses import statistic_of, terms_of
from wbcli.methods.method import Method
from wbcli.models.networks import Network


class Plain(Method):
    """The mean over the images of a batch of one of `losses.LOSSES`.

    Args:
        loss: its name.
        options: what the loss takes: beta, gamma.
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
        self.hits += (logits.argmax(1) == part.labels).sum()
        return self.terms(logits, part.labels, self.per_class)
