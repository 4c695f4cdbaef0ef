"""Wrong usage: one line that says what was expected, exit code 1 or 2, nothing changed on disk."""

import json
import os
import shlex
from pathlib import Path

import pytest

from wbcli.files import storage
from wbcli.runs.run import Run

HUGE = "9" * 30


def snapshot(folder: Path) -> dict[str, bytes | None]:
    """Every name below the folder, with the content of files."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


def refused(result, code: int, message: str, notes: int = 0) -> None:
    assert result.code == code, result.err
    assert result.out == ""
    assert "Traceback" not in result.err
    *before, last = result.err.splitlines()
    assert len(before) == notes, "one line, but for the notes that precede it"
    assert last.startswith("Error: ") and message in last


MISTAKES = [  # command line, exit code, a part of the sentence
    ("stage1 digitslt --scale 16", 2, "--defer, --beta; --head cosine has it"),
    # the command line itself
    ("balance", 2, "No such command 'balance'"),
    ("--wd 3", 2, "No such option '--wd'"),
    ("stage1", 2, "Missing argument 'DATASET'"),
    ("stage1 digitslt extra", 2, "unexpected extra argument (extra)"),
    ("stage1 digitslt --wdd 3", 2, "No such option '--wdd'. Did you mean '--wd'?"),
    ("stage1 digitslt --limits 10", 2, "Option '--limits' requires 2 arguments"),
    ("stage1 digitslt --maxnorm 0.1", 2, "No such option '--maxnorm'"),
    ("tune stage3", 2, "No such command 'stage3'"),
    ("data lst", 2, "No such command 'lst'. Did you mean 'list'?"),
    ("bench speed", 2, "No such command 'speed'"),
    ("runs first", 2, "unexpected extra argument (first)"),
    ("doctor now", 2, "unexpected extra argument (now)"),
    # stage 1
    ("stage1 mnist", 2, "unknown data set 'mnist': choose one of digitslt"),
    ("stage1 ''", 2, "expected the name of a data set, or a folder, got ''"),
    ("stage1 nowhere/folder", 2, "unknown data set 'nowhere/folder'"),
    ("stage1 file", 2, "unknown data set 'file'"),
    ("stage1 empty", 1, "found no train/ (there is nothing)"),
    ("stage1 imagenetlt --data-dir empty", 1, "expected ImageNet_LT_train.txt"),
    ("stage1 imagenetlt --recipe released", 2, "says nothing of imagenetlt; use --recipe paper"),
    ("stage1 digitslt --wd -1", 2, "--wd must be a finite number at least 0, got -1"),
    ("stage1 digitslt --wd x", 2, "'x' is not a valid float"),
    ("stage1 digitslt --wd nan", 2, "--wd must be a finite number at least 0, got nan"),
    ("stage1 digitslt --wd 1e31", 2, "--wd must be a finite number at most 1e+30, got 1e+31"),
    ("stage1 digitslt --lr 1e400", 2, "--lr must be a finite number above 0, got inf"),
    ("stage1 digitslt --lr 1e-400", 2, "--lr must be a finite number above 0, got 0"),
    ("stage1 digitslt --momentum 1", 2, "--momentum must be a finite number at least 0 and below"),
    ("stage1 digitslt --epochs 0", 2, "--epochs must be a finite number at least 1, got 0"),
    ("stage1 digitslt --epochs 1.5", 2, "'1.5' is not a valid integer"),
    ("stage1 digitslt --epochs 1000001", 2, "--epochs must be a finite number at most 1000000"),
    (f"stage1 digitslt --epochs {HUGE}", 2, "--epochs must be an integer of at most 64 bits"),
    ("stage1 digitslt --batch-size 1", 2, "--batch-size must be a finite number at least 2, got 1"),
    ("stage1 digitslt --batch-size ''", 2, "'' is not a valid integer"),
    ("stage1 digitslt --batch-size 9 --accumulate 10", 2, "at least 1 and at most 9, got 10"),
    ("stage1 digitslt --eval-every 0", 2, "--eval-every must be a finite number at least 1, got 0"),
    ("stage1 digitslt --seed -1", 2, "--seed must be a finite number at least 0"),
    ("stage1 digitslt --seed 9223372036854775808", 2, "--seed must be a finite number at least 0"),
    ("stage1 digitslt --seed 1e3", 2, "'1e3' is not a valid integer"),
    ("stage1 digitslt --imbalance-factor 105", 2, "its largest value here is 104"),
    ("stage1 digitslt --imbalance-factor 1e300", 2, "its largest value here is 104"),
    ("stage1 digitslt --imbalance-factor inf", 2, "--imbalance-factor must be a finite number"),
    ("stage1 digitslt --fit pad", 2, "--fit: the pictures of digitslt are 8×8; it is for sets on"),
    ("stage1 empty --fit stretch", 2, "'stretch' is not one of 'crop', 'pad', 'squash'"),
    ("stage2 first --fit pad", 2, "No such option '--fit'"),
    ("stage1 digitslt --val-per-class -1", 2, "--val-per-class must be a finite number at least 0"),
    ("stage1 digitslt --limits 10 40", 2, "expected MANY ≥ FEW ≥ 0, got 10 and 40"),
    ("stage1 digitslt --image-size 64", 2, "the pictures of digitslt are 8×8"),
    ("stage1 digitslt --bottleneck 0", 2, "--bottleneck must be a finite number at least 1, got 0"),
    ("stage1 digitslt --bottleneck 70000", 2, "--bottleneck must be a finite number at most 65536"),
    ("stage1 digitslt --beta 2", 2, "--beta must be a finite number at least 0 and at most 1"),
    ("stage1 digitslt --radius 0", 2, "--radius must be a finite number above 0, got 0"),
    ("stage1 digitslt --radius 1 --unit-norm", 2, "--radius and --unit-norm exclude each other"),
    ("stage1 digitslt --arch vgg", 2, "--arch must be one of resnet8, "),
    ("stage1 digitslt --recipe mine", 2, "'mine' is not one of 'paper', 'released'"),
    ("stage1 digitslt --device tpu", 2, "must be auto, cpu, cuda or cuda:N"),
    ("stage1 digitslt --device cpu:3", 2, "must be auto, cpu, cuda or cuda:N, got 'cpu:3'"),
    ("stage1 digitslt --device ''", 2, "must be auto, cpu, cuda or cuda:N, got ''"),
    ("stage1 digitslt --device cuda:99", 2, "GPUs are visible to torch"),
    ("stage1 digitslt --graph --device cpu", 2, "--graph captures CUDA graphs"),
    ("stage1 digitslt --precision fp16", 2, "'fp16' is not one of 'auto', 'fp32', 'tf32', 'bf16'"),
    ("stage1 digitslt --precision tf32 --device cpu", 2, "needs a CUDA device"),
    ("stage1 digitslt --workers -1", 2, "-1 is not in the range x>=0"),
    ("stage1 digitslt --workers 100000", 2, "expected at most 1024, got 100000"),
    ("stage1 digitslt --max-pixels 0", 2, "0 is not in the range x>=1"),
    (f"predict first file --max-pixels {HUGE}", 2, "expected at most 10000000000, got 99"),
    ("stage1 digitslt --init nofile", 2, "--init nofile: no such file, and no run 'nofile'"),
    ("stage1 digitslt --init empty", 2, "--init empty: no such file, and no run 'empty' in"),
    ("stage1 digitslt --init file", 2, "expected weights, as safetensors or a state dict"),
    ("stage1 digitslt --name a/b", 2, "'a/b' cannot name a run"),
    ("stage1 digitslt --name ''", 2, "'' cannot name a run"),
    ("stage1 digitslt --name ..", 2, "'..' cannot name a run"),
    ("stage1 digitslt --name größe", 2, "'größe' cannot name a run"),
    ("stage1 digitslt --name 'a\nb'", 2, r"'a\nb' cannot name a run"),
    ("stage1 digitslt --name first", 2, "run 'first' exists in runs: continue it with --resume"),
    ("stage1 digitslt --name first --resume", 2, "run first has other settings ("),
    ("stage1 digitslt --runs-dir file", 2, "--runs-dir file: expected a folder, this is a file"),
    ("stage1 digitslt --runs-dir file/in", 2, "--runs-dir file/in: expected a folder, this is a"),
    ("stage1 digitslt --runs-dir ''", 2, "expected the name of a file or folder, got ''"),
    # stage 2
    ("stage2 ghost", 2, "no run 'ghost' in runs (newest there:"),
    ("stage2 ''", 2, "no run '' in runs"),
    ("stage2 'a\nb'", 2, r"no run 'a\nb' in runs"),
    ("stage2 first second", 2, "unexpected extra argument (second)"),
    ("stage2 half", 2, "run half is not finished (1 of 1 epochs): repeat its command"),
    ("stage2 second", 2, "expected a stage-1 run, second is a stage2 run of first"),
    ("stage2 file", 2, "no run 'file' in runs"),
    ("stage2 runs/first/config.json", 2, "no run 'runs/first/config.json' in runs"),
    ("stage2 --runs-dir empty", 2, "no finished stage1 run in empty: train one"),
    ("stage2 first --maxnorm 1.5", 2, "--maxnorm must be a finite number at least 0"),
    ("stage2 first --maxnorm nan", 2, "--maxnorm must be a finite number at least 0"),
    ("stage2 first --maxnorm lots", 2, "expected a number in [0, 1] or 'none', got 'lots'"),
    ("stage2 first --maxnorm 0.1 --radius 1", 2, "--maxnorm and --radius exclude each other"),
    ("stage2 first --maxnorm 0.1 --unit-norm", 2, "--maxnorm and --unit-norm exclude each other"),
    ("stage2 first --arch resnet20", 2, "the stage-1 run has resnet8"),
    ("stage2 first --val-per-class 3", 2, "--val-per-class 3: the stage-1 run has 2"),
    ("stage2 first --imbalance-factor 10", 2, "the stage-1 run has 50"),
    ("stage2 first --views 2 --layers 2", 2, "the network stands still with --layers 1"),
    ("stage2 first --views 2 --recipe released", 2, "--recipe paper only"),
    ("stage2 first --views 0", 2, "--views must be a finite number at least 1, got 0"),
    ("stage2 first --views 100000", 2, "--views must be a finite number at most 10000"),
    ("stage2 first --layers 3", 2, "'3' is not one of '1', '2', '5'"),
    ("stage2 first --cache fp8", 2, "'fp8' is not one of 'fp32', 'bf16', 'none'"),
    ("stage2 first --from-tune", 2, "nothing was tuned for first: search first with wbcli tune"),
    # normalize
    ("normalize ghost", 2, "no run 'ghost' in runs"),
    ("normalize half", 2, "run half is not finished"),
    ("normalize second", 2, "expected a stage-1 run"),
    (
        "normalize first --tau -1",
        2,
        "--tau must be a finite number at least 0 and at most 100, got -1",
    ),
    (
        "normalize first --tau nan",
        2,
        "--tau must be a finite number at least 0 and at most 100, got nan",
    ),
    (
        "normalize first --tau 101",
        2,
        "--tau must be a finite number at least 0 and at most 100, got 101",
    ),
    ("normalize first --tau", 2, "Option '--tau' requires an argument"),
    ("normalize first --epochs 3", 2, "No such option '--epochs'"),
    ("normalize first --name first", 2, "run 'first' exists in runs"),
    ("normalize first --name a/b", 2, "'a/b' cannot name a run"),
    # eval
    ("eval --runs-dir empty", 2, "no finished stage1 or stage2 or normalize run in empty"),
    ("eval --runs-dir file", 2, "--runs-dir file: expected a folder, this is a file"),
    ("eval first --runs-dir nowhere", 2, "no run 'first' in nowhere (newest there: none)"),
    ("eval first half", 2, "run half is not finished"),
    ("eval first --json --csv", 2, "--json and --csv exclude each other"),
    ("eval first --split dev", 2, "'dev' is not one of 'test', 'val', 'train'"),
    ("eval first --checkpoint epoch3", 2, "'epoch3' is not one of 'last', 'best'"),
    ("eval first --data-dir ''", 2, "expected the name of a file or folder, got ''"),
    ("eval .", 2, "no run '.' in runs"),
    # tune
    ("tune stage1", 2, "Missing argument 'DATASET'"),
    ("tune stage1 digitslt", 2, "there are no validation images to choose on"),
    ("tune stage1 digitslt --trials 0", 2, "0 is not in the range x>=1"),
    (f"tune stage1 digitslt --trials {HUGE}", 2, "expected at most 100000, got 99"),
    ("tune stage1 digitslt --search loss", 2, "'loss' is not one of 'wd', 'lr'"),
    ("tune stage1 digitslt --range wd 1", 2, "Option '--range' requires 3 arguments"),
    ("tune stage1 digitslt --range wd 1 0.1", 2, "expected a low end below the high end"),
    ("tune stage1 digitslt --range wd nan 1", 2, "expected a low end below the high end"),
    ("tune stage1 digitslt --range wd 1 inf", 2, "--wd must be a finite number at least 0, got"),
    ("tune stage1 digitslt --wd 1 --search wd", 2, "--wd is given and searched"),
    ("tune stage1 digitslt --wd 1", 2, "every option is given, and nothing is left to search"),
    ("tune stage1 digitslt --storage ''", 2, "expected the URL of an Optuna storage, got ''"),
    ("tune stage1 digitslt --name x", 2, "No such option '--name'"),
    ("tune stage2 ghost", 2, "no run 'ghost' in runs"),
    ("tune stage2 second", 2, "expected a stage-1 run"),
    ("tune stage2 first --search maxnorm --search radius", 2, "exclude each other: search one"),
    ("tune stage2 first --range maxnorm 0.5 1.5", 2, "at least 0 and at most 1, got 1.5"),
    ("tune stage2 first --layers 2", 2, "candidates train together on cached features"),
    ("tune stage2 first --select train", 2, "'train' is not one of 'val', 'test'"),
    ("tune normalize half", 2, "run half is not finished"),
    ("tune normalize first --trials 1000000000", 2, "expected at most 100000, got 1000000000"),
    # reproduce
    ("reproduce table1", 2, "'table1' is not one of 'ablation', 'methods', 'imbalance'"),
    ("reproduce methods --search 3 --val-per-class 2", 2, "as it is: leave --search out"),
    ("reproduce --dataset mnist", 2, "unknown data set 'mnist': choose one of digitslt"),
    ("reproduce --dataset ''", 2, "expected the name of a data set, or a folder, got ''"),
    ("reproduce --loss ce", 2, "--loss is settled by the rows of a study: leave it out"),
    ("reproduce norms --radius 1", 2, "--radius is settled by the rows of a study"),
    ("reproduce --unit-norm", 2, "--unit-norm is settled by the rows of a study: leave it"),
    (
        "reproduce imbalance --imbalance-factor 20",
        2,
        "100, 50 and 10: leave --imbalance-factor out",
    ),
    ("reproduce --imbalance-factor 105", 2, "its largest value here is 104"),
    ("reproduce --imbalance-factor 0", 2, "must be a finite number at least 1, got 0"),
    ("reproduce --search 4", 2, "--search needs validation images: give --val-per-class N"),
    ("reproduce --search 4 --val-per-class -1", 2, "at least 0, got -1"),
    ("reproduce --search 0", 2, "0 is not in the range x>=1"),
    ("reproduce --search 1000000 --val-per-class 2", 2, "expected at most 100000, got 1000000"),
    ("reproduce --search-layers 0", 2, "0 is not in the range x>=1"),
    (
        "reproduce norms --search 4 --val-per-class 2",
        2,
        "--search finds values of rows that follow stage 1: norms has none",
    ),
    ("reproduce wd-sweep --wd 1", 2, "--wd is what wd-sweep varies: leave it out"),
    ("reproduce --seeds 0", 2, "0 is not in the range x>=1"),
    ("reproduce --seeds 100000000000", 2, "expected at most 1000, got 100000000000"),
    ("reproduce --seed -1", 2, "--seed must be a finite number at least 0"),
    ("reproduce --seed 9223372036854775807 --seeds 2", 2, "--seed must be a finite number at"),
    ("reproduce --wd -1", 2, "--wd must be a finite number at least 0, got -1"),
    ("reproduce --beta 2", 2, "--beta must be a finite number at least 0 and at most 1"),
    ("reproduce --epochs few", 2, "'few' is not a valid integer"),
    ("reproduce --runs-dir file", 2, "--runs-dir file: expected a folder, this is a file"),
    # report
    ("report ghost", 2, "no run 'ghost' in runs"),
    ("report half", 2, "run half is not finished"),
    ("report first --csv", 2, "No such option '--csv'"),
    ("report first --output file", 2, "--output file: expected a folder, this is a file"),
    ("report first --output file/in", 2, "--output file/in: expected a folder, this is a file"),
    ("report first --output ''", 2, "expected the name of a file or folder, got ''"),
    # predict
    ("predict", 2, "Missing argument 'RUN'"),
    ("predict first", 2, "Missing argument 'FILE|FOLDER...'"),
    ("predict ghost file", 2, "no run 'ghost' in runs"),
    ("predict first ''", 2, "expected the name of a file or folder, got ''"),
    ("predict first empty", 1, "empty: expected pictures (.jpg,"),
    ("predict first file --top 0", 2, "0 is not in the range x>=1"),
    ("predict first file --json --csv", 2, "--json and --csv exclude each other"),
    # export
    ("export ghost", 2, "no run 'ghost' in runs"),
    ("export first --format tflite", 2, "'tflite' is not one of 'onnx', 'torch', 'safetensors'"),
    ("export first --output file", 2, "--output file exists: choose another name, or delete it"),
    ("export first --output empty", 2, "--output empty exists: choose another name"),
    ("export first --output nowhere/x.onnx", 2, "there is no folder nowhere"),
    ("export first --output file/x.onnx", 2, "there is no folder file"),
    # data
    ("data show", 2, "Missing argument 'NAME'"),
    ("data show mnist", 2, "unknown data set 'mnist'"),
    ("data show empty", 1, "found no train/ (there is nothing)"),
    ("data show digitslt --imbalance-factor 0", 2, "at least 1, got 0"),
    ("data show digitslt --imbalance-type log", 2, "'log' is not one of 'exp', 'step'"),
    ("data show imagenetlt --image-size 99999", 2, "at least 8 and at most 4096, got 99999"),
    ("data show imagenetlt --subset first", 2, "trains unless --imbalance-factor is given, too"),
    ("data show cifar10lt --data-dir file", 1, "--data-dir file: expected a folder, this is a"),
    ("data check mnist", 2, "unknown data set 'mnist'"),
    ("data check digitslt --imbalance-factor 1000", 2, "its largest value here is 104"),
    ("data check imagenetlt --data-dir empty", 1, "expected ImageNet_LT_train.txt"),
    ("data get mnist", 2, "unknown data set 'mnist'"),
    ("data get imagenetlt --data-dir empty", 1, "wbcli does not download this set"),
    # runs, doctor, bench
    ("runs --csv", 2, "No such option '--csv'"),
    ("runs --runs-dir file", 2, "--runs-dir file: expected a folder, this is a file"),
    ("runs --runs-dir ''", 2, "expected the name of a file or folder, got ''"),
    ("doctor --device tpu", 2, "must be auto, cpu, cuda or cuda:N, got 'tpu'"),
    ("bench op --shape 10", 2, "expected rows x columns, such as 8142x2048, got '10'"),
    ("bench op --shape 0x5", 2, "expected rows x columns"),
    ("bench op --shape 99999999x99999999", 2, "expected at most 1073741824 elements"),
    ("bench op --seconds nan", 2, "expected a finite number, got nan"),
    ("bench op --seconds 0", 2, "0.0 is not in the range x>0"),
    ("bench op --dtype int8", 2, "'int8' is not one of 'float32'"),
    ("bench step --rounds 1", 2, "1 is not in the range x>=2"),
    (f"bench step --rounds {HUGE}", 2, "expected at most 100000, got 99"),
    ("bench tune --heads 100000", 2, "expected at most 4096, got 100000"),
    ("bench train --data mnist", 2, "unknown data set 'mnist'"),
    ("bench train --data empty", 1, "found no train/ (there is nothing)"),
    ("bench train --data digitslt --arch torchvision:resnet18", 2, "--arch torchvision:resnet18"),
    ("bench train --accuracy nan", 2, "expected a finite number, got nan"),
    ("bench train --accuracy 101", 2, "101.0 is not in the range 0<=x<=100"),
    ("bench train --seed -1 --data digitslt", 2, "--seed must be a finite number at least 0"),
    ("bench eval --images 63", 2, "63 is not in the range x>=64"),
]


@pytest.mark.parametrize(("line", "code", "message"), MISTAKES, ids=lambda value: str(value)[:50])
def test_mistakes_get_one_line_and_change_nothing(wbcli, here, line, code, message):
    before = snapshot(here)
    refused(wbcli(*words(line)), code, message)
    assert snapshot(here) == before


def words(line: str) -> list[str]:
    return shlex.split(line)


NOTED = [  # mistakes that are found after a note or a warning was printed
    ("predict first nofile", 1, "1 of 1 file cannot be read", 1),
    ("predict first file", 1, "1 of 1 file cannot be read", 1),
    ("stage1 cifar100lt --data-dir file", 1, "expected a folder, this is a file", 1),
    ("stage2 first --name first", 2, "run 'first' exists in runs", 1),
]


@pytest.mark.parametrize(("line", "code", "message", "notes"), NOTED, ids=lambda v: str(v)[:50])
def test_mistakes_that_are_found_after_a_note(wbcli, here, line, code, message, notes):
    before = snapshot(here)
    refused(wbcli(*words(line)), code, message, notes)
    assert snapshot(here) == before


ENVIRONMENT = [
    ("WD", "x", "stage1 digitslt", "'x' is not a valid float"),
    ("WD", "-1", "stage1 digitslt", "--wd must be a finite number at least 0, got -1"),
    ("STAGE1_EPOCHS", "0", "stage1 digitslt", "--epochs must be a finite number at least 1"),
    ("STAGE1_EPOCHS", "many", "stage1 digitslt", "'many' is not a valid integer"),
    ("UNIT_NORM", "maybe", "stage1 digitslt", "'maybe' is not a valid boolean"),
    ("ARCH", "vgg", "stage1 digitslt", "--arch must be one of resnet8, "),
    ("LIMITS", "1 2", "stage1 digitslt", "expected MANY ≥ FEW ≥ 0, got 1 and 2"),
    ("NAME", "../up", "stage1 digitslt", "'../up' cannot name a run"),
    ("RUNS", "file", "runs", "--runs-dir file: expected a folder, this is a file"),
    ("RUNS_DIR", "file", "eval", "--runs-dir file: expected a folder, this is a file"),
    ("DEVICE", "tpu", "doctor", "must be auto, cpu, cuda or cuda:N, got 'tpu'"),
    ("JSON", "perhaps", "runs", "'perhaps' is not a valid boolean"),
    ("QUIET", "7", "runs", "'7' is not a valid boolean"),
    ("WORKERS", "-1", "runs", "-1 is not in the range x>=0"),
    ("MAX_PIXELS", "1e9", "data check digitslt", "'1e9' is not a valid integer"),
    ("PRECISION", "half", "eval first", "'half' is not one of"),
    ("SPLIT", "dev", "eval first", "'dev' is not one of 'test', 'val', 'train'"),
    ("TUNE_STAGE1_TRIALS", "0", "tune stage1 digitslt", "0 is not in the range x>=1"),
    ("BENCH_OP_SHAPE", "1", "bench op", "expected rows x columns"),
    ("SEED", "1.5", "reproduce", "'1.5' is not a valid integer"),
]


@pytest.mark.parametrize(("name", "value", "line", "message"), ENVIRONMENT)
def test_wrong_values_in_the_environment(wbcli, here, monkeypatch, name, value, line, message):
    monkeypatch.setenv(f"WBCLI_{name}", value)
    before = snapshot(here)
    refused(wbcli(*words(line)), 2, message)
    assert snapshot(here) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes into read-only folders")
@pytest.mark.parametrize("line", ["stage1 digitslt", "normalize first", "tune stage2 first"])
def test_a_read_only_folder_of_runs(wbcli, here, line):
    (here / "runs").chmod(0o555)
    try:
        refused(wbcli(*words(line), "-q"), 1, "Permission denied")
    finally:
        (here / "runs").chmod(0o755)


def edit(path: str, **changes) -> None:
    content = json.loads(Path(path).read_text())
    Path(path).write_text(json.dumps(content | changes))


DAMAGED = [  # what is in config.json, command, code, a part of the sentence
    ({"created": "yesterday"}, "eval first --split dev", 2, "'dev' is not one of"),
    ({"class_names": "0123456789"}, "predict first file", 1, "class_names of config.json is no"),
    ({"class_names": [1, 2]}, "export first --format torch", 1, "class_names of config.json is no"),
    ({"wd": "much"}, "eval first", 1, "run first: config.json holds a value of the wrong type"),
    ({"epochs": 2.5}, "report first", 2, "--epochs must be an integer of at most 64 bits, got 2.5"),
    ({"loss": "mse"}, "stage2 first", 2, "--loss must be one of ce, cb, cb-bce, focal, cb-focal"),
    ({"limits": 7}, "normalize first", 2, "--limits must be 2 integers or none, got 7"),
    ({"data_dir": "\0"}, "eval first", 1, "--data-dir must be a text without NUL"),
    ({"seed": 10**400}, "eval first", 1, "--seed must be an integer of at most 64 bits"),
    (
        {"tau": float("nan")},
        "eval first",
        1,
        "at least 0, got nan",
    ),
    ({"stage": "stage2"}, "eval first", 1, "a stage2 run comes from another, parent is null"),
]


@pytest.mark.parametrize(("changes", "line", "code", "message"), DAMAGED, ids=str)
def test_a_config_that_was_edited_by_hand(wbcli, here, changes, line, code, message):
    edit("runs/first/config.json", **changes)
    before = snapshot(here)
    refused(wbcli(*words(line)), code, message)
    assert snapshot(here) == before


@pytest.mark.parametrize("created", ["x", None, [], -1, 1e300, 10**400, float("nan"), True, {}])
def test_a_run_of_no_known_age_is_the_oldest(wbcli, here, created):
    edit("runs/second/config.json", created=created)
    rows = wbcli("runs", "--json").json
    assert rows[0]["run"] == "second" and rows[0]["created"] == 0
    assert wbcli("runs").code == 0


@pytest.mark.parametrize(
    "text",
    [b"{", b"[]", b"\xff\xfe", b"[" * 10**5, b'{"wd": ' + b"9" * 5000 + b"}", b"{}", b"\0"],
    ids=lambda text: repr(text[:8]),
)
def test_a_damaged_run_is_left_out_of_the_list_with_a_warning(wbcli, here, text):
    Path("runs/half/config.json").write_bytes(text)
    result = wbcli("runs", "--json")
    assert result.code == 0
    assert [row["run"] for row in result.json] == ["first", "second"]
    (line,) = result.err.splitlines()
    assert line.startswith("Warning: run half: ")


def test_a_config_that_is_too_long_is_not_read(here, monkeypatch):
    monkeypatch.setattr(storage, "MAX_JSON_BYTES", 10)
    with pytest.raises(ValueError, match=r"config\.json: expected at most "):
        Run(Path("runs/first")).config()


@pytest.mark.parametrize("temperature", ["hot", 0, -1.0, [], True, float("nan"), 10**400])
def test_a_temperature_that_was_edited_by_hand(wbcli, here, temperature):
    edit("runs/first/temperature.json", temperature=temperature)
    refused(wbcli("predict", "first", "file"), 1, "expected a temperature above 0 or null")
    assert wbcli("eval", "first", "-q").code == 0
    assert Run(Path("runs/first")).temperature("last", False)["temperature"] > 0


ROW = {"epoch": 2, "seconds": 1.0, "accuracy": None, "row_norms": [1.0, 2]}
MEASURED = dict.fromkeys(("all", "many", "medium"), 50.0) | {"few": None}


@pytest.mark.parametrize(
    "change",
    [
        {"epoch": 0},
        {"epoch": 2.0},
        {"epoch": True},
        {"epoch": "2"},
        {"seconds": None},
        {"seconds": float("nan")},
        {"seconds": 10**400},
        {"accuracy": 50.0},
        {"accuracy": {"all": 50.0}},
        {"accuracy": MEASURED | {"few": "none"}},
        {"accuracy": MEASURED | {"all": True}},
        {"val_accuracy": []},
        {"row_norms": ["1"]},
        {"row_norms": {"0": 1.0}},
    ],
    ids=str,
)
def test_rows_after_the_first_bad_one_are_left_out(here, change):
    run = Run(Path("runs/first"))
    good = [ROW | {"epoch": 1, "accuracy": MEASURED}, ROW]
    run.write_metrics([*good, ROW | change, ROW])
    assert run.metrics() == good


@pytest.mark.parametrize("line", [b"\xff\n", b"[" * 10**5 + b"\n", b'{"epoch": 1' + b"0" * 5000])
def test_bytes_that_are_no_row_end_the_metrics(wbcli, here, line):
    path = Path("runs/first/metrics.jsonl")
    path.write_bytes(path.read_bytes() + line)
    assert Run(Path("runs/first")).epochs_done() == 1
    assert wbcli("runs").code == 0
