"""Rotation prediction, and trainings that start from a run of it."""

import hashlib
import json

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from wbcli.methods import Batch, make
from wbcli.methods.ssp import draw_turns, turned
from wbcli.models import init, networks
from wbcli.models.networks import Network
from wbcli.runs.find import weights_of


def test_quarter_turns_by_hand():
    """((1,2),(3,4)): one turn ((2,4),(1,3)), two ((4,3),(2,1)), three ((3,1),(4,2))."""
    images = torch.tensor([[[[1.0, 2], [3, 4]]]]).expand(4, -1, -1, -1)
    found = turned(images, torch.arange(4))[:, 0]
    assert found.tolist() == [
        [[1, 2], [3, 4]],
        [[2, 4], [1, 3]],
        [[4, 3], [2, 1]],
        [[3, 1], [4, 2]],
    ]


def test_each_batch_has_an_equal_split_permuted_by_its_key():
    turns = draw_turns(8, (0, 0, 0))
    assert turns.bincount().tolist() == [2, 2, 2, 2]
    assert sorted(draw_turns(6, (0, 0, 0)).bincount().tolist()) == [1, 1, 2, 2]
    assert draw_turns(8, (0, 0, 0)).tolist() == turns.tolist()
    keys = [(1, 0, 0), (0, 1, 0), (0, 0, 1)]
    assert all(draw_turns(64, key).tolist() != draw_turns(64, (0, 0, 0)).tolist() for key in keys)


def test_the_labels_of_the_data_set_are_not_looked_at():
    """A flat backbone of 2×2 images; the loss is cross-entropy of the turns."""
    method = make("ssp", Network(nn.Flatten(), 4, 100), 100 * [1])
    assert method.network.classifier.num_classes == 4
    images, key = torch.rand(8, 1, 2, 2), (0, 3, 5)
    losses = [
        method.loss(Batch(images, torch.full((8,), label), key=key)).item() for label in (0, 99)
    ]
    turns = draw_turns(8, key)
    expected = nn.functional.cross_entropy(method.network(turned(images, turns)), turns)
    assert losses[0] == losses[1] == pytest.approx(expected.item())
    with pytest.raises(ValueError, match=r"^ssp turns square images only, got 2×3$"):
        method.prepare(Batch(torch.rand(2, 1, 2, 3), torch.tensor([0, 1])))


@pytest.mark.parametrize("classes", [4, 100])
def test_a_run_gives_its_backbone_and_never_its_classifier(tmp_path, classes):
    """Of 4 classes, too, whose classifier has the shape of that of the turns."""
    from safetensors.torch import save_file

    made = networks.build("resnet8", 4)
    save_file(made.state_dict(), tmp_path / "model.safetensors")
    fresh = networks.build("resnet8", classes)
    before = {key: value.clone() for key, value in fresh.state_dict().items()}
    assert init.load_init(fresh, tmp_path / "model.safetensors", whole=False) == []
    for key, value in fresh.state_dict().items():
        same = torch.equal(
            value, (before if key.startswith("classifier.") else made.state_dict())[key]
        )
        assert same, key


def test_two_runs_know_each_other(wbcli, tmp_path):
    """A run of ssp is no classifier; another starts from it, and says from which weights."""
    short = ("digitslt", "--epochs", 1, "--batch-size", 64, "-q", "--val-per-class", 2)
    first = wbcli("stage1", *short, "--method", "ssp", "--name", "turns", "--json")
    assert first.code == 0 and first.json["accuracy"] is None
    told = (
        "run turns is one of ssp, which scores no classes of the data set: start a training from "
        "it (wbcli stage1 digitslt --init turns)"
    )
    weights = tmp_path / "runs/turns/model.safetensors"
    for command in ("stage2", "eval", "normalize", "export", "report"):
        refused = wbcli(command, "turns")
        assert refused.code in (1, 2) and refused.err.startswith(f"Error: {told}"), command
    assert "no finished stage1 run" in wbcli("stage2").err, "it is no parent by default"
    assert wbcli("runs").code == 0
    second = wbcli("stage1", *short, "--method", "ldam", "--name", "after", "--init", "turns")
    assert second.code == 0, second.err
    config = json.loads((tmp_path / "runs/after/config.json").read_text())
    assert config["init_from"] == "turns"
    assert config["init_digest"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert weights_of(tmp_path / "runs", "turns") == (
        tmp_path / "runs/turns/model.safetensors",
        True,
    )
    plain = wbcli("stage1", *short, "--method", "ldam", "--name", "plain")
    assert plain.code == 0
    found = [
        load_file(tmp_path / "runs" / name / "model.safetensors") for name in ("after", "plain")
    ]
    key = next(iter(found[0]))
    assert not torch.equal(found[0][key], found[1][key])
    assert wbcli("stage2", "after", "--epochs", 1, "-q").code == 0
    missing = wbcli("stage1", *short, "--init", "nobody")
    assert missing.code == 2
    assert missing.err.startswith("Error: --init nobody: no such file, and no run 'nobody' in runs")
