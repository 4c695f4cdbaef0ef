"""predict: the right classes for one's own pictures, as probabilities only where they are some."""

import csv
import io
import json
import os
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import write_folder
from wbcli.data import datasets, recorded
from wbcli.deploy import predict
from wbcli.device import resolve
from wbcli.evaluate import metrics
from wbcli.runs.run import Path, Run

FLOWERS = {"daisy": 6, "red rose": 2, "tülip": 1}
SHORT = ("--epochs", "2", "--batch-size", "64")


@pytest.fixture(scope="module")
def digits():
    return datasets.load("digitslt", "data", imbalance_factor=50)


@pytest.fixture
def trained(wbcli):
    """Runs `with_val` and `without` on the digits."""
    given = ("--val-per-class", "20", "--name", "with_val")
    assert wbcli("stage1", "digitslt", *SHORT, *given).code == 0
    assert wbcli("stage1", "digitslt", *SHORT, "--name", "without").code == 0


@pytest.fixture
def folder(tmp_path, digits):
    """Six test digits as PNG files, in a folder with a folder in it."""
    root = tmp_path / "my pictures"
    (root / "more").mkdir(parents=True)
    for i in range(6):
        where = root / "more" if i > 3 else root
        Image.fromarray(digits.test.images[i * 100, 0]).save(where / f"{i} é.png")
    return root


def logits_of(run, digits, index):
    """Of test images, through the run's own batches."""
    from wbcli.data.batches.splits import batches_of

    network = run.network(digits.class_names).eval()
    images, _ = next(iter(batches_of(digits, "test", resolve("cpu")).evaluate()))
    with torch.no_grad():
        return metrics.logits_of(network, images[index], tta=False)


def test_scores_are_the_logits_of_the_evaluated_images(wbcli, trained, folder, digits):
    result = wbcli("predict", "without", folder, "--json", "--top", 10)
    assert result.code == 0
    assert result.json["temperature"] is None
    assert "these are scores (logits), no probabilities" in result.err
    assert "--val-per-class N" in result.err
    expected = logits_of(Run(folder.parent / "runs" / "without"), digits, [0, 100, 200, 300])
    for image, row in zip(result.json["images"], expected, strict=False):
        assert [found["class"] for found in image["top"]] == row.argsort(descending=True).tolist()
        scores = [found["score"] for found in image["top"]]
        assert scores == pytest.approx(row.sort(descending=True).values.tolist(), abs=1e-4)


def test_probabilities_have_the_temperature_of_the_validation_images(wbcli, trained, folder):
    result = wbcli("predict", "with_val", folder, "--json", "--top", 10).json
    kept = json.loads((folder.parent / "runs" / "with_val" / "temperature.json").read_text())
    assert result["temperature"] == kept["temperature"] > 0
    measured = wbcli("eval", "with_val", "--json").json
    assert measured["temperature"] == pytest.approx(kept["temperature"], rel=1e-3)
    for image in result["images"]:
        assert sum(found["probability"] for found in image["top"]) == pytest.approx(1)
    logits = logits_of(
        Run(folder.parent / "runs" / "with_val"),
        recorded.for_run(Run(folder.parent / "runs" / "with_val").config()),
        [0],
    )
    best = torch.softmax(logits / kept["temperature"], 1).max().item()
    assert result["images"][0]["top"][0]["probability"] == pytest.approx(best, abs=1e-4)


def test_children_have_a_temperature_of_their_own(wbcli, trained):
    for command in ("stage2", "normalize"):
        assert wbcli(command, "with_val", "--name", f"of_{command}").code == 0
        kept = json.loads((Path("runs") / f"of_{command}" / "temperature.json").read_text())
        measured = wbcli("eval", f"of_{command}", "--json").json
        assert measured["temperature"] == pytest.approx(kept["temperature"], rel=1e-3)


def test_released_runs_are_read_at_their_best_epoch_with_mirror_images(wbcli, folder):
    given = ("--recipe", "released", "--val-per-class", "20", "--name", "released")
    assert wbcli("stage1", "digitslt", *SHORT, *given).code == 0
    kept = json.loads((folder.parent / "runs" / "released" / "temperature.json").read_text())
    assert (kept["checkpoint"], kept["tta"]) == ("best", True)
    measured = wbcli("eval", "released", "--json").json
    assert measured["temperature"] == pytest.approx(kept["temperature"], rel=1e-3)
    assert wbcli("predict", "released", folder, "--json").json["temperature"] == kept["temperature"]


def test_table_and_csv_say_the_same(wbcli, trained, folder):
    table = wbcli("predict", "with_val", folder).out.splitlines()
    assert table[0].split() == ["file", "class", "name", "probability"]
    assert len(table) == 2 + 6 * 5
    rows = list(csv.DictReader(io.StringIO(wbcli("predict", "with_val", folder, "--csv").out)))
    assert len(rows) == 6 * 5
    assert [row["rank"] for row in rows[:5]] == list("12345")
    assert f"{float(rows[0]['probability']):.4f}" == table[2].split()[-1]
    files = [row["file"] for row in rows[::5]]
    assert files == sorted(files[:4]) + sorted(files[4:])
    assert files[0].endswith("0 é.png") and "/more/" in files[4]


def test_all_five_of_more_classes_than_there_are(wbcli, trained, folder):
    found = wbcli("predict", "with_val", folder / "0 é.png", "--top", 50, "--json").json
    assert len(found["images"][0]["top"]) == 10


def test_a_run_classifies_where_its_data_set_is_not(wbcli, tmp_path):
    folder = write_folder(tmp_path / "flowers", FLOWERS)
    size = ("--image-size", 32, "--arch", "resnet20", "--epochs", 1)
    assert wbcli("stage1", folder, *size, "--name", "mine").code == 0
    picture = shutil.copy(next((folder / "test").rglob("*.jpg")), tmp_path / "one.jpg")
    shutil.rmtree(folder)
    found = wbcli("predict", "mine", picture, "--json", "--top", 2).json
    assert {row["name"] for row in found["images"][0]["top"]} <= FLOWERS.keys()


def test_a_broken_picture_is_named_and_the_others_are_classified(wbcli, trained, folder):
    (folder / "broken.jpg").write_bytes(b"")
    result = wbcli("predict", "with_val", folder, "--json")
    assert result.code == 1
    assert len(result.json["images"]) == 6
    assert f"Warning: {folder}/broken.jpg: the file is empty\n" in result.err
    assert result.err.endswith("Error: 1 of 7 files cannot be read\n")


def test_json_and_csv_list_the_files_that_cannot_be_read_with_the_reason(wbcli, trained, folder):
    (folder / "empty, with comma.jpg").write_bytes(b"")
    (folder / "text.jpg").write_text("text")
    (folder / "gone.jpg").symlink_to("nowhere")
    expected = [
        {"file": f"{folder}/empty, with comma.jpg", "reason": "the file is empty"},
        {"file": f"{folder}/gone.jpg", "reason": "a link to nothing"},
        {"file": f"{folder}/text.jpg", "reason": "not a picture that Pillow can read"},
    ]
    result = wbcli("predict", "with_val", folder, "--json")
    assert (result.code, result.json["broken"]) == (1, expected)
    assert len(result.json["images"]) == 6
    result = wbcli("predict", "with_val", folder, "--csv", "--top", 2)
    rows = list(csv.DictReader(io.StringIO(result.out)))
    assert (result.code, len(rows)) == (1, 6 * 2 + 3)
    assert {row["reason"] for row in rows[:-3]} == {""}
    nothing = dict.fromkeys(("rank", "class", "name", "probability"), "")
    assert rows[-3:] == [file | nothing for file in expected]
    assert wbcli("predict", "with_val", folder / "more", "--json").json["broken"] == []


@pytest.mark.parametrize(("run", "value"), [("with_val", "probability"), ("without", "score")])
def test_json_and_csv_are_whole_where_no_file_can_be_read(wbcli, trained, folder, run, value):
    (folder / "broken.jpg").write_bytes(b"")
    lines = wbcli("predict", run, folder / "broken.jpg", "--csv").out.splitlines()
    assert lines == [
        f"file,rank,class,name,{value},reason",
        f"{folder}/broken.jpg,,,,,the file is empty",
    ]
    result = wbcli("predict", run, folder / "broken.jpg", "--json")
    assert (result.code, result.json["images"], len(result.json["broken"])) == (1, [], 1)


def test_what_is_left_out_of_folders_is_said_once(wbcli, trained, folder):
    for name in ("a.heic", "b.txt", ".DS_Store", "more/._0.jpg", "more/c.txt"):
        (folder / name).touch()
    result = wbcli("predict", "with_val", folder, folder / "0 é.png", "--json")
    assert (result.code, len(result.json["images"])) == (0, 7)
    assert sorted(result.err.splitlines()) == [
        f"Warning: left out of {folder}: 2 files whose name starts with a dot, such as .DS_Store",
        f"Warning: left out of {folder}: 3 files whose name is not a picture's, such as a.heic",
    ]
    (folder.parent / "phone").mkdir()
    (folder.parent / "phone/1.heic").touch()
    result = wbcli("predict", "with_val", folder, "phone")
    assert (result.code, result.out) == (1, "")
    assert result.err.endswith(
        "found none; left out of phone: 1 file whose name is not a picture's, such as 1.heic\n"
    )


def test_a_pipe_is_not_waited_for(wbcli, trained, folder):
    os.mkfifo(folder / "pipe.jpg")
    result = wbcli("predict", "with_val", folder / "pipe.jpg")
    assert (result.code, result.out) == (1, "")
    assert f"Warning: {folder}/pipe.jpg: not a regular file\n" in result.err
    result = wbcli("predict", "with_val", folder, "--json")
    assert (result.code, len(result.json["images"])) == (1, 6)
    assert f"Warning: {folder}/pipe.jpg: not a regular file\n" in result.err


def test_what_is_not_there_is_broken_and_the_rest_is_classified(wbcli, trained, folder):
    (folder / "link.jpg").symlink_to("nowhere.jpg")
    result = wbcli("predict", "with_val", folder, "nothing.jpg", "--json")
    assert (result.code, len(result.json["images"])) == (1, 6)
    assert result.json["broken"] == [
        {"file": f"{folder}/link.jpg", "reason": "a link to nothing"},
        {"file": "nothing.jpg", "reason": "there is no such file or folder"},
    ]
    assert result.err.endswith("Error: 2 of 8 files cannot be read\n")


def test_many_pictures_by_processes_give_what_this_process_gives(digits, trained, tmp_path):
    paths = []
    for i in range(150):
        paths.append(tmp_path / f"{i}.png")
        Image.fromarray(digits.test.images[i, 0]).save(paths[-1])
    model = predict.load(Run(tmp_path / "runs" / "without"))
    cpu = resolve("cpu")
    found = [answer for _, answer in predict.predict(model, paths, cpu, "fp32", 1)]
    expected = logits_of(Run(tmp_path / "runs" / "without"), digits, np.arange(150))
    assert [answer[0]["class"] for answer in found] == expected.argmax(1).tolist()


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["with_val", "empty"], 1, "Error: empty: expected pictures (.jpg, "),
        (["absent", "empty"], 2, "Error: no run 'absent' in runs"),
        (["with_val", "empty", "--json", "--csv"], 2, "Error: --json and --csv exclude"),
        (["with_val"], 2, "Error: Missing argument 'FILE|FOLDER...'"),
    ],
)
def test_mistakes_are_one_sentence(wbcli, trained, tmp_path, args, code, message):
    (tmp_path / "empty").mkdir()
    result = wbcli("predict", *args)
    assert (result.code, result.out) == (code, "")
    assert result.err.startswith(message)
    assert result.err.count("\n") == 1
