"""Stage 2 beside weight balancing: what it starts from, what trains, and on which batches."""

import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from wbcli.config.resolve import resolve_stage1, resolve_stage2
from wbcli.methods import Batch, make
from wbcli.methods.disalign import generalised_weights
from wbcli.models.classifiers import make as make_head
from wbcli.models.kept import DisAlign, Scaled
from wbcli.models.linear import Linear, linear_of
from wbcli.models.networks import Network

COUNTS = [100, 10, 1]
NAMES = ("crt", "lws", "disalign")


def network_of(head: str = "linear") -> Network:
    """A backbone with a layer and a batch norm, features [B, 4], and a classifier of 3."""
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Flatten(), nn.Linear(6, 4), nn.BatchNorm1d(4), nn.ReLU())
    network = Network(backbone, 4, 3)
    network.classifier = make_head(head, 4, 3)
    return network


def batch_of(labels, seed: int = 1) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    return Batch(torch.randn(len(labels), 1, 2, 3, generator=generator), torch.tensor(labels))


def close(actual, expected, atol=1e-6):
    expected = torch.as_tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(actual.double(), expected, atol=atol, rtol=0)


@pytest.mark.parametrize(
    ("rho", "expected"),
    [(1.2, (0.011192, 0.177389, 2.811419)), (1, (0.027027, 0.270270, 2.702703)), (0, (1, 1, 1))],
)
def test_generalised_weights_by_hand(rho, expected):
    close(generalised_weights(COUNTS, rho), expected)


def test_a_class_without_images_has_no_weight_and_changes_no_other():
    """The mean is 1 over those that have images: 2 classes of n = 4, 1 with ρ = 1: 0.4 and 1.6."""
    close(generalised_weights([4, 0, 1], 1), (0.4, 0, 1.6))
    assert generalised_weights([10**6, 1], 100).isfinite().all()
    with pytest.raises(ValueError, match=r"^DisAlign's weights need at least one training image$"):
        generalised_weights([0, 0], 1)


def test_the_mean_of_disalign_divides_by_the_weights_of_the_batch():
    """Labels 0, 2, 2 of n = 100, 10, 1 and ρ = 1: weights 0.027027, 2.702703, 2.702703."""
    method = make("disalign", network_of(), COUNTS, rho=1.0)
    batch = batch_of([0, 2, 2])
    terms = F.cross_entropy(method.logits(batch.images), batch.labels, reduction="none")
    close(method.weigh(batch), (0.027027, 2.702703, 2.702703))
    expected = (terms[0] + 100 * terms[1] + 100 * terms[2]) / 201
    torch.testing.assert_close(method.loss(batch), expected)


@pytest.mark.parametrize("name", NAMES)
def test_the_loss_is_the_same_in_any_number_of_parts(name):
    method = make(name, network_of(), COUNTS).eval()
    batch = batch_of([0, 0, 1, 2, 0, 1, 2])
    total = method.weigh(batch).sum()
    parts = sum(method.losses(part).sum() for part in batch.parts(3)) / total
    torch.testing.assert_close(parts, method.loss(batch))


@pytest.mark.parametrize("head", ["linear", "cosine", "etf", "normalised"])
@pytest.mark.parametrize("name", ["lws", "disalign"])
def test_what_is_kept_starts_as_the_run_ended(name, head):
    """On a cosine, a simplex or the normalised one as the linear layer that equals it."""
    network = network_of(head).eval()
    images = batch_of([0] * 5).images
    before = network(images).detach()
    method = make(name, network, COUNTS).eval()
    torch.testing.assert_close(method.logits(images), before)
    kind = {"lws": Scaled, "disalign": DisAlign}[name]
    assert [type(m) for m in network.modules()].count(kind) == 1


def test_lws_by_hand():
    """W and h of τ-normalisation, b = (.1, −.2, .3), f = (.5, 1, 2): the bias is scaled, too."""
    network = Network(nn.Identity(), 2, 3)
    rows = torch.tensor([[3.0, 4], [1, 0], [0, 0.5]])
    network.classifier = linear_of(rows, torch.tensor([0.1, -0.2, 0.3]))
    method = make("lws", network, COUNTS)
    network.classifier.gain.data = torch.tensor([-0.5, 0, 1])
    close(method.logits(torch.ones(1, 2)), [(3.55, 0.8, 1.6)])


def test_crt_starts_from_a_fresh_linear_classifier_unless_it_is_to_be_kept():
    for head in ("linear", "cosine"):
        network = network_of(head)
        before = network.classifier.weight.clone()
        make("crt", network, COUNTS)
        assert type(network.classifier) is Linear
        assert not torch.equal(network.classifier.weight, before)
    network = network_of()
    before = network.classifier
    make("crt", network, COUNTS, head="kept")
    assert network.classifier is before


TRAINS = {
    "crt": {"weight", "bias"},
    "lws": {"gain"},
    "disalign": {"stretch", "shift", "confidence", "confidence_bias"},
}


@pytest.mark.parametrize("name", NAMES)
def test_only_the_classifier_trains_and_its_own_numbers_only(name):
    network = network_of()
    (group,) = make(name, network, COUNTS).groups()
    own = {key for key, p in network.named_parameters() if any(p is q for q in group.parameters)}
    assert own == {f"classifier.{key}" for key in TRAINS[name]}
    assert {key for key, p in network.named_parameters() if p.requires_grad} == own
    assert len(group.rows) == (name == "crt")  # whose rows can be constrained


@pytest.mark.parametrize("head", ["linear", "cosine"])
@pytest.mark.parametrize("name", ["wb", *NAMES])
def test_the_next_step_after_a_round_trip_of_the_state_is_the_same(name, head):
    def step(method, seed):
        parameters = method.groups()[0].parameters
        loss = method.eval().loss(batch_of([0, 1, 2, 0], seed))
        for p, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            p.data -= 0.1 * gradient
        return method.state_dict()

    method = make(name, network_of(head), COUNTS)
    step(method, 1)
    torch.manual_seed(9)
    again = make(name, network_of(head), COUNTS)
    again.load_state_dict({key: value.clone() for key, value in method.state_dict().items()})
    after, of_again = step(method, 2), step(again, 2)
    assert after.keys() == of_again.keys()
    assert all(torch.equal(after[key], of_again[key]) for key in after)


@pytest.mark.parametrize("name", ["lws", "disalign"])
def test_decay_alone_leads_to_the_classifier_of_the_run(name):
    """λ·w pulls what trains to 0, which is the identity but for σ of DisAlign, which then is ½."""
    network = network_of().eval()
    images = batch_of([0] * 5).images
    expected = network(images).detach()
    method = make(name, network, COUNTS)
    for p in method.groups()[0].parameters:
        p.data.zero_()
    torch.testing.assert_close(method.logits(images), expected)


@pytest.mark.parametrize(
    ("name", "sampling"),
    [("wb", "instance"), ("crt", "balanced"), ("lws", "balanced"), ("disalign", "instance")],
)
def test_each_has_a_sampling_of_its_own_which_sampling_overrides(name, sampling):
    method = make(name, network_of(), COUNTS)
    assert method.streams(0) == method.streams(7) == (sampling,)
    assert stage2(method=name).sampling == sampling
    assert stage2(method=name, sampling="sqrt").sampling == "sqrt"


def stage2(head: str | None = None, **options):
    first = resolve_stage1({"dataset": "digitslt", "data_dir": "data", "head": head})
    return resolve_stage2(first, "first", options)


@pytest.mark.parametrize("name", NAMES)
def test_their_defaults_are_the_recipes_but_for_those_of_their_own(name):
    found, wb = stage2(method=name), stage2()
    assert (found.epochs, found.batch_size, found.layers) == (wb.epochs, wb.batch_size, 1)
    assert (found.maxnorm, found.wd, found.frozen_batch_norm) == (None, 5e-4, "eval")
    assert found.lr == {"crt": wb.lr, "lws": 0.2, "disalign": 0.1}[name]
    assert found.loss == {"crt": "ce", "lws": "ce", "disalign": None}[name]
    assert found.method_options == ({"rho": 1.2} if name == "disalign" else {})


def test_a_run_records_how_its_classifier_came_to_be():
    """For `run.network()`; of a linear one that stays the same layer there is nothing to record."""
    linear, cosine = ("linear", {}), ("cosine", {"scale": 30.0})
    assert stage2().heads == (linear,)
    assert stage2(method="crt").heads == (linear, ("fresh", {}))
    assert stage2(method="lws").heads == (linear, ("lws", {}))
    assert stage2("cosine", method="disalign").heads == (cosine, ("disalign", {}))
    assert stage2("cosine").heads == (cosine, ("kept", {}))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"method": "lws", "radius": 1.0},
            "--radius: lws keeps the rows of the classifier as they are and trains numbers beside "
            "them, so that there is none to constrain: leave it out",
        ),
        (
            {"method": "disalign", "unit_norm": True},
            "--unit-norm: disalign keeps the rows of the classifier as they are and trains numbers "
            "beside them, so that there is none to constrain: leave it out",
        ),
        (
            {"method": "crt", "maxnorm": 0.1},
            "--maxnorm 0.1 places the radius between the rows of the run's classifier, and a fresh "
            "one has not learned any: give the radius itself (--radius)",
        ),
        (
            {"method": "crt", "loss": "cb"},
            "--loss: the method crt does not have it; it has none of its own",
        ),
        (
            {"method": "disalign", "layers": 2},
            "--layers: the method disalign does not have it; it has --rho",
        ),
        ({"rho": 1.0}, "--rho: the method wb does not have it; it has --beta, --loss, --layers, "),
        ({"method": "disalign", "rho": -1.0}, "--rho must be a finite number at least 0, got -1"),
        ({"method": "lws", "classifier": "fresh"}, "--classifier fresh: the method lws needs kept"),
        ({"tau": 1.0}, "--tau: the loss cb does not have it; logit-adjustment has"),
    ],
)
def test_what_a_method_cannot_have_is_refused(options, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        stage2(**options)


def test_a_fresh_classifier_of_weight_balancing_has_no_relative_radius():
    assert stage2(classifier="fresh").maxnorm is None
    assert stage2(classifier="fresh", radius=0.5).radius == 0.5
    assert stage2(classifier="fresh", maxnorm="none").maxnorm is None


@pytest.mark.parametrize(
    ("options", "tau"),
    [
        ({"loss": "logit-adjustment"}, 1.0),
        ({"loss": "logit-adjustment", "tau": 0.5}, 0.5),
        ({"loss": "balanced-softmax"}, None),
    ],
)
def test_losses_with_the_prior_stand_in_for_cb(options, tau):
    """z = (2, 1, .5) with n = (100, 10, 1): y = 0: 0.038277, y = 2: 6.143447 at τ = 1."""
    settings = stage2(**options)
    assert (settings.loss, settings.tau, settings.maxnorm) == (options["loss"], tau, 0.1)
    network = Network(nn.Identity(), 1, 3)
    network.classifier = linear_of(torch.tensor([[2.0], [1], [0.5]]))
    method = make("wb", network, COUNTS, **settings.options())
    found = method.losses(Batch(torch.ones(2, 1), torch.tensor([0, 2]))).detach()
    if tau == 0.5:
        shifted = torch.tensor([2.0, 1, 0.5]) + 0.5 * torch.tensor([100.0, 10, 1]).log()
        close(found, shifted.logsumexp(0) - shifted[[0, 2]], 1e-5)
    else:
        close(found, (0.038277, 6.143447), 1e-5)


def test_ldam_is_refused_on_the_linear_classifier_of_stage_2():
    """Without the cosine its s = 30 diverges."""
    with pytest.raises(ValueError, match=r"^loss must be one of ce, .* in stage 2, got 'ldam'$"):
        make("wb", network_of(), COUNTS, loss="ldam")
