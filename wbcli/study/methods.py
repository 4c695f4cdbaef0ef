"""Every method under one harness: the same seeds and recipe, weight balancing's stage 2 on top."""

from typing import Any

from wbcli.config.methods import METHODS
from wbcli.runs.run import Run
from wbcli.study.tables import GROUPS, mean_and_std, paired
from wbcli.training.lab import Lab, last_epoch

BASE = "ce"  # what the methods of stage 2, and those without training, follow
NO_CLASSIFIER = ("ssp",)  # methods whose runs predict no classes
ON_OTHERS = {"tde": "deconfound"}  # what needs another stage 1 than BASE


def compare(lab: Lab, seeds: list[int]) -> dict[str, Any]:
    """Every method of stage 1, each with `wb` on top; every other on the run of `ce`.

    Returns:
        `rows`: for each `name`, `layers` and `paper` (None), `ours` (group → mean, std), and
        `against`: {"ce", "ce, then wb"} → mean and 95 % interval of the paired difference of
        accuracy over all classes (None for one seed).
    """
    trained = {name: _runs(lab, name, seeds) for name in METHODS[1] if name not in NO_CLASSIFIER}
    runs: dict[str, list[Run]] = {}
    for name, first in trained.items():
        runs[name] = first
        runs[f"{name}, then wb"] = [_second(lab, run, "wb") for run in first]
    for name in METHODS[2]:
        if name != "wb":
            runs[f"{BASE}, then {name}"] = [_second(lab, run, name) for run in trained[BASE]]
    for name in METHODS[0]:
        base = ON_OTHERS.get(name, BASE)
        label = f"{base}, then {name}"
        runs[label] = [_adjusted(lab, run, name) for run in trained[base]]
    last = {name: [last_epoch(run)["accuracy"] for run in found] for name, found in runs.items()}
    return {"rows": [_row(name, last) for name in last]}


def _runs(lab: Lab, name: str, seeds: list[int]) -> list[Run]:
    return [lab.stage1(seed, f"seed {seed}: {name}", method=name, loss=None) for seed in seeds]


def _second(lab: Lab, run: Run, name: str) -> Run:
    return lab.stage2(run, f"{run.name}, {name}", method=name)


def _adjusted(lab: Lab, run: Run, name: str) -> Run:
    return lab.normalize(run, f"{run.name}, {name}", method=name)


def _row(name: str, last: dict[str, list[dict]]) -> dict[str, Any]:
    return {
        "name": name,
        "layers": None,
        "paper": None,
        "ours": {group: mean_and_std([row[group] for row in last[name]]) for group in GROUPS},
        "against": {o: paired(last[name], last[o]) for o in (BASE, f"{BASE}, then wb")},
    }
