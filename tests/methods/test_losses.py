"""Losses against numbers worked out by hand."""

import math

import pytest
import torch

from wbcli.config import settings
from wbcli.methods.losses import LOSSES, class_balanced_weights

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
}


def test_the_settings_name_the_losses_that_there_are():
    assert tuple(LOSSES) == settings.LOSSES


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
    [([1], 1.0, "beta must be in [0, 1), got 1.0"), ([0, 0], 0.9, "at least one training image")],
)
def test_weights_that_do_not_exist_are_refused(counts, beta, message):
    with pytest.raises(ValueError) as error:
        class_balanced_weights(counts, beta)
    assert message in str(error.value)
