"""What is said of a data set before a training begins."""

from pathlib import Path

from conftest import write_folder, write_pictures

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
