"""The report: measure runs on the test set, draw what there is to see, write one page."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import torch
from matplotlib.figure import Figure
from torch import nn

from wbcli.balance.ops import row_norms
from wbcli.evaluate.measured import evaluate_run
from wbcli.files import storage
from wbcli.report import figures
from wbcli.report.captions import WORDS, words_of
from wbcli.report.page import Picture, render
from wbcli.runs.find import all_runs, find
from wbcli.runs.run import Run

NOT_COMPARED = ("wd", "data_dir", "eval_every")  # what runs on one curve over λ may differ in


class Drawing(NamedTuple):
    """A figure with the name of its files, a heading and what to see in it."""

    name: str
    title: str
    caption: str
    figure: Figure


def write(
    chosen: list[Run],
    device: torch.device,
    folder: Path,
    *,
    precision: str,
    data_dir: Path | None = None,
    on_note: Callable[[str], None] = lambda text: None,
) -> dict:
    """Write `folder`/report.html and its figures as PNG and SVG into `folder`/figures.

    Args:
        chosen: finished runs of one data set; each is measured as `wbcli eval` does.
        on_note: told what `evaluate_run` tells, and which characters have no font.

    Returns:
        What `wbcli report --json` prints: `runs` (names), `page` and `figures` (paths).

    Raises:
        ValueError: runs of different data sets.
    """
    check_comparable(chosen)
    models = [
        evaluate_run(
            run,
            device,
            split=None,
            checkpoint=None,
            tta=None,
            precision=precision,
            data_dir=data_dir,
            confusion="groups",
            on_note=on_note,
        )
        for run in chosen
    ]
    layers = [
        (run.name, filter_norms(run, model)) for run, model in zip(chosen, models, strict=True)
    ]
    drawings = [
        *_of_results(models),
        *_of_epochs(_unique([_trained(run) for run in chosen]), models),
        Drawing("filter_norms", *WORDS["filter_norms"], figures.filter_norms(layers)),
        *_of_decays(_unique([_stage1(run) for run in chosen])),
    ]
    return _write(chosen, models, drawings, folder, on_note)


def check_comparable(chosen: list[Run]) -> None:
    """Refuse runs of different data sets: their classes are not the same."""
    first = chosen[0].config().dataset
    for run in chosen[1:]:
        if run.config().dataset != first:
            raise ValueError(
                f"runs of different data sets cannot share a report: {chosen[0].name} is of "
                f"{first}, {run.name} of {run.config().dataset}"
            )


def filter_norms(run: Run, model: figures.Model) -> list[tuple[str, list[float]]]:
    """(layer, norms of its filters) of every convolution and linear layer, input to output.

    The classifier is the last, where the lengths of its rows mean something.
    """
    names = [row["name"] for row in model["per_class"]]
    network = run.network(names, model["checkpoint"])
    layers = [
        (name, row_norms(module.weight.detach()).tolist())
        for name, module in network.backbone.named_modules()  # registered in forward order
        if isinstance(module, nn.Conv2d | nn.Linear)
    ]
    lengths = network.classifier.row_norms()
    return layers if lengths is None else [*layers, ("classifier", lengths.tolist())]


def decay_curves(stage1_runs: list[Run]) -> tuple[list[tuple[str, list[tuple[float, float]]]], str]:
    """Accuracy of the last epoch against λ, for each set of runs that differ in λ alone.

    Only runs in the folder of a given run count; of two with the same λ the newer one.

    Returns:
        Curves of at least two λ as (title, [(λ, all-class accuracy)]), and the split the
        accuracies are of: `val` where all these runs have it, else `test`.
    """
    families = {}
    for run in stage1_runs:
        settings = _all_but_wd(run)
        same = [
            other
            for other in all_runs(run.path.parent)
            if other.finished and _all_but_wd(other) == settings
        ]
        last = [(other.config().wd, (other.metrics() or [{}])[-1]) for other in same]
        rows = {wd: row for wd, row in last if row.get("accuracy")}
        if len(rows) > 1:
            families.setdefault(str(settings), (run.name, rows))
    has_val = all(row.get("val_accuracy") for _, rows in families.values() for row in rows.values())
    key = "val_accuracy" if has_val else "accuracy"
    curves = [
        (f"as {name}", [(wd, row[key]["all"]) for wd, row in sorted(rows.items())])
        for name, rows in families.values()
    ]
    return curves, "val" if has_val else "test"


def _of_results(models: list[figures.Model]) -> list[Drawing]:
    """The figures that need no more than results."""
    together = (
        figures.per_class_accuracy,
        figures.class_frequencies,
        figures.row_norms,
        figures.marginal_likelihood,
        figures.reliability,
    )
    drawings = []
    for function in together:
        shown = models
        if function is figures.row_norms:  # some classifiers have none
            shown = [m for m in models if m["per_class"][0]["row_norm"] is not None]
        if shown:
            words = words_of(function.__name__, models)
            drawings.append(Drawing(function.__name__, *words, function(shown)))
    title, caption = words_of("confusion", models)
    if len(models[0]["confusion"]["names"]) < models[0]["num_classes"]:
        caption += " Groups of classes are named by their numbers of training images."
    for number, model in enumerate(models, start=1):
        figure = figures.confusion(model["confusion"]["counts"], model["confusion"]["names"])
        name = "confusion" if len(models) == 1 else f"confusion-{number}"
        drawings.append(Drawing(name, f"{title} of {model['run']}", caption, figure))
    return drawings


def _of_epochs(trained: list[Run], models: list[figures.Model]) -> list[Drawing]:
    """What the epochs of training show; nothing where metrics.jsonl is gone or of other classes."""
    counts = [row["train_images"] for row in models[0]["per_class"]]
    rows = [(run.name, run.metrics()) for run in trained]
    rows = [
        (name, epochs)
        for name, epochs in rows
        if epochs and all(_can_be_drawn(row, len(counts)) for row in epochs)
    ]
    if not rows:
        return []
    drawn = figures.learning_curves(rows, models[0]["split"])
    curves = Drawing("learning_curves", *words_of("learning_curves", models), drawn)
    norms = [(name, [row["row_norms"] for row in epochs]) for name, epochs in rows]
    norms = [(name, epochs) for name, epochs in norms if None not in epochs]
    if not norms:
        return [curves]
    heat = figures.norm_heat_maps(norms, counts)
    return [curves, Drawing("norm_heat_maps", *WORDS["norm_heat_maps"], heat)]


def _can_be_drawn(row: dict, num_classes: int) -> bool:
    norms = row["row_norms"]
    return isinstance(row.get("train_loss"), float) and (norms is None or len(norms) == num_classes)


def _of_decays(stage1_runs: list[Run]) -> list[Drawing]:
    curves, split = decay_curves(stage1_runs)
    if not curves:
        return []
    title, caption = WORDS["accuracy_against_wd"]
    words = {
        "val": (f"{title}, on validation images", caption),
        "test": (
            f"{title}, on the test set",
            f"{caption} It was not chosen by this: there are no validation images.",
        ),
    }
    figure = figures.accuracy_against_wd(curves)
    return [Drawing("accuracy_against_wd", *words[split], figure)]


def _all_but_wd(run: Run) -> dict:
    settings = asdict(run.config())
    return {key: value for key, value in settings.items() if key not in NOT_COMPARED}


def _write(
    chosen: list[Run],
    models: list[dict],
    drawings: list[Drawing],
    folder: Path,
    on_note: Callable[[str], None],
) -> dict:
    paths, pictures, absent = [], [], set()
    for name, title, caption, figure in drawings:
        absent |= {*figures.save(figure, folder / "figures", name)}
        png, svg = (folder / "figures" / f"{name}.{kind}" for kind in ("png", "svg"))
        paths += [str(png), str(svg)]
        pictures.append(Picture(name, title, caption, svg.read_text(encoding="utf-8")))
    if absent:
        shown = " ".join(sorted(absent)[:10]) + (" …" if len(absent) > 10 else "")
        on_note(
            f"no installed font has {shown}: the figures show boxes in their place; install one "
            "that has them (for Chinese, Japanese and Korean Noto Sans CJK) and repeat the command"
        )
    page = folder / "report.html"
    with storage.replacing(page) as partial:
        text = render(models, [run.record() for run in chosen], pictures)
        partial.write_text(text, encoding="utf-8", errors="backslashreplace")
    return {"runs": [run.name for run in chosen], "page": str(page), "figures": paths}


def _unique(some: list[Run | None]) -> list[Run]:
    return list({run.path.resolve(): run for run in some if run}.values())


def _parent(run: Run) -> Run | None:
    """The run that it started from; None where that one is gone."""
    try:
        return find(run.path.parent, run.config().parent)
    except ValueError:
        return None


def _trained(run: Run) -> Run | None:
    """The run whose epochs there are to see: of a normalised one, its parent."""
    return _parent(run) if run.config().stage == "normalize" else run


def _stage1(run: Run) -> Run | None:
    return run if run.config().stage == "stage1" else _parent(run)
