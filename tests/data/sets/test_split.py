"""data split: one folder of class folders becomes lists, and nothing else changes."""

import csv
import os
import shutil
from pathlib import Path

import pytest

from conftest import write_pictures
from wbcli.data.sets import folder, split
from wbcli.files import storage

SHARES = {"val": 0.1, "test": 0.2}
COUNTS = {"ant": 30, "bee, wild": 12, "cat": 3, "dog": 2, "elk": 1}
# n·0.2 and n·0.1, rounded: 6 and 3; 2 and 1; 1 and 0; 0 and 0; 0 and 0.
EXPECTED = {"train": [21, 9, 2, 2, 1], "val": [3, 1, 0, 0, 0], "test": [6, 2, 1, 0, 0]}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    place = tmp_path_factory.mktemp("photos") / "photos"
    write_pictures(place, [f"{k}/{i}.png" for k, n in COUNTS.items() for i in range(n)], size=4)
    return place


@pytest.fixture
def photos(made, tmp_path) -> Path:
    shutil.copytree(made, tmp_path / "photos")
    return Path("photos")


def rows(path: Path | str) -> list[list[str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def listed(root: Path) -> dict[str, list[str]]:
    found = {name: root / f"{name}.csv" for name in split.LISTS}
    return {name: [r[0] for r in rows(path)[1:]] for name, path in found.items() if path.exists()}


def test_every_class_gets_its_shares_and_every_picture_one_list(photos, wbcli):
    before = sorted(photos.rglob("*"))
    result = wbcli("data", "split", "photos", "--val", 0.1, "--test", 0.2, "--seed", 0, "--json")
    assert (result.code, result.err) == (0, "")
    assert result.json["class_names"] == list(COUNTS)
    assert result.json["path"] == "photos"
    for name, counts in EXPECTED.items():
        found = result.json["lists"][name]
        assert (found["class_counts"], found["images"]) == (counts, sum(counts))
        assert found["path"] == f"photos/{name}.csv"
    assert rows("photos/train.csv")[0] == ["path", "label"]
    lists = listed(photos)
    assert sorted(path for of in lists.values() for path in of) == sorted(
        f"{k}/{i}.png" for k, n in COUNTS.items() for i in range(n)
    )
    assert set(photos.rglob("*")) - set(before) == {photos / f"{name}.csv" for name in lists}
    assert all(Path(path).parent.name == label for path, label in rows("photos/test.csv")[1:])


def test_what_it_writes_is_a_data_set(photos, wbcli):
    result = wbcli("data", "split", "photos")
    assert result.out.splitlines()[2:] == [
        "train         35         5                21        1   photos/train.csv",
        "val            4         2                 3        0   photos/val.csv",
        "test           9         3                 6        0   photos/test.csv",
        "5 classes; train with wbcli stage1 photos",
    ]
    assert wbcli("data", "show", "photos", "--json").json["class_counts"] == EXPECTED["train"]
    result = wbcli("data", "check", "photos")
    assert (result.code, result.out) == (0, "photos: 35 train, 4 val, 9 test images; no problems\n")


def test_a_link_to_nothing_is_left_out(photos, wbcli):
    (photos / "cat/link.png").symlink_to("nowhere.png")
    result = wbcli("data", "split", "photos")
    left_out = "left out of photos: 1 link that leads to nothing, such as cat/link.png"
    assert (result.code, result.err) == (0, f"Warning: {left_out}\n")
    assert [sum("link" in path for path in of) for of in listed(photos).values()] == [0, 0, 0]


def test_commands_that_are_printed_can_be_copied(photos, wbcli):
    photos.rename("my photos")
    assert wbcli("data", "split", "my photos").out.endswith("train with wbcli stage1 'my photos'\n")
    Path("my photos/test.csv").write_text("path,label\ngone.png,ant\n")
    error = wbcli("stage1", "my photos", "--image-size", 8).err
    assert "wbcli data check 'my photos' names them all" in error


def test_the_same_command_writes_the_same_lists_and_another_seed_others(photos, wbcli):
    for output, seed in (("a", 3), ("b", 3), ("c", 4)):
        wbcli("data", "split", "photos", "--output", output, "--seed", seed)
    texts = [Path(output, "train.csv").read_bytes() for output in "abc"]
    assert texts[0] == texts[1] != texts[2]
    before = {path for path in listed(Path("a"))["test"] if "ant" in path}
    shutil.rmtree("photos/cat")
    wbcli("data", "split", "photos", "--output", "d", "--seed", 3)
    assert {path for path in listed(Path("d"))["test"] if "ant" in path} == before, "of its own"


def test_lists_elsewhere_name_the_pictures_from_where_they_lie(photos, wbcli, tmp_path):
    Path("real/deep").mkdir(parents=True)
    Path("link").symlink_to("real/deep")
    for output, up in (("lists/one", "../../"), ("link/two", "../../../")):
        result = wbcli("data", "split", "photos", "--output", output)
        assert result.code == 0
        assert rows(f"{output}/train.csv")[1][0].startswith(f"{up}photos/ant/")
        assert not folder.read(tmp_path, output).problems


def test_copies_of_one_picture_stay_in_one_list():
    write_pictures(Path("photos"), [f"{k}/{i}.png" for k in "ab" for i in range(10)], size=4)
    for i in range(10):
        for copy in range(3):
            shutil.copy(f"photos/a/{i}.png", f"photos/a/copy{copy}-{i}.png")
    for seed in range(3):
        lists = split.divide(Path("photos"), {"val": 0.2, "test": 0.2}, seed).lists
        place = {path: name for name, of in lists.items() for _, path in of}
        for i in range(10):
            assert len({place[f"a/{name}{i}.png"] for name in ("", "copy0-", "copy2-")}) == 1
        assert sum(label == 0 for label, _ in lists["test"]) == 8, "two groups of four, of 40"


def test_a_picture_of_two_classes_stays_in_one_list_and_is_told():
    write_pictures(Path("photos"), [f"{k}/{i}.png" for k in "ab" for i in range(4)], size=4)
    shutil.copy("photos/a/1.png", "photos/b/x.png")
    for seed in range(6):
        found = split.divide(Path("photos"), {"val": 0.25, "test": 0.25}, seed)
        assert found.notes == ["the same picture as a and as b: a/1.png; b/x.png"]
        place = {path: name for name, of in found.lists.items() for _, path in of}
        assert place["a/1.png"] == place["b/x.png"]


def test_of_many_pictures_of_two_classes_the_first_five_are_named():
    write_pictures(Path("photos"), [f"a/{i}.png" for i in range(7)], size=4)
    shutil.copytree("photos/a", "photos/b")
    found = split.divide(Path("photos"), {"val": 0.0, "test": 0.3}, 0).notes
    assert found[0] == "7 copies have another label than the first of them, such as:"
    assert found[1:] == [f"the same picture as a and as b: a/{i}.png; b/{i}.png" for i in range(5)]


@pytest.mark.parametrize("shares", [(0.5, 0.49), (0.0, 0.99), (0.9, 0.05)])
def test_at_least_one_picture_of_every_class_trains(shares, photos):
    found = split.divide(photos, dict(zip(SHARES, shares, strict=True)), 0)
    assert min(found.class_counts("train")) == 1
    assert sum(map(len, found.lists.values())) == sum(COUNTS.values())


def test_without_a_test_share_there_is_no_test_list(photos, wbcli):
    result = wbcli("data", "split", "photos", "--test", 0, "--val", 0.3, "--json")
    assert list(result.json["lists"]) == ["train", "val"]
    assert "there is no test.csv: what is measured is val" in wbcli("data", "check", "photos").err


NAMES = ['a, "b".png', "a\nb.png", "a\rb.png", " a.png", "'.png", "é.png", "#.png", "deep/er.png"]


def test_lists_are_read_as_they_were_written():
    write_pictures(Path("photos"), [f"{k}/{n}" for k in ('x "y", z', "ü") for n in NAMES], size=4)
    split.write(split.divide(Path("photos"), SHARES, 0), Path("photos"), Path("out"))
    content = folder.read(Path(), "out")
    assert (content.class_names, list(content.problems)) == (['x "y", z', "ü"], [])
    assert sum(len(pair[1]) for pair in (content.train, content.val, content.test)) == 16


def test_what_is_not_used_is_said(photos, wbcli):
    write_pictures(photos, ["loose.png"])
    (photos / "ant/notes.txt").touch()
    assert wbcli("data", "split", "photos").err.splitlines() == [
        "Warning: left out of photos: 1 picture outside the class folders, such as loose.png",
        "Warning: left out of photos: 1 file whose name is not a picture's, such as ant/notes.txt",
    ]


REFUSED = {  # what is done before, and to the command: what is said
    "no folder": (lambda: None, ["gone"], "gone: there is no such folder"),
    "shares": (lambda: None, ["photos", "--val", 0.5, "--test", 0.5], "expected shares that"),
    "nothing": (lambda: None, ["photos", "--val", 0, "--test", 0], "expected shares that"),
    "one share": (lambda: None, ["photos", "--val", 1], "Invalid value for '--val'"),
    "nan": (lambda: None, ["photos", "--val", "nan"], "Invalid value for '--val'"),
    "seed": (lambda: None, ["photos", "--seed", -1], "--seed must be a finite number at least 0"),
    "too few": (
        lambda: None,
        ["photos", "--val", 0.01],
        "photos: no class has enough pictures for --val 0.01 (the largest has 30): raise it, or "
        "leave it out with --val 0",
    ),
    "a list": (
        lambda: Path("photos/test.csv").write_text("mine"),
        ["photos"],
        "photos/test.csv exists: delete the lists that are there, or name another folder with "
        "--output",
    ),
    "another list": (
        lambda: Path("photos/valid.csv").symlink_to("nowhere"),
        ["photos"],
        "photos/valid.csv exists",
    ),
    "a file": (lambda: None, ["photos", "--output", "photos/ant/0.png"], "this is a file"),
    "empty class": (
        lambda: Path("photos/fox").mkdir(),
        ["photos"],
        "photos/fox holds no picture: add some, or delete it",
    ),
    "one class": (
        lambda: None,
        ["photos/ant"],
        "photos/ant: expected a folder for each class, at least two, found none",
    ),
    "a class called train": (
        lambda: Path("photos/ant").rename("photos/train"),
        ["photos"],
        "photos holds train/, beside which train.csv cannot be told from it: name another folder",
    ),
    "two of a name": (
        lambda: Path("photos/ant").rename("photos/cat "),
        ["photos"],
        "the folders 'cat' and 'cat ' (white space: space at its end) would have the same label",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_divided_is_refused_before_anything_is_written(what, photos, wbcli):
    prepare, arguments, message = REFUSED[what]
    prepare()
    before = sorted(Path().rglob("*"))
    result = wbcli("data", "split", *arguments)
    assert (result.code, result.out) == (2, "")
    assert message in result.err
    assert sorted(Path().rglob("*")) == before


def test_a_folder_that_is_divided_already_is_told(wbcli):
    write_pictures(Path("mine"), ["train/a/1.png", "train/b/1.png", "test/a/1.png"])
    assert (
        "mine is divided already, into test/, train/: use it as it is, or name a folder that "
        "holds a folder for each class" in wbcli("data", "split", "mine").err
    )


def test_a_class_called_train_can_be_divided_into_another_folder(photos, wbcli):
    Path("photos/ant").rename("photos/train")
    assert wbcli("data", "split", "photos", "--output", "out").code == 0
    assert "train" in folder.read(Path(), "out").class_names


def test_a_name_that_is_no_text_is_refused(photos, wbcli):
    write_pictures(photos, [b"ant/\xff.png"])
    result = wbcli("data", "split", "photos", "--output", "out")
    assert (result.code, Path("out").exists()) == (1, False)
    assert (
        r"photos/ant/\udcff.png,ant: a list is text in UTF-8, and this name is none" in result.err
    )


def test_lists_appear_all_or_none(photos, monkeypatch, wbcli):
    def fail(path, content):
        if path.name == "train.csv":
            raise OSError(28, "No space left on device", str(path))
        storage.write_file(path, content)

    monkeypatch.setattr(split, "write_file", fail)
    result = wbcli("data", "split", "photos", "--output", "out")
    assert result.code == 1 and "No space left on device" in result.err
    assert not Path("out").exists()
    assert os.listdir() == ["photos"]
