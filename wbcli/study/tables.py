"""The paper's tables, rerun row by row.

A row is named as in the paper's tables: `naive`, `WD`, or `WD, then …` with what follows stage 1.

Legend: S seeds.
"""

import json
import math
import statistics
from collections.abc import Callable
from importlib.resources import files
from typing import Any

from wbcli.runs.run import Run
from wbcli.study import presets
from wbcli.study.presets import Budget
from wbcli.study.rows import POST_HOC, Preset, Row
from wbcli.training.lab import Lab, last_epoch

GROUPS = ("many", "medium", "few", "all")
IMBALANCE_FACTORS = (100, 50, 10)
T_975 = (  # quantile of Student's t with S − 1 degrees of freedom, S = 2 …
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
)


def paper_tables() -> dict[str, Any]:
    """Every figure of the paper's tables."""
    return json.loads(files("wbcli.study").joinpath("paper_tables.json").read_text())


def ablation_rows() -> list[tuple[Row, dict[str, float]]]:
    """The rows of the paper's ablation with its figures."""
    table = paper_tables()["cifar100lt_if100_ablation"]
    rows = []
    for entry in table["rows"]:
        after = entry["stage2"] and entry["stage2"].split(" (")[0].removesuffix(" post hoc")
        row = Row(entry["stage1_wd"] == "tuned", after, entry["layers"])
        rows.append((row, dict(zip(table["columns"], entry["values"], strict=True))))
    return rows


def seven_rows(table: dict[str, Any]) -> list[tuple[Row, list[float | None]]]:
    """The rows of ours in the paper's comparisons with other methods."""
    rows = []
    for name, values in table["ours"].items():
        first, _, after = name.partition(", then ")
        layers = 1 if after.startswith("CB") else 0
        rows.append((Row(first == "WD", after or None, layers), values))
    return rows


def run_row(lab: Lab, row: Row, seed: int, values: Preset, **options: Any) -> Run:
    """The run of a row: stage 1, and what follows it with these values.

    Args:
        options: options of stage 1 (the imbalance factor, validation images).
    """
    label = f"seed {seed}: {row.title}"
    if not row.tuned:
        options["wd"] = 0.0
    first = lab.stage1(seed, f"seed {seed}: {'WD' if row.tuned else 'naive'}", **options)
    if row.after is None:
        return first
    if not row.layers:
        tau = values["tau"] if row.searched() else 1.0
        return lab.normalize(first, label, method=POST_HOC[row.after], tau=tau)
    return lab.stage2(first, label, **row.stage2_options(values, first.config().wd))


def run_table(
    lab: Lab,
    rows: list[tuple[Row, dict[str, float] | None]],
    seeds: list[int],
    values_of: Callable[[Row], Preset],
    against: tuple[str, ...] = (),
    **options: Any,
) -> list[dict[str, Any]]:
    """Run every row with every seed; its figures beside the paper's.

    Args:
        against: names of rows that every row is paired with, seed by seed.

    Returns:
        For each row `name`, `layers`, `paper`, `ours` (group → `mean`, `std`), `clipped` (the
        share of rows that MaxNorm clipped in the last epoch, per cent; None without MaxNorm),
        `settings`, and where asked for `against`: name → `interval` over all classes.
    """
    values = [values_of(row) for row, _ in rows]  # what is missing is told before it trains
    runs = {}  # by seed first: the rows of a seed share the features of their networks
    for seed in seeds:
        for index, (row, _) in enumerate(rows):
            runs[index, seed] = run_row(lab, row, seed, values[index], **options)
    epochs = [[last_epoch(runs[index, seed]) for seed in seeds] for index in range(len(rows))]
    index_of = {row.name: index for index, (row, _) in enumerate(rows)}

    def less(last: list[dict], other: str) -> dict[str, float] | None:
        return paired(*([e["accuracy"] for e in side] for side in (last, epochs[index_of[other]])))

    results = []
    for (row, paper), own, last in zip(rows, values, epochs, strict=True):
        clipped = [epoch.get("clipped_fraction") for epoch in last]
        results.append(
            {
                "name": row.name,
                "layers": row.layers,
                "paper": paper,
                "ours": {g: mean_and_std([e["accuracy"][g] for e in last]) for g in GROUPS},
                "clipped": mean_and_std([None if c is None else 100 * c for c in clipped]),
                "settings": {key: own[key] for key in row.searched()},
            }
            | ({"against": {other: less(last, other) for other in against}} if against else {})
        )
    return results


def mean_and_std(values: list[float | None]) -> dict[str, float | None] | None:
    """Mean and sample standard deviation over the seeds that have a value (None for one seed)."""
    found = [value for value in values if value is not None]
    if not found:
        return None
    std = statistics.stdev(found) if len(found) > 1 else None
    return {"mean": statistics.fmean(found), "std": std}


def paired(ours: list[dict[str, float]], others: list[dict[str, float]]) -> dict[str, float] | None:
    """The `interval` of ours less others over all classes; accuracies by group, for each seed."""
    return interval([a["all"] - b["all"] for a, b in zip(ours, others, strict=True)])


def interval(differences: list[float]) -> dict[str, Any] | None:
    """Mean and 95 % interval of paired differences, by Student's t; None for one of them.

    Args:
        differences: [S].
    """
    count = len(differences)
    if count < 2:
        return None
    mean = statistics.fmean(differences)
    quantile = T_975[min(count - 2, len(T_975) - 1)]
    half = quantile * statistics.stdev(differences) / math.sqrt(count)
    return {"mean": mean, "low": mean - half, "high": mean + half}


def ablation(lab: Lab, seeds: list[int], budget: Budget | None) -> dict[str, Any]:
    """The rows of the paper's ablation. Source: table 1."""
    rows = ablation_rows()
    values, origin = presets.values(lab, [row for row, _ in rows], seeds, budget)
    return {
        "paper_dataset": "CIFAR-100-LT, IF 100",
        "values": origin,
        "rows": run_table(lab, rows, seeds, values),
    }


def imbalance(lab: Lab, seeds: list[int], budget: Budget | None) -> dict[str, Any]:
    """The paper's seven rows at three imbalance factors; rows have an `imbalance_factor`."""
    table = paper_tables()["cifar100lt_by_imbalance"]
    rows = seven_rows(table)
    values, origin = presets.values(lab, [row for row, _ in rows], seeds, budget)
    results = []
    for index, factor in enumerate(IMBALANCE_FACTORS):
        with_paper = [(row, {"all": figures[index]}) for row, figures in rows]
        results += [
            row | {"imbalance_factor": factor}
            for row in run_table(lab, with_paper, seeds, values, imbalance_factor=factor)
        ]
    published = [
        {"name": name, "imbalance_factor": factor, "paper": {"all": figure}}
        for name, figures in table["others"].items()
        for factor, figure in zip(IMBALANCE_FACTORS, figures, strict=True)
    ]
    return {
        "paper_dataset": "CIFAR-100-LT",
        "values": origin,
        "rows": results,
        "published": published,
        "note": paper_tables()["notes"][0],
    }


def large_scale(lab: Lab, seeds: list[int], budget: Budget | None) -> dict[str, Any]:
    """The paper's seven rows; its figures are those of ImageNet-LT but for inat18."""
    table = paper_tables()["large_scale"]
    prefix = "inat18" if lab.options["dataset"] == "inat18" else "imagenetlt"
    start = table["columns"].index(f"{prefix}_many")

    def of_set(figures: list[float | None]) -> dict[str, float | None]:
        return dict(zip(GROUPS, figures[start : start + len(GROUPS)], strict=True))

    rows = [(row, of_set(figures)) for row, figures in seven_rows(table)]
    values, origin = presets.values(lab, [row for row, _ in rows], seeds, budget)
    return {
        "paper_dataset": "iNaturalist 2018" if prefix == "inat18" else "ImageNet-LT",
        "values": origin,
        "rows": run_table(lab, rows, seeds, values),
        "published": [
            {"name": name, "paper": of_set(figures)}
            for name, figures in table["others"].items()
            if any(figure is not None for figure in of_set(figures).values())
        ],
    }
