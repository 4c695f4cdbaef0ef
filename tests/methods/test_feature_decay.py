"""Weight decay, feature decay and a fixed simplex: numbers by hand."""

import pytest
import torch
from torch import nn

from wbcli.methods import Batch, make
from wbcli.models.networks import Network

BATCH = Batch(torch.tensor([[3.0, 4], [0, 1]]), torch.tensor([0, 1]))


def method(features: int = 2, classes: int = 2, **options):
    return make("wd-fr-etf", Network(nn.Identity(), features, classes), [9] * classes, **options)


def test_features_decay_by_hand():
    """h = (3,4), (0,1), λ_F = 0.01: 0.005·(25 + 1)/2 = 0.065."""
    found = method()
    plain = nn.functional.cross_entropy(found.network(BATCH.images), BATCH.labels)
    assert found.loss(BATCH).item() - plain.item() == pytest.approx(0.065, abs=1e-6)
    half = method(feature_decay=0.005)
    half.network.load_state_dict(found.network.state_dict())
    assert half.loss(BATCH).item() - plain.item() == pytest.approx(0.0325, abs=1e-6)


def test_the_rows_are_a_fixed_simplex_and_the_bias_trains():
    """K = 3: cosines −1/2, rows that sum to 0."""
    found = method(3, 3)
    rows = found.network.classifier.weight
    torch.testing.assert_close(rows @ rows.T, 1.5 * torch.eye(3) - 0.5)
    torch.testing.assert_close(rows.sum(0), torch.zeros(3))
    (group,) = found.groups()
    assert [len(p) for p in group.parameters] == [3] and group.rows == []
    assert group.parameters[0] is found.network.classifier.bias


def test_fewer_features_than_classes_are_refused():
    with pytest.raises(ValueError) as error:
        method(2, 3)
    assert str(error.value).startswith(
        "an etf classifier needs at least 2 classes and as many features as classes, got 2 "
        "features and 3 classes: take an --arch with more features"
    )
