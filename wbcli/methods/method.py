"""The contract of a method: what `training.fit` asks of whatever it trains.

Legend: B batch, b images of a part of it, n columns of a loss, K classes.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from wbcli.data.batches.batch import Batch
from wbcli.data.batches.splits import Data
from wbcli.models.layers import set_training_mode
from wbcli.models.networks import Network


@dataclass
class Group:
    """Parameters that are treated alike.

    rate: factor of the learning rate.
    wd: λ; None: that of the settings.
    rows: those of the parameters whose rows may be constrained.
    """

    parameters: list[nn.Parameter]
    rate: float = 1.0
    wd: float | None = None
    rows: list[nn.Parameter] = field(default_factory=list)


class Method(nn.Module):
    """What a training step minimises. `losses` is required; every other hook has a default.

    Whatever it learns or remembers is a submodule, a parameter or a buffer: then it is in the
    checkpoint by itself. What it draws at random is a function of a batch's `key`.

    Args:
        network: what is evaluated, saved, exported, and the parent of stage 2.
        class_counts: n_k, training images of each class.
        epochs: that will be trained.
    """

    views: tuple[str, ...] = ("basic",)  # an augmentation for each view of an image
    sampling = "instance"  # the stream that --sampling replaces
    whole_batch = False  # the loss compares images of a batch, which cannot come in parts
    graphable = True  # a step can be captured as a CUDA graph: it draws nothing from a key
    takes_features = True  # features can stand for images, where the backbone stands still
    on_features = False  # batches hold features: the classifier alone is run
    hits: Tensor  # int64 scalar: images of this epoch that were classified correctly

    def __init__(self, network: Network, class_counts: list[int], *, epochs: int = 1):
        super().__init__()
        self.network, self.epochs = network, epochs
        self.class_counts = list(class_counts)
        self.register_buffer("hits", torch.zeros((), dtype=torch.int64), persistent=False)

    def train(self, mode: bool = True) -> "Method":
        """Training mode, in which what is frozen stands still (`training.fit` can let its batch
        norms move).
        """
        super().train(mode)
        if mode:
            set_training_mode(self.network, "eval")
        return self

    def streams(self, epoch: int) -> tuple[str, ...]:
        """The sampling order of each stream of images (`data.batches.sampling`), one or two.

        `sampling` among them stands for the order that the user asks for with --sampling.
        """
        return (self.sampling,)

    def before_epoch(self, epoch: int, data: Data) -> None:
        """Once, before the first step of an epoch, never on a resume within it.

        It may pass over `data.train.evaluate()`, the un-augmented training images, and over
        `data.val` where there are validation images; what it finds lives in buffers. All modules
        are in evaluation mode; of the rest, gradients too, it takes care itself.
        """

    def start_epoch(self, epoch: int) -> None:
        """At the start of an epoch and on a resume within it: a pure function of the epoch (from
        0). What it changes are buffers filled in place: a captured graph would keep old numbers.
        """

    def prepare(self, batch: Batch) -> Batch:
        """What becomes of the whole batch before it is cut into parts: mixing, rotations."""
        return batch

    def weigh(self, batch: Batch) -> Tensor:
        """What each image adds to the divisor, [B] or [B, n]: a function of its labels."""
        return torch.ones(len(batch), device=batch.labels.device)

    def losses(self, part: Batch) -> Tensor:
        """The loss of each image, [b] or [b, n], weighted, not averaged; counts `hits`.

        A step minimises Σ_columns (Σ_images losses / Σ_images weigh), in which a column that
        weighs nothing in the batch counts as 0. Within autocast: what is no network's forward
        pass is computed in fp32.
        """
        raise NotImplementedError(f"{type(self).__name__} has no losses")

    def after_step(self) -> None:
        """After the optimiser's step: a momentum encoder, a queue."""

    def groups(self) -> list[Group]:
        """What trains, and how; the rows of the classifier may be constrained."""
        classifier = self.network.classifier
        rows = [] if classifier.row_norms() is None else [classifier.weight]
        return [Group([p for p in self.parameters() if p.requires_grad], rows=rows)]

    def shared(self) -> tuple[list[Tensor], list[Tensor]]:
        """Tensors that processes sum, and tensors that they gather in the order of the parts."""
        return [], []

    def loss(self, batch: Batch) -> Tensor:
        """What one step minimises, a scalar; `prepare` included."""
        batch = self.prepare(batch)
        return averaged(self.losses(batch), shares(self.weigh(batch)))

    def logits(self, images: Tensor) -> Tensor:
        """Logits [b, K] of images, or of features where the classifier alone trains: float32, or
        float64 of a network that is.
        """
        return at_least_float32(self.evaluated()(images))

    def evaluated(self) -> nn.Module:
        """What of the network is measured on the splits that it trains on."""
        return self.network.classifier if self.on_features else self.network


def at_least_float32(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def statistic_for(network: nn.Module, per_class: Tensor) -> Tensor:
    """A float64 statistic of the classes in the precision in which its losses are computed."""
    is_double = any(p.dtype == torch.float64 for p in network.parameters())
    return per_class if is_double else per_class.float()


def shares(weights: Tensor) -> Tensor:
    """1/Σ_images weights, of each column; 0 where a column weighs nothing."""
    total = weights.sum(0)
    return total.reciprocal().masked_fill_(total == 0, 0)


def averaged(losses: Tensor, share: Tensor) -> Tensor:
    """Σ_columns share·Σ_images losses, a scalar."""
    total = losses.sum(0) * share
    return total.sum() if total.ndim else total
