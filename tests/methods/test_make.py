"""Methods by name in anybody's own loop: what the network gets, what trains, what is refused."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from wbcli.methods import Batch, adjust, make
from wbcli.models import Network

COUNTS = [5, 3, 2]


def network(num_classes: int = 3) -> Network:
    """A backbone of a linear layer and a batch norm."""
    torch.manual_seed(0)
    return Network(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)), 4, num_classes)


def batch() -> Batch:
    return Batch(torch.randn(6, 4), torch.tensor([0, 1, 2, 0, 1, 2]))


@pytest.mark.parametrize("name", ["wb", "crt", "lws", "disalign"])
def test_the_backbone_stands_still_in_stage_2(name):
    """Its weights and the statistics of its batch norm, without a call of `groups`."""
    method = make(name, network(), COUNTS, **({"loss": "cb"} if name == "wb" else {}))
    before = copy.deepcopy(method.network.backbone.state_dict())
    head = copy.deepcopy(method.network.classifier.state_dict())
    method.train()
    optimizer = torch.optim.SGD(method.parameters(), lr=0.5)
    method.loss(batch()).backward()
    optimizer.step()
    after = method.network.backbone.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())
    moved = method.network.classifier.state_dict()
    assert any(not torch.equal(moved[key], value) for key, value in head.items())


def test_a_head_with_other_options_is_made_anew():
    found = network()
    make("ldam", found, COUNTS, scale=30.0)
    kept = found.classifier
    make("ldam", found, COUNTS)
    assert found.classifier is kept, "30 is the default"
    make("ldam", found, COUNTS, scale=10.0)
    assert (found.classifier is kept, found.classifier.scale) == (False, 10.0)
    make("deconfound", found, COUNTS, alpha=0.1)
    kept = found.classifier
    make("deconfound", found, COUNTS, alpha=0.1)
    assert found.classifier is kept, "which holds it as float32"


@pytest.mark.parametrize("name", ["ce", "ldam", "wb", "lws"])
def test_after_rotations_a_network_gets_a_classifier_of_the_classes(name):
    found = network()
    make("ssp", found, COUNTS)
    assert found.classifier.num_classes == 4
    method = make(name, found, COUNTS, **({"loss": "ce"} if name == "wb" else {}))
    assert found.classifier.num_classes == 3
    assert method.loss(batch()).isfinite()


@pytest.mark.parametrize("counts", [[1, 2], [1, 2, 3, 4], [], "abc", [1, -1, 1], [1, np.nan, 1]])
@pytest.mark.parametrize("name", ["ce", "cb", "ldam", "disalign"])
def test_counts_that_are_not_those_of_the_classes_are_refused(name, counts):
    with pytest.raises(ValueError, match=r"^class_counts must be 3 numbers of at least 0, one for"):
        make(name, network(), counts)
    with pytest.raises(ValueError, match=r"^class_counts must be 3 numbers of at least 0, one for"):
        adjust("mla", network(), counts)


@pytest.mark.parametrize("counts", [np.array(COUNTS), torch.tensor(COUNTS), tuple(COUNTS)])
def test_counts_of_any_kind_are_taken(counts, recwarn):
    assert make("cb", network(), counts).class_counts == COUNTS
    assert not recwarn.list


@pytest.mark.parametrize("name", ["ce", "cb", "ldam-drw", "logit-adjustment", "disalign", "crt"])
def test_a_network_of_float64_is_trained_in_float64(name):
    """The gradient of the loss is that of finite differences, which float32 is not."""
    method = make(name, network().double(), COUNTS)
    method.eval()
    data = batch()
    images = data.images.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: method.loss(Batch(x, data.labels)), images)


def test_weights_that_begin_with_the_first_epoch_need_no_call():
    """v ∝ 1/n to first order: without a call of `start_epoch` as after start_epoch(0)."""
    method = make("ldam-drw", network(), COUNTS, defer_from=0.0, epochs=10)
    found = method.weigh(batch())
    method.start_epoch(0)
    assert torch.equal(found, method.weigh(batch()))
    assert found[2] / found[0] == pytest.approx(5 / 2, rel=1e-3)


@pytest.mark.parametrize("gamma", ["2", None, True, float("nan"), -1.0])
def test_a_number_that_is_none_is_refused(gamma):
    with pytest.raises(ValueError, match=r"^--gamma must be a "):
        make("focal", network(), COUNTS, gamma=gamma)


@pytest.mark.parametrize("name", ["ce", "focal", "ldam", "balanced-softmax", "cb"])
def test_a_label_that_is_no_class_is_not_passed_over(name):
    """PyTorch ignores −100 where nobody says otherwise."""
    data = Batch(torch.randn(2, 4), torch.tensor([-100, 0]))
    with pytest.raises(IndexError):
        make(name, network(), COUNTS).loss(data)
