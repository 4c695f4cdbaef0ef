"""Made-up methods that use every hook: each one is trained, killed and resumed."""

from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch

from conftest import write_folder
from training.made_up import (
    ALL,
    Branches,
    Centres,
    Compared,
    Grouped,
    Mixed,
    Pairs,
    Queue,
    Shares,
    Taught,
    TwoByTwo,
)
from training.test_fit import CPU, equal, stage1, stage2, timeless
from wbcli.config.settings import Config
from wbcli.data import recorded
from wbcli.data.batches.splits import Data, batches_of
from wbcli.data.pictures import decoding
from wbcli.methods import Batch, make
from wbcli.methods.method import Method
from wbcli.models import networks
from wbcli.runs.find import create, named
from wbcli.runs.run import Run
from wbcli.training import graph, stages
from wbcli.training.fit import Position, _Step, fit, make_optimizer
from wbcli.training.stages import Listener

RUNS = Path("runs")
STEPS = 6  # of an epoch of the digits in batches of 48; the last is of 47


@pytest.fixture
def train(monkeypatch):
    """Train a run by a made-up method, or go on with it; returns it and the method."""

    def call(name: str, kind: type[Method], settings: Config, listener=None):
        made = []

        def for_run(config, network, class_counts):
            made.append(kind(network, class_counts, epochs=config.epochs))
            return made[0]

        monkeypatch.setattr(stages, "for_run", for_run)
        run = named(RUNS, name)
        if not run.started:
            run = create(RUNS, settings, name)
        dataset = recorded.for_run(settings)
        stages.train(settings, run, dataset, CPU, RUNS, listener, save_every=4)
        return run, made[0]

    return call


def digits(**options) -> Config:
    return stage1(**({"batch_size": 48, "val_per_class": 2} | options))


def interrupting(function, number: int):
    """The function, which is interrupted at the end of that call (from 1)."""
    calls = []

    def wrapped(*args):
        result = function(*args)
        calls.append(args)
        if len(calls) == number:
            raise KeyboardInterrupt
        return result

    return wrapped


def stop(train, name: str, kind: type[Method], settings: Config, monkeypatch, *, hook=None, at=8):
    """Train until the call `at` of a hook of the method, or without one until that step."""
    with pytest.raises(KeyboardInterrupt), monkeypatch.context() as patch:
        if hook is None:
            train(name, kind, settings, Listener(on_batch=interrupting(lambda images: None, at)))
        patch.setattr(kind, hook, interrupting(getattr(kind, hook), at))
        train(name, kind, settings)
    run = Run(RUNS / name)
    assert not run.finished
    return run.load_state("checkpoint.pt") if run.resumable else None


def check_same(first: Run, second: Run) -> None:
    """Weights, what the method and the optimiser remember, and lines of metrics, to the bit."""
    states = [run.load_state("checkpoint.pt") for run in (first, second)]
    assert states[0]["model"].keys() == states[1]["model"].keys()
    assert equal(states[0]["model"], states[1]["model"])
    momenta = [
        {key: state["momentum_buffer"] for key, state in saved["optimizer"]["state"].items()}
        for saved in states
    ]
    assert momenta[0].keys() == momenta[1].keys() and momenta[0]
    assert equal(*momenta)
    assert equal(first.load_weights(), second.load_weights())
    assert timeless(first) == timeless(second)


CUT = [(kind, parts) for kind in ALL for parts in (1, 2) if not (kind.whole_batch and parts > 1)]


@pytest.mark.parametrize(("kind", "parts"), CUT, ids=lambda value: getattr(value, "__name__", None))
def test_a_run_that_was_stopped_within_an_epoch_ends_as_if_it_never_was(
    kind, parts, train, monkeypatch
):
    options = {"radius": 0.3} if kind is Grouped else {}
    settings = digits(accumulate=parts, **options)
    whole, _ = train("whole", kind, settings)
    state = stop(train, "stopped", kind, settings, monkeypatch, at=STEPS + 2)
    assert (state["epoch"], state["step"], state["begun"]) == (1, 2, True)
    resumed, _ = train("stopped", kind, settings)
    check_same(whole, resumed)


BEFORE = {  # which call of which hook is the last, and what the checkpoint then says
    "within the pass before the first epoch": ("looked", 3, None),
    "between the pass and the first step": ("start_epoch", 1, (0, 0, True)),
    "within the pass before the second epoch": ("looked", STEPS + 3, (1, 0, False)),
    "between the pass and the second epoch": ("start_epoch", 2, (1, 0, True)),
}


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("moment", BEFORE)
def test_the_pass_before_an_epoch_counts_once_whenever_a_run_is_stopped(
    moment, parts, train, monkeypatch
):
    settings = digits(accumulate=parts)
    whole, method = train("whole", Centres, settings)
    assert method.passes == 2
    assert method.strength > 0, "it has seen the validation images"
    hook, at, expected = BEFORE[moment]
    state = stop(train, "stopped", Centres, settings, monkeypatch, hook=hook, at=at)
    assert (state and (state["epoch"], state["step"], state["begun"])) == expected
    resumed, _ = train("stopped", Centres, settings)
    check_same(whole, resumed)


def test_a_run_that_is_stopped_again_and_again_ends_the_same(train, monkeypatch):
    settings = digits()
    whole, _ = train("whole", Centres, settings)
    moments = [("looked", 2), ("start_epoch", 1), (None, 3), (None, 3), ("looked", 1), (None, 5)]
    for hook, at in moments:
        with pytest.raises(KeyboardInterrupt), monkeypatch.context() as patch:
            listener = Listener()
            if hook:
                patch.setattr(Centres, hook, interrupting(getattr(Centres, hook), at))
            else:
                listener.on_batch = interrupting(lambda images: None, at)
            train("stopped", Centres, settings, listener)
    resumed, _ = train("stopped", Centres, settings)
    check_same(whole, resumed)


class OnlyTheClassifier:
    """Stage 2: the backbone is frozen."""

    def groups(self):
        self.network.backbone.requires_grad_(False)
        return super().groups()


class Branches2(OnlyTheClassifier, Branches):
    pass


class Mixed2(OnlyTheClassifier, Mixed):
    pass


class Centres2(OnlyTheClassifier, Centres):
    pass


class Shares2(OnlyTheClassifier, Shares):
    pass


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("kind", [Branches2, Mixed2, Centres2, Shares2])
def test_a_stage2_on_cached_features_ends_as_if_it_was_never_stopped(
    kind, parts, train, monkeypatch
):
    parent, _ = train("parent", Shares, digits(epochs=1))
    settings = stage2(parent, batch_size=48, accumulate=parts)
    whole, method = train("whole", kind, settings)
    assert method.on_features
    stop(train, "stopped", kind, settings, monkeypatch, at=STEPS + 2)
    resumed, _ = train("stopped", kind, settings)
    check_same(whole, resumed)
    before, after = parent.load_weights(), whole.load_weights()
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert changed == {"classifier.weight", "classifier.bias"}


@pytest.mark.parametrize(
    ("hook", "expected"), [("looked", (1, 0, False)), ("start_epoch", (1, 0, True))]
)
def test_the_pass_over_cached_features_counts_once(hook, expected, train, monkeypatch):
    parent, _ = train("parent", Shares, digits(epochs=1))
    settings = stage2(parent, batch_size=48)
    whole, method = train("whole", Centres2, settings)
    assert (method.passes, method.strength > 0) == (2, True)
    state = stop(train, "stopped", Centres2, settings, monkeypatch, hook=hook, at=2)
    assert (state["epoch"], state["step"], state["begun"]) == expected
    resumed, _ = train("stopped", Centres2, settings)
    check_same(whole, resumed)


@pytest.mark.parametrize("parts", [1, 2])
def test_two_views_of_two_streams_of_pictures_need_no_certain_number_of_workers(
    parts, train, monkeypatch
):
    write_folder(Path("mine"), {"a": 7, "b": 4, "c": 3}, test=1)
    options = {"dataset": "mine", "data_dir": ".", "image_size": 12, "arch": "resnet8"}
    settings = stage1(**options, batch_size=4, accumulate=parts)  # 4 batches, the last of 2
    whole, _ = train("whole", TwoByTwo, settings)
    monkeypatch.setattr(decoding, "workers", 2)
    by_two, _ = train("by_two", TwoByTwo, settings)
    check_same(whole, by_two)
    stop(train, "stopped", TwoByTwo, settings, monkeypatch, at=6)
    monkeypatch.setattr(decoding, "workers", 0)
    resumed, _ = train("stopped", TwoByTwo, settings)
    check_same(whole, resumed)


# What a step minimises


def one_step(kind: type[Method], parts: int) -> tuple[float, list]:
    """Loss and gradients of the second of two steps, batch norms in evaluation mode.

    Networks are float64, losses float32. The learning rate is 0; the first step fills what
    a method remembers.
    """
    settings = digits(batch_size=30, accumulate=parts)
    dataset = recorded.for_run(settings)
    method = double(kind, settings, dataset)
    position = Position(CPU)
    step = _Step(method, make_optimizer(method.groups(), [], settings), settings, position)
    step.start_epoch(1, 0.0)
    method.eval()
    first, second, *_ = batches_in_double(method, settings, dataset)
    step(first)
    position.loss_sum.zero_()
    step(second)
    assert method.hits > 0
    return position.loss_sum.item() / 30, [p.grad for p in method.parameters() if p.requires_grad]


def double(kind: type[Method], settings: Config, dataset) -> Method:
    torch.manual_seed(0)
    network = networks.for_run(settings, dataset.num_classes)
    for name, statistics in network.named_buffers():
        if "running_mean" in name:
            statistics.normal_(std=0.1)
        elif "running_var" in name:
            statistics.uniform_(0.5, 1.5)
    if kind in PLAIN:
        method = make(kind, network, dataset.class_counts, epochs=2)
    else:
        method = kind(network, dataset.class_counts, epochs=2)
    if isinstance(method, Taught):
        method.teacher.double()
    return method.double()


def batches_in_double(method: Method, settings: Config, dataset) -> list[Batch]:
    batches = batches_of(dataset, "train", CPU, settings.batch_size)

    def doubled(images):
        return [x.double() for x in images] if isinstance(images, list) else images.double()

    found = list(batches.steps(0, 1, method.streams(1), method.views))
    for batch in found:
        batch.images = doubled(batch.images)
        if batch.other_images is not None:
            batch.other_images = doubled(batch.other_images)
    return found


PLAIN = ("ce", "cb", "cb-bce", "focal", "cb-focal")
IN_PARTS = [*PLAIN, *(kind for kind in ALL if not kind.whole_batch)]


@pytest.mark.parametrize("kind", IN_PARTS, ids=lambda kind: getattr(kind, "__name__", kind))
def test_parts_of_a_batch_make_its_loss_and_its_gradients(kind):
    loss, gradients = one_step(kind, 1)
    for parts in (2, 7):  # 7: of 4 and 5 images
        found = one_step(kind, parts)
        assert found[0] == pytest.approx(loss, rel=1e-6)
        for one, other in zip(found[1], gradients, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("kind", [*PLAIN, *ALL], ids=lambda kind: getattr(kind, "__name__", kind))
def test_the_loss_of_a_batch_is_what_a_step_minimises(kind):
    loss, gradients = one_step(kind, 1)
    settings = digits(batch_size=30)
    dataset = recorded.for_run(settings)
    method = double(kind, settings, dataset)
    method.start_epoch(1)
    method.eval()
    first, second, *_ = batches_in_double(method, settings, dataset)
    method.loss(first)
    method.after_step()
    found = method.loss(second)
    found.backward()
    assert found.item() == pytest.approx(loss, rel=1e-6)
    parameters = [p for p in method.parameters() if p.requires_grad]
    for p, expected in zip(parameters, gradients, strict=True):
        assert torch.equal(p.grad, expected)


# What the loop gives to a method, and what it makes of it


class Recording(Branches):
    """Remembers the batches of a training."""

    views = ("none", "crop")
    seen: ClassVar[list[Batch]] = []

    def prepare(self, batch):
        self.seen.append(batch)
        return batch

    def losses(self, part):
        images, other = part.images[0], part.other_images[0]
        return super().losses(
            Batch(images, part.labels, other_images=other, other_labels=part.other_labels)
        )


def test_a_resumed_epoch_goes_on_with_the_batches_that_were_left(train, monkeypatch):
    monkeypatch.setattr(Recording, "seen", [])
    train("whole", Recording, digits())
    expected = list(Recording.seen)
    Recording.seen.clear()
    stop(train, "stopped", Recording, digits(), monkeypatch, at=STEPS + 2)
    train("stopped", Recording, digits())
    found = Recording.seen
    assert len(found) == len(expected) == 2 * STEPS
    assert [batch.key for batch in found] == [(0, e, s) for e in (0, 1) for s in range(STEPS)]
    for batch, other in zip(found, expected, strict=True):
        assert torch.equal(batch.index, other.index)
        assert torch.equal(batch.other_labels, other.other_labels)
        for pair in ("images", "other_images"):
            views = zip(getattr(batch, pair), getattr(other, pair), strict=True)
            assert all(torch.equal(one, two) for one, two in views)


def test_a_column_that_is_empty_in_some_batches_trains_in_the_others(train, monkeypatch):
    """The rarest of the digits has two images, in at most two of six batches."""
    totals = []

    class Watched(Shares):
        def weigh(self, batch):
            weights = super().weigh(batch)
            totals.append(weights.sum(0).tolist())
            return weights

    run, _ = train("run", Watched, digits())
    rarest = [total[1] for total in totals]
    assert sum(rarest) == 4 and rarest.count(0) >= 8
    assert {total[2] for total in totals} == {0}, "the third is empty in all of them"
    assert all(np.isfinite(row["train_loss"]) for row in run.metrics())


def test_a_queue_holds_the_labels_of_the_last_images_in_their_order(train):
    """287 images in each of 2 epochs: the 100 places are gone round 5 times, and 74 more."""
    run, method = train("run", Queue, digits(accumulate=2))
    assert method.pointer == 74
    dataset = recorded.for_run(run.config())
    order = np.random.default_rng([0, 1]).permutation(287)
    last = dataset.train.labels[order][-100:].tolist()
    assert method.key_labels.tolist() == last[-74:] + last[:26]
    assert torch.allclose(method.keys.norm(dim=1), torch.ones(100))


def test_a_momentum_encoder_is_saved_moves_and_has_batch_norms_of_its_own(train):
    run, method = train("run", Queue, digits())
    saved = run.load_state("checkpoint.pt")["model"]
    slow = {key for key in saved if key.startswith("encoder.")}
    assert len(slow) == len(method.network.backbone.state_dict())
    assert not any("encoder" in key for key in run.load_weights())
    mean = method.encoder.state_dict()["blocks.0.bn1.running_mean"]
    assert mean.abs().max() > 0, "its batch norms train, though its weights have no gradients"
    weight = "blocks.0.conv1.weight"
    fast = method.network.backbone.state_dict()[weight]
    assert 0 < (method.encoder.state_dict()[weight] - fast).abs().max() < 0.1


def test_a_teacher_is_in_no_checkpoint_and_stays_as_it_is(train):
    run, method = train("run", Taught, digits())
    untouched = Taught(method.network, method.class_counts).teacher
    assert equal(untouched.state_dict(), method.teacher.state_dict())
    assert not any(module.training for module in method.teacher.modules())
    state = run.load_state("checkpoint.pt")
    assert all(key.startswith("network.") for key in state["model"])
    assert len(state["optimizer"]["state"]) == len(list(method.network.parameters()))


def test_a_method_that_compares_a_batch_refuses_parts_in_one_sentence(train):
    with pytest.raises(ValueError) as error:
        train("run", Compared, digits(accumulate=2))
    assert str(error.value) == (
        "--accumulate 2: ce compares a batch's images with each other, so that it cannot come in "
        "parts: leave it out"
    )


def test_groups_have_their_own_rate_decay_and_rows():
    """One step without momentum at η = 0.1, λ = 0.5: w − η·rate·(g + λ_group·w), δ = 1."""
    torch.manual_seed(0)
    backbone = torch.nn.Linear(3, 2)
    network = networks.Network(backbone, 2, 2)
    method = Grouped(network, [1, 1])
    settings = digits(lr=0.1, wd=0.5, momentum=0.0, radius=1.0)
    optimizer = make_optimizer(method.groups(), [1.0], settings)
    before = {key: p.detach().clone() for key, p in network.named_parameters()}
    optimizer.zero_grad()
    method.loss(Batch(torch.eye(3)[:2], torch.tensor([0, 1]))).backward()
    gradients = {key: p.grad.clone() for key, p in network.named_parameters()}
    for group in optimizer.param_groups:
        group["lr"] = 0.1 * group["rate"]
    optimizer.step()
    slow = {key: w - 0.05 * gradients[key] for key, w in before.items()}
    fast = {key: w - 0.2 * (gradients[key] + 0.5 * w) for key, w in before.items()}
    rows = fast["classifier.weight"]
    fast["classifier.weight"] = rows / rows.norm(dim=1, keepdim=True).clamp(min=1)
    for key, p in network.named_parameters():
        torch.testing.assert_close(p.detach(), (slow if "backbone" in key else fast)[key])


def test_each_group_follows_the_schedule_at_its_own_rate(train, monkeypatch):
    rates = []

    class Watched(Grouped):
        def after_step(self):
            rates.append([group["lr"] for group in optimizers[0].param_groups])

    optimizers = []
    make = make_optimizer
    monkeypatch.setattr(
        "wbcli.training.session.make_optimizer",
        lambda *args: optimizers.append(make(*args)) or optimizers[0],
    )
    train("run", Watched, digits(lr=0.2, radius=0.3))
    # the backbone; the bias of the classifier, and its weight, which is constrained
    assert rates[0] == pytest.approx([0.1, 0.4, 0.4])
    assert rates[-1] == pytest.approx([0.05, 0.2, 0.2])  # the cosine is at a half


# Graphs, replayed by running their steps again


def replayed(kind: type[Method], settings: Config):
    """Metrics and the state of the method after a training; with `graph` as graphs do it."""
    dataset = recorded.for_run(settings)
    torch.manual_seed(0)
    network = networks.for_run(settings, dataset.num_classes)
    method = kind(network, dataset.class_counts, epochs=settings.epochs)
    constrained = [p for group in method.groups() for p in group.rows]
    radii = [settings.radius] * len(constrained) if settings.constraint() else []
    optimizer = make_optimizer(method.groups(), radii, settings)
    data = Data(batches_of(dataset, "train", CPU, 48), batches_of(dataset, "val", CPU))
    return list(fit(method, data, optimizer, settings)), method.state_dict()


def replay_eagerly(run, state):
    graph.warm_up(run, state)
    return run


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("kind", [k for k in ALL if k.graphable and not k.whole_batch])
def test_replayed_steps_are_the_eager_ones(kind, parts, monkeypatch):
    monkeypatch.setattr(graph, "record", replay_eagerly)
    options = {"accumulate": parts} | ({"radius": 0.3} if kind is Grouped else {})
    rows, state = replayed(kind, digits(graph=True, **options))
    expected_rows, expected = replayed(kind, digits(**options))
    assert rows == expected_rows
    assert state.keys() == expected.keys() and equal(state, expected)


def test_a_method_that_says_so_is_not_captured():
    with pytest.raises(RuntimeError) as error:
        replayed(Mixed, digits(graph=True))
    assert str(error.value) == (
        "--graph: the step cannot be captured (ce reads on the host what a step makes): "
        "train without --graph"
    )


def test_what_is_drawn_from_a_key_is_not_captured(monkeypatch):
    """A recorded step would mix the same images in every batch."""
    monkeypatch.setattr(graph, "record", replay_eagerly)
    monkeypatch.setattr(Mixed, "graphable", True)
    with pytest.raises(RuntimeError, match=r"captured \(its method draws from the key of a batch"):
        replayed(Mixed, digits(graph=True))


def test_pairs_see_two_augmentations(train):
    """The first view is never cropped: it has the pixels of the image."""
    seen = {}

    class Watched(Pairs):
        def losses(self, part):
            for i, first, second in zip(part.index.tolist(), *part.images, strict=True):
                seen[i] = first, second
            return super().losses(part)

    run, _ = train("run", Watched, digits(epochs=1))
    (plain, _), *_ = batches_of(recorded.for_run(run.config()), "train", CPU, 287).evaluate()
    assert len(seen) == 287
    assert all(torch.equal(seen[i][0], plain[i]) for i in range(287))
    moved = sum(not torch.equal(*pair) for pair in seen.values())
    assert 287 * 2 / 3 < moved < 287  # one crop of nine has all pixels where they are
