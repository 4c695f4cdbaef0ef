"""An adjustment at many values of its number is the one that `adjust` makes at each."""

import pytest
import torch
from torch import nn

from wbcli.config.methods import NUMBERS
from wbcli.methods.adjustments import adjust
from wbcli.methods.curves import scores_at
from wbcli.models.classifiers import make
from wbcli.models.linear import linear_of
from wbcli.models.networks import Network

COUNTS = [100, 10, 1]


def test_which_adjustments_have_a_number():
    assert NUMBERS == {"tau": "tau", "logit-adjustment": "tau", "mla": "tau", "tde": "alpha"}


@pytest.mark.parametrize(
    ("name", "values", "expected"),
    [
        (
            "logit-adjustment",
            [1.0, 0.5],
            [(2.104360, 3.406945, 5.209530), (2.052180, 2.203473, 2.854765)],
        ),
        ("mla", [0.65, 0.0], [(2.140375, 4.780353, 10.676525), (2, 1, 0.5)]),
        ("tau", [0.0, 1.0], [(2, 1, 0.5), (1, 1, 1)]),
    ],
)
def test_scores_by_hand(name, values, expected):
    """z = (2, 1, .5) of the feature 1, n = (100, 10, 1)."""
    classifier = linear_of(torch.tensor([[2.0], [1], [0.5]]))
    scores = scores_at(name, classifier, COUNTS, values)(torch.ones(1, 1))
    torch.testing.assert_close(scores[0].T, torch.tensor(expected), atol=1e-5, rtol=0)


@pytest.mark.parametrize("head", ["linear", "cosine", "etf", "normalised"])
@pytest.mark.parametrize("name", NUMBERS)
def test_scores_are_those_of_the_adjusted_classifier(name, head):
    torch.manual_seed(0)
    network = Network(nn.Identity(), 4, 3)
    network.classifier = make("normalised" if name == "tde" else head, 4, 3)
    if isinstance(getattr(network.classifier, "feature_mean", None), torch.Tensor):
        network.classifier.feature_mean.copy_(torch.randn(4))
    values, features = [0.0, 0.7, 2.0], torch.randn(5, 4)
    found = scores_at(name, network.classifier, COUNTS, values)(features)
    assert found.shape == (5, 3, 3)
    for value, scores in zip(values, found.unbind(2), strict=True):
        expected = adjust(name, network, COUNTS, **{NUMBERS[name]: value})(features)
        torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-4)


def test_a_class_without_images_is_refused_where_its_prior_counts():
    classifier = linear_of(torch.ones(2, 1))
    with pytest.raises(ValueError, match="needs training images of every class"):
        scores_at("mla", classifier, [3, 0], [1.0])
