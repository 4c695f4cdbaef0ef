"""The adjustments that need no training, against numbers worked out by hand."""

import copy
import re

import pytest
import torch
from torch import nn

from wbcli.methods.adjustments import ADJUSTMENTS, adjust
from wbcli.methods.nearest_mean import class_means
from wbcli.models.assembled import followed
from wbcli.models.classifiers import ETF, Cosine, Normalised
from wbcli.models.linear import Linear, linear_of
from wbcli.models.networks import Network

COUNTS = [100, 10, 1]
Z = [2.0, 1.0, 0.5]  # of the feature 1, in a network of one feature


def close(actual, expected, atol=1e-5):
    expected = torch.as_tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(actual.double(), expected, atol=atol, rtol=0)


def network_of(weight, bias=None) -> Network:
    """A network whose features are its images, in float64."""
    weight = torch.tensor(weight, dtype=torch.float64)
    network = Network(nn.Identity(), weight.shape[1], len(weight))
    network.classifier = linear_of(weight, None if bias is None else weight.new_tensor(bias))
    return network


def scores(name, z, **options):
    """Of an image whose logits are z, half of each from the bias."""
    half = [value / 2 for value in z]
    adjusted = adjust(name, network_of([[value] for value in half], half), COUNTS, **options)
    return adjusted(torch.ones(1, 1, dtype=torch.float64))[0]


@pytest.mark.parametrize(
    ("tau", "expected"),
    [(1, (2.104360, 3.406945, 5.209530)), (0.5, (2.052180, 2.203473, 2.854765)), (0, Z)],
)
def test_logit_adjustment_by_hand(tau, expected):
    close(scores("logit-adjustment", Z, tau=tau), expected)


def test_logit_adjustment_has_no_epsilon():
    """τ = 2 and π = 2/437513: −2·log π = 24.591429, which 1e-12 inside the logarithm would bend."""
    adjusted = adjust("logit-adjustment", network_of([[0.0], [0.0]]), [437511, 2], tau=2)
    close(adjusted(torch.ones(1, 1, dtype=torch.float64))[0, 1], 24.591429)


@pytest.mark.parametrize(
    ("z", "expected"),
    [
        (Z, (2.140375, 4.780353, 10.676525)),
        ([2.0, 1, -0.5], (2.140375, 4.780353, -10.676525)),
    ],
)
def test_multiplicative_adjustment_by_hand(z, expected):
    """The bias is scaled, too, and 0.65 is the default."""
    close(scores("mla", z, tau=0.65), expected)
    close(scores("mla", z), expected)


def test_a_negative_score_of_a_rare_class_tells_the_two_adjustments_apart():
    z = [2.0, 1, -0.5]
    additive = scores("logit-adjustment", z)
    close(additive, (2.104360, 3.406945, 4.209530))
    assert (additive.argmax(), scores("mla", z).argmax()) == (2, 1)


def test_multiplicative_adjustment_at_an_imbalance_of_100():
    """The last class is scaled 100^0.65 = 19.95 times as much as the first."""
    weight = network_of([[1.0], [1.0]])
    found = adjust("mla", weight, [500, 5], tau=0.65)(torch.ones(1, 1, dtype=torch.float64))[0]
    close(found[1] / found[0], 19.952623)


@pytest.mark.parametrize(
    ("tau", "expected"),
    [
        (0, (7, 1, 0.5)),
        (0.5, (3.130495, 1, 0.707107)),
        (1, (1.4, 1, 1)),
        (2, (0.28, 1, 2)),
    ],
)
def test_tau_normalisation_by_hand(tau, expected):
    """The bias stays as it is."""
    network = network_of([[3, 4], [1, 0], [0, 0.5]], [0.1, -0.2, 0.3])
    h = torch.ones(1, 2, dtype=torch.float64)
    expected = torch.tensor([expected], dtype=torch.float64) + network.classifier.bias.detach()
    close(adjust("tau", network, COUNTS, tau=tau)(h), expected)


def test_l2_is_tau_1():
    network = network_of([[3, 4], [1, 0], [0, 0.5]])
    close(adjust("l2", network, COUNTS).weight, [(0.6, 0.8), (1, 0), (0, 1)], 1e-12)
    close(adjust("tau", network, COUNTS).weight, [(0.6, 0.8), (1, 0), (0, 1)], 1e-12)


def test_a_row_of_length_0_stays_and_is_told(capsys):
    adjusted = adjust("tau", network_of([[0, 0], [3, 4]], [0.25, 0]), [2, 1])
    close(adjusted.weight, [(0, 0), (0.6, 0.8)], 1e-12)
    assert capsys.readouterr().err == (
        "Warning: 1 row of the classifier has a length of 0 and stays 0: only the bias scores "
        "there\n"
    )


def test_tau_on_rows_of_length_1_says_that_it_changes_nothing(capsys):
    network = network_of([[1.0, 0], [0, 1]])
    network.classifier = Cosine(2, 2)
    features = torch.randn(4, 2)
    found = adjust("tau", network, [2, 1], tau=2)(features)
    close(found, network.classifier(features).detach(), 1e-4)
    assert capsys.readouterr().err == (
        "Warning: every row of the classifier has length 1 already: tau changes nothing\n"
    )


FEATURES = torch.tensor([[2.0, 0], [4, 0], [0, 2]], dtype=torch.float64)
LABELS = torch.tensor([0, 0, 1])
QUERY = torch.tensor([[1.0, 1]], dtype=torch.float64)


@pytest.mark.parametrize(
    ("variant", "expected"),
    [
        ("cl2n", (-2.974342, -0.070472)),
        ("l2n", (-0.585786, -0.585786)),
        ("un", (-5, -2)),
    ],
)
def test_nearest_mean_by_hand(variant, expected):
    options = {"features": FEATURES, "labels": LABELS, "variant": variant}
    found = adjust("ncm", network_of([[0.0, 0], [0, 0]]), [2, 1], **options)
    close(found(QUERY), [expected])
    means, centre, _ = class_means(FEATURES, LABELS, 2, variant)
    options = {"means": means, "variant": variant}
    if variant == "cl2n":
        options["centre"] = centre
    close(adjust("ncm", network_of([[0.0, 0], [0, 0]]), [2, 1], **options)(QUERY), [expected])


def test_means_of_centred_directions_by_hand():
    """Not of length 1 again; cl2n is the default."""
    means, centre, present = class_means(FEATURES, LABELS, 3)
    close(centre, (2, 0.666667))
    close(means, [(0.474342, -0.658114), (-0.832050, 0.554700), (0, 0)])
    assert present.tolist() == [True, True, False]


def test_sums_of_features_are_float64():
    """In float32, 2²⁴ + 1 is 2²⁴, so that ones added to it would be lost."""
    features = torch.cat([torch.tensor([[2.0**24]]), torch.ones(9_999, 1)])
    means, _, _ = class_means(features, torch.zeros(10_000, dtype=torch.int64), 1, "un")
    assert means.item() == (2**24 + 9_999) / 10_000


def test_a_class_without_images_is_never_nearest():
    network = network_of([[0.0, 0]] * 3)
    found = adjust("ncm", network, [2, 1, 0], features=FEATURES, labels=LABELS)(QUERY)
    close(found, [(-2.974342, -0.070472, -102.974342)])


def test_features_of_length_0_have_finite_scores():
    features = torch.zeros(3, 2, dtype=torch.float64)
    for variant in ("cl2n", "l2n", "un"):
        options = {"features": features, "labels": LABELS, "variant": variant}
        found = adjust("ncm", network_of([[0.0, 0], [0, 0]]), [2, 1], **options)
        close(found(features), torch.zeros(3, 2))


def deconfound() -> Network:
    network = network_of([[0.0] * 4] * 2)
    head = network.classifier = Normalised(4, 2).double()
    head.weight.data = torch.tensor([[1.0, 0, 0, 1], [0, 2, 1, 0]], dtype=torch.float64)
    head.feature_mean.copy_(torch.tensor([1.0, 0, 0, 5]))
    return network


@pytest.mark.parametrize(
    ("alpha", "expected"), [(0, (12.412121, 6.301538)), (1.5, (-6.206061, 6.301538))]
)
def test_tde_by_hand(alpha, expected):
    h = torch.tensor([[3.0, 4, 0, 2]], dtype=torch.float64)
    network = deconfound()
    close(adjust("tde", network, [2, 1], alpha=alpha)(h), [expected])
    assert network.classifier.alpha == 0


OPTIONS = {"ncm": {"features": torch.randn(9, 4), "labels": torch.arange(9) % 3}}


def trained(name: str, head=Linear, seed: int = 0) -> Network:
    torch.manual_seed(seed)
    network = Network(nn.Identity(), 4, 3)
    network.classifier = (Normalised if name == "tde" else head)(4, 3)
    if name == "tde":
        network.classifier.feature_mean.copy_(torch.randn(4))
    return network


@pytest.mark.parametrize("name", ADJUSTMENTS)
def test_an_adjusted_classifier_is_a_classifier(name):
    network = trained(name)
    before = copy.deepcopy(network.state_dict())
    adjusted = adjust(name, network, COUNTS, **OPTIONS.get(name, {}))
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())
    assert not adjusted.training
    assert not any(parameter.requires_grad for parameter in adjusted.parameters())
    assert adjusted.num_classes == 3
    assert (adjusted.row_norms() is None) == (name == "ncm")
    features = torch.randn(5, 4)
    feature_map, layer = adjusted.linear()
    torch.testing.assert_close(layer(feature_map(features)), adjusted(features))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(adjusted(features.bfloat16().float()), adjusted(features.bfloat16()))


@pytest.mark.parametrize("head", [Linear, Cosine, ETF])
@pytest.mark.parametrize("name", ADJUSTMENTS)
def test_its_numbers_are_loaded_into_what_the_step_makes(name, head):
    options = OPTIONS.get(name, {})
    adjusted = adjust(name, trained(name, head), COUNTS, **options)
    steps = {"variant": "cl2n"} if name == "ncm" else {}
    again = followed(trained(name, head, seed=1).classifier, name, 4, **steps).eval()
    again.load_state_dict(adjusted.state_dict())
    features = torch.randn(5, 4)
    assert torch.equal(again(features), adjusted(features))


def test_a_linear_layer_stays_one_so_that_older_readers_load_it():
    for name in ("tau", "l2", "logit-adjustment", "mla"):
        assert list(adjust(name, trained(name), COUNTS).state_dict()) == ["weight", "bias"]


@pytest.mark.parametrize("head", [Cosine, ETF])
def test_a_cosine_or_fixed_classifier_is_adjusted_by_its_scores(head):
    network, features = trained("mla", head), torch.randn(5, 4)
    z = network.classifier(features).detach().double()
    prior = torch.tensor(COUNTS, dtype=torch.float64) / 111
    close(adjust("logit-adjustment", network, COUNTS)(features), z - prior.log(), 1e-5)
    expected = z * prior**-0.65
    torch.testing.assert_close(
        adjust("mla", network, COUNTS)(features).double(), expected, rtol=1e-5, atol=1e-4
    )


def test_any_module_with_a_linear_classifier_is_a_network():
    network = nn.Module()
    network.classifier = nn.Linear(1, 3, bias=False)
    network.classifier.weight.data = torch.tensor([[2.0], [1], [0.5]])
    close(adjust("mla", network, COUNTS)(torch.ones(1, 1)), [(2.140375, 4.780353, 10.676525)])
    assert torch.equal(network.classifier.weight.data, torch.tensor([[2.0], [1], [0.5]]))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "temperature",
            {},
            "unknown adjustment 'temperature': choose one of tau, l2, logit-adjustment, mla, ncm, "
            "tde",
        ),
        ("mla", {"alpha": 1}, "mla has no option alpha: it has tau"),
        ("l2", {"tau": 1}, "l2 has no option tau: it has none"),
        ("mla", {"tau": -1}, "tau must be a finite number of at least 0, got -1"),
        ("tau", {"tau": "1"}, "tau must be a finite number of at least 0, got 1"),
        (
            "mla",
            {"tau": 1e3},
            "tau 1000 takes the classifier beyond torch.float32, or it was not finite before: take "
            "a smaller tau",
        ),
        (
            "ncm",
            {},
            "ncm needs features= and labels= of the training images, or means= of their classes "
            "(with centre= for cl2n, and only there)",
        ),
        ("ncm", {"variant": "l2"}, "variant must be one of cl2n, l2n, un, got 'l2'"),
        (
            "ncm",
            {"features": torch.zeros(2, 4), "labels": torch.tensor([0, 3])},
            "labels must be in [0, 3), got 0 to 3",
        ),
        (
            "ncm",
            {"features": torch.zeros(2, 4), "labels": torch.tensor([0])},
            "expected features [N, D] and labels [N], got [2, 4] and [1]",
        ),
        (
            "ncm",
            {"features": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)},
            "ncm needs at least one training image",
        ),
        (
            "ncm",
            {"features": torch.full((1, 4), torch.nan), "labels": torch.tensor([0])},
            "ncm needs finite features: the mean of a class is NaN or infinite",
        ),
    ],
)
def test_mistakes_are_one_clear_line(name, options, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        adjust(name, trained(name), COUNTS, **options)


@pytest.mark.parametrize("name", ["logit-adjustment", "mla"])
def test_a_class_without_images_is_refused_where_its_prior_counts(name):
    message = (
        f"{name} needs training images of every class, and 1 class has none (the first is class "
        "2), so that log π is infinite: leave them out, or take tau, l2 or ncm"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        adjust(name, trained(name), [100, 10, 0])


@pytest.mark.parametrize(
    ("counts", "got"), [([1, 2], "[1.0, 2.0]"), ([1, 2, -1], "[1.0, 2.0, -1.0]")]
)
def test_counts_of_other_classes_are_refused(counts, got):
    message = f"class_counts must be 3 numbers of at least 0, one for each class, got {got}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        adjust("tau", trained("tau"), counts)


def test_tde_needs_a_classifier_that_was_trained_for_it():
    message = (
        "tde needs a network with the normalised classifier, which --method deconfound trains, got "
        "one of the class Linear"
    )
    with pytest.raises(ValueError, match=f"^{message}$"):
        adjust("tde", trained("mla"), COUNTS)
    network = trained("tde")
    network.classifier.feature_mean.zero_()
    message = "tde needs a mean of features, and this classifier has not trained yet"
    with pytest.raises(ValueError, match=f"^{message}$"):
        adjust("tde", network, COUNTS)
