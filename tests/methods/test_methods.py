"""What every method of stage 1 keeps: parts, state, resuming, seeds; the commands on its run."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from conftest import encoded, photo
from wbcli.config.methods import METHODS
from wbcli.config.resolve import resolve_stage1
from wbcli.config.settings import Config
from wbcli.data import recorded
from wbcli.methods import Batch, Method, make
from wbcli.models import networks
from wbcli.runs.find import create, named
from wbcli.training import stages

RUNS = Path("runs")
COUNTS = [40, 30, 20, 10, 5]
LATE = 1  # the epoch from which what is deferred holds
KINDS = {name: {"method": name} for name in METHODS[1]} | {
    "ce, drw": {"method": "ce", "defer": "drw"},
    "ce, drs": {"method": "ce", "defer": "drs"},
}
HEADS = ("ce", "ldam-drw", "deconfound", "wd-fr-etf")  # one for each classifier
of_every_method = pytest.mark.parametrize("kind", KINDS)


def made(kind: str, seed: int = 0) -> Method:
    """The method on a small network, in its last epoch, with batch norms in evaluation mode."""
    torch.manual_seed(seed)
    options = dict(KINDS[kind])
    method = make(
        options.pop("method"), networks.build("resnet8", 5, 1), COUNTS, epochs=2, **options
    )
    method.train()
    for module in method.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    method.start_epoch(LATE)
    return method


def batch(step: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(step)
    images = torch.randn(12, 1, 8, 8, generator=generator)
    labels = torch.randint(5, (12,), generator=generator)
    return Batch(images, labels, key=(0, LATE, step))


def settings(kind: str, **more) -> Config:
    """Of three steps an epoch, and two epochs."""
    options = {"dataset": "digitslt", "data_dir": "data", "epochs": 2, "batch_size": 96}
    late = {"defer_from": 0.5} if kind.endswith(("drw", "drs")) else {}
    return resolve_stage1(options | KINDS[kind] | late | more)


@of_every_method
def test_a_batch_in_parts_has_the_loss_and_the_gradients_of_the_whole(kind):
    found = []
    for count in (1, 3):
        method = made(kind)
        whole = method.prepare(batch())
        total = method.weigh(whole).sum(0)
        losses = [(method.losses(part).sum(0) / total).sum() for part in whole.parts(count)]
        sum(losses).backward()
        gradients = [p.grad for p in method.parameters() if p.grad is not None]
        assert torch.isclose(sum(losses), made(kind).loss(batch()), rtol=1e-5)
        found.append(gradients)
    for whole, parts in zip(*found, strict=True):
        torch.testing.assert_close(parts, whole, rtol=1e-3, atol=1e-6)


def step(method: Method, number: int) -> dict[str, Tensor]:
    optimizer = torch.optim.SGD(method.groups()[0].parameters, lr=0.1)
    method.loss(batch(number)).backward()
    optimizer.step()
    method.after_step()
    method.zero_grad()
    return {key: value.clone() for key, value in method.state_dict().items()}


@of_every_method
def test_the_state_of_a_method_makes_the_same_next_step(kind):
    first, other = made(kind), made(kind, seed=1)
    state = step(first, 0)
    other.load_state_dict(state)
    expected, found = step(first, 1), step(other, 1)
    assert all(torch.equal(expected[key], found[key]) for key in expected)
    assert any(not torch.equal(expected[key], state[key]) for key in state), "it does train"


def trained(name: str, config: Config, stop: int | None = None) -> dict[str, Tensor]:
    """The weights of a run that trains, or goes on; with `stop` it is left after so many steps."""
    run = named(RUNS, name)
    if not run.started:
        run = create(RUNS, config, name)
    left = [stop]

    def told(images: int) -> None:
        if left[0] is not None:
            left[0] -= 1
            if left[0] == 0:
                raise KeyboardInterrupt

    listener = stages.Listener(on_batch=told)
    stages.train(config, run, recorded.for_run(config), torch.device("cpu"), RUNS, listener)
    return run.load_weights()


@of_every_method
def test_a_run_that_was_stopped_within_an_epoch_ends_as_another_of_its_seed(kind):
    whole = trained("whole", settings(kind))
    with pytest.raises(KeyboardInterrupt):
        trained("stopped", settings(kind), stop=5)
    resumed = trained("stopped", settings(kind))
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)
    rows = [json.loads(line) for line in (RUNS / "whole/metrics.jsonl").read_text().splitlines()]
    again = [json.loads(line) for line in (RUNS / "stopped/metrics.jsonl").read_text().splitlines()]
    assert [row["train_loss"] for row in rows] == [row["train_loss"] for row in again]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "ssp"])
def test_stage_2_and_eval_follow_the_run_of_a_method(kind, wbcli):
    trained("first", settings(kind, epochs=1))
    result = wbcli("stage2", "first", "--epochs", 1, "--name", "second", "-q", "--json")
    assert result.code == 0, result.err
    result = wbcli("eval", "first", "second", "--json")
    assert result.code == 0, result.err
    for found in result.json:
        assert 0 <= found["accuracy"]["all"] <= 100 and found["nll"] > 0


@pytest.mark.parametrize("kind", HEADS)
def test_every_command_works_on_a_run_of_every_classifier(kind, wbcli, tmp_path):
    trained("first", settings(kind, epochs=1))
    (tmp_path / "a.png").write_bytes(encoded(photo().convert("L")))
    assert wbcli("predict", "first", "a.png").code == 0
    assert wbcli("normalize", "first", "--tau", 0.5, "-q").code == 0
    for kept in ("safetensors", "torch"):
        result = wbcli("export", "first", "--format", kept)
        assert result.code == 0, result.err
    result = wbcli("report", "first")
    assert result.code == 0, result.err
    assert wbcli("runs").code == 0
