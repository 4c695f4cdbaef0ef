"""Every method that follows a run, through every command that reads what it made.

On the digits, two epochs: stage 2 by each of its methods, and what needs no training, on a run with
a linear, a cosine and the normalised classifier.
"""

import shutil
from pathlib import Path

import pytest
import torch

from wbcli import console
from wbcli.cli import cli
from wbcli.config.methods import METHODS
from wbcli.data import recorded
from wbcli.runs.run import Run

SHORT = ("--epochs", 2, "--batch-size", 64)
STAGE2 = [f"stage2 --method {name}" for name in METHODS[2]]
STAGE2 += ["stage2 --loss balanced-softmax", "stage2 --loss logit-adjustment --tau 0.5"]
STAGE2 += ["stage2 --classifier fresh --radius 0.5"]
ADJUSTED = [f"normalize --method {name}" for name in METHODS[0]] + [
    "normalize --method ncm --variant un"
]


@pytest.fixture(scope="module")
def parents(tmp_path_factory):
    """`linear`, `cosine` and `normalised` with validation images, of one short training each."""
    from click.testing import CliRunner

    folder = tmp_path_factory.mktemp("parents")
    of = {"normalised": ("--method", "deconfound")}
    for head in ("linear", "cosine", "normalised"):
        command = ["stage1", "digitslt", *SHORT, "--val-per-class", 2, "--runs-dir", folder, "-q"]
        command += [*of.get(head, ("--head", head)), "--name", head]
        assert CliRunner().invoke(cli, [str(word) for word in command]).exit_code == 0
    return folder


@pytest.fixture
def runs(parents, tmp_path):
    """The parents as `runs/` of this test."""
    return Path(shutil.copytree(parents, tmp_path / "runs"))


CASES = [
    pytest.param(command, head, id=f"{command} {head}")
    for command in [*STAGE2, *ADJUSTED]
    for head in ("linear", "cosine", "normalised")
    if "tde" not in command or head == "normalised"
]


@pytest.mark.parametrize(("command", "head"), CASES)
def test_its_run_is_measured_predicted_exported_and_listed(wbcli, runs, command, head):
    words = command.split()
    short = SHORT if words[0] == "stage2" else ()
    made = wbcli(words[0], head, *words[1:], *short, "--name", "made", "--json")
    assert made.code == 0, made.err
    result = wbcli("eval", "made", "--json").json
    assert result["accuracy"].items() >= made.json["accuracy"].items()
    assert result["nll"] > 0
    run = Run(runs / "made")
    weights = run.load_weights()
    network = run.network([str(k) for k in range(10)])
    assert network.state_dict().keys() == weights.keys()
    assert all(torch.equal(network.state_dict()[key], value) for key, value in weights.items())
    exported = wbcli("export", "made", "--format", "safetensors", "--json")
    assert exported.code == 0, exported.err
    assert exported.json["max_difference"] < 1e-4
    (row,) = [row for row in wbcli("runs", "--json").json if row["run"] == "made"]
    assert row["method"] == run.config().method
    assert (row["parent"], row["finished"]) == (head, True)
    assert "made" in wbcli("runs").out


@pytest.mark.parametrize("form", ["onnx", "torch"])
@pytest.mark.parametrize(
    "command", ["stage2 --method lws", "stage2 --method disalign", "normalize --method ncm"]
)
def test_programs_of_other_classifiers_give_the_same_logits(wbcli, runs, command, form):
    words = command.split()
    assert wbcli(words[0], "cosine", *words[1:], "--name", "made").code == 0
    exported = wbcli("export", "made", "--format", form, "--json")
    assert exported.code == 0, exported.err
    assert exported.json["max_difference"] is None or exported.json["max_difference"] < 1e-4


def test_one_report_of_all(wbcli, runs):
    """The lengths of rows are shown where they mean something: not of a cosine."""
    from wbcli.report.report import filter_norms

    names = []
    for command in ("stage2 --method lws", "stage2 --method disalign", *ADJUSTED[3:5]):
        words = command.split()
        name = words[2]
        assert wbcli(words[0], "cosine", *words[1:], "--name", name).code == 0
        names.append(name)
    shown = wbcli("report", *names, "cosine", "--output", "page")
    assert shown.code == 0, shown.err
    assert list(Path("page").glob("*.html"))
    model = {"per_class": [{"name": str(k)} for k in range(10)], "checkpoint": "last"}
    layers = {name: filter_norms(Run(runs / name), model) for name in ("cosine", "lws")}
    assert [name for name, _ in layers["lws"]] == [n for n, _ in layers["cosine"]] + ["classifier"]
    scaled = Run(runs / "lws").metrics()[-1]["row_norms"]
    assert layers["lws"][-1] == ("classifier", pytest.approx(scaled))


@pytest.mark.parametrize("name", METHODS[2])
def test_the_same_seed_gives_the_same_bits_and_an_interrupted_run_goes_on_to_them(
    wbcli, runs, name, monkeypatch
):
    """Stopped in the middle of the second epoch."""
    command = ("stage2", "cosine", "--method", name, "--epochs", 2, "--batch-size", 32)
    assert wbcli(*command, "--name", "whole").code == 0
    steps = iter(range(14))  # nine an epoch

    def stops(self, images):
        if next(steps, None) is None:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(console.Progress, "on_batch", stops)
        assert wbcli(*command, "--name", "parts").code == 130
    parts = Run(runs / "parts")
    assert (parts.epochs_done(), parts.finished) == (1, False)
    assert wbcli(*command, "--name", "parts", "--resume").code == 0
    whole, parts = (Run(runs / name).load_weights() for name in ("whole", "parts"))
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[key], parts[key]) for key in whole)


@pytest.mark.parametrize("name", METHODS[2])
def test_the_frozen_network_stands_still_without_a_cache_too(wbcli, runs, name):
    """Batch norms are in evaluation mode: their running statistics are those of the parent."""
    command = ("stage2", "linear", "--method", name, *SHORT, "--cache", "none", "--name", "made")
    assert wbcli(*command).code == 0
    before, after = (Run(runs / run).load_weights() for run in ("linear", "made"))
    frozen = [key for key in after if key.startswith("backbone.")]
    assert any("running_mean" in key for key in frozen)
    assert all(torch.equal(before[key], after[key]) for key in frozen)


def test_rows_of_two_features_are_drawn_where_there_are_any(wbcli, runs):
    """Of a bottleneck of 2: a cosine's directions; DisAlign's are of five numbers."""
    short = ("--epochs", 1, "--batch-size", 128)
    first = ("stage1", "digitslt", *short, "--head", "cosine", "--bottleneck", 2)
    assert wbcli(*first, "--name", "flat").code == 0
    drawn = torch.tensor(Run(runs / "flat").metrics()[0]["weight"])
    torch.testing.assert_close(drawn.norm(dim=1), torch.ones(10))
    for command in (("stage2", "--method", "disalign", *short), ("normalize", "--method", "ncm")):
        made = wbcli(command[0], "flat", *command[1:], "--name", "made", "--json")
        assert made.code == 0, made.err
        assert "weight" not in Run(runs / "made").metrics()[0]
        shutil.rmtree(runs / "made")


@pytest.mark.parametrize(
    ("name", "head"),
    [("tau", "linear"), ("logit-adjustment", "cosine"), ("mla", "linear"), ("tde", "normalised")],
)
def test_the_number_that_is_chosen_is_measured_as_normalize_makes_it(wbcli, runs, name, head):
    command = ("tune", "normalize", head, "--method", name, "--trials", 3, "--json")
    found = wbcli(*command)
    assert found.code == 0, found.err
    ((number, best),) = found.json["best"]["params"].items()
    assert number == ("alpha" if name == "tde" else "tau")
    most = {"tau": 3.0, "alpha": 6.0}[number]
    assert [trial["params"][number] for trial in found.json["trials"]] == [0, most / 2, most]
    made = wbcli("normalize", head, "--method", name, f"--{number}", best, "--name", "made")
    assert made.code == 0, made.err
    measured = wbcli("eval", "made", "--split", "val", "--json").json
    assert measured["accuracy"]["all"] == pytest.approx(found.json["best"]["accuracy"])


def test_the_nearest_mean_has_seen_the_training_images_as_they_are(wbcli, runs):
    """Centre and means are those of un-augmented features in evaluation mode."""
    assert (
        wbcli("normalize", "linear", "--method", "ncm", "--variant", "un", "--name", "n").code == 0
    )
    run = Run(runs / "linear")
    dataset = recorded.for_run(run.config(), run.data_record(), trains=True)
    network = run.network(dataset.class_names).eval()
    from wbcli.data.batches.splits import batches_of

    batches = list(batches_of(dataset, "train", torch.device("cpu")).evaluate())
    with torch.no_grad():
        features = torch.cat([network.backbone(images) for images, _ in batches])
    labels = torch.cat([labels for _, labels in batches])
    means = torch.stack([features[labels == k].double().mean(0) for k in range(10)])
    weights = Run(runs / "n").load_weights()["classifier.classifier.weight"]
    torch.testing.assert_close(weights[:, :-1].double(), 2 * means, rtol=1e-4, atol=1e-5)


def test_a_prior_that_is_corrected_twice_is_told(wbcli, runs):
    short = (*SHORT, "--val-per-class", 2)
    assert wbcli("stage1", "digitslt", "--loss", "cb", *short, "--name", "first").code == 0
    text = "the loss cb has made up for the class frequencies already, and {} does it a second time"
    for name in ("logit-adjustment", "mla"):
        assert text.format(name) in wbcli("normalize", "first", "--method", name).err
    assert text.format("mla") in wbcli("tune", "normalize", "first", "--method", "mla").err
    assert "already" not in wbcli("normalize", "first").err
    assert "already" not in wbcli("normalize", "linear", "--method", "mla").err


def test_weights_that_meet_a_weighted_loss_are_told(wbcli):
    text = "--defer drw and the loss cb each make up for the class frequencies: rare classes may"
    for dry in ((), ("--dry-run",)):
        assert (
            text in wbcli("stage1", "digitslt", "--loss", "cb", "--defer", "drw", *SHORT, *dry).err
        )
    assert "each make up" not in wbcli("stage1", "digitslt", "--loss", "cb", *SHORT).err


def test_what_maxnorm_does_on_a_cosine_is_told(wbcli, runs):
    first = wbcli("stage1", "digitslt", "--head", "cosine", "--radius", 1)
    assert (first.code, first.err.startswith("Error: --radius")) == (2, True)
    assert "would change nothing" in first.err
    told = (
        "the run's classifier is a cosine: wb starts from the linear layer that equals it, whose "
        "rows have length 1, so that MaxNorm has the radius 1 at every --maxnorm (--radius sets "
        "another)\n"
    )
    second = wbcli("stage2", "cosine", *SHORT, "--name", "second")
    assert (second.code, told in second.err) == (0, True)
    assert Run(runs / "second").metrics()[-1]["radius"] == pytest.approx(1)
    assert "linear layer" not in wbcli("stage2", "linear", *SHORT).err


def test_a_fresh_classifier_without_a_radius_says_that_it_has_no_maxnorm(wbcli, runs):
    fresh = wbcli("stage2", "linear", *SHORT, "--classifier", "fresh")
    assert fresh.code == 0
    assert "it trains without MaxNorm unless --radius is given\n" in fresh.err


def test_loss_and_tau_of_stage_2_are_searched(wbcli, runs):
    command = ("tune", "stage2", "linear", "--trials", 6, "--round", 6, "--epochs", 1)
    found = wbcli(*command, "--search", "loss", "--search", "tau", "--json")
    assert found.code == 0, found.err
    assert {frozenset(t["params"]) for t in found.json["trials"]} == {frozenset({"loss", "tau"})}
    chosen = wbcli("stage2", "linear", "--from-tune", "--name", "made")
    assert chosen.code == 0, chosen.err
    config, best = Run(runs / "made").config(), found.json["best"]["params"]
    assert config.loss == best["loss"]
    assert config.tau == (best["tau"] if best["loss"] == "logit-adjustment" else None)
    refused = wbcli(*command, "--search", "tau")
    assert refused.code == 2
    assert "tau is searched, and the loss cb has none: give --loss logit-adjustment" in refused.err
    other = wbcli("stage2", "linear", "--method", "lws", "--from-tune")
    assert "--from-tune: what was found is of the method wb, not of lws" in other.err


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("ncm --tau 1", "--tau: the method ncm does not have it; it has --variant"),
        ("mla --alpha 1", "--alpha: the method mla does not have it; it has --tau"),
        (
            "tde",
            "tde needs a network with the normalised classifier, which --method deconfound trains",
        ),
    ],
)
def test_what_an_adjustment_cannot_have_is_refused(wbcli, runs, line, message):
    refused = wbcli("normalize", "linear", "--method", *line.split())
    assert refused.code in (1, 2)
    assert message in refused.err
    assert not (runs / "digitslt-normalize-001").exists()
