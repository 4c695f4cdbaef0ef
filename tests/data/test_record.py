"""A run's numbers come from its own record: its counts, and the images that it had."""

import gzip
import json
import os
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from conftest import write_cifar10, write_folder, write_pickle, write_pictures
from wbcli import cli
from wbcli.config.resolve import resolve_stage1
from wbcli.config.settings import Config, resolved_limits
from wbcli.data import datasets
from wbcli.data.chosen import Chosen, Images
from wbcli.data.packed import pack, unpack
from wbcli.data.pictures.decoding import Pictures
from wbcli.data.record import Record
from wbcli.data.recorded import for_run
from wbcli.files.readers import read_pickle
from wbcli.runs.find import newest
from wbcli.runs.run import Run
from wbcli.training import lab

SMALL = ("--arch", "resnet8", "--image-size", "16", "--epochs", "1", "--batch-size", "16", "-q")
SMALL += ("--limits", "10", "5", "--workers", "0")
SINCE = "the data set has changed since run {} trained: "
REMEDY = ": put them back as they were, or train anew\n"
LOST = "4 pictures that were held out are gone, such as train/ant/6.jpg"
UNCHECKED = "that they have not trained it cannot be checked"
UNKNOWN = "which are Many, Medium and Few is not known"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Pets of [12, 6, 4] pictures, two of each held out; `it` of stage 1, `two` of stage 2."""
    folder = tmp_path_factory.mktemp("trained")
    write_folder(folder / "pets", {"ant": 12, "bee": 6, "cat": 4})
    place = ["--runs-dir", str(folder / "runs"), "--data-dir", str(folder)]
    first = ["stage1", "pets", *SMALL, "--val-per-class", "2", "--name", "it", *place]
    second = ["stage2", "it", "--epochs", "1", "-q", "--name", "two", "--workers", "0", *place]
    for command in (first, second):
        assert CliRunner().invoke(cli.cli, command).exit_code == 0
    return folder


@pytest.fixture
def pets(trained, tmp_path, monkeypatch):
    """A copy of all that; returns its folder of pictures."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    monkeypatch.setenv("WBCLI_DATA", str(tmp_path))
    return tmp_path / "pets"


def as_of_010(name: str, **changes) -> Run:
    """The run as wbcli 0.1.0 wrote it."""
    run = Run(Path("runs") / name)
    (run.path / "images.json.gz").unlink(missing_ok=True)
    record = json.loads((run.path / "config.json").read_text())
    record.pop("original_counts", None)
    record |= {"limits": [10, 5]} | changes
    (run.path / "config.json").write_text(json.dumps(record))
    return run


def add(root: Path, classes: str = "bc", split: str = "train") -> None:
    """Nine pictures a class, with names before and behind those that are there."""
    names = {"a": "ant", "b": "bee", "c": "cat"}
    write_pictures(
        root,
        [f"{split}/{names[k]}/{p}{i}new.jpg" for k in classes for p in "A5z" for i in range(3)],
    )


def counts(result: dict) -> list[int]:
    return [row["train_images"] for row in result["per_class"]]


def test_a_run_records_its_counts_its_limits_and_its_images(pets):
    for name in ("it", "two"):
        record = Run(Path("runs") / name).record()
        assert (record["class_counts"], record["original_counts"]) == ([10, 4, 2], [12, 6, 4])
        assert record["limits"] == {"many": 10, "few": 5}
        images = Run(Path("runs") / name).images()
        assert images.counts() == [10, 4, 2]
        assert images.val.labels.tolist() == [0, 0, 1, 1, 2, 2]
        held_out = ["ant/8", "ant/9", "bee/4", "bee/5", "cat/2", "cat/3"]
        assert images.val.keys.tolist() == [f"train/{name}.jpg".encode() for name in held_out]
        assert images.unused.tolist() == [0, 0, 0]


def test_limits_that_are_the_data_sets_own_are_the_same_setting_given_or_not(pets):
    options = {"dataset": "pets", "data_dir": str(pets.parent), "precision": "fp32"}
    plain = resolve_stage1(options)
    assert resolve_stage1(options | {"limits": (100, 20)}) == plain
    run = Run(Path("runs/new"))
    run.path.mkdir()
    for settings in (plain, resolve_stage1(options | {"limits": (10, 5)})):
        run.write_record(settings, {})
        assert run.config() == settings
        assert run.record()["limits"] == resolved_limits(settings)


def test_pictures_that_were_added_change_no_number(wbcli, pets):
    splits = [
        ("eval", name, "--split", s, "--json")
        for name in ("it", "two")
        for s in ("test", "val", "train")
    ]
    before = [wbcli(*command) for command in splits]
    weights = Path("runs/two/model.safetensors").read_bytes()
    add(pets)
    for command, was in zip(splits, before, strict=True):
        result = wbcli(*command)
        assert (result.code, result.json) == (0, was.json)
        line = SINCE.format(command[1]) + "18 new pictures in 2 classes are not used"
        assert result.err == f"Warning: {line}\n"
    assert counts(before[0].json) == [10, 4, 2]
    assert None not in before[0].json["accuracy"].values(), "a class in every group: 12, 6 and 4"
    again = wbcli("stage2", "it", "--epochs", "1", "-q", "--name", "again")
    assert again.code == 0
    assert again.err == f"Warning: {SINCE.format('it')}18 new pictures in 2 classes are not used\n"
    assert Path("runs/again/model.safetensors").read_bytes() == weights
    images = [Path("runs", name, "images.json.gz").read_bytes() for name in ("it", "two", "again")]
    assert images[0] == images[1] == images[2]


def test_test_pictures_that_are_others_now_are_told(wbcli, pets):
    """One more; one that was replaced under another name; one that went to another class."""
    cats = pets / "test" / "cat"
    first, second = sorted(cats.iterdir())
    said = SINCE.format("it") + "its test images are others now, 6 then and {} now\n"
    assert "test images" not in wbcli("eval", "it").err
    shutil.copy(first, cats / "more.jpg")
    for name in ("it", "two"):
        result = wbcli("eval", name, "--json")
        assert result.json["num_images"] == 7
        assert said.format(7).replace("run it", f"run {name}") in result.err
    second.rename(cats / "other.jpg")
    (cats / "more.jpg").unlink()
    assert said.format(6) in wbcli("eval", "it").err
    (cats / "other.jpg").rename(pets / "test" / "ant" / "other.jpg")
    assert said.format(6) in wbcli("eval", "it").err
    new = wbcli("stage2", "it", "--epochs", "1", "-q", "--name", "new")
    assert said.format(6) in new.err
    assert "test images" not in wbcli("eval", "new").err, "it was measured with these"
    run = Run(pets.parent / "runs" / "it")
    content = json.loads(gzip.decompress((run.path / "images.json.gz").read_bytes()))
    del content["test"]
    (run.path / "images.json.gz").write_bytes(packed(content))
    assert "test images" not in wbcli("eval", "it").err, "an older version did not say"


def test_a_run_whose_parent_is_gone_has_its_own_record(wbcli, pets):
    before = wbcli("eval", "two", "--split", "val", "--json").json
    shutil.rmtree("runs/it")
    add(pets)
    for split in ("val", "train", "test"):
        assert wbcli("eval", "two", "--split", split).code == 0
    assert wbcli("eval", "two", "--split", "val", "--json").json == before
    assert wbcli("normalize", "two").code == 2, "which needs a stage-1 run"


def test_held_out_pictures_that_are_gone_are_named(wbcli, pets):
    """Four that had trained would be held out in their place, were it computed anew."""
    before = wbcli("eval", "it", "--json")
    kept = Path("runs/it/temperature.json").read_text()
    for name in ("train/ant/8", "train/ant/9", "train/bee/4", "train/bee/5"):
        (pets / f"{name}.jpg").unlink()
    lost = LOST.replace("ant/6", "ant/8")
    commands = [
        ("eval", "it", "--split", "val"),
        ("normalize", "it"),
        ("stage2", "it", "--epochs", "1"),
    ]
    commands += [("tune", stage, "it", "--trials", "2") for stage in ("stage2", "normalize")]
    for command in commands:
        result = wbcli(*command, "-q")
        assert (result.code, result.out) == (1, ""), command
        assert result.err == f"Error: {SINCE.format('it')}{lost}{REMEDY}"
    result = wbcli("eval", "it", "--json")
    assert (result.code, result.json) == (0, before.json)
    assert result.err == (
        f"Warning: {SINCE.format('it')}{lost}\n"
        "Warning: run it: without its validation images the temperature is the one that it kept\n"
    )
    assert Path("runs/it/temperature.json").read_text() == kept
    assert wbcli("eval", "it", "--split", "train").code == 0
    assert sorted(os.listdir("runs")) == ["it", "two"], "what was refused leaves no run"
    Path("runs/it/temperature.json").unlink()
    result = wbcli("eval", "it", "--json")
    assert result.json["temperature"] is None
    assert "without its validation images it kept no temperature" in result.err
    assert not Path("runs/it/temperature.json").exists()


def test_training_pictures_that_are_gone_are_named(wbcli, pets):
    before = {
        split: wbcli("eval", "it", "--split", split, "--json").json for split in ("test", "val")
    }
    (pets / "train/cat/0.jpg").unlink()
    line = SINCE.format("it") + "1 picture that trained it is gone, such as train/cat/0.jpg"
    commands = [("eval", "it", "--split", "train"), ("stage2", "it", "--epochs", "1")]
    commands += [("tune", stage, "it", "--trials", "2") for stage in ("stage2", "normalize")]
    for command in commands:
        result = wbcli(*command, "-q")
        assert (result.code, result.out, result.err) == (1, "", f"Error: {line}{REMEDY}"), command
    for split, was in before.items():
        result = wbcli("eval", "it", "--split", split, "--json")
        assert (result.code, result.json, result.err) == (0, was, f"Warning: {line}\n")
    assert wbcli("normalize", "it").code == 0


def test_a_folder_with_val_is_recorded_too(wbcli, tmp_path):
    write_folder(tmp_path / "birds", {"jay": 8, "owl": 4}, val=2)
    assert wbcli("stage1", "birds", *SMALL, "--name", "it", "--data-dir", tmp_path).code == 0
    before = wbcli("eval", "it", "--split", "val", "--json").json
    add_to_val = [f"val/{name}/A{i}.jpg" for name in ("jay", "owl") for i in range(3)]
    write_pictures(tmp_path / "birds", add_to_val)
    result = wbcli("eval", "it", "--split", "val", "--json")
    assert (result.json, result.code) == (before, 0)
    assert "6 new pictures in 2 classes are not used" in result.err
    shutil.rmtree(tmp_path / "birds/val")
    result = wbcli("eval", "it", "--split", "val")
    assert (result.code, result.out) == (1, "")
    assert "4 pictures that were held out are gone, such as val/jay/0.jpg" in result.err


def test_a_val_that_came_later_is_not_used(wbcli, pets):
    before = wbcli("eval", "it", "--split", "val", "--json").json
    add(pets, "ab", split="val")
    result = wbcli("eval", "it", "--split", "val", "--json")
    assert (result.code, result.json) == (0, before)
    assert result.err == ("Warning: left out: val/, since --val-per-class takes images of train/\n")


def test_a_run_of_010_whose_data_set_is_the_same(wbcli, pets):
    before = wbcli("eval", "it", "--json").json
    as_of_010("it")
    result = wbcli("eval", "it", "--json")
    assert (result.code, result.json) == (0, before)
    assert result.err.count("\n") == 1
    assert "which images run it holds out was computed anew" in result.err
    assert UNCHECKED in result.err
    assert wbcli("eval", "it", "--split", "val").code == 0
    result = wbcli("stage2", "it", "--epochs", "1", "--name", "next")
    assert (result.code, result.err.count(UNCHECKED)) == (0, 1)
    assert Run(Path("runs/next")).images().counts() == [10, 4, 2]


def test_a_hold_out_that_was_guessed_stays_a_guess_in_what_follows(wbcli, pets):
    """Renamed pictures: two that trained `it` would be its validation images now, in silence."""
    as_of_010("it")
    for i in (8, 9):
        os.rename(pets / f"train/ant/{i}.jpg", pets / f"train/ant/0{i}.jpg")
    for command in (("normalize", "it", "--name", "one"), ("stage2", "it", "--epochs", "1")):
        assert wbcli(*command).code == 0
    for name in ("one", "pets-stage2-001"):
        held_out = Run(Path("runs") / name).images().val.keys.tolist()
        assert held_out[:2] == [b"train/ant/6.jpg", b"train/ant/7.jpg"]
        result = wbcli("eval", name, "--split", "val")
        assert (result.code, result.err.count(UNCHECKED)) == (0, 1)


def test_a_run_of_010_with_an_imbalance_factor_is_read_by_the_rule_of_then(wbcli, tmp_path):
    """The smallest class was n_max: [4, 2, 1] of [12, 6, 4], where now it is [12, 6, 3]."""
    write_folder(tmp_path / "pets", {"ant": 12, "bee": 6, "cat": 4})
    factor = ("--imbalance-factor", "4")
    assert wbcli("stage1", "pets", *SMALL, *factor, "--name", "it").code == 0
    as_of_010("it", class_counts=[4, 2, 1])
    result = wbcli("eval", "it", "--split", "train", "--json")
    assert (result.code, result.err) == (0, "")
    assert [row["test_images"] for row in result.json["per_class"]] == [4, 2, 1]
    assert wbcli("stage2", "it", "--epochs", "1", "--name", "next").code == 0
    assert Run(Path("runs/next")).images().counts() == [4, 2, 1]


def test_a_run_of_010_whose_folder_got_a_val_is_measured(wbcli, pets):
    before = wbcli("eval", "it", "--json").json
    as_of_010("it")
    add(pets, "abc", split="val")
    result = wbcli("eval", "it", "--json")
    assert (result.code, result.json) == (0, before)
    assert "left out: val/, since --val-per-class takes images of train/" in result.err


def test_valid_beside_a_hold_out_is_no_change(wbcli, tmp_path):
    write_folder(tmp_path / "pets", {"ant": 12, "bee": 6}, val=3)
    os.rename("pets/val", "pets/valid")
    assert wbcli("stage1", "pets", *SMALL, "--val-per-class", "2", "--name", "it").code == 0
    result = wbcli("eval", "it", "--split", "val")
    assert result.code == 0
    assert result.err == "Warning: left out: valid/, since --val-per-class takes images of train/\n"


def test_what_lies_beside_the_pictures_and_classes_without_any_are_said(wbcli, pets):
    (pets / "train/loose.png").write_bytes(b"")
    shutil.rmtree(pets / "test/cat")
    result = wbcli("eval", "it", "--json")
    assert result.code == 0
    assert "1 picture outside the class folders, such as train/loose.png" in result.err
    assert "it: 1 class has no images in this split and is left out of the means" in result.err


def test_images_in_memory_that_are_others_now_are_not_counted_as_new(wbcli, tmp_path):
    write_cifar10(tmp_path, 4)
    short = ("--arch", "resnet8", "--epochs", "1", "--imbalance-factor", "4", "-q")
    assert wbcli("stage1", "cifar10lt", *short, "--data-dir", ".", "--name", "it").code == 0
    path = tmp_path / "cifar-10-batches-py"
    os.rename(path / "data_batch_1", path / "other")
    os.rename(path / "data_batch_2", path / "data_batch_1")
    os.rename(path / "other", path / "data_batch_2")
    result = wbcli("eval", "it", "--split", "train")
    assert result.code == 1
    assert "the images that trained it are others now: put them back" in result.err


def test_a_run_of_010_whose_data_set_has_changed(wbcli, pets):
    before = wbcli("eval", "it", "--json").json
    as_of_010("it")
    add(pets)
    changed = SINCE.format("it") + "16 training images then, 34 now, of class 1 4 then and 13 now"
    result = wbcli("eval", "it", "--json")
    assert result.code == 0
    accuracy = before["accuracy"] | dict.fromkeys(("many", "medium", "few"))
    assert result.json == before | {"accuracy": accuracy}
    assert counts(result.json) == [10, 4, 2]
    assert result.err == (
        f"Warning: {changed}\n"
        "Warning: run it does not say how many images its classes had, as older versions of wbcli "
        f"did not: {UNKNOWN}\n"
        "Warning: run it: without its validation images the temperature is the one that it kept\n"
    )
    for command in (("eval", "it", "--split", "val"), ("stage2", "it"), ("tune", "stage2", "it")):
        result = wbcli(*command)
        assert (result.code, result.out) == (1, "")
        assert result.err == (
            f"Error: {changed}, and the run does not say which were held out{REMEDY}"
        )
    result = wbcli("eval", "it", "--split", "train")
    assert (result.code, result.out) == (1, "")
    assert "and the run does not say which trained it" in result.err
    result = wbcli("stage1", "pets", *SMALL, "--val-per-class", "2", "--name", "it", "--resume")
    assert result.code == 0, "it is finished, and nothing is to be done"


def test_a_run_of_010_without_a_hold_out_trains_on_as_before(wbcli, tmp_path):
    write_folder(tmp_path / "pets", {"ant": 12, "bee": 6, "cat": 4})
    assert wbcli("stage1", "pets", *SMALL, "--name", "it", "--data-dir", tmp_path).code == 0
    as_of_010("it")
    assert wbcli("eval", "it").err == "", "there is nothing to check"
    add(tmp_path / "pets")
    result = wbcli("stage2", "it", "--epochs", "1", "--name", "two", "--workers", "0")
    assert result.code == 0
    assert "22 training images then, 40 now, of class 1 6 then and 15 now" in result.err
    assert Run(Path("runs/two")).class_counts() == [12, 15, 13]
    result = wbcli("normalize", "it", "--name", "norm", "--json")
    assert result.json["accuracy"]["many"] is None, "the network was trained on other counts"
    assert Run(Path("runs/norm")).class_counts() == [12, 6, 4]


def test_a_run_that_did_not_record_its_counts_has_none(wbcli, pets):
    as_of_010("two", class_counts=None, class_names=None)
    result = wbcli("eval", "two", "--json")
    assert result.code == 0
    assert counts(result.json) == [None] * 3
    assert result.json["accuracy"]["few"] is None
    assert UNKNOWN in result.err
    result = wbcli("report", "two")
    assert (result.code, result.out) == (1, "")
    assert "run two does not say how many images of each class trained it" in result.err


@pytest.mark.parametrize("content", [b"", b"{}", gzip.compress(b"{}"), None])
def test_a_damaged_file_of_images_is_one_line(wbcli, pets, content):
    path = Path("runs/it/images.json.gz")
    path.write_bytes(path.read_bytes()[:-9] if content is None else content)
    for command in (("eval", "it"), ("stage2", "it"), ("normalize", "it")):
        result = wbcli(*command)
        assert (result.code, result.out, result.err.count("\n")) == (1, "", 1)
        assert f"Error: {path} cannot be read: expected the images of a run" in result.err
        assert "without it nothing says which images the run held out" in result.err
    path.unlink()
    assert wbcli("eval", "it", "--json").json["accuracy"]["few"] is not None


def test_images_of_another_run_are_noticed(wbcli, pets):
    record = json.loads(Path("runs/it/config.json").read_text())
    Path("runs/it/config.json").write_text(json.dumps(record | {"class_counts": [9, 5, 2]}))
    result = wbcli("eval", "it")
    assert (result.code, result.out) == (1, "")
    assert "images.json.gz has other class counts than config.json" in result.err
    Path("runs/it/config.json").write_text(json.dumps(record | {"original_counts": [9]}))
    assert "original_counts of config.json does not count the images of each" in (
        wbcli("eval", "it").err
    )


def rewritten(run: str, change) -> None:
    """Its images as they are after the change."""
    path = Path("runs", run, "images.json.gz")
    content = json.loads(gzip.decompress(path.read_bytes()))
    change(content)
    path.write_bytes(packed(content))


def as_indices(content: dict) -> None:
    for part in (content["train"], content["val"]):
        part |= {"indices": list(range(len(part.pop("names")))), "digest": "d"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: c["train"]["names"].__setitem__(1, c["train"]["names"][0]), "ant/0.jpg twice"),
        (lambda c: c["val"]["names"].__setitem__(0, c["train"]["names"][1]), "ant/1.jpg twice"),
        (lambda c: c["train"]["labels"].__setitem__(0, 1), "other class counts than config.json"),
        (as_indices, "indices where this data set has names"),
    ],
)
def test_images_that_cannot_be_the_runs_are_one_line(wbcli, pets, change, said):
    rewritten("it", change)
    for command in (("eval", "it"), ("eval", "it", "--split", "val"), ("stage2", "it")):
        result = wbcli(*command)
        assert (result.code, result.out, result.err.count("\n")) == (1, "", 1)
        assert "Error: run it: images.json.gz has " in result.err
        assert said in result.err
        assert "put the file back as it was, or train anew" in result.err


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"class_counts": None}, "config.json lacks class_counts"),
        ({"class_names": None}, "config.json lacks class_names"),
        (
            {"original_counts": [12, 3, 4]},
            "config.json has for class 1 original_counts 3, class_counts 4",
        ),
    ],
)
def test_a_config_that_cannot_be_the_runs_is_one_line(wbcli, pets, change, said):
    path = Path("runs/it/config.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    result = wbcli("eval", "it")
    assert (result.code, result.out) == (1, "")
    assert result.err == (
        f"Error: run it: {said}; which images the run had is not known then: put the file back as "
        "it was, or train anew\n"
    )


def test_names_in_a_set_of_images_in_memory_are_refused(wbcli):
    wbcli("stage1", "digitslt", "--epochs", "1", "--val-per-class", "2", "--name", "it", "-q")

    def as_names(content: dict) -> None:
        content["val"]["names"] = [str(i) for i in content["val"].pop("indices")]

    rewritten("it", as_names)
    assert "images.json.gz has names where this data set has indices" in wbcli("eval", "it").err


def test_a_picture_that_a_list_names_twice_is_no_mistake():
    """Of the same class in one list, or in two lists, it trains, and is found again."""
    write_pictures(Path(), ["a/0.jpg", "b/0.jpg"])
    Path("Places_LT_train.txt").write_text("a/0.jpg 0\na/0.jpg 0\nb/0.jpg 1\n")
    for split in ("val", "test"):
        Path(f"Places_LT_{split}.txt").write_text("b/0.jpg 1\n")
    given = settings("placeslt")
    dataset = for_run(given)
    run = Run(Path("runs/it"))
    run.path.mkdir(parents=True)
    counts = {"class_counts": dataset.class_counts, "original_counts": dataset.original_counts}
    run.write_record(given, counts | {"class_names": dataset.class_names}, dataset.chosen)
    found = for_run(given, run.data_record())
    assert (found.changes, found.class_counts[:2]) == ([], [2, 1])


def test_a_missing_file_of_images_is_called_missing(wbcli, pets):
    path = Path("runs/it/images.json.gz")
    path.unlink()
    result = wbcli("eval", "it", "--split", "val")
    assert (result.code, result.err) == (
        0,
        "Warning: run it has no images.json.gz, and nothing else says which images it held out: "
        f"{UNCHECKED}; put the file back, or train anew\n",
    )
    for create in (path.mkdir, lambda: os.mkfifo(path)):
        create()
        result = wbcli("eval", "it")
        assert (result.code, result.out, result.err.count("\n")) == (1, "", 1)
        assert f"{path} cannot be read: expected a regular file, got a folder, pipe" in result.err
        if path.is_dir():
            path.rmdir()


def test_one_picture_that_was_held_out_is_gone(wbcli, pets):
    (pets / "train/ant/8.jpg").unlink()
    said = "1 picture that was held out is gone, such as train/ant/8.jpg"
    assert said in wbcli("eval", "it", "--split", "val").err


def test_epoch_lines_show_first_what_the_epoch_is_chosen_by(wbcli):
    short = ("stage1", "digitslt", "--epochs", "1", "--batch-size", "64")
    row = wbcli(*short, "--val-per-class", "2").err.splitlines()[-1]
    accuracy = newest(Path("runs"), ("stage1",)).metrics()[0]["val_accuracy"]["all"]
    assert row.index(f"  val {accuracy:.2f}  test all ") > row.index("  train ")
    assert "  val " not in wbcli(*short).err


def record_of(dataset: datasets.Dataset) -> Record:
    counts = dataset.class_counts, dataset.original_counts
    images = unpack(pack(dataset.chosen))
    return Record("it", dataset.class_names, *counts, dataset.limits, images)


def settings(dataset: str, **options) -> Config:
    given = {"dataset": dataset, "data_dir": ".", "precision": "fp32"}
    return resolve_stage1(given | options)


def test_images_in_memory_are_compared_by_a_digest():
    """CIFAR-10 of 20 images a class at a factor of 10: 20 … 2 train, and 2 are held out."""
    write_cifar10(Path(), per_class=20)
    config = settings("cifar10lt", imbalance_factor=10, val_per_class=2)
    dataset = for_run(config)
    recorded = record_of(dataset)
    same = for_run(config, recorded)
    assert (same.changes, same.gone) == ([], {})
    for split in ("train", "val"):
        assert np.array_equal(same.split(split).images, dataset.split(split).images)
        assert np.array_equal(same.split(split).labels, dataset.split(split).labels)
    assert recorded.images.unused.sum() == 200 - len(dataset.train.labels) - 20
    path = Path("cifar-10-batches-py/data_batch_1")
    content = read_pickle(path)
    content["data"] = content["data"].copy()
    place = dataset.chosen.train.keys[dataset.chosen.train.keys < len(content["labels"])][0]
    content["data"][place, 0] ^= 1
    write_pickle(path, {key.encode(): value for key, value in content.items()})
    found = for_run(config, recorded)
    line = SINCE.format("it") + "the images that trained it are others now"
    assert (found.changes, list(found.gone)) == ([line], ["train"])
    with pytest.raises(ValueError, match="are others now: put them back"):
        found.split("train")
    assert np.array_equal(found.val.images, dataset.val.images)


def test_a_changed_label_is_noticed_and_so_is_a_file_that_a_list_names_in_vain():
    names = [f"train/{k}/{i}.jpg" for k in range(3) for i in range(3)]
    write_pictures(Path(), [*names, "test/0.jpg"])

    def write(labels: list[int]) -> None:
        rows = [f"{name} {label}\n" for name, label in zip(names, labels, strict=True)]
        Path("Places_LT_train.txt").write_text("".join(rows))

    write([0, 0, 0, 1, 1, 1, 2, 2, 2])
    Path("Places_LT_val.txt").write_text("train/0/0.jpg 0\n")
    Path("Places_LT_test.txt").write_text("test/0.jpg 0\n")
    recorded = record_of(for_run(settings("placeslt")))
    assert recorded.images.counts()[:4] == [3, 3, 3, 0]
    write([0, 0, 0, 1, 1, 2, 2, 2, 2])
    os.unlink("train/2/2.jpg")
    found = for_run(settings("placeslt"), recorded)
    said = "1 picture that trained it is gone, such as train/2/2.jpg; "
    said += "1 picture that trained it is of another class now, such as train/1/2.jpg"
    assert found.changes == [SINCE.format("it") + said]
    assert (found.class_counts[:3], len(found.test.labels)) == ([3, 3, 3], 1)
    os.unlink("test/0.jpg")
    with pytest.raises(ValueError, match=r"test/0\.jpg is missing"):
        for_run(settings("placeslt"), recorded)


def test_images_are_found_by_name_in_the_order_of_the_record():
    def pictures(*names: str) -> Pictures:
        return Pictures.of(Path(), list(names))

    part = Images(pictures("c", "a", "b").names, np.array([1, 0, 0]))
    places, gone, moved = part.find(pictures("a", "d", "c", "b"), np.array([0, 1, 1, 2]))
    assert places.tolist() == [2, 0]
    assert (gone.tolist(), moved.tolist()) == ([False] * 3, [False, False, True])
    kept = Chosen(part, None, np.array([0, 1]))  # one of class 1 was left out by sampling
    assert kept.new([(pictures("a", "d", "e", "f"), np.array([0, 1, 1, 0]))]).tolist() == [1, 1]


def test_a_hundred_thousand_names_come_back_from_a_small_file():
    generator = np.random.default_rng(0)
    labels = np.sort(generator.integers(0, 100, 100_000))
    names = [f"train/{k}/{generator.bytes(8).hex()}.jpg" for k in labels]
    names[0] = "train/0/caf\udce9.jpg"  # bytes that are no UTF-8
    part = Images.of(Pictures.of(Path(), names), labels, np.arange(len(names)))
    packed = pack(Chosen(part, None, np.zeros(100, dtype=np.int64)))
    assert len(packed) < 16 * len(names), "8 bytes of a name are random"
    assert unpack(packed).train.same(part)


DIGEST = {"indices": [0], "digest": "d"}
gz = partial(gzip.compress, mtime=0)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"unused": [0]}, "a label of train is of none of the 1 classes of unused"),
        ({"unused": [0, -1, 0]}, "unused counts are no list of whole numbers from 0"),
        ({"unused": [True, 0, 0]}, "unused counts are no list of whole numbers from 0"),
        ({"train": None}, "train is null"),
        ({"train": {"names": ["a"], "labels": []}}, "train has 1 image and 0 labels"),
        (
            {"train": {"names": ["a"], "labels": [7]}},
            "a label of train is of none of the 3 classes of unused",
        ),
        ({"train": {"names": ["a"], "labels": [0.5]}}, "labels of train are no list of whole"),
        ({"train": {"names": ["a"], "labels": [True]}}, "labels of train are no list of whole"),
        ({"train": {"names": ["a"]}}, "train lacks labels"),
        ({"train": {"names": [1], "labels": [0]}}, "names of train are no list of names that"),
        ({"train": {"names": [""], "labels": [0]}}, "names of train are no list of names that"),
        ({"train": {"names": ["a\0"], "labels": [0]}}, "names of train are no list of names that"),
        ({"train": {"names": ["\ud800"], "labels": [0]}}, "names of train are no list of names"),
        ({"train": DIGEST | {"indices": [-1], "labels": [0]}}, "indices of train are no list of"),
        (
            {"train": DIGEST | {"indices": [2**70], "labels": [0]}},
            "indices of train are no list of",
        ),
        ({"train": {"indices": [0], "labels": [0]}}, "train lacks digest"),
        ({"train": DIGEST | {"digest": None, "labels": [0]}}, "digest of train is null"),
        ({"val": {"labels": [0]}}, "val lacks names"),
        ({"val": {}}, "val lacks labels"),
        ({"val": [1]}, "val is a list"),
        ({"val": []}, "val is a list"),
        ({"val": False}, "val is true or false"),
        ({"val": 0}, "val is a number"),
        ({"val": ""}, "val is a text"),
        ({"test": [1]}, "test is a list"),
        ({"test": {"count": 1}}, "test lacks digest"),
        ({"test": {"count": -1, "digest": ""}}, "the counts of test are no list of"),
        ({"test": {"count": 1, "digest": 2}}, "digest of test is a number"),
    ],
)
def test_lists_of_images_that_were_edited_are_refused(change, said):
    content = {"train": {"names": ["a"], "labels": [1]}, "val": None, "unused": [0, 0, 0]}
    assert unpack(packed(content)).counts() == [0, 1, 0]
    check_refused(packed(content | change), said)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "it ends early"),
        (gz(b"{}")[:-1], "it ends early"),
        (gz(b"{}") + b"x", "more follows its end"),
        (b"{}", "it is no gzip file, or a damaged one"),
        (gz(b" " * 10**7), "it unpacks to more than 200 times its size"),
        (gz(b"[" * 2000), "what it unpacks to cannot be read as JSON"),
        (gz(b"{"), "what it unpacks to cannot be read as JSON"),
        (gz(b"null"), "it is null"),
        (gz(b"[]"), "it is a list"),
        (gz(b"{}"), "it lacks train, val, unused"),
    ],
)
def test_damage_is_called_by_its_name(content, said):
    check_refused(content, said)


def check_refused(content: bytes, said: str) -> None:
    with pytest.raises(ValueError, match="expected the images of a run as gzipped JSON") as error:
        unpack(content)
    assert (
        f"(train and val, each with names or indices, and labels; unused counts), but {said}"
        in (str(error.value))
    )


def packed(content: dict) -> bytes:
    return gzip.compress(json.dumps(content).encode())


def test_all_of_a_study_train_on_the_same_images(tmp_path):
    """A second seed, and a search, after pictures were added."""
    write_folder(tmp_path / "pets", {"ant": 6, "bee": 4})
    options = {
        "dataset": "pets",
        "data_dir": str(tmp_path),
        "precision": "fp32",
        "arch": "resnet8",
        "image_size": 16,
        "epochs": 1,
    }
    told = []

    def open_lab() -> lab.Lab:
        return lab.Lab(tmp_path / "studies", torch.device("cpu"), options, on_note=told.append)

    first = open_lab().stage1(0, "")
    write_pictures(tmp_path / "pets", ["train/bee/A.jpg"])
    later = open_lab()
    second = later.stage1(1, "")
    third = later.stage2(second, "", views=1)
    line = SINCE.format(first.name) + "1 new picture in 1 class is not used"
    assert told == [line]
    for run in (second, third):
        assert run.images().same(first.images())
        assert run.class_counts() == [6, 4]
    os.unlink(tmp_path / "pets/train/ant/0.jpg")
    with pytest.raises(ValueError, match="1 picture that trained it is gone, such as train/ant/0"):
        open_lab().stage1(2, "")
