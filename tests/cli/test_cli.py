"""The commands from the outside: what they print where, exit codes, and sentences for mistakes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from conftest import write_cifar100
from wbcli import cli
from wbcli.data import sources
from wbcli.runs.run import Run

SHORT = ("--epochs", "1", "--batch-size", "64")


@pytest.fixture
def trained(wbcli):
    """A stage-1 run of one epoch, named `first`, with validation images."""
    assert wbcli("stage1", "digitslt", *SHORT, "--name", "first", "--val-per-class", "2").code == 0


def test_the_three_commands_on_the_digits(wbcli):
    first = wbcli("stage1", "digitslt", *SHORT)
    assert first.code == 0
    assert "digitslt-stage1-001" in first.out
    assert "epoch 1/1" in first.err
    second = wbcli("stage2", "--maxnorm", "0.1", *SHORT)
    assert second.code == 0
    assert "from run digitslt-stage1-001, the newest finished stage-1 run" in second.err
    third = wbcli("eval")
    assert third.code == 0
    assert "run digitslt-stage2-001, the newest finished one" in third.err
    assert "digitslt: many over 40 training images, few under 10" in third.out


def test_training_prints_json_and_nothing_else_on_stdout(wbcli):
    first = wbcli("stage1", "digitslt", *SHORT, "--json").json
    assert set(first) == {"run", "path", "seconds", "accuracy"}
    assert set(first["accuracy"]) == {"all", "many", "medium", "few"}
    assert Path(first["path"], "model.safetensors").is_file()
    second = wbcli("stage2", first["run"], *SHORT, "--json").json
    third = wbcli("normalize", "--tau", "1", "--json").json
    for result in (second, third):
        assert set(result) == {"run", "path", "seconds", "accuracy"}
        measured = wbcli("eval", result["run"], "--json").json["accuracy"]
        assert measured == result["accuracy"] | {"images": measured["images"]}


def test_runs_shows_the_epoch_that_was_measured_last(wbcli):
    command = ("stage1", "digitslt", "--epochs", "3", "--eval-every", "2", "--name", "first")
    assert wbcli(*command).code == 0
    run = Run(Path("runs/first"))
    rows = run.metrics()
    for kept, expected in ((3, rows[2]["accuracy"]), (2, rows[1]["accuracy"]), (1, None)):
        run.write_metrics(rows[:kept])
        (row,) = wbcli("runs", "--json").json
        assert (row["epochs_done"], row["accuracy"]) == (kept, expected)
    assert "first" in wbcli("runs").out
    again = wbcli(*command, "--resume")  # it is finished, and its last lines are gone
    assert again.code == 1
    assert "metrics.jsonl is missing or damaged; the weights are not" in again.err


NOT_NEEDED = ("torch._dynamo", "sympy", "torchvision", "matplotlib", "optuna", "scipy", "rich")
SCRIPT = f"""
import sys
from wbcli import cli
from wbcli.balance import optim

step = optim.SGD.step
def watched(self):
    step(self)
    print([name for name in {NOT_NEEDED} if name in sys.modules], file=sys.stderr)
    raise KeyboardInterrupt
optim.SGD.step = watched
cli.main(sys.argv[1:])
"""


@pytest.mark.parametrize("command", [("stage1", "digitslt"), ("stage2", "first")])
def test_up_to_the_first_step_nothing_is_imported_that_takes_long_and_is_not_needed(
    trained, command
):
    ran = subprocess.run(
        [sys.executable, "-c", SCRIPT, *command, "-q"], capture_output=True, text=True
    )
    assert ran.returncode == 130
    assert ran.stderr.splitlines()[0] == "[]"


def test_eval_json(wbcli, trained):
    result = wbcli("eval", "first", "--json").json
    assert result["run"] == "first"
    assert (result["dataset"], result["imbalance_factor"]) == ("digitslt", 50)
    assert (result["split"], result["checkpoint"], result["tta"]) == ("test", "last", False)
    assert (result["num_classes"], result["num_images"]) == (10, 700)
    assert result["limits"] == {"many": 40, "few": 10}
    assert result["temperature"] > 0
    row = result["per_class"][9]
    assert set(row) == {
        "class",
        "name",
        "train_images",
        "test_images",
        "accuracy",
        "precision",
        "recall",
        "f1",
        "marginal_likelihood",
        "row_norm",
    }
    assert (row["class"], row["name"], row["train_images"], row["test_images"]) == (9, "9", 2, 70)
    accuracies = [row["accuracy"] for row in result["per_class"]]
    assert result["accuracy"]["all"] == pytest.approx(sum(accuracies) / 10)
    assert result["accuracy"]["many"] == pytest.approx(sum(accuracies[:3]) / 3)
    assert sum(row["marginal_likelihood"] for row in result["per_class"]) == pytest.approx(1)
    stored = json.loads(Path("runs/first/result.json").read_text())
    assert stored == {"test": result}


def test_eval_of_several_runs_is_a_list_and_one_table(wbcli, trained):
    wbcli("normalize", "--name", "l2")
    results = wbcli("eval", "first", "l2", "--split", "val", "--json").json
    assert [r["run"] for r in results] == ["first", "l2"]
    assert [r["num_images"] for r in results] == [20, 20]
    table = wbcli("eval", "first", "l2", "--tta").out
    assert table.count("per cent, but nll in nats") == 1
    assert [line.split()[:4] for line in table.splitlines()[2:4]] == [
        ["first", "test", "last", "yes"],
        ["l2", "test", "last", "yes"],
    ]
    lines = wbcli("eval", "first", "l2", "--csv").out.splitlines()
    assert [line.split(",")[0] for line in lines] == ["run", "first", "l2"]


def test_empty_groups_are_null_and_a_dash(wbcli):
    wbcli("stage1", "digitslt", *SHORT, "--imbalance-factor", "10")  # rarest class: 10 images
    assert wbcli("eval", "--json").json["accuracy"]["few"] is None
    assert wbcli("eval").out.splitlines()[2].split()[6] == "–"


def test_data_show(wbcli):
    shown = wbcli("data", "show", "digitslt", "--json").json
    assert shown == {
        "dataset": "digitslt",
        "num_classes": 10,
        "num_train": 287,
        "num_test": 700,
        "class_counts": [104, 67, 43, 28, 18, 11, 7, 4, 3, 2],
        "limits": {"many": 40, "few": 10},
    }
    assert "287 training and 700 test images" in wbcli("data", "show", "digitslt").out


def test_data_show_takes_the_data_options_and_warns_once_of_a_folder_of_ones_own(wbcli):
    write_cifar100(Path("mine"), 20)
    shown = wbcli(
        *("data", "show", "cifar100lt", "--data-dir", "mine", "--json"),
        *("--imbalance-factor", "10", "--imbalance-type", "step", "--subset", "shuffled"),
    )
    assert shown.json["class_counts"] == [20] * 50 + [2] * 50
    assert shown.err.count("is not the official data set") == 1


def test_data_list_names_every_set(wbcli):
    names = [row["dataset"] for row in wbcli("data", "list", "--json").json]
    assert names == list(sources.SOURCES)
    assert "ships with wbcli" in wbcli("data", "list").out
    assert "nothing to download" in wbcli("data", "get", "digitslt").out


def test_cifar_files_go_through_all_three_commands(wbcli):
    write_cifar100(Path("data"), 3, test_per_class=1)
    common = ("--arch", "resnet8", *SHORT)
    assert wbcli("stage1", "cifar100lt", "--imbalance-factor", "3", *common).code == 0
    second = wbcli("stage2", "--maxnorm", "0.1", *SHORT)
    assert second.code == 0
    assert "probabilities, NLL and ECE mean nothing without a temperature" in second.err
    assert len(wbcli("eval", "--json").json["per_class"]) == 100


def test_the_released_recipe_says_what_it_does(wbcli):
    first = wbcli("stage1", "digitslt", "--recipe", "released", *SHORT)
    assert "keeps the epoch that is best on the test set and averages mirror images" in first.err
    result = wbcli("eval", "--json").json
    assert (result["checkpoint"], result["tta"]) == ("best", True)
    honest = wbcli("eval", "--checkpoint", "last", "--no-tta", "--json").json
    assert (honest["checkpoint"], honest["tta"]) == ("last", False)


def test_names_and_resuming(wbcli, trained):
    again = wbcli("stage1", "digitslt", *SHORT, "--name", "first")
    assert again.code == 2
    assert "run 'first' exists in runs: continue it with --resume" in again.err
    same = (*SHORT, "--val-per-class", "2")
    resumed = wbcli("stage1", "digitslt", *same, "--name", "first", "--resume")
    assert resumed.code == 0
    assert "run first is finished: nothing to continue" in resumed.err
    changed = wbcli("stage1", "digitslt", *same, "--wd", "9", "--name", "first", "--resume")
    assert changed.code == 2
    assert "run first has other settings (wd 0.002 → 9.0)" in changed.err
    assert wbcli("stage1", "digitslt", *same, "--resume").out.startswith("run ")
    assert [row["run"] for row in wbcli("runs", "--json").json] == ["first"]
    assert wbcli("stage1", "digitslt", *SHORT, "--name", "new", "--resume").code == 0


def test_runs_lists_what_was_trained(wbcli, trained):
    wbcli("stage2", *SHORT, "--name", "second")
    wbcli("normalize", "--name", "third")
    rows = wbcli("runs", "--json").json
    assert [(r["run"], r["stage"], r["parent"]) for r in rows] == [
        ("first", "stage1", None),
        ("second", "stage2", "first"),
        ("third", "normalize", "first"),
    ]
    assert all(r["finished"] and r["accuracy"]["all"] is not None for r in rows)
    table = wbcli("runs").out
    assert "cb wd 0.0005 maxnorm 0.1" in table
    assert "tau 1" in table


def test_options_come_from_the_environment(wbcli, monkeypatch):
    monkeypatch.setenv("WBCLI_WD", "0.25")
    monkeypatch.setenv("WBCLI_STAGE1_LR", "0.125")
    monkeypatch.setenv("WBCLI_RUNS", "elsewhere")
    monkeypatch.setenv("WBCLI_UNIT_NORM", "1")
    settings = wbcli("stage1", "digitslt", "--dry-run", "--json").json
    assert (settings["wd"], settings["lr"], settings["unit_norm"]) == (0.25, 0.125, True)
    assert wbcli("stage1", "digitslt", "--dry-run", "--json", "--wd", "0").json["wd"] == 0
    assert not Path("elsewhere").exists(), "a dry run writes nothing"


def test_names_in_a_file_that_was_edited_reach_no_terminal_as_they_are(wbcli, trained):
    path = Path("runs/first/config.json")
    path.write_text(path.read_text().replace('"resnet8"', '"resnet8", "parent": "\\u001b[2J"', 1))
    assert "\x1b" not in wbcli("runs").out


def test_doctor(wbcli):
    found = wbcli("doctor", "--json").json
    assert set(found) == {"wbcli", "python", "torch", "device", "gpu", "extension"}
    assert set(found["extension"]) == {"built", "cpu", "cuda", "reason"}
    assert found["torch"] == torch.__version__
    assert "kernels" in wbcli("doctor").out


def test_stage2_of_a_stage2_run_is_refused(wbcli, trained):
    wbcli("stage2", *SHORT, "--name", "second")
    result = wbcli("stage2", "second")
    assert result.code == 2
    assert "expected a stage-1 run, second is a stage2 run of first" in result.err


def test_the_best_checkpoint_needs_validation_images(wbcli, trained):
    assert wbcli("eval", "first", "--checkpoint", "best", "--json").json["checkpoint"] == "best"
    wbcli("stage1", "digitslt", *SHORT, "--name", "plain")
    result = wbcli("eval", "plain", "--checkpoint", "best")
    assert result.code == 1
    assert "run plain kept no best epoch: that needs validation images" in result.err
    split = wbcli("eval", "plain", "--split", "val")
    assert split.code == 1
    assert "train stage 1 with --val-per-class N" in split.err


def test_files_where_folders_belong_are_named(wbcli):
    Path("file").touch()
    result = wbcli("stage1", "digitslt", "--runs-dir", "file")
    assert (result.code, result.out) == (2, "")
    assert "--runs-dir file: expected a folder, this is a file" in result.err
    result = wbcli("reproduce", "--runs-dir", "file")
    assert (result.code, result.out) == (2, "")
    assert "--runs-dir file: expected a folder, this is a file" in result.err
    result = wbcli("data", "show", "cifar10lt", "--data-dir", "file")
    assert (result.code, result.out) == (1, "")
    assert "--data-dir file: expected a folder, this is a file" in result.err


def test_a_finished_run_without_its_metrics_can_still_be_measured(wbcli, trained):
    Path("runs/first/metrics.jsonl").unlink()
    same = ("stage1", "digitslt", *SHORT, "--val-per-class", "2", "--name", "first", "--resume")
    result = wbcli(*same)
    assert result.code == 1
    assert "metrics.jsonl is missing or damaged" in result.err
    assert "measure them with wbcli eval first" in result.err
    assert wbcli("eval", "first").code == 0


def in_a_process(*args: str, **options) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "wbcli", *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_training_that_can_be_continued(wbcli, number, code):
    process = in_a_process("stage1", "digitslt", "--epochs", "500", "--name", "long")
    for line in process.stderr:
        if line.startswith("epoch 1/"):
            break
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert "continue with the same command and --name long --resume" in err
    row = wbcli("runs", "--json").json[0]
    assert (row["run"], row["finished"]) == ("long", False)
    assert row["epochs_done"] >= 1


def test_a_reader_that_goes_away_is_not_a_traceback():
    write_cifar100(Path("data"), 1)
    process = in_a_process("data", "show", "cifar100lt", "--imbalance-factor", "1")
    process.stdout.close()
    assert "Traceback" not in process.stderr.read()
    process.wait()


COMMANDS = [[name] for name in cli.COMMANDS]
COMMANDS += [[], ["data", "list"], ["data", "show"], ["data", "get"]]
COMMANDS += [["tune", "stage1"], ["tune", "stage2"], ["tune", "normalize"], ["bench", "tune"]]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_has_an_example_and_does_not_load_torch(command):
    code = (
        "import sys; from wbcli.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "finally: assert 'torch' not in sys.modules, 'torch was imported'"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *command, "--help"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    example = done.stdout.split("Example")[1]
    assert f"wbcli {' '.join(command)}".strip() in example


def test_version(wbcli):
    from wbcli import __version__

    assert wbcli("--version").out.strip() == f"wbcli, version {__version__}"


def test_quiet_prints_results_only(wbcli):
    result = wbcli("stage1", "digitslt", *SHORT, "-q", "--json")
    assert result.err == ""
    assert result.json["run"] == "digitslt-stage1-001"


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="needs a pseudo-terminal")
def test_a_terminal_gets_a_live_bar():
    master, slave = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "wbcli", "stage1", "digitslt", *SHORT],
        stdout=subprocess.DEVNULL,
        stderr=slave,
    )
    os.close(slave)
    shown, deadline = b"", time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            shown += os.read(master, 4096)
        except OSError:  # the other end is closed
            break
    assert process.wait() == 0
    assert b"images/s" in shown
    assert b"epoch 1/1" in shown
