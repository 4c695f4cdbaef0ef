"""Where MaxNorm binds: stage 2 by two losses, with weight decay, with MaxNorm, and with both."""

from typing import Any

from wbcli.study import presets
from wbcli.study.presets import Budget, Known
from wbcli.study.rows import Row
from wbcli.study.tables import run_table
from wbcli.training.lab import Lab

HELD = ("", " + WD", " + MaxNorm", " + WD + MaxNorm")
ROWS = (
    Row(True),
    Row(True, "LA post hoc"),
    *(Row(True, loss + held, 1) for loss in ("CE", "CB", "LA") for held in HELD),
)
AGAINST = ("WD, then CB", "WD, then LA", "WD, then LA post hoc")

VALUES: dict[str, Known] = {}


def compare(lab: Lab, seeds: list[int], budget: Budget | None) -> dict[str, Any]:
    """Each loss alone, with λ₂, with MaxNorm, with both; logit adjustment post hoc beside them.

    Returns:
        `rows` as of `tables.run_table`, paired with AGAINST, and where their `values` are from.
    """
    known = VALUES.get(lab.options["dataset"], Known({}, ""))
    values, origin = presets.values(lab, list(ROWS), seeds, budget, known)
    rows = [(row, None) for row in ROWS]
    return {"values": origin, "rows": run_table(lab, rows, seeds, values, AGAINST)}
