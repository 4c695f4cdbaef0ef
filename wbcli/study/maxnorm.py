"""Where MaxNorm binds: stage 2 by two losses, with weight decay, with MaxNorm, and with both."""

from typing import Any

from wbcli.study import presets
from wbcli.study.presets import Budget, Known
from wbcli.study.rows import Row
from wbcli.study.tables import run_table
from wbcli.training.lab import Lab

HELD = ("", " + WD", " + MaxNorm", " + WD + MaxNorm")
LOSSES = ("CE", "CB", "LA")
EPOCHS = {"digitslt": 100}  # of stage 2: the ten of the recipe are 50 steps there
AGAINST = ("WD, then CB", "WD, then LA", "WD, then LA post hoc")

VALUES: dict[str, Known] = {}


def compare(lab: Lab, seeds: list[int], budget: Budget | None) -> dict[str, Any]:
    """Each loss alone, with λ₂, with MaxNorm, with both; logit adjustment post hoc beside them.

    Returns:
        `rows` as of `tables.run_table`, paired with AGAINST, and where their `values` are from.
    """
    dataset = lab.options["dataset"]
    epochs = EPOCHS.get(dataset)
    rows = [Row(True), Row(True, "LA post hoc")]
    rows += [Row(True, loss + held, 1, epochs) for loss in LOSSES for held in HELD]
    known = VALUES.get(dataset, Known({}, ""))
    values, origin = presets.values(lab, rows, seeds, budget, known)
    without_paper = [(row, None) for row in rows]
    return {"values": origin, "rows": run_table(lab, without_paper, seeds, values, AGAINST)}
