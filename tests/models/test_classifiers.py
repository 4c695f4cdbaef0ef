"""Classifiers against numbers worked out by hand, and what all of them promise."""

import re

import pytest
import torch
from torch import nn

from wbcli.models import classifiers, networks
from wbcli.models.classifiers import ETF, HEADS, Cosine, DisAlign, Normalised, Scaled, make
from wbcli.models.feature_maps import Points, unit
from wbcli.models.linear import Linear, Mapped, NearestMean, joined, linear_form, linear_of

B, K, D = 5, 3, 4


def close(actual, expected, atol=1e-5):
    expected = torch.as_tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(actual.double(), expected, atol=atol, rtol=0)


def layer_of(weight, bias=None) -> Linear:
    weight = torch.tensor(weight, dtype=torch.float64)
    return linear_of(weight, None if bias is None else weight.new_tensor(bias))


def filled(head: str, seed: int = 0) -> nn.Module:
    """A classifier in evaluation mode whose every number is random."""
    torch.manual_seed(seed)
    if head == "nearest":
        classifier = NearestMean(D, K, normalised=True)
        classifier.set_means(torch.randn(K, D), torch.randn(D), torch.tensor([True, False, True]))
        return classifier.eval()
    if head == "mapped":
        feature_map, _ = filled("normalised", seed).linear()
        return Mapped(feature_map, filled("scaled", seed)).eval()
    classifier = make(head, D, K)
    for name, value in classifier.state_dict().items():
        if name != "feature_count" and head != "etf":
            value.copy_(torch.randn_like(value))
    return classifier.eval()


ALL = [*HEADS, "nearest", "mapped"]


def test_cosine_by_hand():
    """h = (3, 4), rows (1, 0), (0, −2), (3, 4): cosines 0.6, −0.8 and 1."""
    head = make("cosine", 2, 3, scale=30).double()
    head.weight.data = torch.tensor([[1.0, 0], [0, -2], [3, 4]], dtype=torch.float64)
    close(head(torch.tensor([[3.0, 4]], dtype=torch.float64)), [[18, -24, 30]], 1e-12)


def test_cosine_starts_with_rows_of_length_1():
    close(make("cosine", 7, 5).weight.norm(dim=1), torch.ones(5), 1e-6)


@pytest.mark.parametrize(("num_features", "num_classes"), [(3, 3), (5, 3), (100, 100)])
def test_etf_rows_have_length_1_one_angle_and_sum_0(num_features, num_classes):
    """K = 3: cosines of −1/2; K = 100: −1/99 = −0.010101."""
    head = make("etf", num_features, num_classes)
    gram = head.weight @ head.weight.T
    expected = torch.full((num_classes, num_classes), {3: -0.5, 100: -0.010101}[num_classes])
    close(gram, expected.fill_diagonal_(1), 1e-6)
    close(head.weight.sum(0), torch.zeros(num_features), 1e-6)


def test_etf_is_drawn_from_its_seed_alone():
    torch.manual_seed(0)
    first = make("etf", 6, 4, seed=3).weight
    assert torch.equal(first, make("etf", 6, 4, seed=3).weight)
    assert not torch.equal(first, make("etf", 6, 4, seed=4).weight)


def test_etf_trains_its_bias_alone_which_starts_within_one_over_d():
    head = make("etf", 50, 40)
    assert [name for name, _ in head.named_parameters()] == ["bias"]
    assert 0 < head.bias.abs().max() <= 1 / 50
    assert "weight" in head.state_dict()


@pytest.mark.parametrize(("num_features", "num_classes"), [(64, 100), (1, 1)])
def test_etf_without_enough_features_is_refused(num_features, num_classes):
    message = (
        "an etf classifier needs at least 2 classes and as many features as classes, got "
        f"{num_features} features and {num_classes} classes: take an --arch with more features, "
        "or another --head"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        make("etf", num_features, num_classes)


def deconfound(parts: int, alpha: float = 0) -> Normalised:
    head = Normalised(4, 2, parts=parts, alpha=alpha).double().eval()
    head.weight.data = torch.tensor([[1.0, 0, 0, 1], [0, 2, 1, 0]], dtype=torch.float64)
    head.feature_mean.copy_(torch.tensor([1.0, 0, 0, 5]))
    return head


@pytest.mark.parametrize(
    ("parts", "alpha", "logits"),
    [
        (2, 0, (12.412121, 6.301538)),
        (2, 1.5, (-6.206061, 6.301538)),
        (1, 0, (10.277414, 10.483313)),
        (1, 1.5, (1.027741, 10.483313)),
    ],
)
def test_normalised_by_hand(parts, alpha, logits):
    """h = (3, 4, 0, 2), scale 16, gamma 1/32, mean of features (1, 0, 0, 5)."""
    h = torch.tensor([[3.0, 4, 0, 2]], dtype=torch.float64)
    close(deconfound(parts, alpha)(h), [logits])


def test_normalised_trains_without_the_context():
    h = torch.tensor([[3.0, 4, 0, 2]], dtype=torch.float64)
    close(deconfound(2, 1.5).train()(h), [(12.412121, 6.301538)])


def test_the_mean_of_features_moves_once_a_step_however_the_batch_is_cut():
    """e = (1, 0, 0, 5)·0.9 + the mean of (3, 4, 0, 2), (1, 0, 0, 0) and (2, 2, 3, 1)."""
    h = torch.tensor([[3.0, 4, 0, 2], [1, 0, 0, 0], [2, 2, 3, 1]], dtype=torch.float64)
    for parts in ([h], [h[:2], h[2:]]):
        head = deconfound(2).train()
        for part in parts:
            head(part)
        head.update_mean()
        close(head.feature_mean, [2.9, 2, 1, 5.5], 1e-12)
    head.eval()(h)
    head.update_mean()  # nothing new
    close(head.feature_mean, [2.9, 2, 1, 5.5], 1e-12)


def test_what_is_not_in_the_mean_yet_counts_for_tde():
    h = torch.tensor([[3.0, 4, 0, 2], [1, 0, 0, 0]], dtype=torch.float64)
    pending, taken = deconfound(2, 1.5).train(), deconfound(2, 1.5).train()
    pending(h), taken(h)
    taken.update_mean()
    close(pending.eval()(h), taken.eval()(h), 1e-12)
    assert not torch.allclose(taken(h), deconfound(2, 1.5)(h))


def test_features_that_cannot_be_cut_into_parts_are_refused():
    with pytest.raises(ValueError, match=r"^5 features cannot be cut into 2 equal parts$"):
        make("normalised", 5, 3)


def test_scaled_by_hand():
    """W, h of τ-normalisation, b = (.1, −.2, .3), f = (.5, 1, 2): the bias is scaled, too."""
    base = layer_of([[3, 4], [1, 0], [0, 0.5]], [0.1, -0.2, 0.3])
    head = make("scaled", 2, 3, base=base)
    h = torch.ones(1, 2, dtype=torch.float64)
    close(head(h), base(h).detach(), 0)
    head.gain.data = torch.tensor([-0.5, 0, 1], dtype=torch.float64)
    close(head(h), [(3.55, 0.8, 1.6)], 1e-12)
    close(head.row_norms(), [2.5, 1, 1], 1e-12)
    assert [name for name, _ in head.named_parameters()] == ["gain"]


def test_disalign_by_hand():
    """z = (2, 1, .5), σ = .25, stretch = alpha − 1 with alpha = (.8, 1, 1.5)."""
    head = make("disalign", 3, 3, base=layer_of(torch.diag(torch.tensor([2, 1, 0.5])).tolist()))
    h = torch.ones(1, 3, dtype=torch.float64)
    close(head(h), [(2, 1, 0.5)], 0)  # it starts at the identity
    double = torch.float64
    head.confidence.data.zero_()
    head.confidence_bias.data = torch.log(torch.tensor([1 / 3], dtype=double))
    head.stretch.data = torch.tensor([-0.2, 0, 0.5], dtype=double)
    head.shift.data = torch.tensor([-0.1, 0, 0.4], dtype=double)
    close(head(h), [(1.875, 1, 0.6625)], 1e-6)
    head.stretch.data += 1  # the form of the authors' detection code, with scale = alpha
    close(head(h), [(2.375, 1.25, 0.7875)], 1e-6)


def test_disalign_is_not_saturated_on_a_wide_network():
    """2048 features of mean 0.4: σ = sigmoid(0.4) = 0.598688; v learns once the stretch has."""
    head = make("disalign", 2048, 2, base=linear_of(torch.zeros(2, 2048)))
    h = torch.full((1, 2048), 0.4)
    head.shift.data.fill_(1.0)
    close(head(h), [(0.598688, 0.598688)])
    head(h)[0, 0].backward()  # σ·(1 − σ)·h = 0.240261·0.4
    close(head.confidence.grad, torch.full((2048,), 0.096104), 1e-6)
    names = {name for name, _ in head.named_parameters()}
    assert names == {"stretch", "shift", "confidence", "confidence_bias"}


@pytest.mark.parametrize("head", ["scaled", "disalign"])
def test_what_is_kept_is_a_copy_of_the_right_shape(head):
    base = linear_of(torch.ones(3, 4))
    kept = make(head, 4, 3, base=base)
    base.weight.data.zero_()
    assert kept.weight.sum() == 12
    with pytest.raises(ValueError, match=r"^base has a weight of \[3, 4\], expected \[5, 4\]$"):
        make(head, 4, 5, base=base)


@pytest.mark.parametrize("head", ALL)
def test_the_linear_form_gives_the_same_logits(head):
    classifier = filled(head).double()
    if head == "normalised":
        classifier.alpha.fill_(1.5)
    feature_map, layer = classifier.linear()
    assert isinstance(layer, nn.Linear)
    features = torch.randn(B, D, dtype=torch.float64)
    torch.testing.assert_close(
        layer(feature_map(features)), classifier(features), atol=1e-12, rtol=1e-12
    )


@pytest.mark.parametrize("head", ALL)
def test_the_linear_form_is_new_and_draws_no_random_number(head):
    classifier = filled(head)
    before = {key: value.clone() for key, value in classifier.state_dict().items()}
    state = torch.get_rng_state()
    feature_map, layer = classifier.linear()
    assert torch.equal(torch.get_rng_state(), state)
    for tensor in [*feature_map.state_dict().values(), *layer.state_dict().values()]:
        tensor.fill_(7)
    assert all(torch.equal(classifier.state_dict()[key], value) for key, value in before.items())
    assert all(parameter.requires_grad for parameter in layer.parameters())
    assert layer.bias is not None


@pytest.mark.parametrize("head", ALL)
def test_logits_are_float32_within_autocast(head):
    """In bf16 they would differ by a few thousandths of the largest."""
    classifier, features = filled(head), torch.randn(B, D).bfloat16()
    expected = classifier(features.float())
    with torch.autocast("cpu", torch.bfloat16):
        found = classifier(features)
        feature_map, layer = classifier.linear()
        linear = layer(feature_map(features.float()))
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)
    close(linear, expected.detach(), 1e-4)


@pytest.mark.parametrize("head", ALL)
def test_the_state_of_one_gives_another_the_same_logits(head):
    first, second = filled(head, 0), filled(head, 1)
    features = torch.randn(B, D)
    assert not torch.equal(first(features), second(features))
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(features), second(features))


@pytest.mark.parametrize("head", ALL)
@pytest.mark.parametrize("zero", ["features", "rows"])
def test_features_and_rows_of_length_0_have_finite_logits_and_modest_gradients(head, zero):
    classifier = filled(head).train()
    features = torch.randn(B, D)
    if zero == "features":
        features[0] = 0
    for name, value in classifier.state_dict().items():
        if zero == "rows" and name.endswith("weight"):
            value[1] = 0
    features.requires_grad_()
    logits = classifier(features)
    assert logits.isfinite().all()
    logits.square().sum().backward()
    gradients = [features.grad, *[p.grad for p in classifier.parameters() if p.grad is not None]]
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert max(gradient.abs().max() for gradient in gradients) < 1e6


@pytest.mark.parametrize("head", ALL)
def test_the_number_of_classes_and_of_rows(head):
    classifier = filled(head)
    rows = 4 if head == "rotations" else K
    assert classifier.num_classes == rows
    norms = classifier.row_norms()
    assert (norms is None) == (head in ("cosine", "etf", "nearest"))
    if norms is not None:
        assert norms.shape == (rows,)
        assert not norms.requires_grad
    if head in ("linear", "scaled"):  # those of the layer that it is
        close(classifier.linear()[1].weight.norm(dim=1), norms.double(), 1e-6)


def test_row_lengths_do_not_count_where_there_are_no_row_norms():
    features = torch.randn(B, D)
    head = filled("cosine")
    before = head(features)
    head.weight.data *= torch.tensor([[2.0], [0.1], [7.0]])
    close(head(features), before.detach(), 1e-4)


def test_linear_is_what_networks_have_and_loads_their_state():
    network = networks.Network(nn.Identity(), D, K)
    head = make("linear", D, K)
    head.load_state_dict(network.classifier.state_dict())
    features = torch.randn(B, D)
    assert torch.equal(head(features), network(features))
    assert isinstance(head, nn.Linear)


def test_linear_starts_as_torch_starts_it():
    torch.manual_seed(0)
    head = make("linear", D, K)
    torch.manual_seed(0)
    assert torch.equal(head.weight, nn.Linear(D, K).weight)


def test_any_linear_layer_has_a_linear_form():
    theirs = nn.Linear(D, K, bias=False)
    feature_map, layer = linear_form(theirs)
    assert joined(feature_map, layer) is layer
    assert torch.equal(layer.weight, theirs.weight)
    assert torch.equal(layer.bias, torch.zeros(K))


@pytest.mark.parametrize("classifier", ["linear", "mapped"])
def test_a_classifier_on_a_map_and_its_gradients(classifier):
    head = filled(classifier)
    features = torch.randn(B, D, requires_grad=True)
    assert torch.autograd.gradcheck(head.double(), features.double(), fast_mode=True)


def test_classes_without_images_are_never_nearest():
    """Means (1, 0) and none: (0, 9) is at a squared distance of 82 from the first."""
    head = NearestMean(2, 3, normalised=False)
    means = torch.tensor([[torch.nan] * 2, [1, 0], [0, 1]], dtype=torch.float64)
    head.set_means(means, torch.zeros(2), torch.tensor([False, True, True]))
    close(head(torch.tensor([[0.0, 9]])), [(-182, -82, -64)], 1e-4)
    assert head(torch.tensor([[0.0, 9]])).softmax(1)[0, 0] == 0


def test_points_and_their_squared_lengths():
    points = Points(2, normalised=False)
    points.centre.copy_(torch.tensor([1.0, 1]))
    close(points(torch.tensor([[4.0, 5]])), [(3, 4, 25)], 0)
    points.normalised = True
    close(points(torch.tensor([[4.0, 5], [1, 1]])), [(0.6, 0.8, 1), (0, 0, 0)], 1e-7)


def test_unit_vectors():
    vectors = torch.tensor([[3.0, 4], [0, 0]], requires_grad=True)
    close(unit(vectors), [(0.6, 0.8), (0, 0)], 1e-7)
    unit(vectors).sum().backward()
    close(vectors.grad, [(0.032, -0.024), (1, 1)], 1e-6)  # (δ − v̂v̂ᵀ)/‖v‖ of the first


@pytest.mark.parametrize(
    ("head", "options", "message"),
    [
        (
            "cosin",
            {},
            "unknown head 'cosin': choose one of linear, cosine, etf, normalised, rotations, "
            "scaled, disalign",
        ),
        ("linear", {"scale": 2}, "linear has no option scale: it has none"),
        ("cosine", {"seed": 2}, "cosine has no option seed: it has scale"),
        ("etf", {"scale": 2}, "etf has no option scale: it has seed"),
        ("cosine", {"scale": 0}, "scale must be a finite number above 0, got 0"),
        ("normalised", {"gamma": -1}, "gamma must be a finite number above 0, got -1"),
    ],
)
def test_mistakes_are_one_clear_line(head, options, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        make(head, D, K, **options)


def test_names():
    made = {head: type(make(head, D, K)) for head in HEADS}
    assert made == {
        "linear": Linear,
        "cosine": Cosine,
        "etf": ETF,
        "normalised": Normalised,
        "rotations": classifiers.Rotations,
        "scaled": Scaled,
        "disalign": DisAlign,
    }
    assert classifiers.Linear is Linear
