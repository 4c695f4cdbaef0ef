"""The contract's defaults, and the five losses as methods, against plain formulas."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from wbcli.config.settings import STAGE2_LOSSES
from wbcli.methods import Batch, Method, make
from wbcli.methods.losses import class_balanced_weights
from wbcli.methods.method import averaged, shares
from wbcli.models.networks import Network

COUNTS = [50, 20, 9, 4, 1]


def network(seed: int = 0) -> Network:
    """Features are the images."""
    torch.manual_seed(seed)
    return Network(nn.Identity(), 6, len(COUNTS))


def batch_of(size: int) -> Batch:
    torch.manual_seed(size)
    return Batch(3 * torch.randn(size, 6), torch.randint(0, len(COUNTS), (size,)))


def test_a_step_divides_each_column_by_what_its_images_weigh():
    """Columns Σ losses / Σ weigh: (1 + 5)/(1 + 2) + (2 + 4)/(0.5 + 0.25)."""
    losses = torch.tensor([[1.0, 2.0], [5.0, 4.0]])
    weights = torch.tensor([[1.0, 0.5], [2.0, 0.25]])
    assert averaged(losses, shares(weights)).item() == pytest.approx(2 + 8)
    assert averaged(losses[:, 0], shares(weights[:, 0])).item() == pytest.approx(2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64, torch.bool])
def test_a_column_that_weighs_nothing_counts_as_0_and_has_gradients_of_0(dtype):
    """The second column is empty: the loss is (1 + 5)/2, each gradient 1/2 or 0."""
    losses = torch.tensor([[1.0, 0.0], [5.0, 0.0]], requires_grad=True)
    weights = torch.tensor([[1, 0], [1, 0]]).to(dtype)
    assert shares(weights).tolist() == [0.5, 0]
    loss = averaged(losses, shares(weights))
    loss.backward()
    assert loss.item() == 3
    assert losses.grad.tolist() == [[0.5, 0], [0.5, 0]]


def test_a_method_that_says_nothing_else_is_a_mean_over_the_images():
    class Last(Method):
        def losses(self, part):
            return part.images[:, 0]

    method = Last(network(), COUNTS)
    batch = Batch(torch.arange(12.0).view(2, 6), torch.tensor([0, 1]))
    assert method.loss(batch).item() == 3
    assert method.prepare(batch) is batch
    assert method.weigh(batch).tolist() == [1, 1]
    assert (method.streams(0), method.views) == (("instance",), ("basic",))
    assert (method.whole_batch, method.graphable, method.shared()) == (False, True, ([], []))
    assert set(method.state_dict()) == {"network.classifier.weight", "network.classifier.bias"}
    (group,) = method.groups()
    assert group.parameters == list(method.network.parameters())
    assert (group.rate, group.wd, group.rows) == (1, None, [method.network.classifier.weight])


def test_losses_are_required():
    class Empty(Method):
        pass

    with pytest.raises(NotImplementedError, match=r"^Empty has no losses$"):
        Empty(network(), COUNTS).loss(batch_of(2))


def test_hits_are_counted_and_not_saved():
    method = make("ce", network(), COUNTS)
    batch = batch_of(9)
    batch.labels = method.logits(batch.images).argmax(1)
    batch.labels[:2] = (batch.labels[:2] + 1) % 5
    method.loss(batch)
    assert method.hits == 7
    assert "hits" not in method.state_dict()


# The losses of before, each a mean over the batch in one expression.
V = class_balanced_weights(COUNTS).float()


def focal(logits, labels):
    entropies = F.cross_entropy(logits, labels, reduction="none")
    return (1 - torch.exp(-entropies)) ** 2 * entropies


MEANS = {
    "ce": F.cross_entropy,
    "cb": lambda logits, labels: (
        V[labels] * F.cross_entropy(logits, labels, reduction="none")
    ).mean(),
    "focal": lambda logits, labels: focal(logits, labels).mean(),
    "cb-focal": lambda logits, labels: (V[labels] * focal(logits, labels)).mean(),
    "cb-bce": lambda logits, labels: F.binary_cross_entropy(
        logits.softmax(1),
        F.one_hot(labels, len(COUNTS)).float(),
        V[labels][:, None].expand_as(logits),
    ),
}


def gradients_of(name: str, size: int) -> tuple[list, list]:
    """Of the method and of the mean in one expression."""
    batch, first, second = batch_of(size), network(), network()
    make(name, first, COUNTS).loss(batch).backward()
    MEANS[name](second(batch.images), batch.labels).backward()
    return [p.grad for p in first.parameters()], [p.grad for p in second.parameters()]


@pytest.mark.parametrize("name", ["ce", "cb", "focal", "cb-focal"])
@pytest.mark.parametrize("size", [2, 15, 16, 47, 48, 64, 127])
def test_gradients_are_those_of_the_mean_in_one_expression_to_the_bit(name, size):
    assert all(torch.equal(a, b) for a, b in zip(*gradients_of(name, size), strict=True))


@pytest.mark.parametrize("size", [2, 15, 16, 47, 48, 64, 127])
def test_gradients_of_the_released_loss_are_those_of_torch_within_rounding(size):
    """Mean over B·K, there; over K, then B, here. Worst difference measured: 1.4e-7
    of a gradient; allowed: 2e-6.
    """
    for found, expected in zip(*gradients_of("cb-bce", size), strict=True):
        assert (found - expected).norm() <= 2e-6 * expected.norm()


@pytest.mark.parametrize("name", MEANS)
def test_a_loss_is_the_mean_of_before(name):
    batch = batch_of(33)
    method = make(name, network(), COUNTS)
    expected = MEANS[name](method.network(batch.images), batch.labels).item()
    assert method.loss(batch).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("name", STAGE2_LOSSES)
def test_stage2_minimises_what_stage1_does(name):
    batch = batch_of(33)
    first, second = make(name, network(), COUNTS), make("wb", network(), COUNTS, loss=name)
    assert torch.equal(first.loss(batch), second.loss(batch))


def test_options_are_the_method_s_own():
    """β = 0 weighs all classes alike; without a β, unlike them."""
    batch = batch_of(16)
    plain = make("ce", network(), COUNTS).loss(batch).item()
    assert make("cb", network(), COUNTS, beta=0.0).loss(batch).item() == pytest.approx(plain)
    assert not math.isclose(make("cb", network(), COUNTS).loss(batch).item(), plain)
    with pytest.raises(ValueError) as error:
        make("cb", network(), COUNTS, gamma=1.0)
    assert str(error.value).startswith("--gamma: the method cb does not have it; it has --")
    with pytest.raises(ValueError, match="unknown method 'x': choose one of ce, cb,"):
        make("x", network(), COUNTS)
