"""`wbcli reproduce` from the outside: seeds, tables, JSON, and parts that are found again."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("optuna")

from conftest import write_folder
from wbcli.cli import reproduce
from wbcli.runs import run
from wbcli.study import presets, tables, variants
from wbcli.study.presets import Budget
from wbcli.study.rows import Row
from wbcli.training import stages

SHORT = ("--epochs", "1", "--batch-size", "64")
ROW_KEYS = {"name", "layers", "paper", "ours", "clipped", "settings"}
FOUR = [
    Row(False),
    Row(True),
    Row(True, "tau-norm"),
    Row(True, "CB + WD + MaxNorm", 1),
]


@pytest.fixture
def four_rows(monkeypatch):
    """An ablation of four rows with values of our own."""
    paper = dict.fromkeys(tables.GROUPS, 50.0)
    monkeypatch.setattr(tables, "ablation_rows", lambda: [(row, paper) for row in FOUR])
    values = {"lr": 0.02, "wd": 0.03, "maxnorm": 0.1, "tau": 1.9}
    found = {(row.name, row.layers): {k: values[k] for k in row.searched()} for row in FOUR}
    monkeypatch.setitem(presets.PRESETS, "digitslt", found)


@pytest.fixture
def asked(monkeypatch):
    """What the ablation is asked for; nothing trains."""
    calls = SimpleNamespace(lab=None, seeds=None, budget=None)

    def ablation(lab, seeds, budget):
        calls.lab, calls.seeds, calls.budget = lab, seeds, budget
        return {"rows": []}

    monkeypatch.setattr(tables, "ablation", ablation)
    return calls


@pytest.fixture
def canned(monkeypatch):
    """Every row has 10, 20, 30 and 25 per cent, within 1.5 over the seeds."""

    def run_table(lab, rows, seeds, values_of, **options):
        ours = {
            group: {"mean": mean, "std": 1.5 if len(seeds) > 1 else None}
            for group, mean in zip(tables.GROUPS, (10.0, 20.0, 30.0, 25.0), strict=True)
        }
        return [
            {"name": row.name, "layers": row.layers, "paper": paper, "ours": ours}
            | {"clipped": {"mean": 40.0, "std": None} if "MaxNorm" in row.name else None}
            | {"settings": {}}
            for row, paper in rows
        ]

    monkeypatch.setattr(tables, "run_table", run_table)


def test_without_arguments_it_is_the_ablation_of_the_digits_with_three_seeds(wbcli, asked):
    result = json.loads(wbcli("reproduce", "--json").out)
    assert result == {"study": "ablation", "dataset": "digitslt", "seeds": [0, 1, 2], "rows": []}
    assert asked.seeds == [0, 1, 2]
    assert asked.budget is None
    assert asked.lab.studies == Path("runs/studies")
    assert asked.lab.options["dataset"] == "digitslt"


@pytest.mark.parametrize(
    ("given", "seeds"),
    [
        (["--seed", "3"], [3]),
        (["--seed", "0"], [0]),
        (["--seeds", "2"], [0, 1]),
        (["--seed", "3", "--seeds", "2"], [3, 4]),
    ],
)
def test_seeds(wbcli, asked, given, seeds):
    assert json.loads(wbcli("reproduce", *given, "--json").out)["seeds"] == asked.seeds == seeds


def test_options_of_stage_1_reach_the_lab(wbcli, asked):
    wbcli("reproduce", "--wd", "0.25", "--epochs", "7", "--data-dir", "here", "--json")
    options = asked.lab.options
    assert (options["wd"], options["epochs"], options["val_per_class"]) == (0.25, 7, None)
    assert options["data_dir"] == str(Path("here").resolve())
    assert not options.keys() & {"seed", "seeds", "trials", "search_layers", "device", "loss"}


def test_the_budget_of_a_search(wbcli, asked):
    wbcli("reproduce", "--search", "4", "--val-per-class", "3", "--seeds", "2", "--json")
    assert asked.budget == Budget(trials=4, val_per_class=3, layers=5)
    assert "val_per_class" not in asked.lab.options, "rows train with all images"
    wbcli("reproduce", "--search", "4", "--val-per-class", "3", "--search-layers", "1", "--json")
    assert asked.budget == Budget(trials=4, val_per_class=3, layers=1)
    assert asked.lab.num_frozen == 3, "the search goes through the networks of all seeds"


def test_a_study_from_its_parts_to_its_json(wbcli, four_rows):
    first = wbcli("reproduce", *SHORT, "--seed", "3", "--json")
    assert first.code == 0
    result = json.loads(first.out)
    assert set(result) == {"study", "dataset", "seeds", "paper_dataset", "values", "rows"}
    assert (result["study"], result["dataset"], result["seeds"]) == ("ablation", "digitslt", [3])
    assert [(row["name"], row["layers"]) for row in result["rows"]] == [
        (row.name, row.layers) for row in FOUR
    ]
    for row in result["rows"]:
        assert set(row) == ROW_KEYS
        assert set(row["ours"]) == {"many", "medium", "few", "all"}
        assert row["ours"]["all"]["std"] is None
    assert json.loads(Path("runs/studies/ablation-digitslt/result.json").read_text()) == result
    labels = [f"seed 3: {row.name}" for row in FOUR]
    assert [line for line in first.err.splitlines() if line.startswith("seed")] == labels

    again = wbcli("reproduce", *SHORT, "--seed", "3", "--json", "--data-dir", "elsewhere")
    assert again.out == first.out
    assert "seed" not in again.err

    assert json.loads(wbcli("runs", "--json").out) == []
    assert "no finished stage1 run in runs" in wbcli("stage2").err
    assert wbcli("eval").code == 2
    for path in Path("runs/studies").glob("*/model.safetensors"):
        found = run.Run(path.parent)
        row = json.loads(wbcli("eval", str(path.parent), "--json").out)
        assert row["run"] == str(found.path.resolve())
        expected = found.metrics()[-1]["accuracy"]["all"]
        assert row["accuracy"]["all"] == pytest.approx(expected)


def test_a_study_that_is_interrupted_continues(wbcli, four_rows, monkeypatch):
    whole = wbcli("reproduce", *SHORT, "--seed", "0", "--json", "--runs-dir", "whole").out
    train = stages.train

    def interrupt(config, *rest):
        if config.stage == "stage2":
            raise KeyboardInterrupt
        return train(config, *rest)

    with monkeypatch.context() as patched:
        patched.setattr(stages, "train", interrupt)
        stopped = wbcli("reproduce", *SHORT, "--seed", "0", "--json")
    assert (stopped.code, stopped.out) == (130, "")
    assert stopped.err.endswith("Interrupted.\n")
    assert not Path("runs/studies/ablation-digitslt/result.json").exists()
    resumed = wbcli("reproduce", *SHORT, "--seed", "0", "--json")
    assert resumed.out == whole
    assert [line for line in resumed.err.splitlines() if line.startswith("seed")] == [
        "seed 0: WD, then CB + WD + MaxNorm"
    ]


def test_a_row_without_values_is_one_line(wbcli, four_rows, monkeypatch):
    monkeypatch.setitem(presets.PRESETS, "digitslt", {})
    result = wbcli("reproduce", *SHORT, "--seed", "0", "-q")
    assert (result.code, result.out) == (1, "")
    assert result.err == (
        "Error: digitslt: no values for WD, then tau-norm: find some with --search N\n"
    )


def words(line: str) -> list[str]:
    """The cells of a line of a table on a pipe."""
    return [cell.strip() for cell in line.split("  ") if cell.strip()]


def test_the_table_of_the_ablation_stands_beside_the_paper_s(wbcli, canned, four_rows):
    result = wbcli("reproduce", "--seeds", "2")
    lines = result.out.splitlines()
    assert words(lines[0]) == [
        *("row", "layers", "many", "medium", "few", "all", "clipped"),
        *("paper (CIFAR-100-LT, IF 100): many", "medium", "few", "all"),
    ]
    accuracies = ["10.00 ± 1.50", "20.00 ± 1.50", "30.00 ± 1.50", "25.00 ± 1.50"]
    paper = ["50.00"] * 4
    assert words(lines[2]) == ["naive", "–", *accuracies, "–", *paper]
    assert words(lines[5]) == ["WD, then CB + WD + MaxNorm", "1", *accuracies, "40", *paper]
    assert lines[6] == (
        "digitslt: test accuracy in per cent, mean over classes, last epoch, "
        "mean ± standard deviation of 2 seeds; many: over 40 training images, few: under 10; "
        "clipped: rows that MaxNorm holds at its radius, per cent"
    )
    assert lines[7] == f"values of the rows: {presets.ORIGINS['digitslt']}"
    assert len(lines) == 8
    assert result.err == "written to runs/studies/ablation-digitslt\n"


def test_the_table_of_imbalance_has_three_factors(wbcli, canned, monkeypatch):
    result = wbcli("reproduce", "imbalance", "--seed", "0")
    lines = result.out.splitlines()
    factors = ["IF 100", "IF 50", "IF 10"]
    paper = ["paper (CIFAR-100-LT): IF 100", "IF 50", "IF 10"]
    assert words(lines[0]) == ["row, all classes", *factors, *paper]
    assert words(lines[2]) == ["naive", *["25.00"] * 3, "38.38", "43.99", "57.31"]
    assert words(lines[7]) == ["WD, then CB + MaxNorm", *["25.00"] * 3, "50.24", "56.06", "67.10"]
    assert ", one seed;" in lines[9]
    others = lines.index(next(line for line in lines if line.startswith("other methods")))
    assert words(lines[others]) == ["other methods", *factors]
    assert lines[others - 1] == ""
    assert words(lines[others + 2]) == ["CE", "38.32", "43.85", "55.71"]
    assert words(lines[-3]) == ["RIDE (4 experts)", "49.10", "–", "–"]
    assert lines[-2] == "published figures on CIFAR-100-LT, as the paper quotes them; not rerun"
    assert lines[-1].startswith("At IF 100 the paper's 'WD, then CB + MaxNorm' (50.24)")


def test_the_table_of_large_scale_names_the_set_of_its_figures(wbcli, canned):
    result = wbcli("reproduce", "large-scale", "--dataset", "digitslt", "--seed", "0")
    lines = result.out.splitlines()
    assert words(lines[0])[7:] == ["paper (ImageNet-LT): many", "medium", "few", "all"]
    assert words(lines[8])[7:] == ["62.50", "50.40", "41.50", "53.90"]
    assert ["LFME", "47.10", "35.00", "17.50", "37.20"] in [words(line) for line in lines]
    assert lines[-1].startswith("published figures on ImageNet-LT")


def test_large_scale_without_the_files_of_imagenet(wbcli):
    result = wbcli("reproduce", "large-scale")
    assert (result.code, result.out) == (1, "")
    assert result.err.startswith("Error: imagenetlt: expected ImageNet_LT_train.txt, ")


def test_a_study_with_a_figure(wbcli, monkeypatch):
    monkeypatch.setattr(variants, "SWEEP", (0.0, 1e-3))
    result = json.loads(wbcli("reproduce", "wd-sweep", *SHORT, "--seed", "1", "--json").out)
    assert set(result) == {"study", "dataset", "seeds", "rows"}
    assert [row["name"] for row in result["rows"]] == ["wd 0", "wd 0.001"]
    assert all(set(row) == ROW_KEYS for row in result["rows"])
    folder = Path("runs/studies/wd-sweep-digitslt/figures")
    assert {path.name for path in folder.iterdir()} == {"wd_sweep.png", "wd_sweep.svg"}
    table = wbcli("reproduce", "wd-sweep", *SHORT, "--seed", "1").out.splitlines()
    assert words(table[0]) == ["row", "layers", "many", "medium", "few", "all", "clipped"]
    assert "paper" not in table[0]


@pytest.mark.parametrize("name", ["norms", "weights2d"])
def test_every_figure_is_drawn_by_its_own_study(wbcli, monkeypatch, name):
    called = []
    for function in ("norms", "weights_2d"):
        monkeypatch.setattr(
            variants, function, lambda *args, f=function: called.append((f, *args[1:])) or {}
        )
    assert wbcli("reproduce", name, "--seed", "0", "--json").code == 0
    counts = [104, 67, 43, 28, 18, 11, 7, 4, 3, 2]
    figures = Path(f"runs/studies/{name}-digitslt/figures")
    assert called == [(name.replace("2d", "_2d"), [0], figures, counts)]


@pytest.mark.parametrize(
    ("missing", "args"),
    [
        ("matplotlib", ["wd-sweep"]),
        ("matplotlib", ["norms"]),
        ("matplotlib", ["weights2d"]),
        ("optuna", ["--search", "2", "--val-per-class", "2"]),
    ],
)
def test_a_missing_extra_is_one_line(wbcli, monkeypatch, missing, args):
    monkeypatch.setitem(sys.modules, missing, None)
    result = wbcli("reproduce", *args)
    assert (result.code, result.out) == (1, "")
    assert result.err == f"Error: wbcli reproduce needs {missing}: pip install 'wbcli[study]'\n"
    assert not Path("runs").exists()


def test_tables_need_no_extra():
    code = "import sys; sys.modules.update(matplotlib=None, optuna=None); import wbcli.study.tables"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_studies_of_the_help_are_the_studies_there_are(wbcli):
    listed = wbcli("reproduce", "--help").out.split("method's parts")[0]
    assert "ablation" in listed
    text = wbcli("reproduce", "--help").out
    names = [line.split()[0] for line in text.splitlines() if line.startswith("    ")]
    assert [name for name in names if name in reproduce.STUDIES] == list(reproduce.STUDIES)


def test_a_set_without_values_is_refused_before_it_is_read(wbcli):
    result = wbcli("reproduce", "maxnorm", "--dataset", "fashionmnistlt", "--data-dir", "nowhere")
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith(
        "Error: fashionmnistlt: maxnorm has values for digitslt and cifar10lt only: find some with "
        "--search N and --val-per-class N (see"
    )
    released = wbcli("reproduce", "maxnorm", "--recipe", "released")
    assert (released.code, released.err[:25]) == (2, "Error: --recipe released:")


def test_a_search_takes_the_validation_images_that_a_folder_has(wbcli, tmp_path):
    given = ("--arch", "resnet8", "--image-size", "16", "--seeds", "1", "--search", "1", *SHORT)
    bare = write_folder(tmp_path / "bare", {"ant": 4, "bee": 2})
    refused = wbcli("reproduce", "maxnorm", "--dataset", bare, *given)
    assert refused.code == 2
    assert "--search needs validation images: give --val-per-class N, too" in refused.err
    own = write_folder(tmp_path / "own", {"ant": 4, "bee": 2}, val=2)
    result = wbcli("reproduce", "maxnorm", "--dataset", own, *given, "--json").json
    assert result["values"] == "1 trial a row on validation images, one seed"
    assert len(result["rows"]) == 16
