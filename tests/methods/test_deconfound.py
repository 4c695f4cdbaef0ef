"""De-confounded training: numbers by hand, and the mean of features as state."""

import math

import pytest
import torch
from torch import nn

from wbcli.methods import Batch, make
from wbcli.models.networks import Network

IMAGES = torch.tensor([[3.0, 4, 0, 2], [1, 0, 0, 0]])  # stand for features
ROWS = torch.tensor([[1.0, 0, 0, 1], [0, 2, 1, 0]])


def deconfound(**options):
    method = make("deconfound", Network(nn.Identity(), 4, 2), [2, 1], **options)
    method.network.classifier.weight.data.copy_(ROWS)
    return method.train()


def test_the_loss_is_cross_entropy_of_the_normalised_logits():
    """h = (3,4,0,2): logits (12.412121, 6.301538) in training, whatever α is."""
    expected = math.log1p(math.exp(6.301538 - 12.412121))
    for alpha in (0.0, 1.5):
        loss = deconfound(alpha=alpha).loss(Batch(IMAGES[:1], torch.tensor([0])))
        assert loss.item() == pytest.approx(expected, abs=1e-6)


def test_the_moving_mean_is_taken_once_a_step_and_is_in_the_state():
    """e ← 0.9·e + mean: (2,2,0,1), then 0.9·(2,2,0,1) + (1,0,0,0)."""
    method = deconfound()
    for part in Batch(IMAGES, torch.tensor([0, 1])).parts(1):
        for one in range(2):  # in two parts
            method.losses(Batch(part.images[one : one + 1], part.labels[one : one + 1]))
    method.after_step()
    mean = "network.classifier.feature_mean"
    assert method.state_dict()[mean].tolist() == [2, 2, 0, 1]
    method.loss(Batch(IMAGES[1:], torch.tensor([1])))
    assert [int(t.sum()) for t in method.shared()[0]] == [1, 1], "what processes sum: Σ h and n"
    method.after_step()
    assert method.state_dict()[mean].tolist() == pytest.approx([2.8, 1.8, 0, 0.9])


def test_alpha_counts_in_evaluation():
    """e = (1,0,0,5), α = 1.5: (−6.206061, 6.301538)."""
    method = deconfound(alpha=1.5)
    method.network.classifier.feature_mean.copy_(torch.tensor([1.0, 0, 0, 5]))
    found = method.eval().network(IMAGES[:1])
    assert found[0].tolist() == pytest.approx([-6.206061, 6.301538], abs=1e-5)


def test_no_other_classifier():
    with pytest.raises(ValueError, match=r"^--head linear: the method deconfound needs normalised"):
        make("deconfound", Network(nn.Identity(), 4, 2), [2, 1], head="linear")
