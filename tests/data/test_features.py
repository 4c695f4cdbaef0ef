"""Files of features as a data set: what is read, divided, and refused in one line."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from wbcli.config.resolve import resolve_stage1
from wbcli.data import features, recorded, sources
from wbcli.data.longtail import SettingError

X = np.random.default_rng(0).normal(size=(15, 4)).astype(np.float32)
Y = np.repeat(np.arange(3), [8, 5, 2])
WHOLE = {"train_features": X, "train_labels": Y, "test_features": X + 1, "test_labels": Y}


def settings(name: str, **options):
    return resolve_stage1({"dataset": name, "data_dir": "data", "precision": "fp32"} | options)


def dataset(name: str, **options):
    return recorded.for_run(settings(name, **options))


def test_the_splits_are_those_of_the_file(tmp_path):
    names = np.array(["wren", "robin", "Ärger"])
    np.savez("a.npz", **WHOLE, val_features=X[:3] - 1, val_labels=Y[:3], class_names=names)
    found = dataset("a.npz")
    assert found.class_names == names.tolist()
    assert found.class_counts == [8, 5, 2]
    np.testing.assert_array_equal(np.asarray(found.train.images), X)
    np.testing.assert_array_equal(np.asarray(found.test.images), X + 1)
    np.testing.assert_array_equal(np.asarray(found.val.images), X[:3] - 1)
    assert found.val.labels.tolist() == [0, 0, 0]


def test_a_safetensors_file_has_its_class_names_as_metadata():
    save_file(WHOLE, "a.safetensors", {"class_names": json.dumps(["a", "b", "c"])})
    found = dataset("a.safetensors")
    assert found.class_names == ["a", "b", "c"]
    np.testing.assert_array_equal(np.asarray(found.train.images), X)


def test_a_single_pair_is_divided_by_class_always_alike():
    """Of 20, 10 and 2 rows a fifth tests and a tenth validates, rounded; one always trains."""
    labels = np.repeat(np.arange(3), [20, 10, 2])
    np.savez("a.npz", features=np.arange(32.0)[:, None], labels=labels)
    found = dataset("a.npz", seed=5)
    assert found.class_counts == [14, 7, 2]
    assert found.test_counts() == [4, 2, 0]
    assert found.val_counts() == [2, 1, 0]
    parts = [np.asarray(s.images)[:, 0] for s in (found.train, found.test, found.val)]
    assert sorted(np.concatenate(parts)) == list(range(32))
    again = dataset("a.npz", seed=6)
    np.testing.assert_array_equal(np.asarray(again.test.images)[:, 0], parts[1])


def test_shares_are_as_they_are_given():
    np.savez("a.npz", features=X, labels=Y)
    found = dataset("a.npz", val=0.0, test=0.5)
    assert found.val is None
    assert found.test_counts() == [4, 3, 1]
    held_out = dataset("a.npz", val_per_class=1, test=0.5)
    assert held_out.val_counts() == [1, 1, 0]  # the last class has but one that trains
    assert held_out.class_counts == [3, 1, 1]


def test_a_share_that_is_nothing_is_refused():
    np.savez("a.npz", features=X[:4], labels=np.array([0, 0, 1, 1]))
    with pytest.raises(SettingError, match=r"--val 0\.1: no class has enough rows \(the largest"):
        dataset("a.npz", val=0.1, test=0.5)


def test_a_class_that_is_named_may_have_no_row_that_trains(wbcli):
    gap = {"train_labels": Y + (Y == 1), "class_names": np.array(["a", "b", "c"])}
    np.savez("a.npz", **WHOLE | gap)
    found = wbcli("stage1", "a.npz", "--epochs", "1", "--name", "first")
    assert found.code == 0 and "1 of 3 classes has no training images: b" in found.err
    assert wbcli("stage2", "first", "--epochs", "1").code == 0


def test_a_subset_of_it_is_long_tailed_by_count():
    np.savez("a.npz", **WHOLE | {"train_labels": 2 - Y})
    assert dataset("a.npz", imbalance_factor=8).class_counts == [1, 2, 8]


def test_what_a_run_recorded_is_found_again_and_missed_when_it_changes():
    np.savez("a.npz", **WHOLE)
    first = dataset("a.npz")
    record = recorded.Record("run", first.class_names, [8, 5, 2], [8, 5, 2], {}, first.chosen)
    again = recorded.for_run(settings("a.npz"), record)
    np.testing.assert_array_equal(np.asarray(again.train.images), X)
    assert not again.changes
    np.savez("a.npz", **WHOLE | {"train_features": X + 1e-3})
    changed = recorded.for_run(settings("a.npz"), record)
    with pytest.raises(ValueError, match="the images that trained it are others now"):
        changed.split("train")
    assert changed.split("test").labels.tolist() == Y.tolist()


def test_a_file_is_found_by_its_path_and_a_folder_of_that_name_is_none(tmp_path):
    (tmp_path / "far").mkdir()
    np.savez("far/a.npz", **WHOLE)
    assert sources.locate("far/a.npz", "data") == ("a.npz", str(tmp_path / "far"))
    assert sources.locate("a.npz", "far") == ("a.npz", str(tmp_path / "far"))
    assert sources.find("a.npz").features and not sources.find("digitslt").features
    (tmp_path / "b.npz").mkdir()
    with pytest.raises(ValueError, match="a folder of one's own needs a name of its own"):
        sources.locate("b.npz", "data")


BAD = X.copy()
BAD[3, 2] = np.nan
MISTAKES = {
    "nan": ({"train_features": BAD}, "train_features is nan or infinite in row 3"),
    "too large": (
        {"test_features": X.astype(np.float64) * 1e300},
        "test_features is nan or infinite in row 0",
    ),
    "width": ({"test_features": X[:, :3]}, "test_features has 3 features in a row, others have 4"),
    "vector": (
        {"train_features": X[0]},
        "expected train_features [N, D] of numbers, got float32 [4]",
    ),
    "texts": (
        {"train_features": X.astype(str)},
        "expected train_features [N, D] of numbers, got <U",
    ),
    "empty": ({"train_features": X[:0]}, "train_features is empty, [0, 4]"),
    "short": (
        {"train_labels": Y[:-1]},
        "expected train_labels as 15 whole numbers, one for",
    ),
    "floats": ({"train_labels": Y * 1.0}, "expected train_labels as 15 whole numbers"),
    "negative": (
        {"train_labels": Y - 1},
        "expected train_labels from 0, one number",
    ),
    "unknown": (
        {"test_labels": Y + 1},
        "test_labels from 0 to 2, of 3 classes, got 1 to 3",
    ),
    "gap": ({"train_labels": Y + (Y == 1)}, "no row of train_labels is of class 1, of 3"),
    "objects": ({"train_features": X.astype(object)}, "train_features is an array of objects"),
    "labels": ({"train_labels": Y.astype(object)}, "train_labels is an array of objects"),
    "names": ({"class_names": np.array(["a", 1], object)}, "class_names is an array of objects"),
    "few names": ({"class_names": np.array(["a", "b"])}, "expected train_labels from 0 to 1"),
    "numbers": (
        {"class_names": np.arange(3)},
        "class_names as a list of texts, got int64",
    ),
    "one": ({"train_labels": Y * 0, "test_labels": Y * 0}, "expected at least two classes, got 1"),
}


@pytest.mark.parametrize(("arrays", "reason"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_in_the_file_is_one_line_and_leaves_nothing(arrays, reason, wbcli, tmp_path):
    np.savez("a.npz", **WHOLE | arrays)
    found = wbcli("stage1", "a.npz")
    assert found.code in (1, 2) and not found.out
    assert found.err.startswith(f"Error: {tmp_path / 'a.npz'}: ") and found.err.count("\n") == 1
    assert reason in found.err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({"foo": X}, "there is no train_features, there is foo"),
        ({"features": X}, "there is no labels beside features"),
        ({"train_features": X, "train_labels": Y}, "there is no test_features"),
        ({"train_features": X, "test_features": X, "test_labels": Y}, "there is no train_labels"),
    ],
)
def test_arrays_that_are_not_there_are_named(arrays, reason, wbcli):
    np.savez("a.npz", **arrays)
    found = wbcli("stage1", "a.npz")
    assert found.code in (1, 2) and reason in found.err and found.err.count("\n") == 1


def test_what_is_not_used_is_said(wbcli):
    np.savez("a.npz", **WHOLE, notes=np.arange(3))
    assert "left out of" in (found := wbcli("data", "show", "a.npz", "--json")).err
    assert found.json["class_counts"] == [8, 5, 2]


def test_without_test_rows_validation_rows_are_measured(wbcli):
    np.savez("a.npz", train_features=X, train_labels=Y, val_features=X, val_labels=Y)
    found = wbcli("stage1", "a.npz", "--epochs", "1", "--json")
    assert found.json["accuracy"] is None and found.json["val_accuracy"]["all"] >= 0
    assert "has no test_features" in found.err


def test_data_check_finds_a_row_in_train_and_test(wbcli):
    np.savez("a.npz", **WHOLE | {"test_features": np.concatenate([X[:1], X[1:] + 1])})
    found = wbcli("data", "check", "a.npz")
    assert found.code == 1 and "the same picture in train and in test" in found.out


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--arch", "resnet8"], "--arch resnet8: a.npz has features, whose network is linear"),
        (["--recipe", "released"], "the released code says nothing of a.npz"),
        (["--test", "0.1"], "--test: it divides the single pair features and labels"),
        (["--aug", "crop"], "--aug: a.npz has features, no pictures"),
        (["--image-size", "8"], "--image-size: a.npz has features, no pictures"),
    ],
)
def test_what_features_cannot_have_is_refused(options, reason, wbcli):
    np.savez("a.npz", **WHOLE)
    found = wbcli("stage1", "a.npz", *options)
    assert found.code == 2 and reason in found.err


@pytest.mark.parametrize("option", ["--arch linear", "--val 0.1", "--normalise l2"])
def test_pictures_are_no_features(option, wbcli):
    found = wbcli("stage1", "digitslt", *option.split())
    assert found.code == 2 and "digitslt has pictures" in found.err


def test_arrays_to_classify_are_those_called_features():
    np.savez("a.npz", features=X[:2], files=np.array(["a", "b"]))
    np.savez("b.npz", **WHOLE)
    found = [u.name for u in features.read_unlabelled(Path("a.npz"), 4, "r")]
    assert found == ["features"]
    found = [u.name for u in features.read_unlabelled(Path("b.npz"), 4, "r")]
    assert found == ["train_features", "test_features"]
    with pytest.raises(ValueError, match="features has 4 features in a row, run r was trained on"):
        features.read_unlabelled(Path("a.npz"), 5, "r")
