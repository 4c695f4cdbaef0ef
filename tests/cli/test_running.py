"""What is said of a data set before a training begins."""

from pathlib import Path

from conftest import write_folder, write_pictures
from wbcli.runs.run import Run

SMALL = ("--image-size", 16, "--arch", "resnet8", "--epochs", 1)


def test_classes_without_a_validation_image_are_named_by_stage_1(wbcli):
    write_folder(Path("mine"), {"a": 5, "b": 3, "c": 1, "ß": 1})
    held_out = wbcli("stage1", "mine", *SMALL, "--val-per-class", 2, "--name", "first")
    assert held_out.code == 0
    assert "Warning: 2 of 4 classes have no validation images: c, ß\n" in held_out.err
    assert "validation images" not in wbcli("stage1", "mine", *SMALL, "--name", "second").err


def test_so_are_those_that_the_set_has_none_of_itself(wbcli):
    write_folder(Path("mine"), {"a": 3, "b": 2})
    write_pictures(Path("mine"), ["val/a/1.jpg"])
    told = wbcli("stage1", "mine", *SMALL)
    assert told.err.splitlines()[0] == "Warning: 1 of 2 classes has no validation images: b"
    write_pictures(Path("mine"), ["val/b/1.jpg"])
    assert "Warning" not in wbcli("stage1", "mine", *SMALL).err


def test_a_folder_of_few_pictures_hears_of_its_recipe_which_stage2_inherits(wbcli, tmp_path):
    own = write_folder(tmp_path / "own", {"ant": 9, "bee": 5})
    told = "14 training pictures: few for a resnet50 that starts from nothing; --recipe small"
    assert told in wbcli("stage1", own, "--dry-run").err
    for given in (("--arch", "resnet8"), ("--recipe", "small", "--arch", "resnet50")):
        assert "few for" not in wbcli("stage1", own, *given, "--dry-run").err
    small = ("--recipe", "small", "--epochs", "1", "--name", "few")
    first = wbcli("stage1", own, *small)
    assert first.code == 0
    assert "few for" not in first.err
    record = Run(Path("runs/few")).record()
    assert (record["arch"], record["image_size"]) == ("resnet8", 32)
    second = wbcli("stage2", "few", "--epochs", "1", "--json").json["path"]
    assert Run(Path(second)).record()["recipe"] == "small"


def test_the_small_recipe_is_of_folders_alone(wbcli):
    result = wbcli("stage1", "digitslt", "--recipe", "small")
    assert result.code == 2
    assert "--recipe small: it is for a folder of one's own pictures, got digitslt" in result.err
