"""Cached features: what a classifier sees of them, and that it ends where it did without them."""

from dataclasses import replace
from pathlib import Path
from unittest.mock import ANY

import pytest
import torch
from torch import nn

from training.test_fit import CPU, equal, stage1, stage2
from wbcli.balance.radius import radius_of
from wbcli.data import recorded
from wbcli.data.batches.memory import Batches, draw_epoch
from wbcli.data.batches.splits import EVAL_BATCH, Data
from wbcli.evaluate.measured import evaluate_run
from wbcli.methods.make import for_run
from wbcli.runs.find import create
from wbcli.runs.run import Run
from wbcli.training import features, stages
from wbcli.training.features import Features
from wbcli.training.fit import fit, make_optimizer

HERE = Path()


class Pixels(nn.Module):
    """A backbone whose features are the pixels; it counts the images it has seen."""

    seen = 0

    def forward(self, images):
        self.seen += len(images)
        return images.flatten(1)


@pytest.fixture(scope="module")
def digits():
    return recorded.for_run(stage1(val_per_class=2))


@pytest.fixture(scope="module")
def parent(tmp_path_factory, digits):
    """A stage-1 run of two epochs, with validation images."""
    settings = stage1(val_per_class=2)
    run = create(tmp_path_factory.mktemp("parents"), settings, "parent")
    stages.train(settings, run, digits, CPU, run.path.parent)
    return run


@pytest.fixture
def train(parent, digits):
    """Train a stage-2 run of `parent`, or go on with it; returns it and its weights."""

    def call(name, settings, listener=None, cached=None):
        run = Run(Path(name).resolve())
        run.path.mkdir(exist_ok=True)
        stages.train(settings, run, digits, CPU, parent.path.parent, listener, cached)
        return run, run.load_weights()

    return call


def batches_of(digits, batch_size, split="train"):
    return Batches(digits.split(split), digits.source, batch_size, CPU)


def through_the_network(parent, digits, settings):
    """Stage 2 without a cache: every batch goes through the frozen network."""
    network = parent.network(digits.class_names)
    method = for_run(settings, network, digits.class_counts)
    radii = [radius_of(settings.maxnorm, settings.radius, network.classifier.weight)]
    optimizer = make_optimizer(method.groups(), radii, settings)
    data = Data(batches_of(digits, settings.batch_size))
    rows = list(fit(method, data, optimizer, settings))
    return network.classifier.state_dict(), rows


@pytest.mark.parametrize(
    "options",
    [
        {"maxnorm": 0.1},
        {"maxnorm": "none", "wd": 0.1, "lr": 0.1},
        {"loss": "cb-bce", "radius": 0.3, "lr": 1.0, "project": "epoch"},
        {"loss": "focal", "unit_norm": True, "batch_size": 16},
    ],
    ids=str,
)
def test_a_cached_stage2_ends_where_training_through_the_network_does(
    parent, digits, train, options
):
    """Four epochs. Worst difference of a weight measured: 0, on one thread; allowed: 5e-6."""
    settings = stage2(parent, epochs=4, **options)
    expected, expected_rows = through_the_network(parent, digits, settings)
    run, after = train("child", settings)
    before = parent.load_weights()
    for key, value in expected.items():
        found = after[f"classifier.{key}"]
        torch.testing.assert_close(found, value, rtol=0, atol=5e-6, msg=key)
        assert (found - before[f"classifier.{key}"]).abs().max() > 0.01, "it must have trained"
    for row, expected_row in zip(run.metrics(), expected_rows, strict=True):
        assert row["train_loss"] == pytest.approx(expected_row["train_loss"], rel=1e-5)
        assert row["train_accuracy"] == pytest.approx(expected_row["train_accuracy"], abs=0.4)


def test_what_is_not_augmented_is_seen_once_whatever_the_epoch(digits):
    """Bit for bit the batches of training with --aug none, which are the images as measured."""
    pixels = Pixels()
    seen, images = Features(pixels, batches_of(digits, 500), 16, HERE), batches_of(digits, 16)
    for epoch in (0, 1):
        pairs = (batches.steps(3, epoch, views=("none",)) for batches in (seen, images))
        for found, expected in zip(*pairs, strict=True):
            assert torch.equal(found.images, expected.images.flatten(1))
            assert torch.equal(found.labels, expected.labels)
    measured = torch.cat([x for x, _ in seen.evaluate()])
    assert torch.equal(measured, torch.cat([x.flatten(1) for x, _ in images.evaluate()]))
    assert pixels.seen == images.size


def test_without_views_every_epoch_has_its_own_crops_in_its_own_order(digits):
    """The pixels of the batches that training through the network would see, bit for bit."""
    seen = Features(Pixels(), batches_of(digits, 500), 16, HERE)
    images = batches_of(digits, 16)
    for epoch in (0, 1):
        for found, expected in zip(seen.steps(3, epoch), images.steps(3, epoch), strict=True):
            assert torch.equal(found.images, expected.images.flatten(1))
            assert torch.equal(found.labels, expected.labels)
            assert torch.equal(found.index, expected.index)
            assert found.key == expected.key


@pytest.mark.parametrize(("views", "epoch", "view"), [(2, 0, 0), (2, 1, 1), (2, 3, 1), (3, 6, 0)])
def test_epochs_take_turns_with_the_views_and_keep_their_own_order(digits, views, epoch, view):
    seed, images = 5, batches_of(digits, 16)
    crops = torch.cat([batch.images for batch in images.steps(seed, view)]).flatten(1)
    size, padding, flip = images.size, images.padding, images.flip
    order_of_view = draw_epoch(size, padding, flip, seed, view)[0]
    order = draw_epoch(size, padding, flip, seed, epoch)[0]
    by_image = dict(zip(order_of_view.tolist(), crops, strict=True))
    cached = Features(Pixels(), batches_of(digits, 500), 16, HERE, views=views)
    found = [(batch.images, batch.labels) for batch in cached.steps(seed, epoch)]
    expected = torch.stack([by_image[i] for i in order.tolist()])
    assert torch.equal(torch.cat([x for x, _ in found]), expected)
    assert torch.equal(torch.cat([labels for _, labels in found]), images.labels[order])


@pytest.mark.parametrize("streams", [("balanced",), ("instance", "reversed")])
def test_one_view_of_an_image_serves_whenever_it_comes_in_either_stream(digits, streams):
    """The order is that of training through the network; the features those of its image."""
    images = batches_of(digits, 16)
    once = {}
    for batch in images.steps(3, 1):
        once |= dict(zip(batch.index.tolist(), batch.images.flatten(1), strict=True))
    cached = Features(Pixels(), batches_of(digits, 500), 16, HERE)
    pairs = zip(cached.steps(3, 1, streams), images.steps(3, 1, streams), strict=True)
    for step, (found, expected) in enumerate(pairs):
        assert found.key == expected.key == (3, 1, step)
        assert torch.equal(found.index, expected.index)
        assert torch.equal(found.images, torch.stack([once[i] for i in found.index.tolist()]))
        if len(streams) == 2:
            assert torch.equal(found.other_labels, expected.other_labels)
            assert found.other_images.shape == found.images.shape


def test_without_a_cache_views_show_the_same_pixels_under_any_sampling(digits):
    cached = Features(Pixels(), batches_of(digits, 500), 16, HERE, views=2)
    uncached = features.Views(batches_of(digits, 16), 2)
    for epoch in (0, 1, 2):
        pairs = zip(
            cached.steps(3, epoch, ("balanced",)),
            uncached.steps(3, epoch, ("balanced",)),
            strict=True,
        )
        for found, expected in pairs:
            assert torch.equal(found.images, expected.images.flatten(1))


def test_a_last_image_on_its_own_joins_the_batch_before_it(digits):
    """287 images in batches of 22: 13 of them, and the last takes the 287th."""
    cached = Features(Pixels(), batches_of(digits, 500), 22, HERE)
    assert [len(batch) for batch in cached.steps(0, 0)] == [22] * 12 + [23]


@pytest.mark.parametrize(
    ("options", "computed"),
    [
        ({}, [1, 1, 1, 1, 1]),
        ({"views": 2}, [1, 1, 0, 0, 1]),
        ({"keep": True}, [1, 1, 1, 0, 1]),
        ({"views": 1, "keep": True}, [1, 0, 0, 0, 1]),
    ],
    ids=str,
)
def test_how_often_a_view_is_computed(digits, options, computed):
    """Passes over the images in epochs 0, 1, 2, 1 again, and 0 of another seed."""
    backbone = Pixels()
    cached = Features(backbone, batches_of(digits, 500), 64, HERE, **options)
    passes = []
    for seed, epoch in [(0, 0), (0, 1), (0, 2), (0, 1), (1, 0)]:
        before = backbone.seen
        list(cached.steps(seed, epoch))
        passes.append((backbone.seen - before) / cached.size)
    assert passes == computed


def test_a_split_that_is_measured_is_computed_once(digits):
    backbone = Pixels()
    cached = Features(backbone, batches_of(digits, 500, "test"), 64, HERE)
    first, again = ([x for x, _ in cached.evaluate()] for _ in range(2))
    assert backbone.seen == 700
    assert [len(x) for x in first] == [500, 200]
    assert torch.equal(torch.cat(first), torch.cat(again))


@pytest.mark.parametrize("split", ["test", "val"])
def test_measured_features_make_the_logits_of_the_network(parent, digits, split):
    network = parent.network(digits.class_names)
    network.train()  # what a caller does with it must not matter
    cached = features.of_splits(network, digits, stage2(parent), CPU, HERE)[split]
    expected = parent.network(digits.class_names).eval()
    images = batches_of(digits, EVAL_BATCH, split).evaluate()
    with torch.no_grad():
        for (x, labels), (pictures, same) in zip(cached.evaluate(), images, strict=True):
            assert torch.equal(network.classifier(x), expected(pictures))
            assert torch.equal(labels, same)


def test_the_frozen_batch_norms_do_not_move(parent, digits):
    network = parent.network(digits.class_names)
    network.train()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    for part in features.of_splits(network, digits, stage2(parent), CPU, HERE).values():
        list(part.steps(0, 0))
        list(part.evaluate())
    assert equal(before, network.state_dict())


def test_the_splits_of_a_data_set_without_validation_images(parent):
    settings = replace(stage2(parent), val_per_class=0, views=3)
    dataset = recorded.for_run(settings)
    splits = features.of_splits(parent.network(dataset.class_names), dataset, settings, CPU, HERE)
    assert list(splits) == ["train", "test"]
    assert {(f.views, f.batch_size, f.keep) for f in splits.values()} == {(3, 64, False)}


def test_features_of_bf16_are_kept_in_float32(parent, digits):
    exact, rounded = (
        features.of_splits(
            parent.network(digits.class_names),
            digits,
            stage2(parent, precision=precision),
            CPU,
            HERE,
        )["val"]
        for precision in ("fp32", "bf16")
    )
    (x, _), (y, _) = next(exact.evaluate()), next(rounded.evaluate())
    assert y.dtype == torch.float32
    assert 0 < (x - y).norm() / x.norm() < 0.02


@pytest.mark.parametrize(
    ("options", "cached"),
    [({}, True), ({"project": "epoch"}, True), ({"layers": 2}, False), ({"layers": 5}, False)]
    + [({"recipe": "released"}, False)],
    ids=str,
)
def test_only_a_lone_classifier_on_a_backbone_that_stands_still_is_cached(
    parent, train, monkeypatch, options, cached
):
    settings = stage2(parent, epochs=1, **options)
    assert features.can_cache(settings) == cached
    calls, of_splits = [], features.of_splits
    monkeypatch.setattr(
        features, "of_splits", lambda *a, **k: calls.append(0) or of_splits(*a, **k)
    )
    train("child", settings)
    assert len(calls) == cached


def test_stage1_is_not_cached():
    assert not features.can_cache(stage1())


@pytest.mark.parametrize("views", [None, 2])
@pytest.mark.parametrize("stop", ["on_epoch", "on_batch"])
def test_a_cached_stage2_that_was_stopped_continues_as_if_it_never_was(parent, train, stop, views):
    """Stopped after the second epoch, or within it: an epoch is five batches."""
    settings = stage2(parent, epochs=4, views=views)
    whole = train("whole", settings)[1]
    seen = []

    def interrupt(progress):
        seen.append(progress)
        if len(seen) == {"on_epoch": 2, "on_batch": 8}[stop]:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train("stopped", settings, stages.Listener(**{stop: interrupt}))
    assert Run(Path("stopped")).epochs_done() == (2 if stop == "on_epoch" else 1)
    run, after = train("stopped", settings)
    assert equal(whole, after)
    assert [row["epoch"] for row in run.metrics()] == [1, 2, 3, 4]


def test_a_shared_cache_gives_the_weights_of_an_own_one(parent, digits, train, monkeypatch):
    first, second = stage2(parent, lr=0.1), stage2(parent, lr=0.02, loss="ce", maxnorm=0.7)
    network = stages.starting_network(first, parent, digits, CPU)
    shared = features.of_splits(network, digits, first, CPU, HERE, keep=True)
    alone, expected = train("own", second)
    monkeypatch.delattr(features, "of_splits")  # nobody computes them again
    train("first", first, cached=shared)
    run, weights = train("shared", second, cached=shared)
    assert equal(weights, expected)
    measured = [
        {k: v for k, v in row.items() if k not in ("seconds", "images_per_second")}
        for row in (run.metrics()[-1], alone.metrics()[-1])
    ]
    assert measured[0] == measured[1]


def test_the_classifier_itself_trains_in_float32_whatever_the_precision(parent, digits, train):
    settings = stage2(parent)
    exact = features.of_splits(parent.network(digits.class_names), digits, settings, CPU, HERE)
    expected = train("fp32", settings, cached=exact)[1]
    assert equal(train("bf16", replace(settings, precision="bf16"), cached=exact)[1], expected)


@pytest.mark.parametrize("split", ["test", "val"])
def test_the_numbers_of_an_epoch_are_those_that_eval_finds_through_the_network(
    parent, train, split
):
    run, _ = train("child", stage2(parent))
    result = evaluate_run(run, CPU, split=split, checkpoint="last", tta=False, precision="fp32")
    row = run.metrics()[-1]
    prefix = "" if split == "test" else "val_"
    assert row[f"{prefix}accuracy"] | {"images": ANY} == result["accuracy"]
    assert row[f"{split}_loss"] == pytest.approx(result["nll"], rel=1e-5)


@pytest.mark.parametrize("views", [None, 1, 2])
def test_the_head_is_the_same_without_a_cache(parent, train, views):
    """Within 1e-5 of a row's norm: the backbone sees batches of another size."""
    settings = stage2(parent, epochs=3, views=views)
    _, cached = train("cached", settings)
    _, uncached = train("uncached", replace(settings, cache="none"))
    difference = (cached["classifier.weight"] - uncached["classifier.weight"]).norm(dim=1)
    assert (difference / cached["classifier.weight"].norm(dim=1)).max() < 1e-5
    if views == 1:
        _, other = train("other", replace(settings, views=None))
        assert not torch.equal(other["classifier.weight"], cached["classifier.weight"])


def test_a_cache_in_bf16_rounds_and_little_more(parent, train):
    settings = stage2(parent, epochs=3)
    _, exact = train("exact", settings)
    _, rounded = train("rounded", replace(settings, cache="bf16"))
    norms = exact["classifier.weight"].norm(dim=1)
    difference = (exact["classifier.weight"] - rounded["classifier.weight"]).norm(dim=1) / norms
    assert 0 < difference.max() < 0.01


@pytest.mark.parametrize("cache", ["fp32", "bf16"])
def test_what_does_not_fit_into_memory_lies_in_a_file_of_which_nothing_stays(
    parent, train, monkeypatch, cache
):
    settings = stage2(parent, epochs=2, cache=cache)
    _, in_memory = train("in_memory", settings)
    monkeypatch.setattr(features, "free_bytes", lambda device: 0)
    mapped, from_file = [], torch.from_file
    monkeypatch.setattr(
        torch,
        "from_file",
        lambda path, **options: mapped.append(path) or from_file(path, **options),
    )
    run, in_file = train("in_file", settings)
    assert equal(in_memory, in_file)
    assert mapped and {Path(path).parent for path in mapped} == {run.path}
    names = {path.name for path in run.path.iterdir()}
    assert names == {path.name for path in Path("in_memory").iterdir()}


def test_a_disk_without_room_for_features_is_an_error_that_says_so(parent, train, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(features, "free_bytes", lambda device: 0)
    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(OSError) as error:
        train("run", stage2(parent))
    assert "GB of features fit neither into memory nor into" in str(error.value)
    assert "(No space left on device): free some, or take --cache bf16 or --cache none" in str(
        error.value
    )
    assert not list(Path("run").glob(".features*"))
