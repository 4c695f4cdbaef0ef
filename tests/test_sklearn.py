"""The estimator: scikit-learn's own checks, and what it is beside `balanced_head`."""

import pickle
import warnings

import numpy as np
import pytest

pytest.importorskip("sklearn")
from sklearn.base import clone
from sklearn.exceptions import SkipTestWarning
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

from wbcli import balanced_head
from wbcli.sklearn import WeightBalancedClassifier

GENERATOR = np.random.default_rng(0)
Y = np.repeat(["wren", "robin", "jay"], [60, 20, 6])
X = GENERATOR.normal(size=(86, 4)) + 2 * np.eye(4)[np.unique(Y, return_inverse=True)[1]]


def test_it_passes_scikit_learns_own_checks():
    with warnings.catch_warnings(action="ignore", category=SkipTestWarning):
        found = check_estimator(WeightBalancedClassifier(epochs=10, device="cpu"), on_fail="raise")
    assert {check["status"] for check in found} <= {"passed", "skipped"}
    assert sum(check["status"] == "passed" for check in found) > 40


@pytest.mark.parametrize("normalise", ["none", "l2", "standard"])
def test_its_scores_are_those_of_the_head_that_it_trained(normalise):
    import torch

    options = {"epochs": 3, "normalise": normalise, "radius": 0.5, "seed": 4}
    classes, labels = np.unique(Y, return_inverse=True)
    expected = balanced_head(torch.from_numpy(X), torch.from_numpy(labels), **options)
    found = WeightBalancedClassifier(**options).fit(X, Y)
    assert found.classes_.tolist() == classes.tolist() == ["jay", "robin", "wren"]
    logits = expected.network(torch.from_numpy(X).float()).detach().numpy()
    np.testing.assert_allclose(found.decision_function(X), logits, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(found.predict(X), classes[logits.argmax(1)])
    np.testing.assert_allclose(found.predict_proba(X).sum(1), 1)
    norms = expected.network.classifier.row_norms().numpy()
    np.testing.assert_array_equal(found.row_norms_, norms)
    assert found.radius_ == 0.5 and found.clipped_fraction_ == expected.clipped_fraction


def test_two_classes_have_one_score():
    two = Y != "jay"
    found = WeightBalancedClassifier(epochs=3).fit(X[two], Y[two])
    scores = found.decision_function(X[two])
    assert scores.shape == (80,)
    np.testing.assert_array_equal(found.predict(X[two]) == "wren", scores > 0)


def test_a_temperature_divides_the_scores():
    found = WeightBalancedClassifier(epochs=3, normalise="none", calibrate=True).fit(X, Y)
    scores = found.decision_function(X) / found.temperature_
    ratios = np.log(found.predict_proba(X))
    np.testing.assert_allclose(ratios - ratios[:, :1], scores - scores[:, :1], atol=1e-9)


def test_it_works_in_a_pipeline_and_a_grid_search():
    pipeline = make_pipeline(
        StandardScaler(), WeightBalancedClassifier(epochs=50, normalise="none")
    )
    grid = {"weightbalancedclassifier__stage2_wd": [0.0, 1e-2]}
    search = GridSearchCV(pipeline, grid, cv=2, scoring="balanced_accuracy").fit(X, Y)
    assert search.best_params_.keys() == grid.keys()
    assert set(search.predict(X)) <= set(Y)
    assert search.best_score_ > 0.5


def test_numbers_of_numpy_are_numbers():
    """A randomised search draws such."""
    x, y = np.random.default_rng(0).normal(size=(40, 3)), np.arange(40) % 2
    drawn = {"epochs": np.int64(2), "lr": np.float32(0.5), "seed": np.int32(3)}
    found = WeightBalancedClassifier(**drawn).fit(x, y)
    assert found.get_params()["epochs"] is drawn["epochs"], "as scikit-learn wants them"
    plain = WeightBalancedClassifier(epochs=2, lr=0.5, seed=3).fit(x, y)
    assert np.array_equal(found.coef_, plain.coef_)


def test_it_is_repeatable_and_can_be_cloned_and_kept():
    first = WeightBalancedClassifier(epochs=3, seed=5).fit(X, Y)
    again = clone(first).fit(X, Y)
    kept = pickle.loads(pickle.dumps(first))
    for other in (again, kept):
        np.testing.assert_array_equal(other.decision_function(X), first.decision_function(X))
    third = clone(first).set_params(seed=6).fit(X, Y)
    assert not np.array_equal(third.decision_function(X), first.decision_function(X))


def test_there_is_no_partial_fit():
    assert not hasattr(WeightBalancedClassifier, "partial_fit")


def test_rare_classes_are_found_more_often_than_by_plain_training():
    plain = WeightBalancedClassifier(epochs=100, stage2_epochs=0).fit(X, Y)
    balanced = WeightBalancedClassifier(epochs=100).fit(X, Y)
    rare = Y == "jay"
    assert (balanced.predict(X) == "jay").sum() > (plain.predict(X) == "jay").sum()
    assert (balanced.predict(X[rare]) == "jay").mean() >= (plain.predict(X[rare]) == "jay").mean()
