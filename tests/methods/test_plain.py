"""Methods that are a loss, and what comes late in their training."""

import pytest
import torch
from torch import nn

from wbcli.config.resolve import resolve_stage1
from wbcli.methods import Batch, make
from wbcli.models.classifiers import Cosine
from wbcli.models.networks import Network

COUNTS = [500, 50, 5]
WEIGHTS = [0.027690, 0.270763, 2.701547]  # of β = 0.9999
LOGITS = torch.tensor([[2, 1, 0.5], [2, 1, 0.5]])  # stand for images


def identity() -> Network:
    """Logits are the images."""
    network = Network(nn.Identity(), 3, 3)
    nn.init.eye_(network.classifier.weight)
    nn.init.zeros_(network.classifier.bias)
    return network


def test_deferred_weights_begin_at_epoch_160_of_200_and_divide_by_their_sum():
    """y = (0, 2): the weighted mean is 1.949150; over B, as in class-balanced CE, 2.659847."""
    batch = Batch(LOGITS, torch.tensor([0, 2]))
    method = make("ce", identity(), COUNTS, epochs=200, defer="drw")
    plain = make("ce", identity(), COUNTS, epochs=200).loss(batch)
    for epoch in (0, 159):
        method.start_epoch(epoch)
        assert method.class_weights.tolist() == [1, 1, 1]
        torch.testing.assert_close(method.loss(batch), plain, rtol=0, atol=0)
    buffer = method.class_weights
    for epoch in (160, 199):
        method.start_epoch(epoch)
        assert method.class_weights is buffer, "filled in place: a captured graph reads it"
        assert buffer.tolist() == pytest.approx(WEIGHTS, abs=1e-6)
        assert method.loss(batch).item() == pytest.approx(1.949150, abs=1e-6)
    over_images = make("cb", identity(), COUNTS, epochs=200).loss(batch)
    assert over_images.item() == pytest.approx(2.659847, abs=1e-6)
    method.start_epoch(0)  # a pure function of the epoch
    assert buffer.tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("share", "epochs", "late"), [(0.8, 200, 160), (0.5, 3, 1), (0, 7, 0), (0.7, 10, 7)]
)
def test_deferred_sampling_begins_after_a_share_of_the_epochs(share, epochs, late):
    method = make("focal", identity(), COUNTS, epochs=epochs, defer="drs", defer_from=share)
    found = [method.streams(epoch) for epoch in range(epochs)]
    assert found == late * [("instance",)] + (epochs - late) * [("balanced",)]
    assert method.weigh(Batch(LOGITS, torch.tensor([0, 2]))).tolist() == [1, 1]


def test_ldam_drw_is_ldam_with_deferred_weights():
    networks = [Network(nn.Identity(), 3, 3, heads=(("cosine", {}),)) for _ in range(2)]
    networks[1].load_state_dict(networks[0].state_dict())
    batch = Batch(LOGITS, torch.tensor([0, 2]))
    options = {"epochs": 10, "max_margin": 0.3, "beta": 0.9}
    methods = (
        make("ldam-drw", networks[0], COUNTS, **options),
        make("ldam", networks[1], COUNTS, defer="drw", **options),
    )
    found = []
    for epoch in (7, 8):
        for method in methods:
            method.start_epoch(epoch)
        losses = [method.loss(batch).item() for method in methods]
        assert losses[0] == losses[1]
        found.append(losses[0])
    assert found[0] != found[1]


def test_ldam_has_a_cosine_classifier_and_no_other():
    network = identity()
    make("ldam", network, COUNTS, scale=16.0)
    assert isinstance(network.classifier, Cosine) and network.classifier.scale == 16
    with pytest.raises(ValueError, match=r"^--head linear: the method ldam needs cosine$"):
        make("ldam", identity(), COUNTS, head="linear")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("ce", {"defer": "late"}, "--defer must be one of drw, drs, got 'late'"),
        ("ce", {"defer_from": 1.0}, "--defer-from must be a finite number at least 0 and below 1"),
        ("ldam-drw", {"defer": "drs"}, "--defer: the method ldam-drw does not have it"),
        ("ldam", {"max_margin": -1}, "--max-margin must be a finite number at least 0"),
        ("logit-adjustment", {"tau": -1}, "--tau must be a finite number at least 0"),
        ("balanced-softmax", {"tau": 1}, "--tau: the method balanced-softmax does not have it"),
        ("focal", {"gamma": -1}, "--gamma must be a finite number at least 0"),
    ],
)
def test_options_that_a_method_cannot_have_are_refused(name, options, message):
    with pytest.raises(ValueError) as error:
        make(name, identity(), COUNTS, **options)
    assert str(error.value).startswith(message)


def settings(**options):
    return resolve_stage1({"dataset": "digitslt", "data_dir": "data"} | options)


def test_what_is_deferred_is_a_setting_of_the_run():
    drw = settings(method="ldam-drw")
    assert (drw.defer, drw.defer_from, drw.loss) == ("drw", 0.8, None)
    assert drw.method_options == {"max_margin": 0.5, "scale": 30.0}
    assert drw.heads == (("cosine", {"scale": 30.0}),)
    drs = settings(method="ce", defer="drs", defer_from=0.5)
    assert drs.options() == {"beta": 0.9999, "defer": "drs", "defer_from": 0.5}
    assert settings(method="logit-adjustment").tau == 1.0
    assert settings(method="logit-adjustment", tau=0.5).options()["tau"] == 0.5
    with pytest.raises(ValueError, match=r"^--defer-from: nothing is deferred without --defer drw"):
        settings(method="ce", defer_from=0.5)
    with pytest.raises(ValueError, match=r"^--tau: the method ce does not have it"):
        settings(method="ce", tau=1.0)


@pytest.mark.parametrize("constraint", [{"radius": 1.0}, {"unit_norm": True}])
@pytest.mark.parametrize("options", [{"head": "cosine"}, {"method": "ldam"}, {"head": "etf"}])
def test_a_constraint_on_rows_whose_lengths_do_not_count_is_refused(options, constraint):
    with pytest.raises(ValueError, match=r"^--(radius|unit-norm): the logits of a classifier"):
        settings(**options, **constraint)


def test_what_corrects_for_the_class_frequencies():
    held = {"cb", "cb-bce", "cb-focal", "balanced-softmax", "logit-adjustment", "ldam"}
    for method in ("ce", "focal", *held):
        expected = [f"the loss {method}"] if method in held else []
        assert settings(method=method).corrections() == expected
    assert settings(method="ldam-drw").corrections() == ["--defer drw", "the loss ldam-drw"]
    assert settings(method="ce", defer="drs").corrections() == ["--defer drs"]
    assert settings(method="ce", sampling="balanced").corrections() == ["the sampling balanced"]


@pytest.mark.parametrize(
    ("twice", "options"),
    [
        (False, {"method": "ce", "defer": "drw"}),
        (False, {"method": "cb"}),
        (False, {"method": "ldam-drw"}),
        (False, {"method": "ldam", "defer": "drs"}),
        (True, {"method": "ldam-drw", "sampling": "balanced"}),
        (True, {"method": "ldam", "sampling": "sqrt"}),
        (True, {"method": "cb", "defer": "drw"}),
        (True, {"method": "cb", "sampling": "balanced"}),
        (True, {"method": "ce", "defer": "drw", "sampling": "balanced"}),
    ],
)
def test_which_settings_correct_for_them_twice(twice, options):
    assert settings(**options).corrects_twice() == twice
