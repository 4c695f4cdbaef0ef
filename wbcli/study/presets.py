"""What each row of the paper's tables trains with, by data set, and where the values come from.

`wbcli reproduce ablation --search N` prints values for any data set, found with the same number
of trials for every row.
"""

from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean
from typing import NamedTuple

from wbcli.config.settings import Config
from wbcli.runs.run import Run
from wbcli.study.rows import POST_HOC, Preset, Row
from wbcli.training import heads
from wbcli.training.lab import Lab, last_epoch
from wbcli.words import counted

ROUND = 8  # candidates of a search that train together

_RELEASED: Preset = {"loss": "cb-bce", "lr": 0.01}

ORIGINS = {
    "cifar100lt": "tau: the paper; rows with CB: the released code's lr, λ and t; rows with CE: "
    "our choice, not searched on this data set",
    "digitslt": "32 trials a row on validation images, mean of 3 seeds, at the defaults of this "
    "data set",
    "fashionmnistlt": "32 trials a row on validation images, mean of 2 seeds, at the defaults of "
    "this data set (tau of naive: one seed); 2 and 5 layers: not searched, the values of one layer",
}
ELSEWHERE = "those of fashionmnistlt, not searched on this data set (--search N does it)"

PRESETS: dict[str, dict[tuple[str, int], Preset]] = {  # by row and layers
    "digitslt": {
        ("naive, then tau-norm", 0): {"tau": 0.29},
        ("WD, then tau-norm", 0): {"tau": 2.13},
        ("WD, then CE + L2-norm", 1): {"lr": 0.00105},
        ("WD, then CE + WD", 1): {"lr": 0.0228, "wd": 0.0871},
        ("WD, then CE + MaxNorm", 1): {"lr": 0.00292, "maxnorm": 0.0114},
        ("WD, then CE + MaxNorm + default WD", 1): {"lr": 0.00292, "maxnorm": 0.0114},
        ("WD, then CE + MaxNorm + WD", 1): {"lr": 0.00179, "wd": 0.00015, "maxnorm": 0.00165},
        ("WD, then CB", 1): {"lr": 0.0986},
        ("WD, then CB + L2-norm", 1): {"lr": 0.00105},
        ("WD, then CB + WD", 1): {"lr": 0.0971, "wd": 0.0565},
        ("WD, then CB + MaxNorm", 1): {"lr": 0.00292, "maxnorm": 0.0114},
        ("WD, then CB + MaxNorm + default WD", 1): {"lr": 0.00292, "maxnorm": 0.0114},
        ("WD, then CB + WD + MaxNorm", 1): {"lr": 0.036, "wd": 0.224, "maxnorm": 0.979},
        ("WD, then CE + WD + MaxNorm", 2): {"lr": 0.00232, "wd": 0.000662, "maxnorm": 0.0893},
        ("WD, then CB + WD + MaxNorm", 2): {"lr": 0.00573, "wd": 8.99e-05, "maxnorm": 0.0274},
        ("WD, then CE + WD + MaxNorm", 5): {"lr": 0.00182, "wd": 2.23e-05, "maxnorm": 0.00297},
        ("WD, then CB + WD + MaxNorm", 5): {"lr": 0.0115, "wd": 0.000146, "maxnorm": 0.0114},
    },
    "fashionmnistlt": {
        ("naive, then tau-norm", 0): {"tau": 0.871},
        ("WD, then tau-norm", 0): {"tau": 0.677},
        ("WD, then CE + L2-norm", 1): {"lr": 0.0317},
        ("WD, then CE + WD", 1): {"lr": 0.0761, "wd": 3.74e-05},
        ("WD, then CE + MaxNorm", 1): {"lr": 0.0558, "maxnorm": 0.969},
        ("WD, then CE + MaxNorm + default WD", 1): {"lr": 0.0971, "maxnorm": 0.879},
        ("WD, then CE + MaxNorm + WD", 1): {"lr": 0.0293, "wd": 3.65e-05, "maxnorm": 0.994},
        ("WD, then CB", 1): {"lr": 0.0351},
        ("WD, then CB + L2-norm", 1): {"lr": 0.00443},
        ("WD, then CB + WD", 1): {"lr": 0.0174, "wd": 0.00135},
        ("WD, then CB + MaxNorm", 1): {"lr": 0.0383, "maxnorm": 0.529},
        ("WD, then CB + MaxNorm + default WD", 1): {"lr": 0.0558, "maxnorm": 0.969},
        ("WD, then CB + WD + MaxNorm", 1): {"lr": 0.0286, "wd": 0.000336, "maxnorm": 0.889},
    },
    "cifar100lt": {
        ("naive, then tau-norm", 0): {"tau": 1.0},
        ("WD, then tau-norm", 0): {"tau": 1.9},
        ("WD, then CE + L2-norm", 1): {"lr": 0.01},
        ("WD, then CE + WD", 1): {"lr": 0.01, "wd": 0.01},
        ("WD, then CE + MaxNorm", 1): {"lr": 0.01, "maxnorm": 0.1},
        ("WD, then CE + MaxNorm + default WD", 1): {"lr": 0.01, "maxnorm": 0.1},
        ("WD, then CE + MaxNorm + WD", 1): {"lr": 0.01, "wd": 0.01, "maxnorm": 0.1},
        ("WD, then CB", 1): _RELEASED,
        ("WD, then CB + L2-norm", 1): _RELEASED,
        ("WD, then CB + WD", 1): _RELEASED | {"wd": 0.1},
        ("WD, then CB + MaxNorm", 1): _RELEASED | {"maxnorm": 0.1},
        ("WD, then CB + MaxNorm + default WD", 1): _RELEASED | {"maxnorm": 0.1},
        ("WD, then CB + WD + MaxNorm", 1): _RELEASED | {"wd": 0.1, "maxnorm": 0.1},
    },
}


class Known(NamedTuple):
    """Values by row and number of layers, and where they come from."""

    table: dict[tuple[str, int], Preset]
    origin: str


@dataclass(frozen=True)
class Budget:
    """An equal search for every row: so many trials, on so many validation images of a class.

    val_per_class: None where the data set has validation images of its own.
    layers: rows of more layers are not searched, and take the values of one layer.
    """

    trials: int
    val_per_class: int | None
    layers: int


def of_ablation(dataset: str) -> Known:
    """The values of the paper's rows."""
    table = PRESETS.get(dataset, PRESETS["fashionmnistlt"])
    return Known(table, ORIGINS.get(dataset, ELSEWHERE))


def values(
    lab: Lab, rows: list[Row], seeds: list[int], budget: Budget | None, known: Known | None = None
) -> tuple[Callable[[Row], Preset], str]:
    """What a row trains with, and where that comes from: `known`, or a search here.

    Args:
        known: values by row; None: those of the paper's rows.
    """
    table, origin = known or of_ablation(lab.options["dataset"])
    if budget:
        table = {
            (row.name, row.layers): _search(lab, row, seeds, budget)
            for row in rows
            if row.searched() and row.layers <= budget.layers
        }
        over = "one seed" if len(seeds) == 1 else f"mean of {len(seeds)} seeds"
        origin = f"{counted(budget.trials, 'trial')} a row on validation images, {over}"

    def values_of(row: Row) -> Preset:
        if (row.name, row.layers) in table or not row.searched():
            return table.get((row.name, row.layers), {})
        for one in rows:  # the paper names the same parts in another order there
            if one.layers == 1 and one.parts() == row.parts() and (one.name, 1) in table:
                return table[one.name, 1]
        dataset = lab.options["dataset"]
        raise ValueError(f"{dataset}: no values for {row.title}: find some with --search N")

    return values_of, origin


def _search(lab: Lab, row: Row, seeds: list[int], budget: Budget) -> Preset:
    """The best of the trials on validation images, mean over the seeds."""
    from wbcli.tune import search, tune

    own = {"val_per_class": budget.val_per_class} | ({} if row.tuned else {"wd": 0.0})
    first = f"for the search: {'WD' if row.tuned else 'naive'}"
    parents = [lab.stage1(seed, f"seed {seed}, {first}", **own) for seed in seeds]
    if row.searched() == ("tau",):
        taus = tune.tau_grid(budget.trials)
        accuracies = _accuracies_of_taus(lab, POST_HOC[row.after], parents, taus)
        return {"tau": taus[tune.middle_best(accuracies)]}
    options = row.stage2_options({"lr": 0.01, "wd": 0.0, "maxnorm": 0.1}, parents[0].config().wd)
    bases = [lab.stage2_settings(parent, **options) for parent in parents]

    def evaluate(asked: list) -> list[float]:
        candidates = [trial.params for trial in asked]
        each = _train_heads if heads.can_share(bases[0]) else _train_runs
        by_seed = [
            each(lab, row, parent, base, candidates)
            for parent, base in zip(parents, bases, strict=True)
        ]
        return [fmean(values) for values in zip(*by_seed, strict=True)]

    space = search.make_space("stage2", list(row.searched()), {})
    how = search.How(budget.trials, ROUND, "tpe", "val")
    label = f"{parents[0].config().dataset}-{row.layers}-{row.after.replace(' ', '')}"
    origin = {"seeds": [parent.name for parent in parents]}
    found = search.run_search(bases[0], label, space, how, lab.studies, evaluate, origin)
    return found["best"]["params"]


def _train_heads(
    lab: Lab, row: Row, parent: Run, base: Config, candidates: list[Preset]
) -> list[float]:
    network, splits = lab.frozen(parent, base)
    counts = lab.dataset(base).class_counts
    return heads.evaluate_candidates(
        network.classifier, splits["train"], splits["val"], base, counts, candidates
    )


def _train_runs(
    lab: Lab, row: Row, parent: Run, base: Config, candidates: list[Preset]
) -> list[float]:
    """Where heads cannot share their batches: a run for each candidate."""
    accuracies = []
    for number, values in enumerate(candidates, start=1):
        label = f"search: {row.title}, {number} of {len(candidates)}"
        options = row.stage2_options(values, parent.config().wd)
        try:
            run = lab.stage2(parent, label, **options)
            accuracies.append(last_epoch(run, "val_accuracy")["val_accuracy"]["all"])
        except ArithmeticError:  # its loss diverged; heads count as 0 then, too
            accuracies.append(0.0)
    return accuracies


def _accuracies_of_taus(
    lab: Lab, method: str, parents: list[Run], taus: list[float]
) -> list[float]:
    by_seed = []
    for parent in parents:
        settings = lab.stage2_settings(parent)
        network, splits = lab.frozen(parent, settings)
        counts = lab.dataset(settings).class_counts
        scored = heads.evaluate_adjusted(method, network.classifier, counts, splits["val"], taus)
        by_seed.append(scored)
    return [fmean(values) for values in zip(*by_seed, strict=True)]
