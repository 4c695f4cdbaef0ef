"""AdamW and slower backbones: against torch's own steps by hand, stopped, and damaged."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from training.test_contract import digits, interrupting
from training.test_fit import CPU, equal, timeless
from wbcli.balance.ops import row_norms
from wbcli.config.settings import Config
from wbcli.data import recorded
from wbcli.methods.method import Group
from wbcli.models import libraries
from wbcli.models.networks import Network
from wbcli.runs.find import create, named
from wbcli.training import stages
from wbcli.training.fit import make_optimizer, seed_of
from wbcli.training.optimizers import slowed
from wbcli.training.stages import Listener, Path

RUNS = Path("runs")
ADAMW = {"optimizer": "adamw", "lr": 1e-3, "wd": 0.05}


def train(name: str, settings: Config, listener: Listener | None = None):
    run = named(RUNS, name)
    if not run.started:
        run = create(RUNS, settings, name)
    stages.train(settings, run, recorded.for_run(settings), CPU, RUNS, listener, save_every=4)
    return run


def test_adamw_is_torchs_and_the_rows_are_projected_after_the_step():
    torch.manual_seed(0)
    conv, head = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last), nn.Linear(5, 3)
    network, images = [conv.weight, head.weight, head.bias], torch.randn(6, 5)
    settings = digits(**ADAMW, momentum=0.8, radius=0.4)
    groups = [Group(list(network), rows=[head.weight])]
    optimizer = make_optimizer(groups, [0.4], settings)
    twins = [p.detach().clone().requires_grad_() for p in network]
    plain = torch.optim.AdamW(
        twins, lr=1e-3, weight_decay=0.05, betas=(0.8, 0.999), foreach=False, fused=False
    )
    for step in range(3):
        for (filters, weight, bias), by in ((network, optimizer), (twins, plain)):
            by.zero_grad()
            loss = F.linear(images, weight, bias).square().mean() * (step + 1)
            (loss + F.conv2d(torch.ones(1, 3, 4, 4), filters).square().mean()).backward()
            by.step()
        with torch.no_grad():
            twins[1] *= (0.4 / row_norms(twins[1])).clamp(max=1)[:, None]
        for own, expected in zip(network, twins, strict=True):
            torch.testing.assert_close(own, expected)
    assert row_norms(head.weight).max() <= 0.4 + 1e-6


def test_with_projection_once_an_epoch_a_step_leaves_the_rows():
    weight = nn.Parameter(torch.full((2, 2), 3.0))
    settings = digits(**ADAMW, radius=1.0, project="epoch")
    optimizer = make_optimizer([Group([weight], rows=[weight])], [1.0], settings)
    weight.sum().backward()
    optimizer.step()
    assert row_norms(weight).min() > 4


def test_a_slower_backbone_has_its_rate_and_the_classifier_its_rows():
    network = Network(nn.Linear(4, 3), 3, 2)
    classifier = network.classifier
    shared = nn.Parameter(torch.zeros(2))
    own = [*network.parameters(), shared]
    slow, rest = slowed([Group(own, rate=0.5, wd=0.1, rows=[classifier.weight])], network, 0.1)
    assert (slow.rate, slow.wd, slow.rows) == (0.05, 0.1, [])
    assert [id(p) for p in slow.parameters] == [id(p) for p in network.backbone.parameters()]
    assert (rest.rate, rest.wd) == (0.5, 0.1)
    assert [id(p) for p in rest.rows] == [id(classifier.weight)]
    assert [id(p) for p in rest.parameters] == [*map(id, classifier.parameters()), id(shared)]


def test_a_run_trains_its_backbone_by_the_factor(monkeypatch):
    seen = []
    make = stages.Training.__init__

    def watching(self, *args):
        make(self, *args)
        seen.append([group["rate"] for group in self.optimizer.param_groups])

    monkeypatch.setattr(stages.Training, "__init__", watching)
    train("run", digits(backbone_lr_factor=0.1, epochs=1))
    assert seen == [[0.1, 1.0]]


@pytest.mark.parametrize("arch", ["resnet8", "timm:test_efficientnet"])
def test_a_run_of_adamw_that_was_stopped_within_an_epoch_ends_as_if_it_never_was(arch, monkeypatch):
    """Also one of a network that drops features out at random."""
    if ":" in arch:
        pytest.importorskip("timm")
        dropping = partial(libraries._make_timm, drop_rate=0.3)
        monkeypatch.setattr(libraries, "_make_timm", dropping)
    settings = digits(**ADAMW, arch=arch, epochs=2)
    whole = train("whole", settings)
    with pytest.raises(KeyboardInterrupt):
        train("stopped", settings, Listener(on_batch=interrupting(lambda images: None, 8)))
    resumed = train("stopped", settings)
    states = [run.load_state("checkpoint.pt") for run in (whole, resumed)]
    kept = [state["optimizer"]["state"] for state in states]
    assert kept[0].keys() == kept[1].keys() and kept[0]
    for first, second in zip(kept[0].values(), kept[1].values(), strict=True):
        assert set(first) == {"step", "exp_avg", "exp_avg_sq"} and equal(first, second)
    assert equal(whole.load_weights(), resumed.load_weights())
    assert timeless(whole) == timeless(resumed)


@pytest.mark.parametrize(
    "damage",
    [
        lambda kept: kept.pop("exp_avg"),
        lambda kept: kept.update(exp_avg=torch.zeros(1, 2, 3)),
        lambda kept: kept.update(step=torch.zeros(2)),
        lambda kept: kept.update(step="often"),
        lambda kept: kept.update(momentum_buffer=torch.zeros(())),
    ],
)
def test_a_damaged_state_of_adamw_is_refused(damage):
    settings = digits(**ADAMW, epochs=2)
    with pytest.raises(KeyboardInterrupt):
        train("run", settings, Listener(on_batch=interrupting(lambda images: None, 8)))
    run = named(RUNS, "run")
    state = run.load_state("checkpoint.pt")
    damage(state["optimizer"]["state"][0])
    run.save_state("checkpoint.pt", state)
    with pytest.raises(ValueError, match=r"checkpoint\.pt does not fit this run"):
        train("run", settings)


def test_what_a_step_draws_is_a_function_of_its_key():
    keys = [(0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0)]
    assert len({seed_of(key) for key in keys}) == 4
    assert seed_of((5, 6, 7)) == seed_of((5, 6, 7))
