"""Graphed epochs: the same steps as eager ones, whoever records them."""

from dataclasses import replace

import pytest
import torch

from training.test_fit import CPU, equal, stage1
from wbcli.bench.tune import RandomFeatures
from wbcli.data import recorded
from wbcli.data.batches.splits import Data, batches_of
from wbcli.methods.make import for_run
from wbcli.models import networks
from wbcli.training import graph
from wbcli.training.fit import fit, make_optimizer


@pytest.fixture(scope="module")
def digits():
    return recorded.for_run(stage1())


def train(digits, device=CPU, **options):
    """Metrics and weights after two epochs on the digits, the last batch being a smaller one."""
    settings = replace(stage1(), **({"batch_size": 48} | options))
    torch.manual_seed(0)
    network = networks.for_run(settings, digits.num_classes).to(
        device, memory_format=torch.channels_last
    )
    method = for_run(settings, network, digits.class_counts).to(device)
    radii = [settings.radius] if settings.constraint() else []
    optimizer = make_optimizer(method.groups(), radii, settings)
    data, seen = Data(batches_of(digits, "train", device, settings.batch_size)), []
    rows = list(fit(method, data, optimizer, settings, told=seen.append))
    return rows, network.state_dict(), seen


def replay_eagerly(run, state):
    """A recorder that warms up as a capture does, and replays by running again."""
    graph.warm_up(run, state)
    return run


@pytest.mark.parametrize(
    "options",
    [{}, {"radius": 0.3}, {"unit_norm": True}, {"accumulate": 2}, {"loss": "cb"}],
    ids=str,
)
def test_replayed_steps_are_the_eager_ones(digits, monkeypatch, options):
    monkeypatch.setattr(graph, "record", replay_eagerly)
    rows, weights, seen = train(digits, graph=True, **options)
    eager = train(digits, **options)
    assert rows == eager[0]
    assert equal(weights, eager[1])
    assert seen == eager[2] == 2 * [48, 48, 48, 48, 48, 47]


def test_warming_up_stays_within_the_epoch(digits, monkeypatch):
    """287 images in batches of 120: three of them are more than there are."""
    monkeypatch.setattr(graph, "record", replay_eagerly)
    rows, weights, seen = train(digits, graph=True, batch_size=120)
    eager = train(digits, batch_size=120)
    assert seen == 2 * [120, 120, 47]
    assert rows == eager[0]
    assert equal(weights, eager[1])


def test_a_failed_capture_ends_the_training(digits, monkeypatch):
    """PyTorch stays on the stream of the capture: to go on would fail later, or worse."""

    def fail(run, state):
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    monkeypatch.setattr(graph, "record", fail)
    with pytest.raises(RuntimeError) as error:
        train(digits, graph=True)
    assert str(error.value) == (
        "--graph: the step cannot be captured (operation not permitted when stream is capturing): "
        "train without --graph"
    )


def test_memory_that_a_capture_lacks_is_no_reason_against_graphs(digits, monkeypatch):
    def fail(run, state):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(graph, "record", fail)
    with pytest.raises(torch.OutOfMemoryError, match=r"CUDA out of memory\."):
        train(digits, graph=True)


def test_a_projection_after_the_epoch_is_not_captured(digits, monkeypatch):
    monkeypatch.setattr(graph, "record", replay_eagerly)
    with pytest.raises(RuntimeError, match="with --project epoch its optimiser reads the learning"):
        train(digits, graph=True, radius=0.3, project="epoch")


def test_cached_features_are_not_captured():
    settings = replace(stage1(), graph=True, epochs=1)
    method = for_run(settings, networks.Network(torch.nn.Identity(), 4, 10), [9] * 10)
    features = RandomFeatures(128, 10, 4, CPU)
    optimizer = make_optimizer(method.groups(), [], settings)
    with pytest.raises(RuntimeError, match="only images in memory can be drawn within a graph"):
        list(fit(method, Data(features), optimizer, settings))


def test_graphs_need_a_gpu(wbcli):
    result = wbcli("stage1", "digitslt", "--graph", "--device", "cpu")
    assert result.code == 2
    assert "--graph captures CUDA graphs: it needs a CUDA device, here is none" in result.err


def test_graph_and_compile_exclude_each_other():
    with pytest.raises(ValueError, match="--graph and --compile exclude each other"):
        stage1(graph=True, compile=True)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_captured_steps_are_the_eager_ones_on_a_gpu(digits):
    device = torch.device("cuda", 0)
    torch.use_deterministic_algorithms(True)
    try:
        rows, weights, _ = train(digits, device, graph=True, radius=0.3)
        eager = train(digits, device, radius=0.3)
    finally:
        torch.use_deterministic_algorithms(False)
    assert rows == eager[0]
    assert equal(weights, eager[1])
