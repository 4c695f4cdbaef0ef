"""From a network to a file of features and on: training, prediction and export on the file."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from conftest import write_pictures

SHORT = ("--epochs", "2", "--batch-size", "64", "-q")


@pytest.fixture
def trained(wbcli):
    assert wbcli("stage1", "digitslt", *SHORT, "--val-per-class", "3", "--name", "first").code == 0


def weights(name: str) -> dict[str, torch.Tensor]:
    return load_file(f"runs/{name}/model.safetensors")


def test_the_file_has_every_split_as_the_network_sees_it(wbcli, trained):
    found = wbcli("features", "first", "--output", "d.npz", "--json").json
    assert found["images"] == {"train": 287, "test": 700, "val": 30}
    arrays = np.load("d.npz")
    names = {f"{s}_{what}" for s in ("train", "test", "val") for what in ("features", "labels")}
    assert set(arrays) == names | {"class_names"}
    assert arrays["class_names"].tolist() == [str(k) for k in range(10)]
    logits = arrays["test_features"] @ weights("first")["classifier.weight"].numpy().T
    logits += weights("first")["classifier.bias"].numpy()
    hits = logits.argmax(1) == arrays["test_labels"]
    measured = wbcli("eval", "first", "--json").json
    assert 100 * hits.mean() == pytest.approx(measured["accuracy"]["images"])


def test_stage2_on_the_file_is_the_runs_own_cached_stage2_to_the_bit(wbcli, trained):
    """The same images, un-augmented, and the same classifier to start from: a rate of 1e-30 does
    not move it.
    """
    how = ("--epochs", "3", "--wd", "5e-4", "-q")
    assert wbcli("stage2", "first", *how, "--aug", "none", "--name", "own").code == 0
    for suffix in (".npz", ".safetensors"):
        assert wbcli("features", "first", "--output", f"d{suffix}").code == 0
        start = ("--init", "runs/first/model.safetensors", "--lr", "1e-30", "--wd", "0")
        begun = wbcli(
            "stage1", f"d{suffix}", *start, "--epochs", "1", "--name", f"at{suffix}", "-q"
        )
        assert begun.code == 0
        assert wbcli("stage2", f"at{suffix}", *how, "--name", f"on{suffix}").code == 0
        for key in ("classifier.weight", "classifier.bias"):
            assert torch.equal(weights(f"at{suffix}")[key], weights("first")[key])
            assert torch.equal(weights(f"on{suffix}")[key], weights("own")[key])
            assert not torch.equal(weights("own")[key], weights("first")[key])


def test_a_split_alone(wbcli, trained):
    found = wbcli("features", "first", "--split", "val", "--output", "v.safetensors")
    assert found.out == "v.safetensors: 64 features of 30 val images\n"
    assert set(load_file("v.safetensors")) == {"val_features", "val_labels"}


def test_unlabelled_pictures_get_features_and_their_names(wbcli, trained, tmp_path):
    write_pictures(tmp_path / "mine", ["b.png", "a.jpg"], size=8)
    (tmp_path / "mine" / "c.jpg").write_text("no picture")
    found = wbcli("features", "first", "--data-dir", "mine", "--output", "m.npz")
    assert found.code == 1 and found.err.count("mine/c.jpg") == 1
    assert "1 file is no whole picture and left out" in found.err
    arrays = np.load("m.npz")
    assert arrays["files"].tolist() == ["mine/a.jpg", "mine/b.png"]
    assert arrays["features"].shape == (2, 64) and not np.array_equal(*arrays["features"])


def test_another_labelled_set_is_the_test_set_of_the_file(wbcli, trained, tmp_path):
    write_pictures(tmp_path / "other", ["3/a.jpg", "3/b.jpg", "7/c.jpg"], size=8)
    found = wbcli("features", "first", "--data-dir", "other", "--output", "o.npz", "--json").json
    assert found["images"] == {"test": 3}
    assert np.load("o.npz")["test_labels"].tolist() == [3, 3, 7]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--output", "d.csv"], "expected a name that ends in .npz or .safetensors"),
        (["--output", "no/d.npz"], "there is no folder no"),
        (["--output", "there.npz"], "there.npz exists"),
    ],
)
def test_mistakes_leave_nothing(options, reason, wbcli, trained, tmp_path):
    (tmp_path / "there.npz").write_text("mine")
    found = wbcli("features", "first", *options)
    assert found.code == 2 and reason in found.err and found.err.count("\n") == 1
    assert (tmp_path / "there.npz").read_text() == "mine"


X = np.random.default_rng(1).normal(3, 2, (60, 5)).astype(np.float32)
Y = np.repeat(np.arange(3), [40, 15, 5])
X[:, :3] += 3 * np.eye(3, dtype=np.float32)[Y]


@pytest.fixture(params=["none", "l2", "standard"])
def probe(request, wbcli):
    """A run on a file of features, normalised in each way."""
    np.savez("a.npz", train_features=X, train_labels=Y, test_features=X[::2], test_labels=Y[::2])
    given = ("--normalise", request.param, "--epochs", "3", "--lr", "0.1", "-q")
    assert wbcli("stage1", "a.npz", *given, "--name", "probe").code == 0
    assert json.loads(Path("runs/probe/config.json").read_text())["normalise"] == request.param
    return request.param


def by_hand(how: str, rows: np.ndarray) -> np.ndarray:
    """The logits of the run, in float64."""
    rows, train = rows.astype(np.float64), X.astype(np.float64)
    if how == "l2":
        rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    if how == "standard":
        rows = (rows - train.mean(0)) / train.std(0)
    kept = weights("probe")
    return rows @ kept["classifier.weight"].double().numpy().T + kept["classifier.bias"].numpy()


def test_predict_takes_rows_normalised_as_in_training(wbcli, probe):
    new = X[[50, 2]] * 1.5
    np.savez("new.npz", features=new)
    found = wbcli("predict", "probe", "new.npz", "--json").json["images"]
    for row, (image, logits) in enumerate(zip(found, by_hand(probe, new), strict=True)):
        assert (image["file"], image["row"]) == ("new.npz", row)
        scores = {one["class"]: one["score"] for one in image["top"]}
        np.testing.assert_allclose([scores[k] for k in range(3)], logits, rtol=1e-4, atol=1e-5)
    lines = wbcli("predict", "probe", "new.npz", "--top", "1", "--csv").out.splitlines()
    assert [line.split(",")[0] for line in lines] == ["file", "new.npz[0]", "new.npz[1]"]


def test_a_file_that_cannot_be_read_takes_no_answer_from_the_others(wbcli, probe):
    np.savez("new.npz", features=X[:1])
    np.savez("wide.npz", features=np.ones((1, 9), np.float32))
    Path("junk.npz").write_bytes(b"junk")
    given = ("predict", "probe", "wide.npz", "new.npz", "junk.npz")
    found = wbcli(*given, "--json")
    assert (found.code, [image["file"] for image in found.json["images"]]) == (1, ["new.npz"])
    assert [broken["file"] for broken in found.json["broken"]] == ["wide.npz", "junk.npz"]
    assert not found.json["broken"][0]["reason"].startswith("wide.npz")
    assert found.err.endswith("Error: 2 of 3 files cannot be read\n")
    lines = wbcli(*given, "--top", "1", "--csv").out.splitlines()
    assert [line.split(",")[0] for line in lines] == ["file", "new.npz[0]", "wide.npz", "junk.npz"]


@pytest.mark.parametrize("form", ["torch", "safetensors"])
def test_export_normalises_inside(wbcli, probe, form):
    found = wbcli("export", "probe", "--format", form, "--json").json
    assert found["images"] == 16 and found["max_difference"] < 1e-5
    if form == "torch":
        program = torch.export.load(found["path"]).module()
        logits = program(torch.from_numpy(X[:7])).detach().numpy()
        np.testing.assert_allclose(logits, by_hand(probe, X[:7]), rtol=1e-4, atol=1e-5)


def test_everything_that_follows_from_a_run_follows_from_this_one(wbcli, probe):
    assert wbcli("stage2", "probe", "--epochs", "2", "--name", "second", "-q").code == 0
    assert wbcli("normalize", "probe", "--name", "third").code == 0
    found = wbcli("eval", "probe", "second", "third", "--json").json
    assert [one["num_images"] for one in found] == [30] * 3
    assert found[1]["limits"] == {"many": 100, "few": 20}
    assert wbcli("features", "second", "--output", "f.npz").code == 0
    seen = np.load("f.npz")["train_features"].astype(np.float64)
    kept = weights("second")
    logits = seen @ kept["classifier.weight"].double().numpy().T + kept["classifier.bias"].numpy()
    hits = (logits.argmax(1) == Y).mean()
    measured = wbcli("eval", "second", "--split", "train", "--json").json
    assert 100 * hits == pytest.approx(measured["accuracy"]["images"])


def test_settings_are_searched_on_its_validation_rows(wbcli):
    pytest.importorskip("optuna")
    np.savez("a.npz", features=np.concatenate([X, X]), labels=np.concatenate([Y, Y]))
    assert wbcli("stage1", "a.npz", "--epochs", "2", "--name", "probe", "-q").code == 0
    found = wbcli("tune", "stage2", "probe", "--trials", "4", "--json").json
    assert found["selected_on"] == "val" and len(found["trials"]) == 4
    best = ("--from-tune", "--name", "tuned", "-q", "--json")
    assert wbcli("stage2", "probe", *best).json["selected_on"] == "val"
    taus = wbcli("tune", "normalize", "probe", "--json").json
    assert taus["best"]["accuracy"] >= max(t["accuracy"] for t in taus["trials"])


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (["stage2", "probe", "--layers", "2"], "a linear network on features has one layer"),
        (["eval", "probe", "--tta"], "a.npz has features, which have no mirror image"),
        (["predict", "probe", "a.png"], "run probe was trained on features, so it takes a file"),
        (["predict", "probe", "b.npz"], "there is no such file"),
    ],
)
def test_what_features_do_not_have_is_refused(command, reason, wbcli):
    np.savez("a.npz", features=X, labels=Y)
    assert wbcli("stage1", "a.npz", "--epochs", "1", "--name", "probe").code == 0
    found = wbcli(*command)
    assert found.code in (1, 2) and reason in found.err


def test_a_run_goes_on_with_the_moments_that_it_had(wbcli):
    """Stopped after one of two epochs, and with another start of the same: the same bits."""
    np.savez("a.npz", features=X, labels=Y)
    how = ("--normalise", "standard", "--epochs", "2", "-q")
    assert wbcli("stage1", "a.npz", *how, "--name", "whole").code == 0
    assert wbcli("stage1", "a.npz", *how, "--name", "again").code == 0
    first, second = weights("whole"), weights("again")
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert torch.equal(first["backbone.mean"], second["backbone.mean"])
    assert first["backbone.mean"].abs().min() > 1
