"""Made-up methods, which between them use every hook of the contract, and how one is trained.

Legend: B batch, b images of a part of it, K classes, D features, Q places of a queue.
"""

from copy import deepcopy
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wbcli.methods import Batch, Method
from wbcli.methods.losses import class_balanced_weights
from wbcli.methods.method import Group

MIX = 5  # ends the key of what is mixed


class MadeUp(Method):
    """What the others share."""

    def features(self, images: Tensor) -> Tensor:
        if self.on_features:
            return images
        return self.network.backbone(images).to(self.network.classifier.weight.dtype)

    def entropies(self, logits: Tensor, labels: Tensor) -> Tensor:
        self.hits += (logits.argmax(1) == labels).sum()
        return F.cross_entropy(logits, labels, reduction="none")


class Branches(MadeUp):
    """Two streams, of which the second counts for more from epoch to epoch."""

    def __init__(self, network, class_counts, **options):
        super().__init__(network, class_counts, **options)
        self.register_buffer("alpha", torch.ones(()), persistent=False)

    def streams(self, epoch):
        return ("instance", "reversed")

    def start_epoch(self, epoch):
        self.alpha.fill_(1 - (epoch / self.epochs) ** 2)

    def weigh(self, batch):
        return torch.ones(len(batch), 2)

    def losses(self, part):
        own = self.entropies(self.logits(part.images), part.labels)
        other = self.entropies(self.logits(part.other_images), part.other_labels)
        return torch.stack([self.alpha * own, (1 - self.alpha) * other], 1)


class Pairs(MadeUp):
    """Two views of an image, augmented in two ways, that have to agree."""

    views = ("none", "crop")

    def losses(self, part):
        first, second = (self.logits(images) for images in part.images)
        return self.entropies(first, part.labels) + (first - second).square().mean(1)


class TwoByTwo(MadeUp):
    """Two views of the images of each of two streams, drawn in the same way."""

    views = ("basic", "flip")

    def streams(self, epoch):
        return ("balanced", "balanced") if epoch else ("instance", "class-aware")

    def losses(self, part):
        own, again, other, last = (
            self.logits(images) for images in [*part.images, *part.other_images]
        )
        distances = (own - again).square().mean(1) + (other - last).square().mean(1)
        return (
            self.entropies(own, part.labels)
            + self.entropies(last, part.other_labels)
            + 0.1 * distances
        )


class Mixed(MadeUp):
    """Images mixed with others of their batch; what they weigh is mixed, too."""

    graphable = False

    def __init__(self, network, class_counts, **options):
        super().__init__(network, class_counts, **options)
        weights = class_balanced_weights(class_counts).float()
        self.register_buffer("per_class", weights, persistent=False)

    def prepare(self, batch):
        generator = np.random.default_rng([*batch.key, MIX])
        lam = torch.from_numpy(generator.beta(0.5, 0.5, len(batch))).float()
        partners = torch.from_numpy(generator.permutation(len(batch)))
        shares = lam.view(-1, *[1] * (batch.images.ndim - 1))
        mixed = shares * batch.images + (1 - shares) * batch.images[partners]
        return replace(batch, images=mixed, labels2=batch.labels[partners], lam=lam)

    def weigh(self, batch):
        own, other = self.per_class[batch.labels], self.per_class[batch.labels2]
        return batch.lam * own + (1 - batch.lam) * other

    def losses(self, part):
        logits = self.logits(part.images)
        own = self.per_class[part.labels] * self.entropies(logits, part.labels)
        other = F.cross_entropy(logits, part.labels2, reduction="none")
        return part.lam * own + (1 - part.lam) * self.per_class[part.labels2] * other


class Shares(MadeUp):
    """A mean over each group of classes: all but the rarest, the rarest, and none of them."""

    def __init__(self, network, class_counts, **options):
        super().__init__(network, class_counts, **options)
        rarest = F.one_hot(torch.tensor(class_counts).argmin(), len(class_counts)).bool()
        members = torch.stack([~rarest, rarest, torch.zeros_like(rarest)], 1)  # [K, 3]
        self.register_buffer("members", members, persistent=False)

    def weigh(self, batch):
        return self.members[batch.labels]

    def losses(self, part):
        entropies = self.entropies(self.logits(part.images), part.labels)
        return self.members[part.labels] * entropies[:, None]


class Queue(MadeUp):
    """A momentum encoder, and a queue of what it made of the images of the last steps."""

    def __init__(self, network, class_counts, *, places: int = 100, **options):
        super().__init__(network, class_counts, **options)
        self.encoder = deepcopy(network.backbone).requires_grad_(False)
        self.register_buffer("keys", torch.zeros(places, network.classifier.in_features))
        self.register_buffer("key_labels", torch.full((places,), -1))
        self.register_buffer("pointer", torch.zeros((), dtype=torch.int64))
        self.new: list[tuple[Tensor, Tensor]] = []  # of the parts of the step

    def losses(self, part):
        features = self.features(part.images)
        with torch.no_grad():
            self.new.append((F.normalize(self.encoder(part.images)), part.labels))
        similar = F.normalize(features) @ self.keys.T / 0.2  # [b, Q]
        same = part.labels[:, None] == self.key_labels
        contrasts = -(same * similar.log_softmax(1)).sum(1) / same.sum(1).clamp(min=1)
        logits = self.network.classifier(features)
        return self.entropies(logits, part.labels) + 0.1 * contrasts

    @torch.no_grad()
    def after_step(self):
        keys, labels = (torch.cat(parts) for parts in zip(*self.new, strict=True))
        places = (self.pointer + torch.arange(len(keys))) % len(self.keys)
        self.keys[places], self.key_labels[places] = keys, labels
        self.pointer.add_(len(keys)).remainder_(len(self.keys))
        self.new.clear()
        pairs = zip(self.encoder.parameters(), self.network.backbone.parameters(), strict=True)
        for slow, fast in pairs:
            slow.lerp_(fast, 0.1)


class Centres(MadeUp):
    """Images are drawn to the centre of their class, as hard as validation says.

    The pass before an epoch moves the centres on: one more or one less would show.
    """

    def __init__(self, network, class_counts, **options):
        super().__init__(network, class_counts, **options)
        num_classes = len(class_counts)
        self.register_buffer("centres", torch.zeros(num_classes, network.classifier.in_features))
        self.register_buffer("strength", torch.zeros(()))
        self.register_buffer("passes", torch.zeros((), dtype=torch.int64))

    def looked(self) -> None:
        """After each batch of a pass."""

    @torch.no_grad()
    def before_epoch(self, epoch, data):
        assert not any(module.training for module in self.modules())
        self.centres.mul_(0.5)
        counts = torch.tensor(self.class_counts)
        for images, labels in data.train.evaluate():
            features = self.features(images)
            self.centres.index_add_(0, labels, features / counts[labels, None])
            self.looked()
        if data.val:
            for images, labels in data.val.evaluate():
                right = self.logits(images).argmax(1) == labels
                self.strength.add_(0.01 * right.float().mean())
        self.passes += 1

    def losses(self, part):
        features = self.features(part.images)
        pull = (features - self.centres[part.labels]).square().mean(1)
        logits = self.network.classifier(features)
        return self.entropies(logits, part.labels) + (0.01 + self.strength) * pull


class Taught(MadeUp):
    """A teacher that is no part of the method: in no checkpoint, and always evaluated."""

    def __init__(self, network, class_counts, **options):
        super().__init__(network, class_counts, **options)
        with torch.random.fork_rng():
            torch.manual_seed(1)
            layers = nn.Flatten(), nn.BatchNorm1d(64), nn.Dropout(), nn.Linear(64, 10)
            teacher = nn.Sequential(*layers).eval().requires_grad_(False)
        vars(self)["teacher"] = teacher  # past nn.Module, which would take it in

    def losses(self, part):
        logits = self.logits(part.images)
        target = self.teacher(part.images).softmax(1)
        distances = F.kl_div(logits.log_softmax(1), target, reduction="none").sum(1)
        return self.entropies(logits, part.labels) + distances


class Compared(MadeUp):
    """The images of a batch share one softmax."""

    whole_batch = True

    def losses(self, part):
        logits = self.logits(part.images)
        own = logits.gather(1, part.labels[:, None])[:, 0]
        return self.entropies(logits, part.labels) - 0.1 * own.log_softmax(0)


class Grouped(MadeUp):
    """A backbone that trains slowly and without decay, a classifier fast and with its own."""

    def groups(self):
        weight, bias = self.network.classifier.parameters()
        return [
            Group(list(self.network.backbone.parameters()), rate=0.5, wd=0.0),
            Group([weight, bias], rate=2.0, rows=[weight]),
        ]

    def losses(self, part: Batch) -> Tensor:
        return self.entropies(self.logits(part.images), part.labels)


ALL = (Branches, Pairs, TwoByTwo, Mixed, Shares, Queue, Centres, Taught, Compared, Grouped)
