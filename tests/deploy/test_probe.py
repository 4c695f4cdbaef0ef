"""A balanced head from tensors in one call: what the two stages of a run make of the same rows."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from wbcli import balanced_head, row_norms
from wbcli.deploy import probe

GENERATOR = torch.Generator().manual_seed(0)
LABELS = torch.arange(3).repeat_interleave(torch.tensor([40, 12, 4]))
FEATURES = torch.randn(56, 6, generator=GENERATOR) + 2 * torch.eye(6)[LABELS]


@pytest.mark.parametrize("normalise", ["none", "l2", "standard"])
def test_it_is_what_stage1_and_stage2_make_of_a_file(normalise, wbcli):
    """None of the numbers differs by more than a rounding of the normalised features."""
    np.savez(
        "a.npz",
        **{f"{split}_features": FEATURES.numpy() for split in ("train", "test")},
        **{f"{split}_labels": LABELS.numpy() for split in ("train", "test")},
    )
    first = ("--normalise", normalise, "--epochs", "4", "--lr", "0.1", "--wd", "1e-3")
    second = (
        "--epochs",
        "3",
        "--lr",
        "0.05",
        "--wd",
        "1e-2",
        "--maxnorm",
        "0.5",
        "--loss",
        "focal",
    )
    assert wbcli("stage1", "a.npz", *first, "--name", "first", "--seed", "7").code == 0
    second += ("--loss", "focal")
    assert wbcli("stage2", "first", *second, "--name", "second").code == 0
    found = balanced_head(
        FEATURES,
        LABELS,
        normalise=normalise,
        epochs=4,
        lr=0.1,
        wd=1e-3,
        stage2_epochs=3,
        stage2_lr=0.05,
        stage2_wd=1e-2,
        maxnorm=0.5,
        loss="focal",
        seed=7,
    )
    for key, value in load_file("runs/second/model.safetensors").items():
        own = found.network.state_dict()[key]
        torch.testing.assert_close(own, value, rtol=1e-5, atol=1e-6, msg=key)
    assert found.class_counts == [40, 12, 4]


def test_a_radius_holds_rows_back_and_says_how_many():
    found = balanced_head(FEATURES, LABELS, epochs=5, lr=0.1, radius=0.4, stage2_wd=0.0)
    norms = row_norms(found.network.classifier.weight)
    assert norms.max() <= 0.4 * (1 + 1e-5)
    assert found.radius == 0.4
    assert found.clipped_fraction == (norms >= 0.4 * (1 - 1e-5)).float().mean().item() > 0
    free = balanced_head(FEATURES, LABELS, epochs=5, lr=0.1, maxnorm=None)
    assert free.radius is free.clipped_fraction is None
    unit = balanced_head(FEATURES, LABELS, epochs=2, unit_norm=True)
    torch.testing.assert_close(row_norms(unit.network.classifier.weight), torch.ones(3))


def test_features_of_any_size_are_standardised_in_float64():
    """A shift of 1e7 leaves float32 no digits: standardised, they are the features of before."""
    far = FEATURES.double() * 1e-3 + 1e7
    one = balanced_head(FEATURES.double(), LABELS, epochs=3)
    other = balanced_head(far, LABELS, epochs=3)
    torch.testing.assert_close(
        one.network.classifier.weight, other.network.classifier.weight, rtol=1e-3, atol=1e-4
    )


def test_the_same_seed_gives_the_same_bits_and_leaves_the_callers_numbers_alone():
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    first = balanced_head(FEATURES, LABELS, epochs=2, seed=1).network.classifier.weight
    assert torch.equal(torch.rand(4), expected)
    again = balanced_head(FEATURES, LABELS, epochs=2, seed=1).network.classifier.weight
    other = balanced_head(FEATURES, LABELS, epochs=2, seed=2).network.classifier.weight
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_it_trains_as_long_as_2000_steps_take_unless_that_is_said(monkeypatch):
    """56 rows are one batch of 64; 100 epochs are the most; 1,000 steps of 2 rows are 36."""
    seen = []
    monkeypatch.setattr(probe, "_train", lambda config, *_: (seen.append(config.epochs), (0, 0))[1])
    monkeypatch.setattr(probe, "STEPS", 1000)
    for options in ({}, {"batch_size": 2}, {"epochs": 7}, {"stage2_epochs": 0}):
        balanced_head(FEATURES, LABELS, **options)
    assert seen == [100, 50, 36, 18, 7, 3, 100]


def test_without_stage2_it_is_plain_training():
    found = balanced_head(FEATURES, LABELS, epochs=2, stage2_epochs=0)
    assert found.radius is None
    longer = balanced_head(FEATURES, LABELS, epochs=2)
    assert not torch.equal(found.network.classifier.weight, longer.network.classifier.weight)


def test_a_temperature_is_fitted_on_rows_that_do_not_train():
    """A tenth of each class, rounded up: 4, 2 and 1 rows of 40, 12 and 4."""
    noisy = FEATURES.clone()
    noisy[::3] = torch.randn(19, 6, generator=torch.Generator().manual_seed(1))
    found = balanced_head(noisy, LABELS, epochs=20, lr=0.1, calibrate=True)
    assert found.class_counts == [36, 10, 3]
    assert found.temperature is None or found.temperature > 0
    assert balanced_head(noisy, LABELS, epochs=1).temperature is None


@pytest.mark.parametrize(
    ("features", "labels", "options", "reason"),
    [
        (FEATURES[0], LABELS, {}, r"features: expected numbers \[N, D\], got torch.float32 \[6\]"),
        (FEATURES, LABELS[1:], {}, "labels: expected 56 whole numbers, one for each row"),
        (FEATURES, LABELS.float(), {}, "labels: expected 56 whole numbers"),
        (FEATURES / 0, LABELS, {}, "features are nan or infinite"),
        (FEATURES, LABELS + 1, {}, "labels: expected each number from 0 to 3, got 1, 2, 3"),
        (FEATURES, LABELS * 2, {}, "labels: expected each number from 0 to 4, got 0, 2, 4"),
        (FEATURES, LABELS, {"num_classes": 4}, "expected each number from 0 to 3, got 0, 1, 2"),
        (FEATURES, LABELS * 0, {}, "labels: expected each number from 0 to 1, got 0"),
        (FEATURES, LABELS, {"wd": -1.0}, "--wd must be a finite number at least 0, got -1"),
        (FEATURES, LABELS, {"maxnorm": 2.0}, "--maxnorm must be a finite number at least 0"),
        (FEATURES, LABELS, {"normalise": "max"}, "--normalise must be one of none, l2, standard"),
        (FEATURES, LABELS, {"loss": "hinge"}, "--loss must be one of ce, cb"),
        (FEATURES, LABELS, {"device": "tpu"}, "tpu"),
    ],
)
def test_mistakes_are_refused(features, labels, options, reason):
    with pytest.raises(ValueError, match=reason):
        balanced_head(features, labels, **{"epochs": 1} | options)
