"""Another labelled set: every number by an independent calculation from `predict --json`."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from conftest import write_cifar10, write_folder, write_pictures
from wbcli import cli

CLASSES = ["ant", "bee", "cat", "dog", "elk", "fox"]
TRAINED = [12, 10, 8, 5, 3, 2]  # Many over 9: ant, bee; Few under 4: elk, fox
SPLITS = ("train", "test")
UNBALANCED = {"fox": 7, "ant": 2, "dog": 4}  # of the other set
SHORT = ("--arch", "resnet8", "--image-size", "8", "--epochs", "6", "--batch-size", "8")


def write_colours(root: Path, counts: dict[str, int], seed: int) -> None:
    """Noisy pictures of a colour for each class, which a network tells apart now and then."""
    dice = np.random.default_rng(seed)
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        colour = np.array([40 * CLASSES.index(name), 128, 255 - 40 * CLASSES.index(name)])
        for i in range(count):
            pixels = (colour + dice.normal(0, 60, (10, 10, 3))).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / name / f"{i}.png")


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """The run `plain`, and `held` with validation images, of mine/; other/ is another set."""
    place = tmp_path_factory.mktemp("others")
    write_colours(place / "mine/train", dict(zip(CLASSES, TRAINED, strict=True)), 0)
    write_colours(place / "mine/test", dict.fromkeys(CLASSES, 2), 1)
    write_colours(place / "other", UNBALANCED, 2)
    command = ["stage1", str(place / "mine"), *SHORT, "--limits", "9", "4"]
    for name, val in (("plain", "0"), ("held", "2")):
        more = ["--name", name, "--val-per-class", val, "--runs-dir", str(place / "runs")]
        assert CliRunner().invoke(cli.cli, [*command, *more]).exit_code == 0
    return place


@pytest.fixture
def here(made, tmp_path):
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    return tmp_path


def answers(wbcli, run: str, key: str) -> tuple[np.ndarray, np.ndarray]:
    """What `predict` says of other/: values [N, K] by class number, and the true classes [N]."""
    images = wbcli("predict", run, "other", "--top", 6, "--json").json["images"]
    values = np.zeros((len(images), 6))
    for row, image in zip(values, images, strict=True):
        for found in image["top"]:
            row[found["class"]] = found[key]
    labels = [CLASSES.index(Path(image["file"]).parent.name) for image in images]
    return values, np.array(labels)


def nll_and_ece(p: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    confidence, right = p.max(1), p.argmax(1) == labels
    bins = np.ceil(confidence * 15)
    gaps = [abs((right[bins == b] - confidence[bins == b]).sum()) for b in range(1, 16)]
    return -np.log(p[np.arange(len(p)), labels]).mean(), 100 * sum(gaps) / len(p)


def test_every_number_is_that_of_the_predictions(here, wbcli):
    scores, labels = answers(wbcli, "plain", "score")
    result = wbcli("eval", "plain", "--data-dir", "other", "--json")
    assert result.err == (
        "Warning: plain: 3 classes have no images in this split and are left out of the means: "
        "bee, cat, elk\n"
    )
    found = result.json
    assert (found["split"], found["num_images"], found["num_classes"]) == ("test", 13, 6)
    assert (found["dataset"], found["measured_on"]) == ("mine", str(here / "other"))
    p = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    predicted = scores.argmax(1)
    hits = {k: (predicted[labels == k] == k).mean() * 100 for k in (0, 3, 5)}
    rows = found["per_class"]
    assert [row["name"] for row in rows] == CLASSES
    assert [row["train_images"] for row in rows] == TRAINED
    assert [row["test_images"] for row in rows] == [2, 0, 0, 4, 0, 7]
    assert [row["accuracy"] for row in rows] == [pytest.approx(hits.get(k)) for k in range(6)]
    np.testing.assert_allclose([row["marginal_likelihood"] for row in rows], p.mean(0), rtol=1e-4)
    assert found["accuracy"]["all"] == pytest.approx(np.mean(list(hits.values())))
    groups = [found["accuracy"][name] for name in ("many", "medium", "few")]
    assert groups == pytest.approx([hits[0], hits[3], hits[5]]), "the run's groups"
    top5 = (np.argsort(-scores)[:, :5] == labels[:, None]).any(1)
    assert found["top5"] == pytest.approx(np.mean([100 * top5[labels == k].mean() for k in hits]))
    f1 = [
        200 * ((predicted == k) & (labels == k)).sum() / ((predicted == k).sum() + sum(labels == k))
        for k in hits
    ]
    assert found["macro_f1"] == pytest.approx(np.mean(f1))
    assert (found["nll"], found["ece"]) == pytest.approx(nll_and_ece(p, labels), rel=1e-4)
    assert found["temperature"] is None
    assert len(set(predicted)) > 1 and 0 < found["accuracy"]["all"] < 100, "not for nothing"


def test_the_temperature_is_the_one_that_the_run_kept(here, wbcli):
    kept = json.loads(Path("runs/held/temperature.json").read_text())
    shutil.rmtree("mine")
    p, labels = answers(wbcli, "held", "probability")
    found = wbcli("eval", "held", "--data-dir", "other", "--json").json
    assert found["temperature"] == kept["temperature"] is not None
    tempered = found["nll_with_temperature"], found["ece_with_temperature"]
    assert tempered == pytest.approx(nll_and_ece(p, labels), rel=1e-4)


def files_of(run: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in run.iterdir() if path.is_file()}


def test_what_the_run_keeps_is_of_its_own_data_set(here, wbcli):
    assert "measured_on" not in wbcli("eval", "held", "--json").json
    kept = files_of(Path("runs/held"))
    assert wbcli("eval", "held", "--data-dir", "other").code == 0
    assert files_of(Path("runs/held")) == kept


def as_test_folder():
    Path("set").mkdir()
    Path("other").rename("set/test")


def as_data_set_of_its_own():
    as_test_folder()
    write_folder(Path("set"), {"ant": 1, "yak": 1}, test=0)


def as_list():
    Path("set").mkdir()
    files = sorted(Path("other").rglob("*.png"), key=lambda path: path.name)
    lines = [f"../{file},{file.parent.name}" for file in files]
    Path("set/test.csv").write_text("\n".join(["path,label", *lines]))


@pytest.mark.parametrize("form", [as_test_folder, as_data_set_of_its_own, as_list])
def test_the_same_pictures_give_the_same_numbers_in_every_form(form, here, wbcli):
    expected = wbcli("eval", "plain", "--data-dir", "other", "--json").json
    form()
    found = wbcli("eval", "plain", "--data-dir", "set", "--split", "test", "--json").json
    assert found.pop("measured_on") == str(here / "set")
    expected.pop("measured_on")
    for key in ("nll", "ece"):
        assert found.pop(key) == pytest.approx(expected.pop(key))
    assert [row["accuracy"] for row in found["per_class"]] == [
        row["accuracy"] for row in expected["per_class"]
    ]
    assert found["accuracy"] == expected["accuracy"]


def test_a_class_without_pictures_may_have_an_empty_folder(here, wbcli):
    Path("other/bee").mkdir()
    found = wbcli("eval", "plain", "--data-dir", "other", "--json").json
    assert [row["accuracy"] is None for row in found["per_class"]] == [
        *(False, True, True, False, True, False)
    ]


def test_classes_that_the_run_does_not_know_are_refused_by_name(here, wbcli):
    write_pictures(Path("other"), ["yak/1.png", "zebu/1.png"])
    known = "it knows 'ant', 'bee', 'cat', 'dog', 'elk', 'fox'"
    result = wbcli("eval", "plain", "--data-dir", "other")
    assert (result.code, result.out) == (1, "")
    assert result.err == (
        "Error: other: run plain does not know the classes 'yak', 'zebu': take them out of this "
        f"set; {known}\n"
    )
    Path("set").mkdir()
    Path("set/test.csv").write_text("path,label\n../other/yak/1.png,yak\n../other/ant/0.png,ant\n")
    assert wbcli("eval", "plain", "--data-dir", "set").err == (
        "Error: set/test.csv: run plain does not know the class 'yak' (line 2): take it out of "
        f"this set; {known}\n"
    )


MISTAKES = {
    "gone.png,ant": "Error: test.csv, line 2: gone.png is missing in other\n",
    "ant/0.png,": "Error: test.csv, line 2: the label of ant/0.png is empty\n",
    "ant/0.png,ant\nant/0.png,fox": "Error: test.csv, line 3: ant/0.png stands in line 2, too, "
    "with the label 'ant': expected each picture once\n",
    "gone.png,ant\ngone2.png,ant": "Error: test.csv, line 2: gone.png is missing in other; "
    "test.csv, line 3: gone2.png is missing in other\n",
    "ant/0.png,Ant\nant/1.png,\ngone.png,fox": "Error: other/test.csv: run plain does not know the "
    "class 'Ant' (line 2, the run has 'ant'): rename it or take it out of this set; it knows "
    "'ant', 'bee', 'cat', 'dog', 'elk', 'fox'; test.csv, line 3: the label of ant/1.png is empty; "
    "test.csv, line 4: gone.png is missing in other\n",
}


@pytest.mark.parametrize("lines", MISTAKES)
def test_every_mistake_in_the_list_is_named(lines, here, wbcli):
    Path("other/test.csv").write_text(f"path,label\n{lines}\n")
    assert wbcli("eval", "plain", "--data-dir", "other").err == MISTAKES[lines]


def test_of_many_mistakes_the_first_fifty_are_named(here, wbcli):
    lines = [f"{i}.png,ant" for i in range(52)]
    Path("other/test.csv").write_text("\n".join(["path,label", *lines]))
    error = wbcli("eval", "plain", "--data-dir", "other").err
    assert error.endswith("line 51: 49.png is missing in other; and 2 more mistakes\n")


@pytest.mark.parametrize("workers", ["0", "2"])
@pytest.mark.parametrize("listed", [False, True])
def test_broken_pictures_are_named_all_with_their_path(workers, listed, here, wbcli):
    Path("other/ant/0.png").write_bytes(b"")
    Path("other/dog/3.png").write_bytes(b"no picture")
    first, second = "other/ant/0.png", "other/dog/3.png"
    if listed:
        as_list()
        # Sorted by file name, and by folder where that is the same.
        rows = Path("set/test.csv").read_text().splitlines()
        lines = [rows.index(f"../{p},{p.split('/')[1]}") + 1 for p in (first, second)]
        first, second = (
            f"test.csv, line {line}: set/../{path}"
            for line, path in zip(lines, (first, second), strict=True)
        )
    result = wbcli(
        "eval", "plain", "--data-dir", "set" if listed else "other", "--workers", workers
    )
    assert (result.code, result.out) == (1, "")
    assert result.err == (
        f"Error: 2 of 13 pictures cannot be read: {first} (the file is empty); {second} "
        "(not a picture that Pillow can read): mend them, or leave such files out of this set\n"
    )


WITHOUT = {
    "nowhere": (2, "Error: --data-dir nowhere: there is no such folder (see wbcli eval --help)"),
    "set": (
        1,
        "Error: set holds neither mine, the run's own data set, nor another one: expected "
        "CLASS/picture.jpg, test/CLASS/picture.jpg, or test.csv with the columns path,label",
    ),
    "halves": (
        1,
        "Error: halves: expected CLASS/picture.jpg, test/CLASS/picture.jpg, or test.csv with the "
        "columns path,label, found val/ only: to measure on it, name that folder: --data-dir "
        "halves/val",
    ),
}


@pytest.mark.parametrize("name", WITHOUT)
def test_a_folder_without_a_set_is_refused(name, here, wbcli):
    Path("set").mkdir()
    shutil.copytree("other", "halves/val")
    result = wbcli("eval", "plain", "--data-dir", name)
    assert (result.code, result.err) == (WITHOUT[name][0], f"{WITHOUT[name][1]}\n")


@pytest.mark.parametrize("split", ["train", "val"])
def test_another_set_has_test_images_only(split, here, wbcli):
    assert wbcli("eval", "held", "--data-dir", "other", "--split", split).err == (
        f"Error: --split {split}: other is another data set than the run's, of which there are "
        "test images only: leave --split out\n"
    )
    Path("mine").rename("renamed")
    expected = {"train": 29, "val": 11}[split]
    found = wbcli("eval", "held", "--data-dir", "renamed", "--split", split, "--json").json
    assert found["num_images"] == expected, "the run's own under another name"


@pytest.mark.parametrize("data_dir", ["elsewhere", "elsewhere/mine"])
def test_a_set_of_the_runs_name_with_other_classes_is_told_why_it_is_refused(data_dir, here, wbcli):
    write_folder(Path("elsewhere/mine"), {"ant": 1, "yak": 1}, test=1)
    error = wbcli("eval", "plain", "--data-dir", data_dir).err
    assert error.startswith("Error: the data set has other classes than run plain was trained on")
    assert error.endswith(
        "; elsewhere/mine was taken for the run's own data set, since it has its name: to measure "
        "the run on it as another set, rename it\n"
    )


def test_data_check_of_such_a_set_says_what_it_is_for(here, wbcli):
    as_list()
    assert wbcli("data", "check", "set").err.endswith(
        f"(there is test.csv); to measure a run on it: wbcli eval RUN --data-dir {here}/set\n"
    )


def test_a_run_without_validation_images_is_told_both_ways_to_some(here, wbcli):
    assert wbcli("eval", "plain", "--split", "val").err == (
        "Error: mine was trained without validation images: train stage 1 with --val-per-class N, "
        "or with a val.csv (wbcli data split --val 0.1 writes one)\n"
    )


def test_a_list_beside_a_folder_of_test_images_is_refused(here, wbcli):
    as_list()
    shutil.copytree("other", "set/test")
    expected = "set has both test.csv and test/, and which of them is meant cannot be told"
    assert expected in wbcli("eval", "plain", "--data-dir", "set").err


def test_a_set_without_pictures_is_refused(here, wbcli):
    shutil.rmtree("other")
    Path("other/ant").mkdir(parents=True)
    Path("other/ant/notes.txt").touch()
    assert wbcli("eval", "plain", "--data-dir", "other").err == (
        "Error: other: expected CLASS/picture.jpg, test/CLASS/picture.jpg, or test.csv with the "
        "columns path,label, found no picture; left out of other: 1 file whose name is not a "
        "picture's, such as ant/notes.txt\n"
    )


def test_pictures_that_trained_the_run_are_told(here, wbcli, made):
    Path("set").mkdir()
    trained, other = (os.path.relpath(made / f"mine/{name}/ant/0.png", "set") for name in SPLITS)
    Path("set/test.csv").write_text(f"path,label\n{trained},ant\n{other},ant\n")
    assert wbcli("eval", "plain", "--data-dir", "set").err.startswith(
        "Warning: 1 picture of this set trained run plain, such as test.csv, line 2: "
        f"{trained}: the numbers are too good\n"
    )


def by_link_to_a_class(made):
    Path("set/ant").symlink_to(made / "mine/train/ant")


def by_link_to_the_set(made):
    Path("set").rmdir()
    Path("set").symlink_to(made / "mine/train")


def by_copies(made):
    shutil.copytree(made / "mine/train/ant", "set/ant")


@pytest.mark.parametrize(
    ("way", "count"), [(by_link_to_a_class, 12), (by_link_to_the_set, 40), (by_copies, 12)]
)
def test_whatever_way_leads_to_pictures_that_trained_they_are_told(way, count, here, wbcli, made):
    Path("set").mkdir()
    way(made)
    Path("mine").rename("elsewhere")
    assert wbcli("eval", "plain", "--data-dir", "set").err.startswith(
        f"Warning: {count} pictures of this set trained run plain, such as ant/0.png: the numbers "
        "are too good\n"
    )


def test_other_pictures_of_the_size_of_one_that_trained_are_others(here, wbcli, made):
    trained = (made / "mine/train/ant/0.png").read_bytes()
    Path("set/ant").mkdir(parents=True)
    Image.new("RGB", (10, 10)).save("set/ant/1.png")  # of one colour, it is a smaller file
    content = Path("set/ant/1.png").read_bytes()
    Path("set/ant/1.png").write_bytes(content + bytes(len(trained) - len(content)))
    assert "trained" not in wbcli("eval", "plain", "--data-dir", "set").err


@pytest.mark.parametrize("fit", ["crop", "pad", "squash"])
def test_pictures_become_squares_as_the_run_has_it(fit, tmp_path, wbcli):
    """A set of the run's own test pictures gives its own numbers."""
    write_colours(tmp_path / "mine/train", {"ant": 3, "bee": 2}, 0)
    dice = np.random.default_rng(0)
    for name in ("ant", "bee"):
        (tmp_path / "mine/test" / name).mkdir(parents=True)
        wide = dice.integers(0, 255, (8, 24, 3), dtype=np.uint8)
        Image.fromarray(wide).save(tmp_path / "mine/test" / name / "0.png")
    assert wbcli("stage1", "mine", *SHORT, "--fit", fit, "--name", "it").code == 0
    own = wbcli("eval", "it", "--json").json
    shutil.copytree("mine/test", "other")
    found = wbcli("eval", "it", "--data-dir", "other", "--json").json
    assert found["nll"] == pytest.approx(own["nll"])


@pytest.mark.parametrize("data_dir", ["moved", "moved/mine"])
def test_the_runs_own_data_set_may_still_lie_elsewhere(data_dir, here, wbcli):
    expected = wbcli("eval", "held", "--json").json
    Path("moved").mkdir()
    Path("mine").rename("moved/mine")
    Path("runs/held/result.json").unlink()
    assert wbcli("eval", "held", "--data-dir", data_dir, "--json").json == expected
    assert Path("runs/held/result.json").exists()
    found = wbcli("eval", "held", "--data-dir", data_dir, "--split", "val", "--json").json
    assert found["num_images"] == 11, "two of each class but fox, of which one trains"


def test_a_run_of_small_images_is_measured_on_pictures(tmp_path, wbcli):
    """Cropped to their shape as `predict` does; the files of the run's own set come first."""
    write_cifar10(tmp_path / "data", 20)
    short = ("--arch", "resnet8", "--epochs", 1, "--imbalance-factor", 2, "--name", "it", "-q")
    assert wbcli("stage1", "cifar10lt", *short).code == 0
    write_pictures(Path("set"), ["7/1.jpg", "7/2.jpg", "2/1.jpg"], size=40)
    found = wbcli("eval", "it", "--data-dir", "set", "--json").json
    assert [row["test_images"] for row in found["per_class"]] == [0, 0, 1, 0, 0, 0, 0, 2, 0, 0]
    images = wbcli("predict", "it", "set", "--top", 10, "--json").json["images"]
    losses = []
    for image in images:
        scores = {row["class"]: row["score"] for row in image["top"]}
        true = int(Path(image["file"]).parent.name)
        losses.append(np.log(sum(map(np.exp, scores.values()))) - scores[true])
    assert found["nll"] == pytest.approx(np.mean(losses), rel=1e-4)
    write_pictures(Path("data"), ["7/1.jpg"])
    assert wbcli("eval", "it", "--data-dir", "data", "--json").json["num_images"] == 10
    Path("set/2/1.jpg").write_bytes(b"")
    error = wbcli("eval", "it", "--data-dir", "set").err
    assert error == (
        "Error: 1 of 3 pictures cannot be read: set/2/1.jpg (the file is empty): mend it, or leave "
        "such files out of this set\n"
    )
    assert os.listdir("runs") == ["it"]
