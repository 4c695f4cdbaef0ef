"""One's own pictures in folders: which classes and files, and what is said of mistakes."""

import json
import os
import shutil
import stat
from pathlib import Path

import numpy as np
import pytest

from conftest import write_folder, write_pictures
from wbcli.data import check, datasets, sources
from wbcli.data.sets import folder
from wbcli.training import session

SPACED = "Große Katze"


def names(split) -> list[str]:
    return [split[0].name(i) for i in range(len(split[0]))]


def test_classes_are_the_folders_of_train_in_the_order_of_their_names():
    write_folder(Path("mine"), {"b": 2, SPACED: 1, "a": 3}, test=1, val=1)
    content = folder.read(Path(), "mine")
    assert content.class_names == [SPACED, "a", "b"]
    assert names(content.train) == [
        f"train/{SPACED}/0.jpg",
        *(f"train/a/{i}.jpg" for i in range(3)),
    ] + [
        "train/b/0.jpg",
        "train/b/1.jpg",
    ]
    assert content.train[1].tolist() == [0, 1, 1, 1, 2, 2]
    assert content.test[1].tolist() == content.val[1].tolist() == [0, 1, 2]
    assert content.notes == []


def test_file_names_may_be_anything():
    files = ["a b.JPG", "é.jpeg", b"\xff\xfe.png", "-q.png", "x" * 200 + ".png", "deep/er/1.png"]
    write_pictures(Path("mine"), [b"train/\xffcat/" + os.fsencode(name) for name in files])
    write_pictures(Path("mine"), ["train/dog/1.png", "test/dog/1.png"])
    content = folder.read(Path(), "mine")
    assert content.class_names == ["dog", r"\udcffcat"]
    assert {name.removeprefix("train/\udcffcat/") for name in names(content.train)[1:]} == {
        os.fsdecode(name) for name in files
    }
    assert all(content.train[0].path(i).is_file() for i in range(7))


def test_what_is_not_used_is_counted_once_for_each_reason_with_an_example():
    write_folder(Path("mine"), {"a": 1, "b": 1}, val=1)
    for name in ("train/a/.DS_Store", "val/b/._0.jpg", ".DS_Store", "test/.thumbnails"):
        Path("mine", name).touch()
    for name in ("train/a/notes.txt", "test/b/1.heic", "val/labels.csv"):
        Path("mine", name).touch()
    for name in ("README.md", "test.jpg"):
        Path("mine", name).touch()
    for name in (".git", "train/.cache", "test/a/deep/.thumbs", "old", "runs/x"):
        Path("mine", name).mkdir(parents=True)
    write_pictures(Path("mine"), ["train/3.jpg", "train/2.PNG", "test/1.jpg", "old/a/1.jpg"])
    Path("mine/train/a/again").symlink_to(Path("mine/train/a").resolve())
    content = folder.read(Path(), "mine")
    assert [len(split[1]) for split in (content.train, content.test, content.val)] == [2, 4, 2]
    assert sorted(content.notes) == [
        "left out of mine: 1 folder that a link leads to once more, such as train/a/again",
        "left out of mine: 2 files beside train/, test/ and val/, such as README.md",
        "left out of mine: 2 folders beside train/, test/ and val/, such as old",
        "left out of mine: 3 files whose name is not a picture's, such as val/labels.csv",
        "left out of mine: 3 folders whose name starts with a dot, such as .git",
        "left out of mine: 3 pictures outside the class folders, such as train/2.PNG",
        "left out of mine: 4 files whose name starts with a dot, such as .DS_Store",
    ]


@pytest.mark.parametrize("name", ["valid", "validation"])
def test_validation_images_may_be_called_as_labelling_services_do(name, wbcli):
    write_folder(Path("mine"), {"a": 3, "b": 2}, val=2)
    Path("mine/val").rename(f"mine/{name}")
    content = folder.read(Path(), "mine")
    assert names(content.val)[0] == f"{name}/a/0.jpg"
    assert content.val[1].tolist() == [0, 0, 1, 1]
    assert content.notes == []
    assert "4 val" in wbcli("data", "check", "mine").out


def test_two_folders_of_validation_images_are_refused():
    write_folder(Path("mine"), {"a": 1, "b": 1}, val=1)
    write_pictures(Path("mine"), ["valid/a/1.jpg"])
    with pytest.raises(ValueError) as error:
        folder.read(Path(), "mine")
    assert str(error.value) == (
        "mine: expected one folder of validation images, there are val/ and valid/: "
        "put their pictures into one of them, or take the others away"
    )


def test_images_that_a_run_held_out_beside_a_valid_folder_stay_its_validation_images():
    """Version 0.1.0 did not know `valid/`, so its runs may have both."""
    write_folder(Path("mine"), {"a": 3, "b": 2})
    write_pictures(Path("mine"), ["valid/a/1.jpg"])
    dataset = load(val_per_class=1)
    assert [dataset.val.images.name(i) for i in range(2)] == ["train/a/2.jpg", "train/b/1.jpg"]
    assert dataset.notes == ["left out: valid/, since --val-per-class takes images of train/"]


COMPOSED, DECOMPOSED = "caf\u00e9", "cafe\u0301"


@pytest.mark.parametrize("names_of", [(COMPOSED, DECOMPOSED), (DECOMPOSED, COMPOSED)])
def test_a_name_in_two_unicode_forms_is_one_class(names_of):
    write_pictures(Path("mine"), [f"train/{names_of[0]}/1.jpg", "train/zoo/1.jpg"])
    write_pictures(Path("mine"), ["test/zoo/1.jpg", *[f"test/{names_of[1]}/{i}.jpg" for i in "12"]])
    content = folder.read(Path(), "mine")
    assert content.class_names == [names_of[0], "zoo"], "as on disk"
    assert content.test[1].tolist() == [0, 0, 1]
    assert all(content.test[0].path(i).is_file() for i in range(3)), "as on disk, too"


def two_forms(path):
    write_folder(path, {"a": 1, "b": 1})
    write_pictures(path, [f"test/{name}/1.jpg" for name in (COMPOSED, DECOMPOSED)])


def a_space_more(path):
    write_folder(path, {"cat": 1, "dog": 1})
    Path(path, "test/cat").rename(Path(path, "test/cat "))


def a_space_less(path):
    write_folder(path, {"\u00a0cat\t": 1, "dog": 1})
    Path(path, "test/\u00a0cat\t").rename(Path(path, "test/cat"))


def loose_test(path):
    write_folder(path, {"a": 1, "b": 1}, test=0)
    write_pictures(path, ["test/1.jpg", "test/2.jpg"])


def loose_val(path):
    write_folder(path, {"a": 1, "b": 1})
    write_pictures(path, ["valid/1.jpg"])


def loose_train(path):
    write_pictures(path, ["train/1.jpg", "train/2.jpg", "test/a/1.jpg"])


def test_links_are_followed_and_a_link_in_a_circle_ends():
    write_folder(Path("mine"), {"a": 1, "b": 1})
    write_pictures(Path("elsewhere"), ["1.jpg", "2.jpg"])
    Path("mine/train/c").symlink_to(Path("elsewhere").resolve())
    Path("mine/train/a/again").symlink_to(Path("mine/train/a").resolve())
    content = folder.read(Path(), "mine")
    assert content.class_names == ["a", "b", "c"]
    assert names(content.train) == [
        "train/a/0.jpg",
        "train/b/0.jpg",
        "train/c/1.jpg",
        "train/c/2.jpg",
    ]


def test_classes_that_would_be_called_alike_are_refused(wbcli):
    """As folders, in a list, on a set that is measured, and as names of features."""
    alike = {"a\nb": 2, "a\\nb": 1, "c": 1}
    write_folder(Path("mine"), alike)
    rows = "".join(f'"mine/train/{name}/0.jpg","{name}"\n' for name in alike)
    Path("train.csv").write_text("path,label\n" + rows)
    Path("test.csv").write_text("path,label\n" + rows)
    np.savez("a.npz", features=np.eye(3), labels=np.arange(3), class_names=["a", "a", "b"])
    for given in ("mine", ".", "a.npz"):
        result = wbcli("data", "show", given)
        assert (result.code, result.out) == (1, "")
        assert "two classes are called a" in result.err
    write_folder(Path("other"), {"a\nb": 2, "c": 1})
    short = ("--arch", "resnet8", "--image-size", "16", "--epochs", "1", "--workers", "0")
    assert wbcli("stage1", "other", *short, "--name", "it").code == 0
    measured = wbcli("eval", "it", "--data-dir", "mine")
    assert (measured.code, "two classes are called a\\nb" in measured.err) == (1, True)


def no_class(path):
    write_folder(path, {"a": 1})


def empty_class(path):
    write_folder(path, {"a": 1, "b": 1})
    Path(path, "train/c c").mkdir()


def empty_test_class(path):
    write_folder(path, {"a": 1, "b": 1})
    Path(path, "test/b/0.jpg").unlink()
    Path(path, "test/b/1.jpg").rename(Path(path, "test/b/1.txt"))


def unknown_class(path):
    write_folder(path, {"a": 1, "b": 1})
    write_pictures(path, ["val/c/1.jpg"])


def class_is_a_file(path):
    write_folder(path, {"a": 1, "b": 1, "c": 1})
    Path(path, "train/c/0.jpg").unlink()
    Path(path, "train/c").rmdir()
    Path(path, "train/c").touch()


def no_test(path):
    write_pictures(path, ["train/a/1.jpg", "train/b/1.jpg", "vali/a/1.jpg"])


def empty_test(path):
    write_folder(path, {"a": 1, "b": 1}, test=0)
    Path(path, "test").mkdir()


def flat(path):
    write_pictures(path, ["a/1.jpg", "b/1.jpg"])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (no_class, "mine/train: expected a folder for each class, at least two"),
        (empty_class, "mine/train/c c holds no picture (.jpg, .jpeg, "),
        (empty_test_class, "mine/test/b holds no picture (.jpg, .jpeg, "),
        (unknown_class, "mine/val/c: train/ has no class of that name; its classes are a, b"),
        (class_is_a_file, "mine/test/c: train/ has no class of that name; its classes are a, b"),
        (
            no_test,
            "mine: expected train/CLASS/picture.jpg and test/CLASS/picture.jpg (or val/CLASS/, or "
            "both), or train.csv and test.csv (or val.csv, or both) with the columns "
            "path,label, found no test/ (there is train, vali)",
        ),
        (empty_test, "mine/test: expected a folder for each class, there is none"),
        (flat, "found no train/ (there is a, b)"),
        (
            two_forms,
            f"mine/test: two folders are called {COMPOSED}, in two Unicode forms "
            "('cafe\\u0301' and 'caf\\xe9'): put their pictures into one of them",
        ),
        (
            a_space_more,
            "mine/test/cat : train/ has no class 'cat ' (white space: space at its end), "
            "but 'cat': rename one of them",
        ),
        (
            a_space_less,
            "mine/test/cat: train/ has no class 'cat', but '\\xa0cat\\t' "
            "(white space: no-break space at its start, tab at its end): rename one of them",
        ),
        (
            loose_test,
            "mine/test holds 2 pictures and no class folders: to measure with them, sort them into "
            "test/CLASS/; to classify unlabelled pictures, keep them elsewhere and use wbcli "
            "predict RUN FOLDER",
        ),
        (loose_val, "mine/valid holds 1 picture and no class folders: to measure with them, sort"),
        (loose_train, "mine/train holds 2 pictures and no class folders: to train on them, sort"),
    ],
)
def test_mistakes_are_named(make, message):
    make("mine")
    with pytest.raises(ValueError) as error:
        folder.read(Path(), "mine")
    assert message in str(error.value)


def test_train_itself_is_not_taken_for_the_folder_that_holds_it():
    write_folder(Path("mine"), {"a": 1, "b": 1})
    with pytest.raises(ValueError, match=r"mine/train: expected .* \(there is a, b\)"):
        folder.read(Path("mine"), "train")


def test_a_folder_that_is_gone_is_looked_for_in_the_data_folder():
    with pytest.raises(FileNotFoundError) as error:
        folder.read(Path("data"), "mine")
    assert "no folder mine with train/CLASS/picture.jpg" in str(error.value)
    assert "in data: name the folder that holds it with --data-dir" in str(error.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_class_that_may_not_be_read_is_not_an_empty_one():
    write_folder(Path("mine"), {"a": 1, "b": 1})
    Path("mine/train/a").chmod(0)
    try:
        with pytest.raises(PermissionError, match="mine/train/a"):
            folder.read(Path(), "mine")
    finally:
        Path("mine/train/a").chmod(stat.S_IRWXU)


def test_a_folder_is_found_by_its_path_or_in_the_data_folder():
    write_folder(Path("data/mine"), {"a": 1, "b": 1})
    here = str(Path("data").resolve())
    assert sources.locate("data/mine", "elsewhere") == ("mine", here)
    assert sources.locate("mine", "data") == ("mine", here)
    assert folder.fetch(Path("data"), "mine") == folder.fetch(Path("data/mine"), "mine")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("here/cifar100lt", "a folder of one's own needs a name of its own, rename it"),
        ("ghost", "unknown data set 'ghost': choose one of digitslt"),
        ("file", "name a folder with train/CLASS/picture.jpg"),
    ],
)
def test_what_names_no_data_set_is_refused(name, message):
    write_folder(Path("here/cifar100lt"), {"a": 1, "b": 1})
    Path("file").touch()
    with pytest.raises(ValueError) as error:
        sources.locate(name, "data")
    assert message in str(error.value)


def load(**options):
    return datasets.load("mine", Path(), imbalance_factor=None, **options)


def test_limits_and_a_class_with_a_single_image():
    write_folder(Path("mine"), {"a": 5, "b": 3, "c": 1})
    dataset = load()
    assert dataset.class_counts == [5, 3, 1]
    assert dataset.limits == {"many": 100, "few": 20}
    groups = load(limits=(4, 2)).groups()
    assert {key: mask.tolist() for key, mask in groups.items()} == {
        "many": [True, False, False],
        "medium": [False, True, False],
        "few": [False, False, True],
    }


def test_validation_images_are_those_of_val_or_taken_from_train():
    write_folder(Path("mine"), {"a": 5, "b": 3, "c": 1})
    held_out = load(val_per_class=1)
    assert held_out.class_counts == [4, 2, 1], "the only image of a class stays in training"
    assert held_out.val.images.name(0) == "train/a/4.jpg"
    write_pictures(Path("mine"), ["val/a/1.jpg"])
    assert load().val.images.name(0) == "val/a/1.jpg"
    with pytest.raises(ValueError, match="--val-per-class: mine has validation images of its own"):
        load(val_per_class=1)


def pets(wbcli, *more: str):
    """A training on the folder `pets` that takes no time."""
    small = ("--arch", "resnet8", "--image-size", "16", "--epochs", "2", "--batch-size", "8")
    return wbcli("stage1", "pets", "--name", "it", *small, *more)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda path: path.with_name("cat").rename(path.with_name("zebra")), "'cat' and is 'dog'"),
        (shutil.rmtree, "trained on (3 then, 2 now)"),
    ],
    ids=["renamed", "deleted"],
)
def test_classes_that_have_changed_since_the_training_are_refused(wbcli, change, said):
    write_folder(Path("pets"), {"cat": 9, "dog": 7, "eel": 5})
    assert pets(wbcli).code == 0
    for split in ("train", "test"):
        change(Path("pets") / split / "eel")
    for command in (("eval", "it"), ("stage2", "it"), ("normalize", "it")):
        result = wbcli(*command)
        assert (result.code, result.out) == (1, ""), command
        assert "the data set has other classes than run it was trained on" in result.err
        assert said in result.err
        assert "put them back as they were, or train anew" in result.err
    assert os.listdir("runs") == ["it"], "what was not trained leaves no run"


def test_a_run_knows_its_classes_in_the_other_unicode_form(wbcli):
    write_folder(Path("pets"), {DECOMPOSED: 9, "dog": 7})
    assert pets(wbcli).code == 0
    for split in ("train", "test"):
        Path("pets", split, DECOMPOSED).rename(Path("pets", split, COMPOSED))
    for command in (("eval", "it", "--split", "train"), ("stage2", "it", "--epochs", 1)):
        result = wbcli(*command)
        assert result.code == 0
        assert "has changed" not in result.err
    for split in ("train", "test"):
        Path("pets", split, "dog").rename(Path("pets", split, "dog "))
    result = wbcli("eval", "it")
    assert result.code == 1
    assert "class 1 was 'dog' and is 'dog ' (white space: space at its end)" in result.err


def test_a_run_goes_on_with_the_pictures_with_which_it_began(wbcli, monkeypatch):
    write_folder(Path("pets"), {"cat": 9, "dog": 7})
    with monkeypatch.context() as patch:
        patch.setattr(session.Training, "finish", _interrupt)
        assert pets(wbcli).code == 130
    os.rename("pets/train/dog/6.jpg", "elsewhere.jpg")
    result = pets(wbcli, "--resume")
    assert (result.code, result.out) == (1, "")
    assert result.err == (
        "Error: the data set has changed since run it trained: 1 picture that trained it is gone, "
        "such as train/dog/6.jpg: put them back as they were, or train anew\n"
    )
    os.rename("elsewhere.jpg", "pets/train/dog/6.jpg")
    write_pictures(Path("pets"), ["train/dog/new.jpg"])
    result = pets(wbcli, "--resume")
    assert result.code == 0
    assert "1 new picture in 1 class is not used" in result.err
    assert sum(json.loads(Path("runs/it/config.json").read_text())["class_counts"]) == 16


def test_a_broken_picture_leaves_the_name_free(wbcli):
    write_folder(Path("pets"), {"cat": 9, "dog": 7})
    Path("pets/train/cat/0.jpg").write_bytes(b"torn")
    result = pets(wbcli)
    assert (result.code, result.out) == (1, "")
    assert "leave such files out from the start with --skip-broken" in result.err
    assert list(Path("runs").iterdir()) == []
    assert pets(wbcli, "--skip-broken").code == 0


def test_a_name_that_is_taken_is_refused_before_any_picture_is_read(wbcli, monkeypatch):
    write_folder(Path("pets"), {"cat": 9, "dog": 7})
    assert pets(wbcli).code == 0
    monkeypatch.setattr(check, "examine", _interrupt)
    result = pets(wbcli, "--skip-broken")
    assert result.code == 2
    assert "run 'it' exists in runs" in result.err


@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_limit_of_pixels_reaches_every_command_and_its_processes(wbcli, monkeypatch, workers):
    write_folder(Path("pets"), {"cat": 9, "dog": 7})
    write_pictures(Path("pets"), ["train/cat/0.png", "test/dog/0.png"], size=20)
    monkeypatch.setenv("WBCLI_WORKERS", workers)
    said = "20×20 = 400 pixels, more than the limit of 399: make it smaller, or raise the limit"
    result = pets(wbcli, "--max-pixels", "399")
    assert (result.code, result.out) == (1, "")
    assert f"train/cat/0.png: {said} with --max-pixels 400; mend it" in result.err
    monkeypatch.setenv("WBCLI_MAX_PIXELS", "400")
    assert pets(wbcli).code == 0
    monkeypatch.setenv("WBCLI_MAX_PIXELS", "399")
    for command in (
        ("eval", "it"),
        ("stage2", "it"),
        ("report", "it"),
        ("data", "check", "pets"),
        ("predict", "it", "pets/test/dog/0.png"),
    ):
        result = wbcli(*command)
        assert result.code == 1, command
        assert said in result.out + result.err, command


def _interrupt(*args):
    raise KeyboardInterrupt
