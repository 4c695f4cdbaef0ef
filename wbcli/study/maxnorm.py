"""Where MaxNorm binds: stage 2 by three losses, with weight decay, with MaxNorm, and with both."""

from typing import Any

from wbcli.study import presets
from wbcli.study.presets import Budget, Known
from wbcli.study.rows import Row
from wbcli.study.tables import run_table
from wbcli.training.lab import Lab

HELD = ("", " + WD", " + MaxNorm", " + WD + MaxNorm")
LOSSES = ("CE", "CB", "LA")
EPOCHS = {"digitslt": 100}  # of stage 2: the ten of the recipe are 50 steps there
AGAINST = tuple(f"WD, then {loss}" for loss in LOSSES)

VALUES: dict[str, Known] = {
    "digitslt": Known(
        {
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
            ("WD, then LA post hoc", 0): {"tau": 1.24},
            ("WD, then CE", 1): {"lr": 0.0829},
            ("WD, then CE + WD", 1): {"lr": 0.085, "wd": 1.49e-05},
            ("WD, then CE + MaxNorm", 1): {"lr": 0.0993, "maxnorm": 0.933},
            ("WD, then CE + WD + MaxNorm", 1): {"lr": 0.0872, "wd": 1.44e-05, "maxnorm": 0.958},
            ("WD, then CB", 1): {"lr": 0.0242},
            ("WD, then CB + WD", 1): {"lr": 0.025, "wd": 5.19e-05},
            ("WD, then CB + MaxNorm", 1): {"lr": 0.0558, "maxnorm": 0.969},
            ("WD, then CB + WD + MaxNorm", 1): {"lr": 0.0283, "wd": 2.93e-05, "maxnorm": 0.374},
            ("WD, then LA", 1): {"lr": 0.0399},
            ("WD, then LA + WD", 1): {"lr": 0.0846, "wd": 0.000826},
            ("WD, then LA + MaxNorm", 1): {"lr": 0.0669, "maxnorm": 0.935},
            ("WD, then LA + WD + MaxNorm", 1): {"lr": 0.0656, "wd": 8.34e-05, "maxnorm": 0.906},
        },
        "64 trials a row on 5,000 images of a JPEG copy, held out of training, one seed of "
        "resnet20, 24 epochs, lr 0.1, λ 5e-4",
    ),
}


def rows_of(dataset: str) -> list[Row]:
    """The rows of the table, without the paper's."""
    epochs = EPOCHS.get(dataset)
    after = [loss + held for loss in LOSSES for held in HELD]
    return [Row(True), Row(True, "LA post hoc"), *[Row(True, name, 1, epochs) for name in after]]


def known(dataset: str, budget: Budget | None) -> Known:
    """The values of the rows; none where a search finds them.

    Raises:
        ValueError: no values for this data set, and no search.
    """
    if not budget and dataset not in VALUES:
        raise ValueError(
            f"{dataset}: maxnorm has values for {' and '.join(VALUES)} only: find some with "
            "--search N"
        )
    return VALUES.get(dataset, Known({}, ""))


def compare(lab: Lab, seeds: list[int], budget: Budget | None) -> dict[str, Any]:
    """Each loss alone, with λ₂, with MaxNorm, with both; logit adjustment post hoc beside them.

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
