"""The tuner: what a search asks, that it can be interrupted, and what it leaves behind."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("optuna")

import optuna
import torch
from optuna.distributions import CategoricalDistribution, FloatDistribution
from sqlalchemy import event
from sqlalchemy.engine import Engine
from sqlalchemy.exc import OperationalError

from training.test_fit import stage1
from wbcli import cli
from wbcli.config.settings import LOSSES, STAGE2_LOSSES, from_dict
from wbcli.data import recorded
from wbcli.report import figures
from wbcli.runs.find import part
from wbcli.runs.run import Run
from wbcli.training import stages
from wbcli.tune import tune
from wbcli.tune.search import BETAS, DONE, RANGES, How, make_space, open_study, run_search, search

SHORT = ("--epochs", "2", "--batch-size", "64")
VALIDATION = ("--val-per-class", "3")
SPACE = {
    "wd": FloatDistribution(1e-5, 1e-1, log=True),
    "maxnorm": FloatDistribution(0.0, 1.0),
    "loss": CategoricalDistribution(("ce", "cb", "focal")),
}


def score(params: dict) -> float:
    """Best, 90, for cb at maxnorm 0.25."""
    return 90 - 40 * abs(params["maxnorm"] - 0.25) - 5 * (params["loss"] != "cb")


def evaluate(trials):
    return [score(trial.params) for trial in trials]


def how(trials, round_size=4, sampler="tpe", **options) -> How:
    return How(trials, round_size, sampler, "val", **options)


def params_of(study) -> list[dict]:
    return [trial.params for trial in study.get_trials(states=DONE)]


def searched(name, *args, evaluate=evaluate, seed=0) -> list[dict]:
    """The trials of a search in the folder `name`, which may be there already; None: nowhere."""
    in_memory = name is None
    study = (
        optuna.create_study(direction="maximize") if in_memory else open_study(None, Path(name), 0)
    )
    search(study, SPACE, evaluate, how(*args), seed)
    return params_of(study)


@pytest.fixture(autouse=True, scope="module")
def hasty_sqlite():
    """Searches that do not wait for the disk."""

    def hurry(connection, record):
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("PRAGMA journal_mode = MEMORY")

    event.listen(Engine, "connect", hurry)
    yield
    event.remove(Engine, "connect", hurry)


@pytest.fixture(scope="module")
def parents(tmp_path_factory):
    """Stage-1 runs of two epochs: `plain`, and `first` with validation images."""
    folder = tmp_path_factory.mktemp("parents")
    for options in (("--name", "plain"), ("--name", "first", *VALIDATION)):
        with pytest.raises(SystemExit) as ending:
            cli.main(["stage1", "digitslt", *SHORT, *options, "--runs-dir", str(folder), "-q"])
        assert ending.value.code == 0
    return folder


@pytest.fixture
def runs_dir(parents, tmp_path):
    return Path(shutil.copytree(parents, tmp_path / "runs"))


def test_a_search_asks_exactly_as_many_trials_in_rounds():
    rounds, told = [], []

    def note(trials):
        rounds.append(len(trials))
        return evaluate(trials)

    study = open_study(None, Path("study"), 0)
    options = how(10, on_round=lambda done, best: told.append((done, best)))
    search(study, SPACE, note, options, 0)
    assert rounds == [4, 4, 2]
    scores = [score(params) for params in params_of(study)]
    assert len(scores) == 10
    assert told == [(done, max(scores[:done])) for done in (4, 8, 10)]


def test_a_search_of_one_trial():
    assert len(searched("study", 1)) == 1


needs_scipy = pytest.mark.skipif(find_spec("scipy") is None, reason="the sampler gp needs scipy")
SAMPLERS = ["tpe", "random", pytest.param("gp", marks=needs_scipy)]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_same_seed_asks_the_same_trials_and_another_does_not(sampler):
    """14 trials: what the sampler learns from counts after the first ten."""
    first, again, other = (searched(None, 14, 4, sampler, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert all(mine != theirs for mine, theirs in zip(first, other, strict=True))
    assert len({params["wd"] for params in first}) == 14, "no round repeats another"


@pytest.mark.parametrize("sampler", ["tpe", pytest.param("gp", marks=needs_scipy)])
def test_a_sampler_learns_from_the_trials(sampler):
    """With other accuracies it asks the same first ten, and then something else."""
    worse = searched(None, 14, 2, sampler, evaluate=lambda ts: [-score(t.params) for t in ts])
    better = searched(None, 14, 2, sampler)
    assert worse[:10] == better[:10]
    assert worse[10:] != better[10:]


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize(("round_size", "stop"), [(1, 1), (4, 4)])
def test_a_search_that_was_interrupted_goes_on_as_if_it_never_was(sampler, round_size, stop):
    whole = searched(None, 14, round_size, sampler)
    rounds = []

    def interrupt(trials):
        rounds.append(trials)
        if len(rounds) == stop:
            raise KeyboardInterrupt
        return evaluate(trials)

    with pytest.raises(KeyboardInterrupt):
        searched("stopped", 14, round_size, sampler, evaluate=interrupt)
    done = params_of(open_study(None, Path("stopped"), 0))
    assert done == whole[: round_size * (stop - 1)]
    assert searched("stopped", 14, round_size, sampler) == whole


def test_more_trials_continue_a_search():
    first = searched("study", 4, 4)
    more = searched("study", 10, 4)
    assert more[:4] == first
    assert more == searched(None, 10, 4)
    assert searched("study", 3, 4) == more, "fewer ask nothing"


def test_no_trial_is_pruned_before_a_quarter_of_the_epochs_nor_above_the_median():
    """Four trials at 10, 20, 30 and 40 have the median 25."""
    study = open_study(None, Path("study"), 2)
    for value in (10, 20, 30, 40):
        trial = study.ask()
        trial.report(value, 1)
        trial.report(value, 2)
        study.tell(trial, value)
    for value, step, pruned in [(24, 1, False), (24, 2, True), (26, 2, False)]:
        trial = study.ask()
        trial.report(value, step)
        assert trial.should_prune() == pruned, (value, step)
        study.tell(trial, value)


def in_search(evaluate=evaluate, trials=6, studies="studies", **changes):
    """`run_search` on settings of stage 1; the space does not fit them, and need not."""
    base = replace(stage1(), selected_on="val", **changes.pop("base", {}))
    space = changes.pop("space", {"wd": SPACE["wd"]})
    return run_search(base, "label", space, how(trials, **changes), Path(studies), evaluate)


def by_wd(trials):
    return [1 - trial.params["wd"] for trial in trials]


def test_the_outcome_of_a_search():
    found = in_search(by_wd)
    keys = {"best", "trials", "selected_on", "seconds", "origin", "path", "settings"}
    assert set(found) == keys
    assert found["selected_on"] == "val"
    assert found["seconds"] > 0
    assert len(found["trials"]) == 6
    for trial in found["trials"]:
        assert trial["accuracy"] == 1 - trial["params"]["wd"]
        assert set(trial["params"]) == {"wd"} and trial["pruned"] is False
    smallest = min(trial["params"]["wd"] for trial in found["trials"])
    assert found["best"] == {"params": {"wd": smallest}, "accuracy": 1 - smallest}
    base = replace(stage1(), selected_on="val")
    assert from_dict(found["settings"]) == replace(base, wd=smallest)
    kept = Path(found["path"], "result.json").read_text()
    assert json.loads(kept) == json.loads(json.dumps(found))


def test_a_pruned_trial_has_the_accuracy_at_which_it_was_stopped_and_cannot_win():
    def stop_the_first(trials):
        if trials[0].number > 0:
            return by_wd(trials)
        trials[0].report(50.0, 1)
        trials[0].report(99.0, 2)
        return [None, *by_wd(trials[1:])]

    found = in_search(stop_the_first)
    assert [trial["pruned"] for trial in found["trials"]] == [True] + [False] * 5
    assert found["trials"][0]["accuracy"] == 99
    assert found["best"]["accuracy"] == max(trial["accuracy"] for trial in found["trials"][1:])


def test_a_trial_that_was_stopped_before_its_first_accuracy_has_none():
    found = in_search(lambda trials: [None, *by_wd(trials[1:])])
    assert [trial["accuracy"] is None for trial in found["trials"]] == [True, *[False] * 3] + [
        True,
        False,
    ]


@pytest.mark.parametrize("accuracy", [None, 0.0], ids=["pruned", "heads that are not finite"])
def test_where_every_trial_diverged_nothing_wins(accuracy):
    with pytest.raises(ArithmeticError) as error:
        in_search(lambda trials: [accuracy] * len(trials))
    assert str(error.value) == "every trial diverged: narrow the search with --range"


def test_other_settings_are_another_search_but_where_the_data_lie_is_none():
    first = in_search(by_wd)["path"]
    assert in_search(by_wd, trials=8)["path"] == first, "more trials continue it"
    assert in_search(by_wd, base={"data_dir": "elsewhere"})["path"] == first
    others = [{"base": {"lr": 0.5}}, {"base": {"seed": 1}}, {"sampler": "random"}]
    others += [{"round_size": 3}, {"space": {"wd": FloatDistribution(1e-4, 1e-1, log=True)}}]
    assert len({first, *[in_search(by_wd, **other)["path"] for other in others]}) == 6


def test_processes_share_the_trials_of_a_storage():
    """One asks 3, the next one 3 more; a third finds all six. Each has its own folder."""
    asked = []

    def note(trials):
        asked.append(len(trials))
        return by_wd(trials)

    url = "sqlite:///shared.db"
    found = [in_search(note, trials, f"runs{i}", storage=url) for i, trials in enumerate((3, 6, 6))]
    assert asked == [3, 3]
    assert found[1]["trials"][:3] == found[0]["trials"]
    assert found[2]["trials"] == found[1]["trials"]
    assert not list(Path("runs0").rglob("optuna.db"))


def test_what_another_process_is_running_is_not_asked_again():
    url = "sqlite:///shared.db"
    seen = []

    def ask_elsewhere(trials):
        seen.extend(trial.params["wd"] for trial in trials)
        if len(seen) == 4:
            in_search(ask_elsewhere, 4, storage=url)
        return by_wd(trials)

    in_search(ask_elsewhere, 4, storage=url)
    assert len(set(seen)) == len(seen) == 8


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("nonsense", "Could not parse SQLAlchemy URL"),
        ("sqlite:////nowhere/x.db", "unable to open database file"),
    ],
)
def test_a_storage_that_cannot_be_opened(wbcli, runs_dir, url, reason):
    result = wbcli("tune", "stage2", "first", "--storage", url)
    assert (result.code, result.out) == (1, "")
    assert f"Error: the storage {url} cannot be opened: " in result.err
    assert reason in result.err
    assert len(result.err.splitlines()) == 1


def test_the_search_space():
    names = ["wd", "lr", "maxnorm", "radius", "beta", "loss", "tau"]
    space = make_space("stage2", names, {"lr": (0.5, 2.0)})
    assert space["lr"] == FloatDistribution(0.5, 2.0, log=True)
    assert space["wd"] == FloatDistribution(*RANGES["stage2"]["wd"], log=True)
    assert space["maxnorm"] == FloatDistribution(0.0, 1.0)
    assert space["radius"].log
    assert space["loss"].choices == STAGE2_LOSSES
    assert make_space("stage1", ["loss"], {})["loss"].choices == LOSSES
    assert space["beta"].choices == BETAS
    assert space["tau"] == FloatDistribution(0.0, 2.0)


LOGARITHM = " and above 0 (it is searched on a logarithmic scale)"
NO_IMAGES = "there are no validation images to choose on: "
OR_TEST = ", or choose on the test set with --select test, which every result will say"
REFUSED = [
    ("stage1 digitslt", NO_IMAGES + "repeat this with --val-per-class N" + OR_TEST),
    ("stage1 mnist", "unknown data set 'mnist'"),
    ("stage1 digitslt --search radius", "'radius' is not one of"),
    ("stage1 digitslt --search tau", "--tau: the method ce does not have it; it has --defer-from"),
    ("stage1 digitslt --method ldam --range scale 0 9", "--range scale 0 9: expected a low end"),
    ("stage1 digitslt --method ssp", "--method ssp scores no classes: there is nothing to choose"),
    ("stage1 digitslt --method ldam --recipe published --wd 1", "every option is given"),
    ("stage2 plain", f"{NO_IMAGES}plain needs another stage 1, trained with --val-per-class N"),
    ("stage2 plain", OR_TEST),
    ("normalize plain", f"{NO_IMAGES}plain needs another stage 1, trained with --val-per-class N"),
    ("stage2 ghost", "no run 'ghost' in runs"),
    ("stage2 first --trials 0", "0 is not in the range x>=1"),
    ("normalize first --trials 0", "0 is not in the range x>=1"),
    (
        "stage2 first --range wd 0.1 0.001",
        "--range wd 0.1 0.001: expected a low end below the high end" + LOGARITHM,
    ),
    ("stage2 first --range lr 0 1", "--range lr 0 1: expected a low end below"),
    ("stage2 first --range lr nan 1", "--range lr nan 1: expected a low end below"),
    (
        "stage2 first --range maxnorm 0.5 0.5",
        "--range maxnorm 0.5 0.5: expected a low end below the high end (see",
    ),
    ("stage2 first --range maxnorm 0 1.5", "--maxnorm must be a finite number at least 0 and at"),
    ("stage2 first --range wd 1 inf", "--wd must be a finite number at least 0, got inf"),
    ("stage2 first --range loss 1 2", "'loss' is not one of"),
    ("stage2 first --range wd 1 much", "'much' is not a valid float"),
    ("stage2 first --wd 1 --search wd", "--wd is given and searched: leave one of them out"),
    ("stage2 first --lr 1 --range lr 1 2", "--lr is given and searched: leave one of them out"),
    (
        "stage2 first --search maxnorm --search radius",
        "maxnorm and radius exclude each other: search one of them",
    ),
    ("stage2 first --search maxnorm --radius 1", "--maxnorm is searched: leave --radius out"),
    ("stage2 first --search maxnorm --unit-norm", "--maxnorm is searched: leave --unit-norm out"),
    ("stage2 first --search radius --unit-norm", "--radius is searched: leave --unit-norm out"),
    ("stage2 first --search radius --maxnorm 0.1", "--radius is searched: leave --maxnorm out"),
    (
        "stage2 first --wd 1 --lr 1 --maxnorm 0.1",
        "every option is given, and nothing is left to search: leave one of them out",
    ),
    (
        "stage2 first --layers 2",
        "they need --layers 1, --project step, a --cache and --recipe paper",
    ),
    (
        "stage2 first --project epoch",
        "they need --layers 1, --project step, a --cache and --recipe paper",
    ),
    (
        "stage2 first --recipe released",
        "they need --layers 1, --project step, a --cache and --recipe paper",
    ),
    ("stage2 first --views 0", "--views must be a finite number at least 1, got 0"),
]


@pytest.mark.parametrize(("line", "message"), REFUSED)
def test_what_cannot_be_searched_is_refused_with_the_remedy(wbcli, runs_dir, line, message):
    result = wbcli("tune", *line.split())
    assert (result.code, result.out) == (2, "")
    assert message in result.err
    assert len(result.err.splitlines()) == 1
    assert not Path("runs/studies").exists()


def test_stage1_searches_a_methods_own_numbers(wbcli):
    """A trial's run has them where its method and its classifier look."""
    line = "tune stage1 digitslt --method ldam --search max-margin --search scale --trials 1"
    short = ("--epochs", 1, "--batch-size", 96, "--val-per-class", 2, "--json")
    found = wbcli(*line.split(), *short)
    assert found.code == 0, found.err
    params = found.json["best"]["params"]
    assert set(params) == {"max-margin", "scale"}
    (path,) = Path("runs/studies").glob("digitslt-stage1-*/config.json")
    config = json.loads(path.read_text())
    assert config["method_options"] == {
        "max_margin": params["max-margin"],
        "scale": params["scale"],
    }
    assert config["heads"] == [["cosine", {"scale": params["scale"]}]]


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ("", {"wd", "lr", "maxnorm"}),
        ("--wd 0.1", {"lr", "maxnorm"}),
        ("--radius 1", {"wd", "lr"}),
        ("--unit-norm", {"wd", "lr"}),
        ("--maxnorm none", {"wd", "lr"}),
        ("--search beta --search loss", {"beta", "loss"}),
        ("--search radius", {"radius"}),
        ("--search radius --maxnorm none", {"radius"}),
        ("--range radius 1 2", {"wd", "lr", "radius"}),
        ("--range wd 0.5 0.6", {"wd", "lr", "maxnorm"}),
        ("--search lr --range wd 0.5 0.6", {"wd", "lr"}),
    ],
)
def test_what_is_searched(wbcli, runs_dir, line, names):
    result = wbcli("tune", "stage2", "first", *line.split(), "--trials", 2, *SHORT, "--json")
    found = json.loads(result.out)
    assert set(found["best"]["params"]) == names
    if "--range wd" in line:
        assert all(0.5 <= trial["params"]["wd"] <= 0.6 for trial in found["trials"])


def test_the_sampler_gp_names_the_package_it_lacks(wbcli, runs_dir, monkeypatch):
    from wbcli.cli import searching

    monkeypatch.setattr(searching, "find_spec", lambda name: None)
    result = wbcli("tune", "stage2", "first", "--sampler", "gp")
    assert (result.code, result.out) == (1, "")
    assert result.err == "Error: --sampler gp needs scipy: pip install scipy\n"


def tune_stage2(wbcli, *options, run="first") -> dict:
    result = wbcli(
        *("tune", "stage2", run, "--trials", 6, "--round", 3, "--epochs", 2, *options, "--json")
    )
    assert result.code == 0, result.err
    return json.loads(result.out)


def stage2_from_tune(wbcli, *options, run="first") -> tuple[Run, str]:
    result = wbcli("stage2", run, "--from-tune", *options, "--json")
    assert result.code == 0, result.err
    return Run(Path(json.loads(result.out)["path"])), result.err


def test_json_of_stage2(wbcli, runs_dir):
    found = tune_stage2(wbcli)
    assert set(found) == {"best", "trials", "selected_on", "seconds"}
    assert set(found["best"]) == {"params", "accuracy"}
    assert all(set(trial) == {"params", "accuracy", "pruned"} for trial in found["trials"])
    assert len(found["trials"]) == 6
    assert found["selected_on"] == "val"
    again = tune_stage2(wbcli)
    assert again["trials"] == found["trials"], "found, not searched again"


def test_the_table_has_the_best_first(wbcli, runs_dir):
    result = wbcli("tune", "stage2", "first", "--trials", 12, *SHORT)
    assert result.code == 0
    lines = result.out.splitlines()
    accuracies = [float(line.split()[3]) for line in lines[2:-1]]
    assert len(accuracies) == 10, "-v shows all"
    assert accuracies == sorted(accuracies, reverse=True)
    assert "best first of 12 (-v shows all)" in lines[-1]
    assert "mean over classes, validation images" in lines[-1]
    assert f"12 trials, best accuracy {accuracies[0]:.2f}" in result.err


@pytest.mark.parametrize(
    "options",
    [
        "",
        "--search radius --search wd",
        "--unit-norm",
        "--maxnorm none --momentum 0.5",
        "--search beta --search loss",
        "--batch-size 32 --views 1 --loss cb-focal --range wd 0.01 1 --seed 3",
    ],
)
def test_stage2_trains_with_exactly_what_was_tuned(wbcli, runs_dir, options):
    """All of the settings; and on the validation images the accuracy of the best trial."""
    found = tune_stage2(wbcli, *options.split())
    run, err = stage2_from_tune(wbcli)
    (path,) = Path("runs/studies").glob("tune-stage2-*/result.json")
    settings = from_dict(json.loads(path.read_text())["settings"])
    assert run.config() == settings
    for key, value in found["best"]["params"].items():
        assert getattr(settings, key) == value
        assert f"{key} " in err
    assert "tuned on val: " in err
    assert run.metrics()[-1]["val_accuracy"]["all"] == pytest.approx(found["best"]["accuracy"])


@pytest.mark.parametrize(
    ("options", "views"), [("", 2), ("--views 1", 1), ("--epochs 11", 10), ("--views 3", 3)]
)
def test_a_search_has_a_view_for_each_epoch_and_ten_at_most(wbcli, runs_dir, options, views):
    tune_stage2(wbcli, "--trials", 1, *options.split())
    run, _ = stage2_from_tune(wbcli, "--epochs", 1)
    assert run.config().views == views


@pytest.mark.parametrize(
    ("options", "changes"),
    [
        ("--wd 0.7", {"wd": 0.7}),
        ("--maxnorm none", {"maxnorm": None}),
        ("--radius 0.5", {"maxnorm": None, "radius": 0.5}),
        ("--unit-norm", {"maxnorm": None, "unit_norm": True}),
        ("--seed 4 --epochs 1", {"seed": 4, "epochs": 1}),
    ],
)
def test_an_option_wins_over_what_was_tuned(wbcli, runs_dir, options, changes):
    tune_stage2(wbcli)
    tuned, _ = stage2_from_tune(wbcli)
    changed, _ = stage2_from_tune(wbcli, *options.split())
    assert changed.config() == replace(tuned.config(), **changes)
    assert changed.config().selected_on == "val"


def test_the_newest_search_of_this_run_counts(wbcli, runs_dir):
    tune_stage2(wbcli)
    newest = tune_stage2(wbcli, "--seed", 1, "--search", "wd")
    tune_stage2(wbcli, "--select", "test", run="plain")
    run, _ = stage2_from_tune(wbcli)
    assert run.config().wd == newest["best"]["params"]["wd"]


def test_a_run_that_was_trained_anew_is_another_run(wbcli, runs_dir):
    tune_stage2(wbcli)
    shutil.rmtree("runs/first")
    same_name = ("--val-per-class", "2", "--name", "first", "--wd", "0.5")
    assert wbcli("stage1", "digitslt", "--epochs", "1", *same_name).code == 0
    result = wbcli("stage2", "first", "--from-tune")
    assert (result.code, result.out) == (2, "")
    assert "nothing was tuned for first" in result.err


def test_a_torn_outcome_of_another_search_is_passed_over(wbcli, runs_dir):
    found = tune_stage2(wbcli)
    torn = Path("runs/studies/tune-stage2-first-torn")
    torn.mkdir()
    (torn / "result.json").write_text('{"settings": ')
    run, _ = stage2_from_tune(wbcli)
    assert run.config().wd == found["best"]["params"]["wd"]


def test_a_run_with_a_name_that_commands_cannot_give(wbcli, runs_dir):
    odd = Path("runs/first").rename("runs/odd ?%23#name")
    assert wbcli("tune", "stage2", str(odd), "--trials", "2").code == 0
    assert len(list(Path("runs/studies").glob("*/optuna.db"))) == 1  # '?' ends a path in a URL
    assert wbcli("stage2", str(odd), "--from-tune", "--name", "second").code == 0
    assert Run(Path("runs/second")).finished


def test_options_of_one_command_from_the_environment(wbcli, runs_dir, monkeypatch):
    monkeypatch.setenv("WBCLI_TUNE_STAGE2_TRIALS", "2")
    monkeypatch.setenv("WBCLI_STAGE2_WD", "0.5")  # of stage2, not of tune stage2
    found = json.loads(wbcli("tune", "stage2", "first", "--search", "wd", "--json").out)
    assert len(found["trials"]) == 2


def test_from_tune_without_a_search_is_refused(wbcli, runs_dir):
    tune_stage2(wbcli, "--select", "test", run="plain")
    result = wbcli("stage2", "first", "--from-tune")
    assert (result.code, result.out) == (2, "")
    assert "nothing was tuned for first: search first with wbcli tune stage2 first" in result.err


CHOSEN = "its settings were chosen on the test set, so its numbers are too good"


def test_what_was_chosen_on_the_test_set_says_so_everywhere(wbcli, runs_dir):
    command = ("tune", "stage2", "plain", "--trials", 4, "--select", "test", *SHORT)
    result = wbcli(*command)
    assert "Warning: the winner is chosen on the test set; every result of it will say so" in (
        result.err
    )
    assert "mean over classes, test images" in result.out
    found = json.loads(wbcli(*command, "--json").out)
    assert found["selected_on"] == "test"
    trained = wbcli("stage2", "plain", "--from-tune", "--name", "chosen")
    assert f"chosen: {CHOSEN}" in trained.err
    record = json.loads(Path("runs/chosen/config.json").read_text())
    assert record["selected_on"] == "test"
    measured = json.loads(wbcli("eval", "chosen", "--json").out)
    assert measured["selected_on"] == "test"
    assert measured["accuracy"]["all"] == pytest.approx(found["best"]["accuracy"])
    assert f"chosen: {CHOSEN}" in wbcli("eval", "chosen").err


def test_children_of_a_run_that_was_chosen_on_the_test_set_inherit_it(wbcli, runs_dir):
    command = ("tune", "stage1", "digitslt", "--trials", 1, *VALIDATION, *SHORT)
    assert wbcli(*command, "--select", "test").code == 0
    (path,) = Path("runs/studies").glob("digitslt-stage1-*")
    for line in ("stage2 {} --epochs 1 --name child", "normalize {} --name divided"):
        assert CHOSEN in wbcli(*line.format(path).split()).err
    assert {Run(Path("runs", n)).config().selected_on for n in ("child", "divided")} == {"test"}
    found = json.loads(wbcli("tune", "normalize", path, "--trials", 2, "--json").out)
    assert found["selected_on"] == "val", "this search itself looked at validation images"
    tune_stage2(wbcli, run=path)
    run, _ = stage2_from_tune(wbcli, run=path)
    assert run.config().selected_on == "test", "but its parent was chosen on the test set"


def test_runs_that_nobody_tuned_were_selected_on_nothing(wbcli, runs_dir):
    assert json.loads(wbcli("eval", "first", "--json").out)["selected_on"] is None


@pytest.mark.parametrize(
    ("trials", "taus"), [(1, [1.0]), (2, [0.0, 3.0]), (4, [0.0, 1.0, 2.0, 3.0])]
)
def test_the_grid_of_taus(trials, taus):
    assert tune.tau_grid(trials) == taus


def test_tune_normalize_measures_what_normalize_makes(wbcli, runs_dir):
    found = json.loads(wbcli("tune", "normalize", "first", "--trials", 4, "--json").out)
    assert set(found) == {"best", "trials", "selected_on", "seconds"}
    for trial in found["trials"]:
        tau = trial["params"]["tau"]
        wbcli("normalize", "first", "--tau", tau, "--name", f"tau{tau}")
        measured = json.loads(wbcli("eval", f"tau{tau}", "--split", "val", "--json").out)
        assert trial["accuracy"] == pytest.approx(measured["accuracy"]["all"])
    accuracies = [trial["accuracy"] for trial in found["trials"]]
    assert len(set(accuracies)) > 1
    first_of_the_best = found["trials"][accuracies.index(max(accuracies))]
    assert found["best"] == {key: first_of_the_best[key] for key in ("params", "accuracy")}
    table = wbcli("tune", "normalize", "--trials", 1, "--select", "test")
    assert "best first of 1 (" in table.out and "test images" in table.out


WDS = {"wd": SPACE["wd"]}


def tune_stage1(folder, trials, space=WDS, on_epoch=lambda trial, row: None, **options):
    """Of two epochs; `on_epoch` is told the trial and its metrics."""
    base = stage1(val_per_class=3, batch_size=64, selected_on="val", **options)

    @contextmanager
    def listener(trial):
        yield stages.Listener(on_epoch=lambda row: on_epoch(trial, row))

    args = (Path(folder), recorded.for_run(base), torch.device("cpu"), listener)
    return tune.tune_stage1(base, space, how(trials, 1), *args)


def test_the_accuracy_of_a_stage1_trial_is_that_of_its_last_epoch(wbcli):
    found = tune_stage1("runs/studies", 2)
    for trial in found["trials"]:
        settings = from_dict(found["settings"] | trial["params"])
        run = part(Path("runs/studies"), settings)
        assert run.metrics()[-1]["val_accuracy"]["all"] == trial["accuracy"]
    best = part(Path("runs/studies"), from_dict(found["settings"]))
    measured = json.loads(wbcli("eval", best.path, "--split", "val", "--json").out)
    assert measured["accuracy"]["all"] == pytest.approx(found["best"]["accuracy"])
    assert measured["selected_on"] == "val"


def test_stage1_on_the_command_line_draws_its_trials(wbcli, monkeypatch):
    drawn, draw = [], figures.accuracy_against_wd
    monkeypatch.setattr(figures, "accuracy_against_wd", lambda c: drawn.append(c) or draw(c))
    command = ("tune", "stage1", "digitslt", *VALIDATION, *SHORT, "--trials", 3, "--json")
    result = wbcli(*command)
    found = json.loads(result.out)
    assert set(found) == {"best", "trials", "selected_on", "seconds"}
    points = sorted((trial["params"]["wd"], trial["accuracy"]) for trial in found["trials"])
    assert drawn == [[("digitslt, val", points)]]
    (folder,) = Path("runs/studies").glob("tune-stage1-digitslt-*/figures")
    assert {path.name for path in folder.iterdir()} == {
        "accuracy_against_wd.png",
        "accuracy_against_wd.svg",
    }
    assert [line for line in result.err.splitlines() if line.startswith("trial ")] == [
        f"trial {i}: wd {trial['params']['wd']:.4g}" for i, trial in enumerate(found["trials"])
    ]
    assert wbcli("runs", "--json").out.strip() == "[]", "trials are never the newest run"


def test_without_a_weight_decay_that_varies_there_is_no_figure():
    found = tune_stage1("studies", 1, {"lr": FloatDistribution(0.01, 0.1, log=True)})
    assert not Path(found["path"], "figures").exists()


def test_a_pruned_training_ends_there(monkeypatch):
    monkeypatch.setattr(optuna.Trial, "should_prune", lambda trial: trial.number == 1)
    drawn, draw = [], figures.accuracy_against_wd
    monkeypatch.setattr(figures, "accuracy_against_wd", lambda c: drawn.append(c) or draw(c))
    found = tune_stage1("studies", 3)
    assert [trial["pruned"] for trial in found["trials"]] == [False, True, False]
    stopped = from_dict(found["settings"] | found["trials"][1]["params"])
    run = part(Path("studies"), stopped)
    assert [row["epoch"] for row in run.metrics()] == [1]
    assert found["trials"][1]["accuracy"] == run.metrics()[0]["val_accuracy"]["all"]
    assert not run.finished
    assert not (run.path / "checkpoint.pt").exists()
    ends = [found["trials"][i] for i in (0, 2)]
    assert drawn[0][0][1] == sorted((end["params"]["wd"], end["accuracy"]) for end in ends)


def test_the_last_epoch_is_not_pruned(monkeypatch):
    asked = []
    monkeypatch.setattr(optuna.Trial, "should_prune", lambda trial: bool(asked.append(0)))
    tune_stage1("studies", 1)
    assert len(asked) == 1, "of two epochs"


@pytest.mark.parametrize("loss", ["ce", "cb-bce"])
def test_a_stage1_training_that_diverges_is_not_the_end_of_the_search(loss):
    space = WDS | {"lr": CategoricalDistribution((0.01, 1e30))}
    found = tune_stage1("studies", 5, space, loss=loss)
    diverged = [trial["params"]["lr"] == 1e30 for trial in found["trials"]]
    assert 0 < sum(diverged) < 5, "this seed has both"
    assert [trial["pruned"] for trial in found["trials"]] == diverged
    assert [trial["accuracy"] is None for trial in found["trials"]] == diverged
    assert found["best"]["params"]["lr"] == 0.01


def test_where_every_training_diverges_it_says_so(wbcli):
    command = ("tune", "stage1", "digitslt", *VALIDATION, *SHORT, "--trials", 2)
    result = wbcli(*command, "--lr", "1e30", "-q")
    assert (result.code, result.out) == (1, "")
    assert result.err == "Error: every trial diverged: narrow the search with --range\n"


def test_where_every_head_diverges_it_says_so(wbcli, runs_dir):
    command = ("tune", "stage2", "first", "--trials", 2, "--maxnorm", "none", "--lr", "1e30")
    result = wbcli(*command, *SHORT, "-q")
    assert (result.code, result.out) == (1, "")
    assert result.err == "Error: every trial diverged: narrow the search with --range\n"


def test_a_stage1_search_that_was_interrupted_goes_on_within_the_training():
    whole = tune_stage1("whole", 3)
    seen = []

    def interrupt(trial, row):
        seen.append((trial.number, row["epoch"]))
        if seen == [(0, 1), (0, 2), (1, 1)]:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tune_stage1("stopped", 3, on_epoch=interrupt)
    stopped = tune_stage1("stopped", 3, on_epoch=interrupt)
    assert seen[3:] == [(2, 2), (3, 1), (3, 2)], "trial 2 is trial 1 again, from its second epoch"
    assert stopped["trials"] == whole["trials"]
    assert stopped["best"] == whole["best"]


def test_a_disk_that_fills_up_ends_a_search_in_a_sentence(wbcli, monkeypatch):
    def full(*args, **options):
        raise OperationalError("INSERT", {}, sqlite3.OperationalError("database or disk is full"))

    monkeypatch.setattr(optuna.Study, "tell", full)
    short = ("--val-per-class", "2", "--trials", "1", "--epochs", "1", "--batch-size", "64")
    result = wbcli("tune", "stage1", "digitslt", *short)
    assert (result.code, result.out) == (1, "")
    last = result.err.splitlines()[-1]
    assert "disk is full, while writing the search runs/studies/tune-stage1-digitslt-" in last


def test_a_search_is_done_by_one_process(wbcli, monkeypatch):
    def busy(*args, **options):
        again = subprocess.run(
            [sys.executable, "-m", "wbcli", *command], capture_output=True, text=True
        )
        assert (again.returncode, again.stdout) == (1, "")
        assert f"is in use by process {os.getpid()} on " in again.stderr.splitlines()[-1]
        raise KeyboardInterrupt

    monkeypatch.setattr(optuna.Study, "tell", busy)
    short = ("--val-per-class", "2", "--trials", "1", "--epochs", "1", "--batch-size", "64")
    command = ["tune", "stage1", "digitslt", *short]
    assert wbcli(*command).code == 130
