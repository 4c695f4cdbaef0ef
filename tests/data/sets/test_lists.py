"""Split lists and iNaturalist's JSON: what is read, and every mistake with its sentence."""

import dataclasses
import json
import os
from pathlib import Path

import numpy as np
import pytest

from conftest import write_pictures
from wbcli.data import datasets
from wbcli.data.sets import lists, split_lists

K = 3  # classes


def read(text: str | bytes, num_classes: int = K):
    path = Path("list.txt")
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return lists.read_list(path, num_classes, Path())


def names(listing) -> list[str]:
    return [listing.pictures.name(i) for i in range(len(listing.pictures))]


@pytest.mark.parametrize(
    "text",
    [
        "a/1.jpg 0\nb/2.jpg 2\n",
        "a/1.jpg 0\nb/2.jpg 2",
        "a/1.jpg 0\r\nb/2.jpg 2\r\n",
        "\n a/1.jpg 0 \n\n \nb/2.jpg  2\n\n",
        "\ufeffa/1.jpg 0\nb/2.jpg 2\n",
    ],
    ids=["plain", "no last newline", "crlf", "blanks", "byte-order mark"],
)
def test_a_line_is_a_path_and_a_label(text):
    listing = read(text)
    assert names(listing) == ["a/1.jpg", "b/2.jpg"]
    assert listing.labels.tolist() == [0, 2]
    assert listing.labels.dtype == np.int64
    assert listing.problems == []


def test_paths_may_hold_spaces_and_any_bytes():
    listing = read(b"a b/c  d.jpg 1\n\xc3\xa9/\xff.jpg 2\n")
    assert names(listing) == ["a b/c  d.jpg", "é/\udcff.jpg"]
    assert listing.labels.tolist() == [1, 2]


def test_a_picture_is_described_by_its_list_and_line():
    listing = read("\na/1.jpg 0\n\nb/2.jpg 1\n")
    described = listing.pictures[np.array([1, 0])]
    assert described.describe(0) == "list.txt, line 4: b/2.jpg"
    assert described.describe(1) == "list.txt, line 2: a/1.jpg"


def test_a_line_that_stands_twice_counts_twice():
    """Published lists are taken as they are; `data check` warns of such pictures."""
    listing = read("a/1.jpg 0\nb/2.jpg 1\na/1.jpg 0\n")
    assert names(listing) == ["a/1.jpg", "b/2.jpg", "a/1.jpg"]
    assert listing.pictures.describe(2) == "list.txt, line 3: a/1.jpg"
    assert listing.problems == []


NO_PAIR = "expected a path and a label with a space between them, got "


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("a.jpg 3", "expected a label from 0 to 2, got 3"),
        ("a.jpg -1", "expected a label from 0 to 2, got -1"),
        ("a.jpg " + "9" * 5000, "expected a label from 0 to 2, got " + "9" * 20),
        ("a.jpg", NO_PAIR + "a.jpg"),
        ("a.jpg one", NO_PAIR + "a.jpg one"),
        ("a.jpg --1", NO_PAIR + "a.jpg --1"),
        ("a.jpg 1.0", NO_PAIR + "a.jpg 1.0"),
        ("a.jpg ²", NO_PAIR + "a.jpg ²"),
        ("a.jpg\t1", NO_PAIR + r"a.jpg\t1"),
        (" 1", NO_PAIR + " 1"),
        ("/etc/a.jpg 1", "/etc/a.jpg leads out of the data folder"),
        ("b/../../a.jpg 1", "b/../../a.jpg leads out of the data folder"),
        ("a\0.jpg 1", r"a\x00.jpg cannot name a file"),
        ("b/" * 2048 + "a 1", "b/" * 40 + " cannot name a file"),
        ("a" * 20_000 + " 1", NO_PAIR + "a" * 80),
        ("a/1.jpg 1", "a/1.jpg has the label 0 in line 1"),
    ],
    ids=lambda value: value[:20],
)
def test_every_mistake_is_named_with_its_line_and_the_rest_is_read(line, problem):
    listing = read(f"a/1.jpg 0\n{line}\nb/2.jpg 1\n")
    assert [p.text for p in listing.problems] == [f"list.txt, line 2: {problem}"]
    assert listing.problems[0].file is None, "no file could be left out for it"
    assert names(listing) == ["a/1.jpg", "b/2.jpg"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "list.txt is empty; expected lines of a path and a label"),
        ("\n \n", "list.txt is empty; expected lines of a path and a label"),
        ("<html>\n", f"list.txt, line 1: {NO_PAIR}<html>; expected lines of a path and a label"),
    ],
)
def test_a_file_without_any_such_line_is_refused(text, message):
    with pytest.raises(ValueError) as error:
        read(text)
    assert str(error.value) == message


def coco(images, annotations, categories=((0, "cat"), (1, "dog"), (2, "owl"))) -> dict:
    return {
        "images": [{"id": key, "file_name": name} for key, name in images],
        "annotations": [{"image_id": key, "category_id": k} for key, k in annotations],
        "categories": [{"id": k, "name": name} for k, name in categories],
    }


def read_json(content) -> tuple:
    path = Path("train.json")
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return lists.read_coco(path, K, Path())


IMAGES = [(11, "a/1.jpg"), (5, "b/2.jpg"), (7, "c/3.jpg")]


def test_annotations_are_joined_on_the_image_id_whatever_their_order():
    listing, titles = read_json(coco(IMAGES, [(7, 0), (11, 2), (5, 1)]))
    assert names(listing) == ["a/1.jpg", "b/2.jpg", "c/3.jpg"]
    assert listing.labels.tolist() == [2, 1, 0]
    assert listing.problems == []
    assert titles == ["cat", "dog", "owl"]


def test_a_class_without_a_category_is_called_by_its_number():
    assert read_json(coco(IMAGES, [(7, 0), (11, 2), (5, 1)], [(2, "owl")]))[1] == ["0", "1", "owl"]


RIGHT = [(11, 0), (5, 1), (7, 2)]


@pytest.mark.parametrize(
    ("images", "annotations", "problem"),
    [
        ([*IMAGES, (5, "b/2.jpg")], RIGHT, "image id 5 stands there twice"),
        (IMAGES, [*RIGHT, (5, 1)], "annotation of image 5 stands there twice"),
        (IMAGES, [*RIGHT, (8, 1)], "an annotation names the image 8, which is not there"),
    ],
)
def test_ids_that_do_not_match_are_named(images, annotations, problem):
    listing, _ = read_json(coco(images, annotations))
    assert [p.text for p in listing.problems] == [f"train.json: {problem}"]
    assert listing.labels.tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("entry", "label", "problem"),
    [
        ("d.jpg", None, "no annotation"),
        ("d.jpg", 3, "expected a label from 0 to 2, got 3"),
        ("d.jpg", -1, "expected a label from 0 to 2, got -1"),
        ("d.jpg", 1.5, "expected a whole number as category_id, got 1.5"),
        ("d.jpg", True, "expected a whole number as category_id, got True"),
        ("/d.jpg", 1, "/d.jpg leads out of the data folder"),
        ("../d.jpg", 1, "../d.jpg leads out of the data folder"),
        ("\ud800.jpg", 1, r"\ud800.jpg cannot name a file"),
        ("d.jpg", float("nan"), "expected a whole number as category_id, got nan"),
        ("d.jpg", float("inf"), "expected a whole number as category_id, got inf"),
        ("d.jpg", "1" * 999, "expected a whole number as category_id, got '" + "1" * 79),
        ("d.jpg", [[1]], "expected a whole number as category_id, got a list"),
        ([["d.jpg"]], 1, "expected text as file_name, got a list"),
        (None, 1, "expected text as file_name, got a NoneType"),
        ("c/3.jpg", 1, "c/3.jpg is the file of image 7, of another label"),
    ],
    ids=str,
)
def test_every_mistake_in_json_is_named_with_its_image(entry, label, problem):
    listing, _ = read_json(coco([*IMAGES, (9, entry)], [*RIGHT, (9, label)]))
    assert [p.text for p in listing.problems] == [f"train.json, image 9: {problem}"]
    assert names(listing) == ["a/1.jpg", "b/2.jpg", "c/3.jpg"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "Expecting property name"),
        ("[]", "list indices must be integers"),
        ("[" * 100_000, "recursion"),
        ({"images": [], "annotations": []}, "no 'categories'"),
        ({"images": [{"id": 1}], "annotations": [], "categories": []}, "no 'file_name'"),
        (coco([(1.5, "a")], []), "expected a number or text as id, got 1.5"),
        (coco([(float("nan"), "a")], []), "expected a number or text as id, got nan"),
        (coco([(True, "a")], []), "expected a number or text as id, got True"),
        (coco([(2**61 - 1, "a")], []), "expected a number or text as id, got 2305843009213693951"),
        (coco([], [(1e400, 0)]), "expected a number or text as id, got inf"),
        (coco([], [], [([1], "cat")]), "expected a number or text as id, got a list"),
        ("9" * 5000, "Exceeds the limit"),
        ({"images": [{"id": [], "file_name": "a"}]} | coco([], []), "it holds no annotated image"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_is_not_such_json_is_refused(content, reason):
    with pytest.raises(ValueError) as error:
        read_json(content)
    assert str(error.value).startswith("train.json: ")
    assert reason in str(error.value)


@pytest.mark.parametrize(
    ("limit", "text", "message"),
    [
        ("MAX_LIST_BYTES", "a 0\nb 1\n", "list.txt: expected at most 7 bytes, got more"),
        ("MAX_LINES", "\n" * 8, "list.txt: expected at most 7 lines, got more"),
        ("MAX_PROBLEMS", "x\n" * 8, f"list.txt, line 1: {NO_PAIR}x; more than 7 other entries"),
    ],
)
def test_a_list_that_is_too_large_is_refused(monkeypatch, limit, text, message):
    monkeypatch.setattr(lists, limit, 7)
    with pytest.raises(ValueError) as error:
        read(text)
    assert str(error.value).startswith(message)


@pytest.mark.parametrize(
    ("limit", "message"),
    [
        ("MAX_JSON_BYTES", "expected at most 7 bytes, got more"),
        ("MAX_JSON_VALUES", "it holds 30 values, more than 7"),
    ],
)
def test_json_that_is_too_large_is_refused_before_it_is_parsed(monkeypatch, limit, message):
    monkeypatch.setattr(lists, limit, 7)
    monkeypatch.setattr(json, "loads", lambda content: pytest.fail("it was parsed"))
    with pytest.raises(ValueError, match=message):
        read_json(coco(IMAGES, RIGHT))


def test_one_long_name_among_many_short_ones_is_refused():
    text = "".join(f"{i}.jpg 0\n" for i in range(20_000)) + "b/" * 2000 + "c 1\n"
    with pytest.raises(ValueError, match="a name of 4,001 bytes among 20,001 short ones, b/b/"):
        read(text)


def test_a_pipe_in_the_place_of_a_list_does_not_block():
    os.mkfifo("pipe")
    for read_it, message in [(lists.read_list, "pipe: expected a "), (lists.read_coco, "pipe: ")]:
        with pytest.raises(ValueError, match=f"^{message}.*regular file, got a folder, pipe"):
            read_it(Path("pipe"), K, Path())


def test_classes_are_called_like_the_folders_of_their_pictures():
    listing = read("train/n02/1.jpg 1\ntrain/n01/1.jpg 0\ntrain/n02/2.jpg 1\n")
    assert lists.class_names(listing, K) == ["n01", "n02", "2"]


@pytest.mark.parametrize(
    "text", ["x/1.jpg 0\nx/2.jpg 1\n", "2/1.jpg 0\nb/2.jpg 1\n"], ids=["shared", "a number"]
)
def test_where_folders_do_not_tell_classes_apart_they_are_numbers(text):
    assert lists.class_names(read(text), K) == ["0", "1", "2"]


def test_what_is_not_there_and_what_is_no_file_is_named():
    write_pictures(Path(), ["a/1.jpg"])
    Path("a/folder.jpg").mkdir()
    Path("a/link.jpg").symlink_to("nowhere")
    listing = read(
        "a/1.jpg 0\na/2.jpg 1\na/folder.jpg 1\na/link.jpg 2\na/" + "x" * 300 + " 0\na/1.jpg/b 0\n"
    )
    problems = lists.missing(listing.pictures)
    assert [p.text[:45] for p in problems] == [
        "list.txt, line 2: a/2.jpg is missing in .",
        "list.txt, line 3: a/folder.jpg is no file in ",
        "list.txt, line 4: a/link.jpg is missing in .",
        "list.txt, line 5: a/" + "x" * 25,
        "list.txt, line 6: a/1.jpg/b is missing in .",
    ]
    assert problems[1].file == "a/folder.jpg"


SMALL = split_lists.SplitLists("small", K, "train.txt", "test.txt", "val.txt")
INAT = dataclasses.replace(split_lists.INAT18, num_classes=K)


def imagenet(val: str, listed: str) -> None:
    """Three classes with their test pictures flat or nested on disk, and as the list has them."""
    folders = ["n01", "n02", "n03"]
    test = {
        "flat": ["val/I_{i}.JPEG"] * K,
        "nested": [f"val/{name}/I_{{i}}.JPEG" for name in folders],
    }
    write_pictures(Path(), [f"train/{name}/{i}.JPEG" for name in folders for i in range(3)])
    write_pictures(Path(), [name.format(i=i) for i, name in enumerate(test[val])])

    def write(path, lines):
        Path(path).write_text("\n".join(lines))

    write("train.txt", [f"train/{n}/{i}.JPEG {k}" for k, n in enumerate(folders) for i in (0, 1)])
    write("val.txt", [f"train/{name}/2.JPEG {k}" for k, name in enumerate(folders)])
    write("test.txt", [f"{name.format(i=i)} {i}" for i, name in enumerate(test[listed])])


@pytest.mark.parametrize("listed", ["flat", "nested"])
@pytest.mark.parametrize("val", ["flat", "nested"])
def test_test_pictures_may_lie_flat_or_by_class_whatever_the_list_says(val, listed):
    imagenet(val, listed)
    content = SMALL.read(Path())
    assert content.problems == []
    assert content.class_names == ["n01", "n02", "n03"]
    assert all(content.test[0].path(i).is_file() for i in range(K))
    assert content.test[1].tolist() == [0, 1, 2]
    assert content.test[0].describe(2).startswith("test.txt, line 3: val/")
    assert len(content.train[1]) == 6
    assert content.val[1].tolist() == [0, 1, 2]


def test_a_first_test_picture_that_is_missing_is_the_only_one_that_is(tmp_path):
    imagenet("flat", "nested")
    Path("val/I_0.JPEG").unlink()
    content = SMALL.read(Path())
    assert [p.text for p in content.problems] == ["test.txt, line 1: val/I_0.JPEG is missing in ."]


def inaturalist(how: str) -> None:
    """Three species, of which the lists and the JSON files say the same."""
    entries = {
        "train": [(f"train_val2018/Birds/{k}/{i}.jpg", k) for k in range(K) for i in range(3 - k)],
        "val": [(f"train_val2018/Birds/{k}/v.jpg", k) for k in (2, 0, 1)],
    }
    for split, pairs in entries.items():
        write_pictures(Path(), [name for name, _ in pairs])
        if how == "lists":
            lines = [f"{name} {k}\n" for name, k in pairs]
            Path(f"iNaturalist18_{split}.txt").write_text("".join(lines))
        else:
            ids = [100 - i for i in range(len(pairs))]
            content = coco(
                [(key, name) for key, (name, _) in zip(ids, pairs, strict=True)],
                [(key, k) for key, (_, k) in reversed(list(zip(ids, pairs, strict=True)))],
                [(k, str(k)) for k in range(K)],
            )
            Path(f"{split}2018.json").write_text(json.dumps(content))


@pytest.mark.parametrize("how", ["lists", "json"])
def test_lists_and_json_give_the_same_classes_and_counts(how):
    inaturalist(how)
    content = INAT.read(Path())
    assert content.problems == []
    assert content.class_names == ["0", "1", "2"]
    assert content.train[1].tolist() == [0, 0, 0, 1, 1, 2]
    assert content.test[1].tolist() == [2, 0, 1]
    assert content.train[0].name(3) == "train_val2018/Birds/1/0.jpg"
    assert content.val is None


def test_half_of_the_lists_beside_both_json_files_is_no_list():
    inaturalist("json")
    Path("iNaturalist18_train.txt").write_text("x 0\n")
    assert len(INAT.read(Path()).train[1]) == 6


def test_the_lists_may_lie_in_a_folder_of_the_set_s_name():
    write_pictures(Path("data/small"), ["a/1.jpg", "b/2.jpg"])
    for name in ("train", "test", "val"):
        Path(f"data/small/{name}.txt").write_text("a/1.jpg 0\nb/2.jpg 1\n")
    assert SMALL.read(Path("data")).train[0].root == Path("data/small")


def test_a_list_that_is_missing_is_named_with_the_place_where_it_belongs():
    with pytest.raises(FileNotFoundError) as error:
        split_lists.INAT18.read(Path("data"))
    assert str(error.value) == (
        "inat18: expected iNaturalist18_train.txt, iNaturalist18_val.txt or train2018.json, "
        "val2018.json, beside the folders of pictures that they name, in data or data/inat18; "
        "wbcli does not download this set: name its folder with --data-dir"
    )


def load(**options):
    return datasets.load("imagenetlt", Path(), imbalance_factor=None, **options)


def imagenetlt(train: list[str], test: list[str], val: list[str]) -> None:
    for name, lines in [("train", train), ("test", test), ("val", val)]:
        Path(f"ImageNet_LT_{name}.txt").write_text("\n".join(lines))
    present = [line.rsplit(" ", 1)[0] for line in [*train, *test, *val] if "gone" not in line]
    write_pictures(Path(), present)


def test_a_data_set_of_lists_trains_on_all_it_lists():
    imagenetlt(["t/a/1.jpg 0", "t/a/2.jpg 0", "t/b/3.jpg 999"], ["v/4.jpg 0"], ["t/a/5.jpg 0"])
    dataset = load()
    assert dataset.num_classes == 1000
    assert [dataset.class_counts[k] for k in (0, 1, 999)] == [2, 0, 1]
    assert dataset.class_names[0] == "a" and dataset.class_names[999] == "b"
    assert [dataset.val.images.name(0), dataset.test.images.name(0)] == ["t/a/5.jpg", "v/4.jpg"]
    assert (dataset.limits, dataset.image_size) == ({"many": 100, "few": 20}, 224)


def test_validation_images_of_ones_own_beside_those_of_the_set_are_refused():
    imagenetlt(["t/a/1.jpg 0"], ["v/2.jpg 0"], ["t/a/3.jpg 0"])
    with pytest.raises(ValueError, match="imagenetlt has validation images of its own"):
        load(val_per_class=1)


@pytest.mark.parametrize(
    ("train", "message"),
    [
        (
            ["t/a/1.jpg 0", "t/gone.jpg 0", "t/b/gone.jpg 1"],
            "ImageNet_LT_train.txt, line 2: t/gone.jpg is missing in . (and 1 more): "
            "wbcli data check imagenetlt names them all, --skip-broken leaves them out",
        ),
        (
            ["t/a/1.jpg 0", "t/a/2.jpg 1000"],
            "ImageNet_LT_train.txt, line 2: expected a label from 0 to 999, got 1000: "
            "wbcli data check imagenetlt names them all",
        ),
    ],
)
def test_training_starts_only_where_the_lists_are_right(train, message):
    imagenetlt(train, ["v/2.jpg 0"], ["t/a/3.jpg 0"])
    with pytest.raises(ValueError) as error:
        load()
    assert str(error.value) == message


def test_files_that_are_left_out_are_as_if_they_were_not_there():
    imagenetlt(["t/a/1.jpg 0", "t/gone.jpg 0", "t/b/3.jpg 1"], ["v/2.jpg 0"], ["t/a/3.jpg 0"])
    dataset = load(left_out=("t/gone.jpg", "t/b/3.jpg"))
    assert dataset.class_counts[:2] == [1, 0]
    assert [dataset.train.images.describe(0)] == ["ImageNet_LT_train.txt, line 1: t/a/1.jpg"]


def test_a_split_of_which_nothing_is_left_is_refused():
    imagenetlt(["t/a/1.jpg 0"], ["v/gone.jpg 0"], ["t/a/3.jpg 0"])
    with pytest.raises(
        ValueError, match=r"nothing is left of 1 picture such as .*v/gone.jpg: broken or missing"
    ):
        load(left_out=("v/gone.jpg",))
