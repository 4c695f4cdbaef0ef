"""Where MaxNorm binds: stage 2 by three losses, with weight decay, with MaxNorm, and with both.

Beside them what trains nothing: rows divided by ‖w_k‖^τ, rows cut to δ, logit adjustment.
"""

from typing import Any

from wbcli.study import presets
from wbcli.study.presets import Budget, Known
from wbcli.study.rows import CUT, Row
from wbcli.study.tables import run_table
from wbcli.training.lab import Lab

HELD = ("", " + WD", " + MaxNorm", " + WD + MaxNorm")
LOSSES = ("CE", "CB", "LA")
UNTRAINED = (Row(True, "tau-norm"), Row(True, CUT, 1, 1), Row(True, "LA post hoc"))
EPOCHS = {"digitslt": 100}  # of stage 2: the ten of the recipe are 50 steps there
AGAINST = tuple(f"WD, then {other}" for other in (*LOSSES, CUT))

VALUES: dict[str, Known] = {
    "digitslt": Known(
        {
            ("WD, then tau-norm", 0): {"tau": 1.24},
            ("WD, then MaxNorm post hoc", 1): {"maxnorm": 0.0114},
            ("WD, then LA post hoc", 0): {"tau": 0.952},
            ("WD, then CE", 1): {"lr": 0.0269},
            ("WD, then CE + WD", 1): {"lr": 0.0637, "wd": 0.00015},
            ("WD, then CE + MaxNorm", 1): {"lr": 0.00101, "maxnorm": 0.0914},
            ("WD, then CE + WD + MaxNorm", 1): {"lr": 0.00108, "wd": 0.00291, "maxnorm": 0.134},
            ("WD, then CB", 1): {"lr": 0.0991},
            ("WD, then CB + WD", 1): {"lr": 0.0857, "wd": 0.0687},
            ("WD, then CB + MaxNorm", 1): {"lr": 0.00122, "maxnorm": 0.0329},
            ("WD, then CB + WD + MaxNorm", 1): {"lr": 0.0125, "wd": 0.0377, "maxnorm": 0.603},
            ("WD, then LA", 1): {"lr": 0.0908},
            ("WD, then LA + WD", 1): {"lr": 0.0614, "wd": 0.0121},
            ("WD, then LA + MaxNorm", 1): {"lr": 0.0398, "maxnorm": 0.0431},
            ("WD, then LA + WD + MaxNorm", 1): {"lr": 0.0435, "wd": 0.000427, "maxnorm": 0.0567},
        },
        "64 trials a row on validation images, mean of 10 seeds, at the defaults of this data set",
    ),
    "cifar10lt": Known(
        {
            ("WD, then tau-norm", 0): {"tau": 0.143},
            ("WD, then MaxNorm post hoc", 1): {"maxnorm": 0.0327},
            ("WD, then LA post hoc", 0): {"tau": 1.19},
            ("WD, then CE", 1): {"lr": 0.0995},
            ("WD, then CE + WD", 1): {"lr": 0.0972, "wd": 1.34e-05},
            ("WD, then CE + MaxNorm", 1): {"lr": 0.0991, "maxnorm": 0.966},
            ("WD, then CE + WD + MaxNorm", 1): {"lr": 0.0992, "wd": 1.68e-05, "maxnorm": 0.96},
            ("WD, then CB", 1): {"lr": 0.0363},
            ("WD, then CB + WD", 1): {"lr": 0.0458, "wd": 9.29e-05},
            ("WD, then CB + MaxNorm", 1): {"lr": 0.0454, "maxnorm": 0.0423},
            ("WD, then CB + WD + MaxNorm", 1): {"lr": 0.0425, "wd": 3.77e-05, "maxnorm": 0.0128},
            ("WD, then LA", 1): {"lr": 0.0125},
            ("WD, then LA + WD", 1): {"lr": 0.0158, "wd": 0.000575},
            ("WD, then LA + MaxNorm", 1): {"lr": 0.085, "maxnorm": 0.0344},
            ("WD, then LA + WD + MaxNorm", 1): {"lr": 0.086, "wd": 0.000581, "maxnorm": 0.0341},
        },
        "64 trials a row on validation images, one seed, resnet20, 24 epochs, lr 0.1, λ 5e-4",
    ),
}


def rows_of(dataset: str) -> list[Row]:
    """The rows of the table, without the paper's."""
    epochs = EPOCHS.get(dataset)
    after = [loss + held for loss in LOSSES for held in HELD]
    return [Row(True), *UNTRAINED, *[Row(True, name, 1, epochs) for name in after]]


def known(dataset: str, budget: Budget | None) -> Known:
    """The values of the rows; none where a search finds them.

    Raises:
        ValueError: no values for this data set, and no search.
    """
    if not budget and dataset not in VALUES:
        raise ValueError(
            f"{dataset}: maxnorm has values for {' and '.join(VALUES)} only: find some with "
            "--search N and --val-per-class N"
        )
    return VALUES.get(dataset, Known({}, ""))


def compare(lab: Lab, seeds: list[int], budget: Budget | None) -> dict[str, Any]:
    """Each loss alone, with λ₂, with MaxNorm, with both; what trains nothing beside them.

    Returns:
        `rows` as of `tables.run_table`, paired with AGAINST, and where their `values` are from.
    """
    dataset = lab.options["dataset"]
    rows = rows_of(dataset)
    values, origin = presets.values(lab, rows, seeds, budget, known(dataset, budget))
    if dataset in EPOCHS:
        origin += f"; stage 2 trains {EPOCHS[dataset]} epochs"
    without_paper = [(row, None) for row in rows]
    return {"values": origin, "rows": run_table(lab, without_paper, seeds, values, AGAINST)}
