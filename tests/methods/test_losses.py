"""Losses against numbers worked out by hand."""

import math

import pytest
import torch

from wbcli.config import settings
from wbcli.methods.losses import LOSSES, class_balanced_weights, statistic_of, terms_of

# Two images, two classes. Softmax: (0.8, 0.2) and (0.25, 0.75); labels 0 and 0.
LOGITS = torch.tensor([[math.log(4), 0.0], [0.0, math.log(3)]])
LABELS = torch.tensor([0, 0])
WEIGHTS = torch.tensor([1.5, 0.5])
P = (0.8, 0.25)  # probability of the right class

BY_HAND = {
    "ce": -(math.log(P[0]) + math.log(P[1])) / 2,
    "cb": -1.5 * (math.log(P[0]) + math.log(P[1])) / 2,
    # BCE of both classes: -log p_y - log(1 - p_other), and 1 - p_other = p_y for K = 2
    "cb-bce": -1.5 * 2 * (math.log(P[0]) + math.log(P[1])) / (2 * 2),
    "focal": -(0.2**2 * math.log(P[0]) + 0.75**2 * math.log(P[1])) / 2,
    "cb-focal": -1.5 * (0.2**2 * math.log(P[0]) + 0.75**2 * math.log(P[1])) / 2,
    # z + (1.5, 0.5): odds of the right class 4·e and e/3
    "balanced-softmax": (math.log1p(1 / (4 * math.e)) + math.log1p(3 / math.e)) / 2,
    "logit-adjustment": (math.log1p(1 / (4 * math.e)) + math.log1p(3 / math.e)) / 2,
    # z_y − 1.5: odds 4·e^−1.5 and e^−1.5/3
    "ldam": (math.log1p(math.exp(1.5) / 4) + math.log1p(3 * math.exp(1.5))) / 2,
}


def test_the_settings_name_losses_that_there_are():
    assert set(settings.LOSSES) <= set(LOSSES)


def sheet(name, counts, logits, label, **options):
    """The loss of one image in float64."""
    logits = torch.tensor([logits], dtype=torch.float64)
    per_class = statistic_of(name, counts, options)
    return terms_of(name, options)(logits, torch.tensor([label]), per_class).item()


@pytest.mark.parametrize(("label", "expected"), [(0, 0.038277), (2, 6.143447)])
@pytest.mark.parametrize("name", ["balanced-softmax", "logit-adjustment"])
def test_balanced_softmax_is_logit_adjustment_with_tau_1(name, label, expected):
    """n = (100, 10, 1), z = (2, 1, .5)."""
    found = sheet(name, [100, 10, 1], [2, 1, 0.5], label)
    assert found == pytest.approx(expected, abs=1e-6)


def test_tau_0_is_cross_entropy_and_no_epsilon_bends_a_rare_class():
    """n = 2 of 437,513 images, τ = 2: π² is 2e-11, and log π² stays 2·log π."""
    plain = math.log(1 + math.exp(-1) + math.exp(-1.5))
    assert sheet("logit-adjustment", [100, 10, 1], [2, 1, 0.5], 0, tau=0) == pytest.approx(plain)
    prior = statistic_of("logit-adjustment", [437_511, 2], {"tau": 2.0})
    assert prior[1].item() == pytest.approx(2 * math.log(2 / 437_513), rel=1e-12)


def test_margins_by_hand():
    """n = (500, 50, 5): Δ = (.158114, .281171, .5), times s = 30; an empty class has none."""
    found = statistic_of("ldam", [500, 50, 5], {})
    assert (found / 30).tolist() == pytest.approx([0.158114, 0.281171, 0.5], abs=1e-6)
    found = statistic_of("ldam", [500, 0, 5], {"max_margin": 0.3, "scale": 10.0})
    assert found.tolist() == pytest.approx([3 * 0.01**0.25, 0, 3], abs=1e-6)


@pytest.mark.parametrize(
    ("label", "expected", "without"), [(0, 1.946120, 0.050946), (2, 21.048588, 6.050946)]
)
def test_ldam_by_hand(label, expected, without):
    """c = (.6, .5, .4), s = 30, n = (500, 50, 5)."""
    logits = [18.0, 15.0, 12.0]
    assert sheet("ldam", [500, 50, 5], logits, label) == pytest.approx(expected, abs=1e-6)
    found = sheet("ldam", [500, 50, 5], logits, label, max_margin=0.0)
    assert found == pytest.approx(without, abs=1e-6)


@pytest.mark.parametrize(("gamma", "expected"), [(1.0, 1.688877), (2.0, 1.452022)])
def test_gamma_is_an_option_of_the_focal_losses(gamma, expected):
    found = sheet("focal", [1, 1, 1], [2, 1, 0.5], 2, gamma=gamma)
    assert found == pytest.approx(expected, abs=1e-6)
    counts = [500, 50, 5]
    weight = class_balanced_weights(counts)[2].item()
    found = sheet("cb-focal", counts, [2, 1, 0.5], 2, gamma=gamma)
    assert found == pytest.approx(weight * expected, abs=1e-5)


def test_class_balanced_weights_multiply_and_do_not_modulate():
    """w = 2, γ = 1: 2·(1 − p)·CE = 3.377754; within the exponent it would be 3.851465."""
    logits, weights = torch.tensor([[2, 1, 0.5]]), torch.full((3,), 2.0)
    found = terms_of("cb-focal", {"gamma": 1.0})(logits, torch.tensor([2]), weights)
    assert found.item() == pytest.approx(3.377754, abs=1e-5)


def test_the_released_loss_by_hand():
    """z = (2, 1, .5), y = 2: 3.217616 over the classes, over K 1.072539."""
    found = LOSSES["cb-bce"].terms(torch.tensor([[2, 1, 0.5]]), torch.tensor([2]), torch.ones(3))
    assert found.item() == pytest.approx(1.072539, abs=1e-5)


@pytest.mark.parametrize(
    ("beta", "expected"),
    [(0.9999, [0.027690, 0.270763, 2.701547]), (0.9, [0.674593, 0.678088, 1.647318])],
)
def test_weights_of_the_sheet(beta, expected):
    assert class_balanced_weights([500, 50, 5], beta).tolist() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_many_heads_have_the_losses_that_each_has_alone(name):
    logits = torch.stack([LOGITS, 3 * LOGITS], 2)
    per_class = torch.tensor([[1.5, 0.25], [0.5, 2.0]])
    both = LOSSES[name].terms(logits, torch.tensor([0, 1]), per_class)
    for i in range(2):
        alone = LOSSES[name].terms(logits[..., i], torch.tensor([0, 1]), per_class[:, i])
        torch.testing.assert_close(both[:, i], alone)


@pytest.mark.parametrize("name", ["balanced-softmax", "logit-adjustment"])
def test_a_prior_of_a_class_without_images_is_refused(name):
    with pytest.raises(ValueError) as error:
        statistic_of(name, [3, 0, 0], {})
    assert str(error.value) == (
        "a loss with log π needs training images of every class, and 2 classes have none (the "
        "first is class 1), so that log π is infinite: leave them out, or take another method"
    )


@pytest.mark.parametrize("name", LOSSES)
def test_losses_by_hand(name):
    terms = LOSSES[name].terms(LOGITS, LABELS, WEIGHTS)
    assert terms.shape == (2,)
    assert terms.mean().item() == pytest.approx(BY_HAND[name], rel=1e-6)


@pytest.mark.parametrize("name", ["cb", "cb-bce", "cb-focal"])
def test_an_image_weighs_as_its_own_class(name):
    labels = torch.tensor([0, 1])
    plain = LOSSES[name].terms(LOGITS, labels, torch.ones(2))
    torch.testing.assert_close(LOSSES[name].terms(LOGITS, labels, WEIGHTS), plain * WEIGHTS)


def test_bce_sums_every_class_over_k():
    """K = 3, p = (0.5, 0.3, 0.2), label 0: -(ln 0.5 + ln 0.7 + ln 0.8)/3."""
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.2]]))
    loss = LOSSES["cb-bce"].terms(logits, torch.tensor([0]), torch.ones(3))
    assert loss.item() == pytest.approx(-math.log(0.5 * 0.7 * 0.8) / 3)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_a_logit_that_is_not_finite_spoils_the_loss_and_its_own_head_only(name, broken):
    """Two heads [B, K, M], the second with a broken logit in its first image."""
    both = torch.stack([LOGITS, LOGITS], 2)
    both[0, 0, 1] = broken
    both.requires_grad_()
    loss = LOSSES[name].terms(both, LABELS, torch.full((2, 2), 1.5)).sum()
    loss.backward()
    assert loss.isnan()
    alone = LOGITS.clone().requires_grad_()
    LOSSES[name].terms(alone, LABELS, torch.full((2,), 1.5)).sum().backward()
    torch.testing.assert_close(both.grad[..., 0], alone.grad)
    assert both.grad[0, :, 1].isnan().any()


@pytest.mark.parametrize(("p", "ratio"), [(0.01, 99.0), (0.97, 50.8)])
def test_gradient_of_the_released_loss_is_k_over_one_plus_p_smaller(p, ratio):
    """K = 100, the other classes share 1 - p: the ratio at the label's logit is K/(1 + p)."""
    probabilities = torch.full((1, 100), (1 - p) / 99, dtype=torch.float64)
    probabilities[0, 0] = p
    gradients = []
    for name in ("cb", "cb-bce"):
        logits = probabilities.log().requires_grad_()
        weights = torch.ones(100, dtype=torch.float64)
        LOSSES[name].terms(logits, torch.tensor([0]), weights).sum().backward()
        gradients.append(logits.grad[0, 0].item())
    assert gradients[0] / gradients[1] == pytest.approx(ratio, rel=0.01)


def test_class_balanced_weights_by_hand():
    """β = 0.5: effective numbers 1, 1.5, 1.75, so v ∝ 1, 2/3, 4/7, rescaled to sum to 3."""
    total = 1 + 2 / 3 + 4 / 7
    expected = [3 / total, 2 / total, 12 / 7 / total]
    assert class_balanced_weights([1, 2, 3], beta=0.5).tolist() == pytest.approx(expected)


def test_beta_1_weighs_by_1_over_n():
    """1/2, 1/4 and none, rescaled to sum to the two classes: 4/3 and 2/3."""
    assert class_balanced_weights([2, 4, 0], beta=1).tolist() == pytest.approx([4 / 3, 2 / 3, 0])
    near = class_balanced_weights([2, 4, 0], beta=1 - 1e-9)
    assert near.tolist() == pytest.approx([4 / 3, 2 / 3, 0], rel=1e-6)


@pytest.mark.parametrize("gamma", [0.3, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("loss", ["focal", "cb-focal"])
def test_an_image_without_loss_has_no_gradient_in_a_focal_loss(loss, gamma):
    """The slope of (1 − p)^γ is infinite at p = 1 for γ < 1."""
    logits = torch.tensor([[200.0, 0.0, 0.0], [1.0, 0.5, 0.0]], requires_grad=True)
    terms = terms_of(loss, {"gamma": gamma})(logits, torch.tensor([0, 1]), torch.ones(3))
    terms.sum().backward()
    assert terms[0] == 0
    assert logits.grad[0].tolist() == [0.0, 0.0, 0.0]
    assert logits.grad[1].isfinite().all() and logits.grad[1].abs().sum() > 0


def test_beta_0_weighs_all_classes_alike():
    assert class_balanced_weights([1, 20, 300], beta=0).tolist() == [1.0, 1.0, 1.0]


def test_rare_classes_weigh_more_and_weights_sum_to_k():
    weights = class_balanced_weights([500, 50, 5])
    assert weights.sum().item() == pytest.approx(3)
    # 1/(1 - 0.9999^n) is 1/n to first order
    assert (weights[2] / weights[0]).item() == pytest.approx(100, rel=0.03)


def test_a_class_without_images_has_weight_0_and_changes_no_other():
    """β = 0.5, n = 1 and 2: v ∝ 1 and 2/3, rescaled to sum to the 2 classes: 6/5 and 4/5."""
    assert class_balanced_weights([3, 0, 3]).tolist() == pytest.approx([1, 0, 1])
    sparse = class_balanced_weights([0, 1, 0, 2] + 96 * [0], beta=0.5)
    assert sparse[:4].tolist() == pytest.approx([0, 1.2, 0, 0.8])
    assert sparse[4:].sum() == 0


@pytest.mark.parametrize(
    ("counts", "beta", "message"),
    [([1], 1.5, "beta must be in [0, 1], got 1.5"), ([0, 0], 0.9, "at least one training image")],
)
def test_weights_that_do_not_exist_are_refused(counts, beta, message):
    with pytest.raises(ValueError) as error:
        class_balanced_weights(counts, beta)
    assert message in str(error.value)
