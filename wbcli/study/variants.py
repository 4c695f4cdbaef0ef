"""Stage 1 under one constraint after another: accuracy against λ, row norms, rows in a plane.

Legend: K classes.
"""

from pathlib import Path
from typing import Any

import numpy as np

from wbcli.balance.radius import relative_radius
from wbcli.device import prepare
from wbcli.models import networks
from wbcli.report import figures
from wbcli.runs.run import Run
from wbcli.study.tables import GROUPS, mean_and_std
from wbcli.training.lab import Lab, last_epoch

SWEEP = (0.0, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2)
MAX_FRAMES = 40  # of the animation, after its first
T = 0.1  # of MaxNorm in stage 1: its radius lies between the rows of the network without it


def sweep(lab: Lab, seeds: list[int], folder: Path) -> dict[str, Any]:
    """Accuracy of stage 1 against λ. Source: the paper's figure 4."""
    rows = [
        _row(f"wd {wd:g}", [lab.stage1(seed, f"seed {seed}: wd {wd:g}", wd=wd) for seed in seeds])
        for wd in SWEEP
    ]
    curve = [(row["settings"]["wd"], row["ours"]["all"]["mean"]) for row in rows]
    label = f"{lab.options['dataset']}, test images"
    figures.save(figures.accuracy_against_wd([(label, curve)]), folder, "wd_sweep")
    return {"rows": rows}


def norms(lab: Lab, seeds: list[int], folder: Path, class_counts: list[int]) -> dict[str, Any]:
    """Row norms over the epochs, of the first seed. Source: the paper's figure 2."""
    variants = _train(lab, seeds)
    variants["WD + MaxNorm"] = [_bounded(lab, run, "WD + MaxNorm") for run in variants["WD"]]
    panels = [
        (name, [row["row_norms"] for row in runs[0].metrics()]) for name, runs in variants.items()
    ]
    figures.save(figures.norm_heat_maps(panels, class_counts), folder, "norms")
    return {"rows": [_row(name, runs) for name, runs in variants.items()]}


def weights_2d(lab: Lab, seeds: list[int], folder: Path, class_counts: list[int]) -> dict[str, Any]:
    """Classifier rows behind a 2-dimensional layer, of the first seed: four moments, and a GIF.

    Source: the paper's figure 7.
    """
    variants = _train(lab, seeds, bottleneck=2)
    frames = [(name, _weights_by_epoch(lab, runs[0])) for name, runs in variants.items()]
    last = len(frames[0][1]) - 1
    quarters = (0, round(last / 4), round(last / 2), last)
    moments = [(name, [weights[i] for i in quarters]) for name, weights in frames]
    figures.save(figures.weights_2d(moments, class_counts), folder, "weights2d")
    shown = sorted({round(last * i / MAX_FRAMES) for i in range(MAX_FRAMES + 1)})
    film = [(name, [weights[i] for i in shown]) for name, weights in frames]
    figures.animate_weights_2d(folder / "weights2d.gif", film, class_counts)
    return {"rows": [_row(name, runs) for name, runs in variants.items()]}


def _train(lab: Lab, seeds: list[int], **options: Any) -> dict[str, list[Run]]:
    """Naive, L2-constrained, with weight decay and with MaxNorm: the runs by seed.

    The two constraints come without weight decay.
    """
    naive = [lab.stage1(seed, f"seed {seed}: naive", wd=0.0, **options) for seed in seeds]
    unit = {"wd": 0.0, "unit_norm": True, "project": lab.options.get("project")}
    return {
        "naive": naive,
        "L2-norm": [lab.stage1(s, f"seed {s}: L2-norm", **unit, **options) for s in seeds],
        "WD": [lab.stage1(seed, f"seed {seed}: WD", **options) for seed in seeds],
        "MaxNorm": [_bounded(lab, run, "MaxNorm", **options) for run in naive],
    }


def _bounded(lab: Lab, free: Run, name: str, **options: Any) -> Run:
    """The same training under MaxNorm, with δ = min + T·(max − min) of the rows of `free`."""
    settings = free.config()
    radius = relative_radius(free.load_weights()["classifier.weight"], T)
    own = {"wd": settings.wd, "radius": radius, "project": lab.options.get("project")}
    return lab.stage1(settings.seed, f"seed {settings.seed}: {name}", **own, **options)


def _row(name: str, runs: list[Run]) -> dict[str, Any]:
    """A row as of `tables.run_table`, without a figure of the paper; its `settings` have a radius
    for each seed where the seeds have other ones.
    """
    last = [last_epoch(run) for run in runs]
    clipped = [None if e["clipped_fraction"] is None else 100 * e["clipped_fraction"] for e in last]
    radii = [run.config().radius for run in runs]
    return {
        "name": name,
        "layers": 0,
        "paper": None,
        "ours": {g: mean_and_std([epoch["accuracy"][g] for epoch in last]) for g in GROUPS},
        "clipped": mean_and_std(clipped),
        "settings": {
            "wd": runs[0].config().wd,
            "radius": radii if len(set(radii)) > 1 else radii[0],
        },
    }


def _weights_by_epoch(lab: Lab, run: Run) -> list[tuple[str, np.ndarray]]:
    """Classifier rows [K, 2]: as they were initialised, and after each epoch."""
    config = run.config()
    prepare(lab.device, config.precision, config.seed, config.deterministic)
    start = (
        networks.for_run(config, lab.dataset(config).num_classes).classifier.weight.detach().numpy()
    )
    return [("start", start)] + [
        (f"epoch {row['epoch']}", np.array(row["weight"])) for row in run.metrics()
    ]
