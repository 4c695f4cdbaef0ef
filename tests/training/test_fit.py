"""Training on the digits: both stages, their constraints, determinism, resuming."""

import math
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from wbcli.balance import extension
from wbcli.balance.radius import relative_radius
from wbcli.config.resolve import resolve_normalize, resolve_stage1, resolve_stage2
from wbcli.config.settings import Config
from wbcli.data import recorded
from wbcli.data.batches.memory import draw_epoch
from wbcli.methods import Batch, losses
from wbcli.methods.losses import class_balanced_weights
from wbcli.methods.make import for_run
from wbcli.models import networks
from wbcli.models.layers import freeze_all_but, last_layers
from wbcli.runs.find import create, named
from wbcli.runs.run import Run
from wbcli.training import epochs, stages
from wbcli.training import fit as train_module
from wbcli.training.fit import Position, _Step, make_optimizer

CPU = torch.device("cpu")


def train(name: str, settings: Config, listener=None) -> tuple[Run, dict[str, Tensor]]:
    """Train a run of these settings; returns it and its weights."""
    run = named(Path("runs"), name)
    if not run.started:
        run = create(Path("runs"), settings, name)
    stages.train(settings, run, recorded.for_run(settings), CPU, Path("runs"), listener)
    return run, run.load_weights()


def stage1(**options) -> Config:
    defaults = {"dataset": "digitslt", "data_dir": "data", "epochs": 2}
    return resolve_stage1(defaults | options)


def stage2(parent: Run, **options) -> Config:
    return resolve_stage2(parent.config(), parent.name, {"epochs": 2} | options)


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return all(torch.equal(first[key], second[key]) for key in first)


@pytest.fixture
def parent() -> Run:
    return train("parent", stage1())[0]


def test_the_same_seed_gives_the_same_weights_and_another_does_not():
    first, again, other = (
        train(name, stage1(seed=seed))[1] for name, seed in [("a", 3), ("b", 3), ("c", 4)]
    )
    assert equal(first, again)
    assert not equal(first, other)


def test_every_epoch_leaves_its_metrics():
    run, weights = train("run", stage1(val_per_class=2))
    rows = run.metrics()
    assert [row["epoch"] for row in rows] == [1, 2]
    last = rows[-1]
    assert last["lr"] == pytest.approx(run.config().lr / 2)
    for key in ("train_loss", "test_loss", "val_loss", "train_accuracy", "images_per_second"):
        assert math.isfinite(last[key])
    assert set(last["accuracy"]) == {"all", "many", "medium", "few"}
    assert len(last["per_class_accuracy"]) == len(last["val_per_class_accuracy"]) == 10
    assert last["accuracy"]["all"] == pytest.approx(sum(last["per_class_accuracy"]) / 10)
    norms = weights["classifier.weight"].norm(dim=1).tolist()
    assert last["row_norms"] == pytest.approx(norms, rel=1e-5)


def test_the_files_of_a_run():
    run, weights = train("run", stage1(val_per_class=2))
    state = torch.load(run.path / "checkpoint.pt", weights_only=True)
    assert state["epoch"] == 2
    assert equal({f"network.{key}": value for key, value in weights.items()}, state["model"])
    best = torch.load(run.path / "best.pt", weights_only=True)
    assert best["accuracy"] == max(row["val_accuracy"]["all"] for row in run.metrics())
    record = run.record()
    assert record["kernels"] == extension.kernels("cpu")
    assert record["device"] == "cpu"
    assert set(record["versions"]) == {"wbcli", "python", "torch"}


def test_without_validation_images_no_epoch_is_the_best():
    run, _ = train("run", stage1())
    assert not (run.path / "best.pt").exists()


def test_the_released_recipe_keeps_the_epoch_that_is_best_on_the_test_set():
    run, _ = train("run", stage1(recipe="released", epochs=3, lr=0.05))
    accuracies = [row["accuracy"]["all"] for row in run.metrics()]
    best = torch.load(run.path / "best.pt", weights_only=True)
    assert best["accuracy"] == max(accuracies)
    assert best["epoch"] == accuracies.index(max(accuracies)) + 1


STOPS = {"between epochs": ("on_epoch", 1, (1, 0)), "within an epoch": ("on_batch", 25, (1, 7))}


@pytest.mark.parametrize("stop", STOPS)
def test_a_run_that_was_stopped_continues_as_if_it_never_was(stop):
    whole, weights = train("whole", stage1(epochs=3))
    name, number, position = STOPS[stop]  # 18 batches are an epoch

    def interrupt(progress):
        seen.append(progress)
        if len(seen) == number:
            raise KeyboardInterrupt

    seen: list = []
    with pytest.raises(KeyboardInterrupt):
        train("stopped", stage1(epochs=3), stages.Listener(**{name: interrupt}))
    run = Run(Path("runs") / "stopped")
    assert not run.finished
    state = run.load_state("checkpoint.pt")
    assert (state["epoch"], state["step"]) == position
    seen.clear()
    listener = stages.Listener(on_batch=seen.append)
    assert equal(weights, train("stopped", stage1(epochs=3), listener)[1])
    assert len(seen) == 54 - 18 * position[0] - position[1], "no step is made twice"
    assert timeless(run) == timeless(whole)


def timeless(run: Run) -> list[dict]:
    """Its metrics, but for the clock."""
    return [
        {key: row[key] for key in row if key not in ("seconds", "images_per_second")}
        for row in run.metrics()
    ]


@pytest.mark.parametrize("options", [{}, {"recipe": "released"}, {"radius": 0.3}], ids=str)
def test_without_momentum_a_run_is_saved_and_continued(options):
    settings = stage1(momentum=0.0, epochs=2, **options)
    whole, weights = train("whole", settings)
    with pytest.raises(KeyboardInterrupt):
        train("stopped", settings, stages.Listener(on_epoch=_interrupt))
    assert equal(weights, train("stopped", settings)[1])
    child = stage2(whole, momentum=0.0)
    assert train("child", child)[0].finished


@pytest.mark.parametrize("stop", STOPS)
def test_a_checkpoint_of_0_1_0_goes_on_as_if_it_had_not_been_stopped(stop):
    """It held the network alone, knew of no pass before an epoch, and of fewer settings."""
    settings = stage1(epochs=3, cosine_end="to-zero", radius=0.3)
    whole, weights = train("whole", settings)
    name, number, position = STOPS[stop]
    seen = []

    def interrupt(progress):
        seen.append(progress)
        if len(seen) == number:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train("stopped", settings, stages.Listener(**{name: interrupt}))
    run = Run(Path("runs") / "stopped")
    state = run.load_state("checkpoint.pt")
    assert (state["epoch"], state["step"]) == position
    state["model"] = {k.removeprefix("network."): v for k, v in state["model"].items()}
    del state["begun"]
    for group in state["optimizer"]["param_groups"]:
        del group["rate"]
    was = state["settings"]
    for younger in ("method", "method_options", "sampling", "aug"):
        del was[younger]
    was["schedule"] = was.pop("cosine_end")
    run.save_state("checkpoint.pt", state)
    assert equal(weights, train("stopped", settings)[1])
    assert timeless(run) == timeless(whole)


CHANGED = [  # what a checkpoint may hold in the place of what was saved
    {"best": {}},
    {"best": {"epoch": 1, "accuracy": "x"}},
    {"metrics": "x\n"},
    {"metrics": "{}\n"},
    {"metrics": ""},
    {"radii": [1.0, 2.0]},
    {"settings": {"wd": torch.zeros(3)}},
    {"step": 10**6},
    {"step": -1},
    {"model": {}},
    {"optimizer": {"state": {0: {"momentum_buffer": torch.zeros(1)}}}},
    {"optimizer": {}},
]


@pytest.mark.parametrize("changed", CHANGED, ids=lambda value: str(value)[:40])
def test_a_checkpoint_that_was_changed_is_refused(changed):
    with pytest.raises(KeyboardInterrupt):
        train("run", stage1(radius=0.3), stages.Listener(on_epoch=_interrupt))
    run = Run(Path("runs/run"))
    run.save_state("checkpoint.pt", run.load_state("checkpoint.pt") | changed)
    with pytest.raises(ValueError, match=r"checkpoint\.pt .*: delete it to start this run anew"):
        train("run", stage1(radius=0.3))


def test_the_settings_of_a_run_count_and_not_those_in_its_optimiser():
    settings = stage1(epochs=2)
    _, weights = train("whole", settings)
    with pytest.raises(KeyboardInterrupt):
        train("run", settings, stages.Listener(on_epoch=_interrupt))
    run = Run(Path("runs/run"))
    state = run.load_state("checkpoint.pt")
    for group in state["optimizer"]["param_groups"]:
        group |= {"weight_decay": 0.5, "nesterov": True, "momentum": None}
    run.save_state("checkpoint.pt", state)
    assert equal(weights, train("run", settings)[1])


@pytest.mark.parametrize("options", [{}, {"project": "epoch", "radius": 0.3}], ids=str)
def test_an_epoch_that_is_not_yet_measured_is_measured_when_the_run_goes_on(monkeypatch, options):
    settings = stage1(epochs=2, val_per_class=2, **options)
    whole, weights = train("whole", settings)
    measure = epochs.accuracies

    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(epochs, "accuracies", interrupt)
    with pytest.raises(KeyboardInterrupt):
        train("stopped", settings)
    run = Run(Path("runs") / "stopped")
    assert run.metrics() == []
    assert run.load_state("checkpoint.pt")["row"]["epoch"] == 1
    monkeypatch.setattr(epochs, "accuracies", measure)
    assert equal(weights, train("stopped", settings)[1])
    assert timeless(run) == timeless(whole)
    assert run.load_state("best.pt")["accuracy"] == whole.load_state("best.pt")["accuracy"]


def test_checkpoints_are_written_within_an_epoch_too():
    settings, saved = stage1(epochs=2), []
    run = create(Path("runs"), settings, "run")
    listener = stages.Listener(on_save=lambda *position: saved.append(position))
    dataset = recorded.for_run(settings)
    stages.train(settings, run, dataset, CPU, Path("runs"), listener, save_every=8)
    assert saved == [(0, 8), (0, 16), (1, 0), (1, 8), (1, 16), (2, 0)]


def test_a_line_of_metrics_without_its_checkpoint_is_trained_again():
    """A kill between the two writes of an epoch."""
    with pytest.raises(KeyboardInterrupt):
        train("run", stage1(epochs=3), stages.Listener(on_epoch=_interrupt))
    run = Run(Path("runs") / "run")
    run.append_metrics(run.metrics()[0] | {"epoch": 2})
    train("run", stage1(epochs=3))
    assert [row["epoch"] for row in run.metrics()] == [1, 2, 3]


def _interrupt(row):
    raise KeyboardInterrupt


def test_compiled_networks_train_and_are_measured_as_they_are(monkeypatch):
    """A compiler that changes nothing sees the batches of training, and none of measuring."""
    seen, compile = [], torch.nn.Module.compile

    def compiler(graph, inputs):
        def run(*values):
            seen.append(
                next(len(x) for x in values if getattr(x, "ndim", 0) == 4 and x.shape[2] == 8)
            )
            return graph(*values)

        return run

    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: compile(self, backend=compiler))
    run, weights = train("compiled", stage1(epochs=1, compile=True))
    assert seen == 17 * [16] + [15]
    eager, expected = train("eager", stage1(epochs=1))
    assert equal(weights, expected)
    assert timeless(run) == timeless(eager)


def spoiled_loss(monkeypatch, value: float, step: int) -> None:
    """Have the loss of that step (from 1) be `value`."""
    seen, plain = [], losses.LOSSES["ce"]

    def terms(logits, labels, per_class):
        seen.append(1)
        return plain.terms(logits, labels, per_class) * (value if len(seen) == step else 1)

    monkeypatch.setitem(losses.LOSSES, "ce", plain._replace(terms=terms))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_ends_the_run_and_keeps_the_last_good_state(monkeypatch, value):
    spoiled_loss(monkeypatch, value, step=25)
    with pytest.raises(ArithmeticError) as error:
        train("run", stage1(epochs=9, wd=0.002))
    run = Run(Path("runs") / "run")
    assert str(error.value) == (
        "the training loss became nan or infinite in epoch 2, step 7 (lr 0.0484923, weight decay "
        "0.002): lower --lr or --wd; the last good checkpoint is of epoch 1 "
        f"({run.path}/checkpoint.pt)"
    )
    state = run.load_state("checkpoint.pt")
    assert (state["epoch"], state["step"]) == (1, 0)
    assert not run.finished


def test_a_loss_that_is_not_finite_is_noticed_within_the_epoch(monkeypatch):
    monkeypatch.setattr(train_module, "CHECK_EVERY", 5)
    spoiled_loss(monkeypatch, math.nan, step=7)
    seen = []
    with pytest.raises(ArithmeticError, match=r"in epoch 1, step 7 .*; there is no checkpoint yet"):
        train("run", stage1(), stages.Listener(on_batch=seen.append))
    assert len(seen) == 9, "steps until it was noticed, of 18"


def test_weights_that_are_not_finite_are_never_saved(monkeypatch):
    """The loss of the last step of an epoch says nothing of what that step made of the weights."""

    def spoil(optimizer):
        next(iter(optimizer.param_groups[0]["params"])).data.view(-1)[0] = math.inf

    monkeypatch.setattr(train_module, "project", spoil)
    with pytest.raises(ArithmeticError, match=r"a weight became nan .* in epoch 1, its last step"):
        train("run", stage1(project="epoch", radius=1.0, val_per_class=2))
    assert not {"best.pt", "checkpoint.pt"} & set(os.listdir("runs/run"))
    assert Run(Path("runs/run")).metrics() == []


@pytest.mark.parametrize("project", ["step", "epoch"])
def test_stage1_under_a_radius_ends_every_epoch_inside_it(project):
    run, weights = train("run", stage1(radius=0.3, project=project))
    assert weights["classifier.weight"].norm(dim=1).max() <= 0.3 * (1 + 1e-6)
    for row in run.metrics():
        assert max(row["row_norms"]) <= 0.3 * (1 + 1e-6)
        assert row["radius"] == 0.3
        on_surface = sum(norm >= 0.3 * (1 - 1e-5) for norm in row["row_norms"])
        assert row["clipped_fraction"] == pytest.approx(on_surface / 10)
    assert row["clipped_fraction"] > 0


def test_stage1_with_unit_norm_keeps_rows_at_length_1():
    run, _ = train("run", stage1(unit_norm=True))
    for row in run.metrics():
        assert row["row_norms"] == pytest.approx([1.0] * 10, rel=1e-5)
        assert row["clipped_fraction"] is None


def test_a_bottleneck_network_trains_and_is_read_again():
    run, weights = train("run", stage1(bottleneck=2))
    assert weights["classifier.weight"].shape == (10, 2)
    network = run.network(recorded.for_run(run.config()).class_names)
    assert equal(weights, network.state_dict())


@pytest.mark.parametrize("layers", [1, 2, 5])
def test_stage2_trains_the_last_layers_and_nothing_else(parent, layers):
    before = parent.load_weights()
    run, after = train("child", stage2(parent, layers=layers))
    network = parent.network(recorded.for_run(parent.config()).class_names)
    freeze_all_but(network, last_layers(network, layers))
    trained = {name.rsplit(".", 1)[0] for name, p in network.named_parameters() if p.requires_grad}
    for key, value in after.items():
        if "num_batches" not in key:
            assert torch.equal(value, before[key]) == (key.rsplit(".", 1)[0] not in trained), key
    radius = run.metrics()[-1]["radius"]
    assert radius if layers == 1 else len(radius) == layers


def test_stage2_places_its_radius_between_the_rows_of_stage1(parent):
    run, _ = train("child", stage2(parent, maxnorm=0.25))
    norms = parent.metrics()[-1]["row_norms"]
    expected = min(norms) + 0.25 * (max(norms) - min(norms))
    assert [row["radius"] for row in run.metrics()] == pytest.approx([expected] * 2, rel=1e-6)
    above = sum(norm > expected for norm in norms) / len(norms)
    assert [row["started_above"] for row in run.metrics()] == pytest.approx([above] * 2)


def test_stage2_leaves_its_parent_unchanged(parent):
    files = {path: path.read_bytes() for path in parent.path.iterdir()}
    train("child", stage2(parent))
    assert {path: path.read_bytes() for path in parent.path.iterdir()} == files


def test_a_stage2_that_was_stopped_keeps_its_radius(parent):
    """The radius comes from stage 1, not from the rows it is resumed with."""
    whole = train("whole", stage2(parent, epochs=3))[1]
    with pytest.raises(KeyboardInterrupt):
        train("stopped", stage2(parent, epochs=3), stages.Listener(on_epoch=_interrupt))
    assert equal(whole, train("stopped", stage2(parent, epochs=3))[1])


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_frozen_batch_norm_statistics_move_only_under_the_released_recipe(parent, mode):
    recipe = {"eval": "paper", "train": "released"}[mode]
    before = parent.load_weights()
    after = train("child", stage2(parent, recipe=recipe))[1]
    statistics = [key for key in before if "running_" in key]
    assert all(torch.equal(before[key], after[key]) == (mode == "eval") for key in statistics)


def test_normalize_divides_rows_by_a_power_of_their_norm(parent):
    settings = resolve_normalize(parent.config(), "parent", {"tau": 1.9})
    run = create(Path("runs"), settings, None)
    dataset = recorded.for_run(settings)
    stages.normalize(settings, run, parent, dataset, CPU)
    before, after = parent.load_weights(), run.load_weights()
    rows = before.pop("classifier.weight")
    expected = torch.stack([row / row.norm() ** 1.9 for row in rows])
    torch.testing.assert_close(after.pop("classifier.weight"), expected)
    assert equal(before, after)


def plain_released_stage2(network, dataset, settings: Config, radius: float) -> list[int]:
    """The authors' stage 2 written out, float64 from the features on; rows clipped each epoch."""
    weight, bias = (p.detach().double() for p in network.classifier.parameters())
    images = torch.from_numpy(dataset.train.images).float() / 255
    images = (images - dataset.source.mean[0]) / dataset.source.std[0]
    black = -dataset.source.mean[0] / dataset.source.std[0]
    padded = torch.nn.functional.pad(images, (1, 1, 1, 1), value=black)
    labels = torch.from_numpy(dataset.train.labels)
    class_weights = class_balanced_weights(dataset.class_counts)
    momentum_w, momentum_b = torch.zeros_like(weight), torch.zeros_like(bias)
    network.train()
    clipped = []
    for epoch in range(settings.epochs):
        lr = settings.lr * (1 + math.cos(math.pi * (epoch + 1) / settings.epochs)) / 2
        draws = torch.from_numpy(draw_epoch(len(labels), 1, False, settings.seed, epoch))
        for index, top, left, _ in draws.split(settings.batch_size, dim=1):
            crops = [
                padded[i, :, t : t + 8, x : x + 8] for i, t, x in zip(index, top, left, strict=True)
            ]
            with torch.no_grad():
                features = network.backbone(torch.stack(crops)).double()
            w, b = weight.requires_grad_(), bias.requires_grad_()
            p = torch.softmax(features @ w.T + b, 1)
            y = labels[index]
            hot = torch.eye(10, dtype=torch.float64)[y]
            entropies = -(hot * p.log() + (1 - hot) * (1 - p).log())
            (class_weights[y][:, None] * entropies).mean().backward()
            with torch.no_grad():
                momentum_w = 0.9 * momentum_w + w.grad + settings.wd * w
                momentum_b = 0.9 * momentum_b + b.grad + settings.wd * b
                weight, bias = w - lr * momentum_w, b - lr * momentum_b
        norms = weight.norm(dim=1)
        clipped.append(int((norms > radius).sum()))
        weight = weight * (radius / norms).clamp(max=1)[:, None]
    with torch.no_grad():
        network.classifier.weight.copy_(weight)
        network.classifier.bias.copy_(bias)
    return clipped


def test_released_stage2_equals_a_plainly_written_one():
    """20 steps, four epochs of five batches. Worst difference measured: 4.8e-7; allowed: 1e-6."""
    parent, _ = train("parent", stage1(recipe="released", epochs=3, lr=0.05))
    settings = stage2(parent, epochs=4, wd=1e-3, lr=2.0)
    assert (settings.loss, settings.project, settings.maxnorm) == ("cb-bce", "epoch", 0.1)
    dataset = recorded.for_run(settings)
    assert math.ceil(len(dataset.train.labels) / settings.batch_size) * settings.epochs == 20
    network = parent.network(dataset.class_names, "best")
    radius = relative_radius(network.classifier.weight, 0.1)
    clipped = plain_released_stage2(network, dataset, settings, radius)
    assert min(clipped[:-1]) >= 4, f"MaxNorm clipped {clipped} of 10 rows: it must bind"
    after = train("child", settings)[1]
    for key, value in network.state_dict().items():
        torch.testing.assert_close(after[key], value, rtol=1e-5, atol=1e-6, msg=key)


def test_epochs_between_evaluations_have_no_accuracy_and_train_the_same():
    every, weights = train("every", stage1(epochs=5, val_per_class=2))
    run, found = train("second", stage1(epochs=5, val_per_class=2, eval_every=2))
    assert equal(found, weights)
    rows = run.metrics()
    assert [row["epoch"] for row in rows if row["accuracy"]] == [2, 4, 5]
    for row, other in zip(rows, every.metrics(), strict=True):
        assert row["train_loss"] == other["train_loss"]
        if row["accuracy"]:
            assert row["accuracy"] == other["accuracy"]
            assert row["val_accuracy"] == other["val_accuracy"]
        else:
            assert not {"test_loss", "val_accuracy", "per_class_accuracy"} & row.keys()
    best = run.load_state("best.pt")
    assert best["epoch"] in (2, 4, 5)
    assert best["accuracy"] == max(r["val_accuracy"]["all"] for r in rows if r["accuracy"])


def test_an_interrupted_run_that_measures_now_and_then_ends_the_same():
    settings = stage1(epochs=4, eval_every=3)
    _, weights = train("whole", settings)

    def stop(row):
        if row["epoch"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train("part", settings, stages.Listener(on_epoch=stop))
    run, resumed = train("part", settings)
    assert equal(resumed, weights)
    assert [bool(row["accuracy"]) for row in run.metrics()] == [False, False, True, True]


@pytest.mark.parametrize("loss", ["ce", "cb", "cb-bce", "focal"])
def test_the_parts_of_a_batch_add_up_to_its_gradient_where_batch_norm_is_frozen(loss):
    settings = stage1(loss=loss, batch_size=30)
    dataset = recorded.for_run(settings)
    images = torch.from_numpy(dataset.train.images[::9][:30]).float() / 255
    labels = torch.from_numpy(dataset.train.labels[::9][:30])

    def gradients(parts: int) -> list[Tensor]:
        torch.manual_seed(0)
        network = networks.for_run(settings, dataset.num_classes).double()
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.requires_grad_(False)  # and so in evaluation mode
        config = replace(settings, accumulate=parts)
        method = for_run(config, network, dataset.class_counts)
        (group,) = method.groups()
        position = Position(CPU)
        step = _Step(method, make_optimizer([group], [], config), config, position)
        step.start_epoch(0, 0.01)
        step(Batch(images.double(), labels))
        assert position.loss_sum > 0
        return [p.grad for p in group.parameters]

    whole = gradients(1)
    for parts in (2, 7):  # 7: of 4 and 5 images
        for found, expected in zip(gradients(parts), whole, strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-8)
