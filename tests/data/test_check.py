"""wbcli data check: what is found, what it prints, and its exit codes."""

import dataclasses
import gc
import multiprocessing
import os
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image

from cli.test_cli import in_a_process
from conftest import encoded, photo, write_folder, write_pictures
from wbcli import console
from wbcli.data import check, sources
from wbcli.data.pictures import decoding
from wbcli.data.sets import folder


def examine(name: str = "mine", on_file=lambda count: None) -> check.Findings:
    return check.examine(sources.find(name).read(Path()), on_file)


def texts(found: check.Findings) -> list[str]:
    return [problem.text for problem in found.problems]


def test_a_folder_without_fault():
    write_folder(Path("mine"), {"a": 3, "b": 1}, test=2, val=1)
    assert examine() == ({"train": 4, "val": 2, "test": 4}, [3, 1], [], [], [])


def test_every_file_is_read_and_told():
    write_folder(Path("mine"), {"a": 30, "b": 1}, test=1)
    told = []
    examine(on_file=told.append)
    assert sum(told) == check.num_files(sources.find("mine").read(Path())) == 33
    assert max(told) <= check.CHUNK


def test_broken_files_are_named_with_the_reason():
    write_folder(Path("mine"), {"a": 3, "b": 1})
    Path("mine/train/a/0.jpg").write_bytes(b"")
    Path("mine/train/a/1.jpg").write_text("text")
    torn = encoded(photo(200, 200), "JPEG")
    Path("mine/test/b/0.jpg").write_bytes(torn[: len(torn) // 2])
    Path("mine/test/b/2.jpg").symlink_to("nowhere")
    found = examine()
    assert [text[:60] for text in texts(found)] == [
        "train/a/0.jpg: the file is empty",
        "train/a/1.jpg: not a picture that Pillow can read",
        "test/b/0.jpg: image file is truncated (11 bytes not processe",
        "test/b/2.jpg: No such file or directory",
    ]
    assert found.problems[2].file == "test/b/0.jpg"


def copy(source: str, target: str) -> None:
    Path("mine", target).write_bytes(Path("mine", source).read_bytes())


def test_the_same_picture_in_two_splits_is_named_under_both_names():
    write_folder(Path("mine"), {"a": 3, "b": 1}, val=1)
    copy("train/a/1.jpg", "test/b/other name.jpg")
    copy("train/a/1.jpg", "val/a/1.jpg")
    copy("test/a/0.jpg", "val/b/2.jpg")
    found = examine()
    assert texts(found) == [
        "the same picture in train and in test: train/a/1.jpg; test/b/other name.jpg",
        "the same picture in train and in val: train/a/1.jpg; val/a/1.jpg",
        "the same picture in test and in val: test/b/other name.jpg; val/a/1.jpg",
        "the same picture in test and in val: test/a/0.jpg; val/b/2.jpg",
    ]
    assert {problem.file for problem in found.problems} == {None}
    assert found.warnings == []


def test_the_same_picture_under_two_labels_is_a_problem_and_a_copy_in_a_class_a_warning():
    write_folder(Path("mine"), {"a": 3, "b": 1, "c": 1})
    for target in ("a/7.jpg", "a/8.jpg", "b/7.jpg", "c/7.jpg", "c/8.jpg"):
        copy("train/a/1.jpg", f"train/{target}")
    copy("test/b/0.jpg", "test/b/9.jpg")
    found = examine()
    assert texts(found) == [
        "the same picture in train as a and as b: train/a/1.jpg; train/b/7.jpg",
        "the same picture in train as a and as c: train/a/1.jpg; train/c/7.jpg",
    ]
    assert found.warnings == [
        "in train, copies of another picture of the class: 3 of 10 images, such as "
        "train/a/1.jpg; train/a/7.jpg",
        "in test, copies of another picture of the class: 1 of 7 images, such as "
        "test/b/0.jpg; test/b/9.jpg",
    ]


def test_files_that_cannot_be_read_are_no_copies_of_each_other():
    write_folder(Path("mine"), {"a": 3, "b": 1})
    for name in ("train/a/1.jpg", "train/b/0.jpg", "test/a/1.jpg"):
        Path("mine", name).write_bytes(b"")
    found = examine()
    assert [text.split(": ")[1] for text in texts(found)] == ["the file is empty"] * 3
    assert found.warnings == []


def save_again(source: str, target: str, scale: float = 1, **options) -> None:
    with Image.open(Path("mine", source)) as image:
        size = [round(side * scale) for side in image.size]
        kind = {".jpg": "JPEG", ".png": "PNG", ".webp": "WEBP"}[Path(target).suffix]
        Path("mine", target).write_bytes(encoded(image.resize(size), kind, **options))


def test_the_same_picture_in_other_encodings_and_sizes_is_a_warning(wbcli):
    write_folder(Path("mine"), {"a": 3, "b": 1})
    for name in ("train/a/0.jpg", "train/a/1.jpg", "test/b/0.jpg"):
        Path("mine", name).write_bytes(encoded(photo(90, 60, seed=len(name)), "JPEG", quality=95))
    Path("mine/train/a/1.jpg").write_bytes(encoded(photo(90, 60, seed=77), "JPEG", quality=95))
    save_again("train/a/0.jpg", "train/a/7.png")
    save_again("train/a/1.jpg", "train/b/7.jpg", 0.5, quality=80)
    save_again("test/b/0.jpg", "train/b/8.jpg", 2, quality=60)
    save_again("test/b/0.jpg", "test/a/8.webp", quality=70)
    copy("train/a/0.jpg", "train/a/8.jpg")
    Path("mine/train/b/9.jpg").write_bytes(b"")
    Path("mine/train/a/9.jpg").write_bytes(b"")
    found = examine()
    assert sorted(found.similar) == [
        ["test/a/8.webp", "test/b/0.jpg"],
        ["train/a/0.jpg", "train/a/7.png"],
        ["train/a/1.jpg", "train/b/7.jpg"],
        ["train/b/8.jpg", "test/a/8.webp"],
        ["train/b/8.jpg", "test/b/0.jpg"],
    ]
    assert found.warnings == [
        "in train, copies of another picture of the class: 1 of 10 images, such as "
        "train/a/0.jpg; train/a/8.jpg",
        "looks like the same picture within a class in train: 1 pair, such as "
        "train/a/0.jpg; train/a/7.png",
        "looks like the same picture under two labels in train: 1 pair, such as "
        "train/a/1.jpg; train/b/7.jpg",
        "looks like the same picture in train and in test: 2 pairs, such as "
        "train/b/8.jpg; test/a/8.webp",
        "looks like the same picture under two labels in test: 1 pair, such as "
        "test/a/8.webp; test/b/0.jpg",
    ]
    result = wbcli("data", "check", "mine", "--json")
    assert result.json["similar"] == found.similar
    assert len(result.json["problems"]) == 2, "the two empty files"
    for name in ("train/a/9.jpg", "train/b/9.jpg"):
        Path("mine", name).unlink()
    assert wbcli("data", "check", "mine").code == 0


def imagenetlt(train: list[str], test: list[str]) -> None:
    val = ["w" + line for line in train]
    for name, lines in [("train", train), ("test", test), ("val", val)]:
        Path(f"ImageNet_LT_{name}.txt").write_text("\n".join(lines) + "\n")
    present = [line.rsplit(" ", 1)[0] for line in [*train, *test, *val] if "gone" not in line]
    write_pictures(Path(), present)


def test_problems_of_lists_come_with_their_lines():
    imagenetlt(["t/a/1.jpg 0", "t/gone.jpg 0", "t/a/2.jpg 1000"], ["v/a b.jpg 0", "v/5.jpg 1"])
    Path("v/a b.jpg").write_bytes(b"")
    Path("v/5.jpg").write_bytes(Path("t/a/1.jpg").read_bytes())
    found = examine("imagenetlt")
    assert texts(found) == [
        "ImageNet_LT_train.txt, line 3: expected a label from 0 to 999, got 1000",
        "ImageNet_LT_train.txt, line 2: t/gone.jpg is missing in .",
        "ImageNet_LT_val.txt, line 3: expected a label from 0 to 999, got 1000",
        "ImageNet_LT_val.txt, line 2: wt/gone.jpg is missing in .",
        "ImageNet_LT_test.txt, line 1: v/a b.jpg: the file is empty",
        "the same picture in train and in test: ImageNet_LT_train.txt, line 1: t/a/1.jpg; "
        "ImageNet_LT_test.txt, line 2: v/5.jpg",
    ]
    assert found.images == {"train": 2, "val": 2, "test": 2}


def test_classes_without_training_or_test_images_are_warnings():
    imagenetlt([f"t/{k}/1.jpg {k}" for k in range(997)], [f"v/{k}.jpg {k}" for k in range(1, 1000)])
    found = examine("imagenetlt")
    assert found.problems == []
    assert found.warnings == [
        "3 of 1000 classes have no training images: 997, 998, 999",
        "1 of 1000 classes has no test images: 0",
    ]
    many = check.empty_classes(list("abcdefg"), [0] * 7, [1] * 7)
    assert many == ["7 of 7 classes have no training images: a, b, c, d, e, …"]


def test_images_in_memory_are_compared_by_their_pixels(monkeypatch):
    content = sources.find("digitslt").read(Path())
    images, labels = content.train
    twice = content._replace(test=(images[[5, 5]], labels[[5, 5]]))
    source = dataclasses.replace(sources.find("digitslt"), read=lambda path: twice)
    monkeypatch.setitem(sources.SOURCES, "digitslt", source)
    found = examine("digitslt")
    assert texts(found) == ["the same picture in train and in test: image 5; image 0"]
    assert found.warnings[1:] == [
        "in test, copies of another picture of the class: 1 of 2 images, such as image 0; image 1"
    ]


def test_check_in_the_terminal(wbcli):
    write_folder(Path("my set"), {"a": 2, "b": 1})
    right = wbcli("data", "check", "my set")
    assert (right.code, right.err) == (0, "")
    assert right.out == "my set: 3 train, 4 test images; no problems\n"
    Path("my set/test/a/0.jpg").write_bytes(b"")
    wrong = wbcli("data", "check", "my set")
    assert (wrong.code, wrong.err) == (1, "")
    assert wrong.out.splitlines() == [
        "test/a/0.jpg: the file is empty",
        "my set: 3 train, 4 test images; 1 problem",
    ]
    as_json = wbcli("data", "check", "my set", "--json", "-q")
    assert (as_json.code, as_json.err) == (1, "")
    assert as_json.json == {
        "dataset": "my set",
        "images": {"train": 3, "test": 4},
        "problems": ["test/a/0.jpg: the file is empty"],
        "similar": [],
    }


def test_check_of_classes_without_images_warns_and_passes(wbcli):
    write_folder(Path("mine"), {"a": 2, "b": 1})
    write_pictures(Path("mine"), ["train/c/1.jpg"])
    result = wbcli("data", "check", "mine")
    assert result.code == 0
    assert result.err == "Warning: 1 of 3 classes has no test images: c\n"
    assert wbcli("data", "check", "mine", "--json").json["problems"] == []


NOTES = [
    "Warning: left out of mine: 2 files whose name is not a picture's, such as train/a/more.txt",
    "Warning: left out of mine: 1 folder whose name starts with a dot, such as test/b/.new",
]


def with_notes() -> None:
    write_folder(Path("mine"), {"a": 3, "b": 2})
    write_pictures(Path("mine"), ["test/b/.new/1.jpg"])
    for name in ("notes.txt", "more.txt"):
        Path("mine/train/a", name).touch()


@pytest.mark.parametrize("broken", [False, True])
def test_a_check_says_each_note_once(wbcli, broken):
    with_notes()
    if broken:
        Path("mine/train/a/1.jpg").write_bytes(b"")
    result = wbcli("data", "check", "mine", "--data-dir", ".")
    assert result.code == broken
    assert result.err.replace(f"{Path().resolve()}/", "").splitlines() == NOTES


def test_skip_broken_says_each_note_once_and_reads_the_folders_twice(wbcli, monkeypatch):
    with_notes()
    Path("mine/train/a/1.jpg").write_bytes(b"")
    reads, read = [], folder.read
    monkeypatch.setattr(folder, "read", lambda *args, **kw: reads.append(args) or read(*args, **kw))
    result = wbcli("stage1", "mine", "--skip-broken", "--dry-run", "--arch", "resnet8")
    assert result.code == 0
    assert result.err.replace(f"{Path().resolve()}/", "").splitlines() == [
        "Warning: train/a/1.jpg: the file is empty",
        "left out: 1 file; training counts now [2, 2] (were [3, 2]), 4 test images (were 4)",
        *NOTES,
    ]
    assert len(reads) == 2


def test_the_digits_pass(wbcli):
    result = wbcli("data", "check", "digitslt")
    assert result.code == 0
    assert result.out == "digitslt: 1097 train, 700 test images; no problems\n"


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["ghost"], 2, "unknown data set 'ghost': choose one of digitslt"),
        (["inat18"], 1, "inat18: expected iNaturalist18_train.txt, iNaturalist18_val.txt or"),
        (["mine", "--imbalance-factor", "99"], 2, "leaves the rarest class without an image"),
        (["mine", "--limits", "1", "2"], 2, "--limits MANY FEW: expected MANY ≥ FEW ≥ 0, got 1"),
        (["mine", "--imbalance-type", "exp"], 2, "--imbalance-type: all of mine trains unless"),
        (["empty"], 1, "found no train/ (there is nothing)"),
    ],
    ids=str,
)
def test_what_cannot_be_checked_is_one_line(wbcli, args, code, message):
    write_folder(Path("mine"), {"a": 2, "b": 1})
    Path("empty").mkdir()
    result = wbcli("data", "check", *args)
    assert (result.code, result.out) == (code, "")
    assert message in result.err
    assert len(result.err.splitlines()) == 1


def test_names_of_any_bytes_are_printed():
    write_folder(Path("mine"), {"a": 2, "b": 1})
    Path(os.fsdecode(b"mine/train/a/\xff\n.jpg")).write_bytes(b"")
    done = in_a_process("data", "check", "mine")
    out, err = done.communicate()
    assert (done.returncode, err) == (1, "")
    assert out.startswith("train/a/\\udcff\\n.jpg: the file is empty\n")


@pytest.mark.parametrize("workers", [0, 2])
def test_ctrl_c_ends_a_check_in_one_line_and_leaves_no_process(wbcli, monkeypatch, workers):
    @contextmanager
    def interrupted(total):
        def advance(count):
            raise KeyboardInterrupt

        yield advance

    write_folder(Path("mine"), {"a": 40, "b": 1})
    monkeypatch.setattr(console, "counting", interrupted)
    monkeypatch.setattr(decoding, "workers", workers)
    result = wbcli("data", "check", "mine")
    assert (result.code, result.out, result.err.strip()) == (130, "", "Interrupted.")
    gc.collect()
    assert multiprocessing.active_children() == []


def test_a_pipe_among_the_pictures_is_a_problem_and_blocks_nothing(wbcli):
    write_folder(Path("own"), {"a": 2, "b": 2})
    os.mkfifo("own/train/a/pipe.jpg")
    result = wbcli("data", "check", "own", "--data-dir", ".", "--json")
    assert result.code != 0
    assert "train/a/pipe.jpg: expected a regular file, got a folder, pipe" in result.out
