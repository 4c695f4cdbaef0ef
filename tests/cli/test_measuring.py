"""eval on a test set that is not balanced: each number against what `predict --json` says."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from conftest import write_folder, write_pictures

TRAIN = {"a": 6, 'b, "the" best': 4, "ç": 3, "never tested": 2}  # more in alphabetical order
TEST = {"a": 9, 'b, "the" best': 4, "ç": 1}
SHORT = ("--image-size", 16, "--arch", "resnet8", "--epochs", 3, "--lr", 0.05, "--batch-size", 4)


@pytest.fixture
def unbalanced(wbcli):
    """The folder `mine` whose test images are 9, 4, 1 and none; runs `first` and its `second`."""
    write_folder(Path("mine"), TRAIN, test=0)
    names = [f"test/{name}/{i}.jpg" for name, count in TEST.items() for i in range(count)]
    write_pictures(Path("mine"), names)
    assert wbcli("stage1", "mine", *SHORT, "--name", "first").code == 0
    assert wbcli("stage2", "first", "--epochs", 1, "--name", "second").code == 0


def counts_of_predictions(wbcli, run: str, names: list[str]) -> list[list[int]]:
    """How often a picture of each folder (row) has each class on top: plain counting."""
    counts = [[0] * len(names) for _ in names]
    for image in wbcli("predict", run, "mine/test", "--json", "--top", 1).json["images"]:
        true = names.index(Path(image["file"]).parent.name)
        counts[true][image["top"][0]["class"]] += 1
    return counts


def test_every_number_of_an_unbalanced_test_set_by_an_independent_calculation(wbcli, unbalanced):
    for run in ("first", "second"):
        result = wbcli("eval", run, "--json", "--confusion", f"{run}.csv").json
        rows = result["per_class"]
        names = [row["name"] for row in rows]
        assert names == sorted(TRAIN)
        counts = counts_of_predictions(wbcli, run, names)
        assert sum(map(sum, counts)) == result["num_images"] == 14
        recalls, f1s = [], []
        for k, row in enumerate(rows):
            hits, images = counts[k][k], sum(counts[k])
            predictions = sum(counts[true][k] for true in range(4))
            assert row["test_images"] == images == TEST.get(names[k], 0)
            assert row["precision"] == (
                pytest.approx(100 * hits / predictions) if predictions else None
            )
            if not images:
                assert (row["accuracy"], row["recall"], row["f1"]) == (None, None, None)
                continue
            recalls.append(100 * hits / images)
            f1s.append(100 * 2 * hits / (images + predictions))
            assert row["accuracy"] == row["recall"] == pytest.approx(recalls[-1])
            assert row["f1"] == pytest.approx(f1s[-1])
        right = sum(counts[k][k] for k in range(4))
        assert result["accuracy"]["images"] == pytest.approx(100 * right / 14)
        assert result["accuracy"]["all"] == pytest.approx(sum(recalls) / 3)
        assert result["macro_f1"] == pytest.approx(sum(f1s) / 3)
        with open(f"{run}.csv", encoding="utf-8", newline="") as file:
            head, *lines = csv.reader(file)
        assert head == ["true \\ predicted", *names]
        assert lines == [[name, *map(str, row)] for name, row in zip(names, counts, strict=True)]
        kept = json.loads(Path(f"runs/{run}/result.json").read_text())["test"]
        assert kept == result


def test_the_table_and_the_csv_show_accuracy_over_images_beside_that_over_classes(
    wbcli, unbalanced
):
    found = wbcli("eval", "first", "--json").json["accuracy"]
    assert found["images"] != found["all"]
    head, _, row, caption = wbcli("eval", "first").out.splitlines()
    assert head.split()[4:9] == ["many", "medium", "few", "all", "images"]
    assert row.split()[7:9] == [f"{found['all']:.2f}", f"{found['images']:.2f}"]
    assert "images: accuracy over images, not classes" in caption
    head, row = csv.reader(wbcli("eval", "first", "--csv").out.splitlines())
    assert float(row[head.index("images")]) == found["images"]
    verbose = wbcli("eval", "first", "-v").out
    assert verbose.splitlines()[6].split()[4:8] == ["accuracy", "precision", "recall", "f1"]


def test_the_table_of_classes_names_the_split_that_is_measured(wbcli, unbalanced):
    head = wbcli("eval", "first", "--split", "train", "-v").out.splitlines()[6].split()
    assert head[2:4] == ["train_images", "train_images"]
    assert "test_images" in wbcli("eval", "first", "-v").out


def test_confusion_follows_split_and_mirror_images(wbcli, unbalanced):
    given = ("--split", "train", "--tta", "--confusion", "train.csv")
    result = wbcli("eval", "first", *given, "--json").json
    with open("train.csv", encoding="utf-8", newline="") as file:
        _, *lines = csv.reader(file)
    counts = np.array([line[1:] for line in lines], dtype=int)
    assert counts.sum(1).tolist() == [row["train_images"] for row in result["per_class"]]
    recalls = [row["recall"] for row in result["per_class"]]
    np.testing.assert_allclose(recalls, 100 * counts.diagonal() / counts.sum(1))


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["first", "--confusion", "mine.csv"], "--confusion mine.csv exists: choose another name"),
        (["first", "--confusion", "no/x.csv"], "--confusion no/x.csv: there is no folder no"),
        (["first", "second", "--confusion", "x.csv"], "--confusion FILE.csv is of one run: name"),
        (["first", "--confusion", ""], "expected the name of a file or folder, got ''"),
    ],
)
def test_a_confusion_that_cannot_be_written_is_refused_before_anything_is_measured(
    wbcli, unbalanced, args, message
):
    Path("mine.csv").write_text("precious")
    result = wbcli("eval", *args)
    assert (result.code, result.out) == (2, "")
    assert message in result.err and result.err.count("\n") == 1
    assert not Path("runs/first/result.json").exists()
    assert not Path("x.csv").exists() and Path("mine.csv").read_text() == "precious"
