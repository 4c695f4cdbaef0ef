"""bench head: every way takes the step that its name says; a training is as accurate as said."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from training.test_fit import CPU, stage1
from wbcli.bench import head
from wbcli.data import recorded


def test_every_way_takes_its_own_step(monkeypatch):
    """Two steps of SGD with momentum and weight decay, by hand; with rows cut to δ, or not."""
    made = []
    layer = head.nn.Linear
    monkeypatch.setattr(head.nn, "Linear", lambda *a, **k: made.append(layer(*a, **k)) or made[-1])
    ways = head._ways(5, 4, 6, CPU)
    start, *layers = made
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(6, 4, generator=generator)
    y = torch.randint(5, (6,), generator=generator)
    radius = start.weight.detach().norm(dim=1).median().item()
    for name, trained in zip(ways, layers, strict=True):
        weight, bias = (p.detach().clone().requires_grad_() for p in start.parameters())
        momenta = [torch.zeros_like(weight), torch.zeros_like(bias)]
        for _ in range(2):
            ways[name]()
            gradients = torch.autograd.grad(F.cross_entropy(x @ weight.T + bias, y), (weight, bias))
            with torch.no_grad():
                for p, gradient, momentum in zip((weight, bias), gradients, momenta, strict=True):
                    momentum.mul_(0.9).add_(gradient + 5e-4 * p)
                    p.sub_(0.01 * momentum)
                if name != "linear+fused":
                    weight.mul_((radius / weight.norm(dim=1, keepdim=True)).clamp(max=1))
        torch.testing.assert_close(trained.weight, weight, rtol=1e-4, atol=1e-6, msg=name)
        torch.testing.assert_close(trained.bias, bias, rtol=1e-4, atol=1e-6, msg=name)
    assert list(ways) == ["wbcli", "linear+fused+renorm", "linear+fused"]


def test_a_training_is_the_shortest_that_is_as_accurate(monkeypatch):
    pytest.importorskip("sklearn")
    rows = head.rows_of(recorded.for_run(stage1()))
    assert rows.name == "digitslt 287x64"
    np.testing.assert_allclose(rows.x.mean(0), 0, atol=1e-9)
    found = head.to_equal_accuracy(rows, 2, CPU)
    assert [r["name"] for r in found] == ["logistic-regression", "wbcli", "sgd-classifier", "wbcli"]
    for peer, ours in zip(found[::2], found[1::2], strict=True):
        assert ours["as_accurate_as"] == peer["name"] and peer["ratio_to"] == "wbcli"
        assert ours["balanced_accuracy"] >= peer["balanced_accuracy"]
        shorter = [e for e in head.BUDGETS if e < ours["epochs"]]
        reached = [head._ours(rows, e, CPU)[1] >= peer["balanced_accuracy"] for e in shorter]
        assert not any(reached)


def test_the_command_prints_what_was_measured(wbcli, monkeypatch):
    monkeypatch.setattr("wbcli.cli.bench_head.find_spec", lambda name: None)
    found = wbcli("bench", "head", "--shape", "10x8", "--rounds", "2", "--json")
    assert "scikit-learn is left out: pip install 'wbcli[sklearn]'" in found.err
    assert found.json["bench"] == "head" and found.json["shapes"] == ["10x8"]
    keys = {"name", "shape", "median_us", "spread", "ratio_to", "ratio", "images_per_second"}
    assert all(set(result) == keys for result in found.json["results"])
