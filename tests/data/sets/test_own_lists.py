"""One's own lists: what may stand in them, what is said of mistakes, and that runs know them."""

import json
import shutil
from pathlib import Path

import pytest

from conftest import write_folder, write_pictures
from wbcli.data import datasets
from wbcli.data.sets import folder

SHORT = ("--arch", "resnet8", "--image-size", "8", "--epochs", "1", "--batch-size", "8")
QUICK = (*SHORT, "-q")


def write_list(path: str, *lines: str, header: str = "path,label") -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text("\n".join([header, *lines, ""]), encoding="utf-8")


@pytest.fixture
def mine(tmp_path) -> Path:
    """Lists beside a folder of pictures: five of ant and three of bee train, two of each test."""
    counts = {"ant": 7, "bee": 5}
    files = {name: [f"pictures/{name}{i}.png" for i in range(n)] for name, n in counts.items()}
    write_pictures(Path("mine"), [file for of_class in files.values() for file in of_class])
    lines = {name: [f"{file},{name}" for file in of] for name, of in files.items()}
    write_list("mine/train.csv", *lines["bee"][2:], *lines["ant"][2:])
    write_list("mine/test.csv", *lines["ant"][:2], *lines["bee"][:2])
    return Path("mine")


def names(split) -> list[str]:
    return [split[0].name(i) for i in range(len(split[0]))]


def test_classes_are_the_labels_of_train_in_the_order_of_their_names(mine):
    content = folder.read(Path(), "mine")
    assert content.class_names == ["ant", "bee"]
    assert names(content.train)[:3] == [f"pictures/bee{i}.png" for i in (2, 3, 4)], "file order"
    assert content.train[1].tolist() == [1, 1, 1, 0, 0, 0, 0, 0]
    assert content.test[1].tolist() == [0, 0, 1, 1]
    assert (content.val, content.notes, content.problems) == (None, [], [])


def test_a_list_is_what_spreadsheets_write():
    """A byte-order mark, CRLF, quotes, commas and spaces, blank lines, other columns."""
    write_pictures(Path("mine"), ["a, b.png", 'say "no".png', "c d.png", "e.png"])
    Path("mine/train.csv").write_bytes(
        b'\xef\xbb\xbf"label", path,width\r\n'
        b'"big, grey","a, b.png",3\r\n\r\n'
        b'small,"say ""no"".png",\r\n'
    )
    Path("mine/test.csv").write_bytes(b'path,label\nc d.png, small \ne.png,"big, grey"')
    content = folder.read(Path(), "mine")
    assert content.class_names == ["big, grey", "small"]
    assert names(content.train) == ["a, b.png", 'say "no".png']
    assert content.test[1].tolist() == [1, 0], "white space around a label is no part of it"
    assert content.notes == ["lists in mine: not used: 1 column, width"]
    assert not content.problems


def test_a_list_may_name_files_outside_its_folder(mine, tmp_path):
    write_pictures(Path("others"), ["1.png", "2.png", "3.png", "4.png"])
    absolute = [f"{tmp_path / 'others'}/{i}.png" for i in (1, 2)]
    write_list("mine/train.csv", f"{absolute[0]},ant", "../others/3.png,bee")
    write_list("mine/val.csv", f"{absolute[1]},bee", "../others/4.png,ant")
    content = folder.read(Path(), "mine")
    assert names(content.train) == [absolute[0], "../others/3.png"]
    assert content.val[1].tolist() == [1, 0]
    assert all(split[0].path(i).is_file() for split in (content.train, content.val) for i in (0, 1))
    assert not content.problems


def test_a_label_in_two_unicode_forms_is_one_class(mine):
    write_list("mine/train.csv", "pictures/ant0.png,caf\u00e9", "pictures/bee0.png,zoo")
    write_list("mine/test.csv", "pictures/ant1.png,cafe\u0301")
    content = folder.read(Path(), "mine")
    assert (content.class_names, content.test[1].tolist()) == (["caf\u00e9", "zoo"], [0])


ONE = "pictures/ant0.png,ant"
MISTAKES = {  # lines of train.csv: what is said
    ("pictures/ant3.png,ant,bee",): "train.csv, line 3: expected 2 cells, got 3 (a name with a "
    "comma stands in quotes)",
    ("pictures/ant3.png",): "train.csv, line 3: expected 2 cells, got 1 (a name with a comma "
    "stands in quotes)",
    ("pictures/ant3.png,",): "train.csv, line 3: the label of pictures/ant3.png is empty",
    ("pictures/ant3.png,  ",): "train.csv, line 3: the label of pictures/ant3.png is empty",
    (",ant",): "train.csv, line 3: the path is empty",
    ("", "gone.png,ant"): "train.csv, line 4: gone.png is missing in mine",
    ("pictures,ant",): "train.csv, line 3: pictures is no file in mine",
    ("/gone.png,ant",): "train.csv, line 3: /gone.png is missing",
    ("pictures/ant3.png ,ant",): "train.csv, line 3: pictures/ant3.png  is missing in mine (with "
    "white space: 'pictures/ant3.png ' (white space: space at its end))",
    ("pictures\\ant3.png,ant",): r"train.csv, line 3: pictures\ant3.png is missing in mine (with "
    "backslashes: write /)",
    ("x" * 5000 + ",ant",): f"train.csv, line 3: {'x' * 80} cannot name a file",
    (f"pictures/ant3.png,{'a' * 201}",): "train.csv, line 3: a label of 201 characters: at most "
    "200 are read",
    ("pictures/ant0.png,ant",): "train.csv, line 3: pictures/ant0.png stands in line 2, too: "
    "expected each picture once",
    ("./pictures/../pictures/ant0.png,bee",): "train.csv, line 3: ./pictures/../pictures/ant0.png "
    "stands in line 2, too, with the label 'ant': expected each picture once",
}


@pytest.mark.parametrize("lines", MISTAKES)
def test_a_mistake_is_named_with_its_line(lines, mine):
    write_list("mine/train.csv", ONE, *lines, "pictures/bee3.png,bee")
    write_list("mine/test.csv", "pictures/bee0.png,bee")
    problems = folder.read(Path(), "mine").problems
    assert [problem.text for problem in problems] == [MISTAKES[lines]]


def test_a_training_names_the_first_mistake_and_starts_nothing(mine, wbcli):
    write_list("mine/train.csv", ONE, ",ant", "pictures/bee3.png,", "pictures/bee4.png,bee")
    result = wbcli("stage1", "mine", *QUICK)
    assert (result.code, Path("runs").exists()) == (1, False)
    assert result.err == (
        "Error: train.csv, line 3: the path is empty (and 2 more): wbcli data check mine names "
        "them all\n"
    )


def test_all_mistakes_of_all_lists_are_shown(mine, wbcli):
    write_list("mine/train.csv", ONE, "pictures/bee3.png,bee", "gone.png,ant", ",")
    write_list("mine/test.csv", "pictures/ant0.png,ant", "pictures/bee0.png,fly", "p.png,Bee ")
    assert wbcli("data", "check", "mine").out.splitlines() == [
        "test.csv, line 2: pictures/ant0.png stands in train.csv, line 2, too: expected each "
        "picture once",
        "test.csv, line 3: label 'fly': train.csv has no class of that name; its classes are ant, "
        "bee",
        "test.csv, line 4: label 'Bee': train.csv has no class of that name; its classes are ant, "
        "bee",
        f"train.csv, line 4: gone.png is missing in {Path.cwd()}/mine",
        "the same picture in train and in test: train.csv, line 2: pictures/ant0.png; test.csv, "
        "line 2: pictures/ant0.png",
        "mine: 3 train, 1 test images; 5 problems",
    ]


NO_LISTS = {  # train.csv: what is said of it
    b"": "mine/train.csv, line 1: no column path: expected the names of the columns, path,label, "
    "got nothing",
    b"path;label\na;b\n": "mine/train.csv, line 1: no column path: expected the names of the "
    "columns, path,label, got path;label: separate with commas, not with semicolons",
    b"path\tlabel\na\tb\n": "mine/train.csv, line 1: no column path: expected the names of the "
    "columns, path,label, got path\\tlabel: separate with commas, not with tabs",
    b"PATH,Label\na,b\n": "mine/train.csv, line 1: no column path: expected the names of the "
    "columns, path,label, got PATH,Label: write them in lower case",
    b"\npath,class\n": "mine/train.csv, line 2: no column label: expected the names of the "
    "columns, path,label, got path,class",
    b"path,label,path\n": "mine/train.csv, line 1: more than one column path: expected the names "
    "of the columns, path,label, got path,label,path",
    b"path,label\n\n": "mine/train.csv: expected a picture and its label in each line after the "
    "first, got none",
    b"path,label\npictures/ant0.png,caf\xe9\n": "mine/train.csv, line 2: expected text in UTF-8, "
    "got the byte 0xe9: save the list as UTF-8",
    b"\xff\xfep\0a\0": "mine/train.csv, line 1: expected text in UTF-8, got the byte 0xff: save "
    "the list as UTF-8",
    b'path,label\na.png,ant\n"b.png,bee\nc.png,bee\n': "mine/train.csv, line 3: a quote that is "
    "opened there is never closed",
    b'path,label\n"a.png,ant\n"b.png",bee\n': "mine/train.csv, line 2: something follows a quote "
    "that closes a name: is one opened before and not closed? (within a name a quote is written "
    "twice)",
    b'path,label\n"' + b"a" * 200_000: "mine/train.csv, line 2: a name of more than 131,072 "
    "characters, or a quote not closed",
    b"path,label\npictures/ant0.png,ant\npictures/ant3.png,ant\n": "mine/train.csv: expected "
    "pictures of at least two classes, got 'ant' only",
}


@pytest.mark.parametrize("content", NO_LISTS)
def test_a_file_that_is_no_list_is_refused(content, mine, wbcli):
    (mine / "train.csv").write_bytes(content)
    with pytest.raises(ValueError) as error:
        folder.read(Path(), "mine")
    assert str(error.value) == NO_LISTS[content]
    result = wbcli("stage1", "mine", *QUICK)
    assert (result.code, result.err) == (1, f"Error: {Path.cwd()}/{NO_LISTS[content]}\n")


def test_columns_that_are_not_used_are_said_once(mine):
    for name in ("train", "test"):
        head, *lines = (mine / f"{name}.csv").read_text().splitlines()
        wider = [f"{head},width", *(f"{line},3" for line in lines)]
        (mine / f"{name}.csv").write_text("\n".join(wider))
    assert folder.read(Path(), "mine").notes == ["lists in mine: not used: 1 column, width"]


def test_what_is_wrong_with_the_other_lists_is_named_too(mine, wbcli):
    (mine / "train.csv").write_text("path;label\n")
    (mine / "val.csv").write_text("path,label\npictures/ant0.png,\npictures/ant1.png,ant\n")
    (mine / "test.csv").write_text("name,label\n")
    with pytest.raises(ValueError) as error:
        folder.read(Path(), "mine")
    assert [text.split(":")[0] for text in str(error.value).split("; ")] == [
        "mine/train.csv, line 1",
        "mine/test.csv, line 1",
        "val.csv, line 2",
    ]


def test_a_folder_beside_the_list_of_its_name_is_said(mine):
    (mine / "test").mkdir()
    assert folder.read(Path(), "mine").notes == [
        "left out of mine: test/, since the list of test images is test.csv"
    ]


def test_lists_and_folders_do_not_mix(mine, wbcli):
    write_folder(Path("both"), {"a": 1, "b": 1})
    shutil.copy("mine/train.csv", "both")
    assert "both has both train.csv and train/" in wbcli("data", "show", "both").err
    (mine / "test.csv").unlink()
    expected = "found no test.csv (there is pictures, train.csv)"
    assert expected in wbcli("data", "show", "mine").err
    shutil.copy("mine/train.csv", "mine/val.csv")
    (mine / "test").mkdir()
    assert "found no test.csv (there is pictures, test, " in wbcli("data", "show", "mine").err
    write_folder(Path("half"), {"a": 1, "b": 1}, test=0, val=1)
    shutil.copy("mine/train.csv", "half/test.csv")
    assert "found no test/ (there is test.csv, train, val)" in wbcli("data", "show", "half").err


def test_a_list_of_validation_images_under_another_name_is_said(mine):
    shutil.copy("mine/test.csv", "mine/valid.csv")
    assert folder.read(Path(), "mine").notes == [
        "left out of mine: valid.csv, since the list of validation images is val.csv"
    ]


def test_a_run_of_lists_is_followed_by_everything(mine, wbcli):
    """Counts, groups, hold-out and names are recorded, as for folders."""
    limits = ("--limits", 3, 3, "--val-per-class", 1, "--name", "it")
    assert wbcli("stage1", "mine", *QUICK, *limits).code == 0
    record = json.loads(Path("runs/it/config.json").read_text())
    assert (record["class_names"], record["class_counts"]) == (["ant", "bee"], [4, 2])
    assert (record["original_counts"], record["dataset"]) == ([5, 3], "mine")
    assert wbcli("stage2", "it", "--epochs", 1, "-q").code == 0
    found = wbcli("eval", "it", "--json").json
    assert [row["test_images"] for row in found["per_class"]] == [2, 2]
    assert (found["accuracy"]["many"] is None, found["accuracy"]["few"]) == (False, None)
    assert wbcli("eval", "it", "--split", "val", "--json").json["num_images"] == 2
    assert wbcli("predict", "it", "mine/pictures", "--json").json["images"][0]["top"]
    assert "on 16 test images" in wbcli("export", "it", "--format", "safetensors").out


def test_a_list_that_has_changed_since_is_told(mine, wbcli):
    wbcli("stage1", "mine", *QUICK, "--name", "it")
    lines = (mine / "train.csv").read_text().splitlines()
    write_pictures(mine, ["new.png"])
    write_list("mine/train.csv", *lines[2:], "new.png,ant")
    changed = (
        "the data set has changed since run it trained: 1 picture that trained it is gone, such "
        "as pictures/bee2.png"
    )
    result = wbcli("eval", "it", "--json")
    assert result.err == f"Warning: {changed}; 1 new picture in 1 class is not used\n"
    assert [row["train_images"] for row in result.json["per_class"]] == [5, 3]
    result = wbcli("stage2", "it", *("--epochs", 1))
    assert result.err == f"Error: {changed}: put them back as they were, or train anew\n"


def test_resume_goes_on_with_the_pictures_of_the_list_with_which_it_began(mine, wbcli):
    wbcli("stage1", "mine", *QUICK, "--name", "it")
    (Path("runs/it/model.safetensors")).unlink()
    lines = (mine / "train.csv").read_text().splitlines()
    write_pictures(mine, ["new.png"])
    write_list("mine/train.csv", *lines[1:], "new.png,ant")
    result = wbcli("stage1", "mine", *SHORT, "--name", "it", "--resume")
    assert result.code == 0
    assert "1 new picture in 1 class is not used" in result.err


def test_skip_broken_leaves_out_what_a_list_names_and_is_not_there(mine, wbcli):
    (mine / "pictures/ant3.png").write_bytes(b"")
    (mine / "pictures/ant4.png").unlink()
    result = wbcli("stage1", "mine", *SHORT, "--skip-broken", "--name", "it")
    assert "train.csv, line 6: pictures/ant3.png: the file is empty" in result.err
    assert "training counts now [3, 3] (were [5, 3])" in result.err
    assert json.loads(Path("runs/it/config.json").read_text())["left_out"] == [
        "pictures/ant3.png",
        "pictures/ant4.png",
    ]


def test_a_folder_may_be_called_by_its_path_or_named_as_the_data_folder(mine, wbcli, tmp_path):
    shown = wbcli("data", "show", tmp_path / "mine", "--json").json
    assert (shown["num_train"], shown["class_counts"]) == (8, [5, 3])
    assert folder.fetch(mine, "other") == mine
    assert datasets.load("mine", ".", imbalance_factor=None).class_counts == [5, 3]


def test_own_validation_lists_are_not_held_out_again(mine, wbcli):
    shutil.copy("mine/test.csv", "mine/val.csv")
    write_pictures(mine, ["1.png", "2.png"])
    write_list("mine/test.csv", "1.png,ant", "2.png,bee")
    result = wbcli("data", "show", "mine", "--val-per-class", 1)
    assert result.code == 2
    assert "--val-per-class: mine has validation images of its own, leave it out" in result.err
