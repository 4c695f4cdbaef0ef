"""What a run is measured on: its test set; where there is none, its validation images."""

import json
from pathlib import Path

import pytest

from conftest import write_folder

SHORT = ("--arch", "resnet8", "--image-size", "8", "--epochs", "2", "--batch-size", "8")
SENTENCE = (
    "there is no test/: what is measured is val, 4 images on which the best epoch and the "
    "temperature are chosen, too"
)


@pytest.fixture(scope="module")
def without_test(tmp_path_factory):
    """A folder with train/ and val/ only, and the runs `it`, `second` and `third` of it."""
    from click.testing import CliRunner

    from wbcli import cli

    place = tmp_path_factory.mktemp("without-test")
    write_folder(place / "mine", {"a": 5, "b": 3}, test=0, val=2)
    outputs = {}
    for name, command in {
        "it": ["stage1", str(place / "mine"), *SHORT],
        "second": ["stage2", "it", "--epochs", "1"],
        "third": ["normalize", "it"],
    }.items():
        command += ["--json", "--name", name, "--runs-dir", str(place / "runs")]
        outputs[name] = CliRunner().invoke(cli.cli, command)
    return place, outputs


@pytest.fixture
def here(without_test, monkeypatch):
    monkeypatch.chdir(without_test[0])
    return without_test[1]


@pytest.mark.parametrize("name", ["it", "second", "third"])
def test_a_training_without_test_images_gives_its_validation_accuracy(name, here, wbcli):
    assert here[name].exit_code == 0
    assert f"Warning: {Path('mine').resolve()}: {SENTENCE}\n" in here[name].stderr
    found = json.loads(here[name].stdout)
    assert found["accuracy"] is None
    assert set(found["val_accuracy"]) == {"all", "many", "medium", "few"}
    measured = wbcli("eval", name, "--json").json
    assert (measured["split"], measured["num_images"]) == ("val", 4)
    over_images = {"images": found["val_accuracy"]["all"]}  # two of each class
    assert measured["accuracy"] == found["val_accuracy"] | over_images
    assert measured == wbcli("eval", name, "--split", "val", "--json").json


def test_the_epochs_show_validation_alone(here, wbcli, tmp_path):
    told = wbcli("stage1", "mine", *SHORT, "--runs-dir", tmp_path / "runs").err
    lines = [line for line in told.splitlines() if line.startswith("epoch")]
    assert [("val " in line, "test" in line) for line in lines] == [(True, False)] * 2


def test_test_images_that_are_asked_for_and_not_there_are_refused(here, wbcli):
    result = wbcli("eval", "it", "--split", "test")
    assert (result.code, result.out) == (1, "")
    assert result.err == "Error: mine has no test images, only validation images\n"
    result = wbcli("tune", "stage2", "it", "--select", "test", "--trials", 1)
    assert result.code == 2
    assert "Error: --select test: mine has no test images, only validation images" in result.err
    result = wbcli("reproduce", "--dataset", "mine", *("--epochs", 1, "--arch", "resnet8"))
    assert (result.code, result.out) == (1, "")
    assert result.err.endswith("Error: mine has no test images, only validation images\n")


def test_a_search_chooses_on_validation_images(here, wbcli):
    found = wbcli("tune", "normalize", "it", "--trials", 3, "--json").json
    assert (found["selected_on"], len(found["trials"])) == ("val", 3)


def test_runs_lists_validation_accuracy_and_says_so(here, wbcli):
    rows = wbcli("runs", "--json").json
    assert [row["accuracy"] for row in rows] == [None] * 3
    assert rows[0]["val_accuracy"] == json.loads(here["it"].stdout)["val_accuracy"]
    table = wbcli("runs").out
    assert table.endswith("on validation images, since there is no test set: it, second, third\n")


def test_the_report_says_on_what_it_was_measured(here, wbcli):
    page = Path(wbcli("report", "it", "second", "--output", "page", "--json").json["page"])
    text = page.read_text()
    assert "measured on 4 validation images." in text
    assert "Accuracy of every class on the validation images" in text
    assert "validation accuracy, all, %" in Path("page/figures/learning_curves.svg").read_text()
    assert "test accuracy" not in text and "test set" not in text


def test_the_data_set_is_shown_and_checked(here, wbcli):
    shown = wbcli("data", "show", "mine", "--json").json
    assert (shown["num_train"], shown["num_test"]) == (8, 0)
    assert wbcli("data", "check", "mine").out == "mine: 8 train, 4 val images; no problems\n"


def test_an_export_is_compared_on_validation_images(here, wbcli, tmp_path):
    path = tmp_path / "it.safetensors"
    result = wbcli("export", "it", "--format", "safetensors", "--output", path)
    assert "on 16 val images" in result.out
