"""The figures of the paper and a few more: plain data in, a matplotlib Figure out.

A Model is what `wbcli eval --json` prints of a run. Classes are sorted by training images,
most first. `save` writes a figure as PNG and SVG.

Legend: K classes, E epochs.
"""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

from wbcli.report.canvas import (
    GREY,
    MAX_NAMES,
    Model,
    add_legend,
    draw_ranked,
    label_classes,
    marked_pen,
    new_figure,
    pen,
    plain,
    ranked,
    save,
    start_at_zero,
    styled,
)
from wbcli.report.layer_norms import filter_norms, norm_heat_maps
from wbcli.report.weights_2d import animate_weights_2d, weights_2d

__all__ = [
    "Model",
    "accuracy_against_wd",
    "animate_weights_2d",
    "class_frequencies",
    "confusion",
    "filter_norms",
    "learning_curves",
    "marginal_likelihood",
    "norm_heat_maps",
    "per_class_accuracy",
    "reliability",
    "row_norms",
    "save",
    "weights_2d",
]
GROUPS = ("all", "many", "medium", "few")
LIGHT_INK, DARK_INK = "#fafafa", "#111111"  # not white and black: a page replaces those two


@styled
def per_class_accuracy(models: list[Model]) -> Figure:
    """Accuracy of every class, a line for each model, over the class frequencies (grey)."""
    figure = new_figure()
    axes = figure.add_subplot()
    behind = axes.twinx()
    counts = ranked(models[0], "train_images")
    corners = np.flatnonzero((np.diff(counts, prepend=0) != 0) | (np.diff(counts, append=0) != 0))
    behind.fill_between(corners + 1, counts[corners], 0.5, color=GREY, alpha=0.25, lw=0)
    behind.set_yscale("log")
    behind.set_ylim(bottom=0.9)
    behind.spines["left"].set_visible(False)
    behind.spines["right"].set_visible(True)
    behind.set_ylabel("training images (grey)")
    axes.set_zorder(behind.get_zorder() + 1)
    axes.patch.set_visible(False)
    for index, model in enumerate(models):
        draw_ranked(axes, ranked(model, "accuracy"), index, plain(model["run"]))
    axes.set_ylim(0, 103)
    axes.set_ylabel(f"accuracy on the {models[0]['split']} set, %")
    label_classes(axes, models)
    add_legend(figure, axes)
    return figure


@styled
def row_norms(models: list[Model]) -> Figure:
    """‖w_k‖₂ of every row of the classifier."""
    figure, axes = _by_class(models, "row_norm", "norm of the classifier row")
    add_legend(figure, axes)
    return figure


@styled
def marginal_likelihood(models: list[Model]) -> Figure:
    """Mean predicted probability of every class over the test set; ideally 1/K each."""
    figure, axes = _by_class(models, "marginal_likelihood", "marginal likelihood")
    ideal = 1 / len(models[0]["per_class"])
    axes.axhline(ideal, color=GREY, linewidth=1, label=f"ideal, 1/K = {ideal:.3g}")
    add_legend(figure, axes)
    return figure


@styled
def class_frequencies(models: list[Model]) -> Figure:
    """Training images of every class, and the limits between Many, Medium and Few."""
    figure = new_figure()
    axes = figure.add_subplot()
    seen = []
    for model in models:
        counts = ranked(model, "train_images")
        if not any(np.array_equal(counts, before) for before in seen):
            line = marked_pen(len(seen)) if len(counts) <= MAX_NAMES else pen(len(seen))
            axes.plot(np.arange(1, len(counts) + 1), counts, label=plain(model["run"]), **line)
            seen.append(counts)
    limits = models[0]["limits"]
    for limit, words in ((limits["many"], "Many above"), (limits["few"], "Few below")):
        axes.axhline(limit, color=GREY, linestyle=":", linewidth=1)
        end = {"xycoords": ("axes fraction", "data"), "ha": "right"}
        axes.annotate(f"{words} {limit}", (1, limit), (0, 2), textcoords="offset points", **end)
    axes.set_yscale("log")
    axes.set_ylabel("training images")
    label_classes(axes, models)
    axes.set_xlabel("classes, most training images first")
    if len(seen) > 1:
        add_legend(figure, axes)
    return figure


@styled
def accuracy_against_wd(
    curves: list[tuple[str, list[tuple[float, float]]]], best: bool = True
) -> Figure:
    """Accuracy in per cent against λ on a log axis; λ = 0 stands at its left end.

    Args:
        curves: (title, [(λ, accuracy)]).
        best: mark the best λ of each curve and name it in the legend.
    """
    figure = new_figure()
    axes = figure.add_subplot()
    for index, (title, points) in enumerate(curves):
        decays, accuracies = np.array(sorted(points), dtype=float).T
        label = plain(title)
        if best:
            at = np.argmax(accuracies)
            label += f": {accuracies[at]:.2f} % at λ = {decays[at]:g}"
            size = {"markersize": 11, "fillstyle": "none", "linestyle": ""}
            axes.plot(decays[at], accuracies[at], marker="o", color=pen(index)["color"], **size)
        axes.plot(decays, accuracies, label=label, **marked_pen(index))
    positive = [decay for _, points in curves for decay, _ in points if decay > 0]
    if positive:
        first = 10.0 ** np.floor(np.log10(min(positive)))  # linear between 0 and this decade
        decades = first * 10.0 ** np.arange(1 + np.ceil(np.log10(max(positive) / first)))
        axes.set_xscale("symlog", linthresh=first, linscale=0.6)
        axes.set_xticks([0, *decades], ["0", *[f"{decade:g}" for decade in decades]])
        axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("weight decay λ")
    axes.set_ylabel("accuracy, %")
    add_legend(figure, axes)
    return figure


@styled
def confusion(matrix: list[list[float]] | np.ndarray, names: list[str]) -> Figure:
    """Where the images of each class went: rows true, columns predicted, per cent of the row."""
    counts = np.array(matrix, dtype=float)
    totals = counts.sum(1, keepdims=True)
    share = np.full_like(counts, np.nan)
    np.divide(100 * counts, totals, out=share, where=totals > 0)
    size = len(names)
    figure = new_figure(height=4.2)
    axes = figure.add_subplot()
    shown = axes.imshow(share, interpolation="none", vmin=0, vmax=100)
    if size <= 12:
        for (row, column), value in np.ndenumerate(share):
            ink = DARK_INK if value > 60 else LIGHT_INK
            if value >= 0.5:
                text = {"ha": "center", "va": "center", "fontsize": 8, "color": ink}
                axes.text(column, row, f"{value:.0f}", **text)
    places = range(size) if size <= MAX_NAMES else np.linspace(0, size - 1, 10).round().astype(int)
    labels = [plain(names[place], 14) for place in places]
    axes.set_xticks(places, labels, rotation=90 if max(map(len, labels)) > 2 else 0)
    axes.set_yticks(places, labels)
    axes.set_xlabel("predicted, per cent of the row")
    axes.set_ylabel("true")
    figure.colorbar(shown, ax=axes, shrink=0.8)
    return figure


@styled
def reliability(models: list[Model]) -> Figure:
    """Accuracy against confidence in 15 bins of the top probability; ECE in the legend."""
    figure = new_figure(height=3.8)
    axes = figure.add_subplot()
    axes.plot((0, 100), (0, 100), color=GREY, linewidth=1, label="calibrated")
    for index, model in enumerate(models):
        bins = [entry for entry in model["reliability"] if entry["images"]]
        label = f"{plain(model['run'])}, ECE {model['ece']:.1f} %"
        points = [[entry[key] for entry in bins] for key in ("confidence", "accuracy")]
        axes.plot(*points, label=label, **marked_pen(index))
    axes.set(xlim=(0, 102), ylim=(-2, 102), xlabel="confidence, %", ylabel="accuracy, %")
    add_legend(figure, axes)
    return figure


@styled
def learning_curves(runs: list[tuple[str, list[dict]]], split: str = "test") -> Figure:
    """Training loss, and accuracy over all, many-, medium- and few-shot classes, by epoch.

    Args:
        split: whose accuracy: `test`, or `val` where there is no test set.
        runs: (title, rows of metrics.jsonl). Validation accuracy is a thin line of the same
            colour, where there is any.
    """
    key, of_split = {
        "test": ("accuracy", "test"),
        "val": ("val_accuracy", "validation"),
    }[split]
    figure = new_figure(height=5.2)
    grid = figure.subplot_mosaic([["loss", "loss"], ["all", "many"], ["medium", "few"]])
    for index, (title, rows) in enumerate(runs):
        epochs = [row["epoch"] for row in rows]
        losses = [row["train_loss"] for row in rows]
        line = pen(index) | {"marker": "." if len(rows) == 1 else ""}  # one point is no line
        grid["loss"].plot(epochs, losses, label=plain(title), **line)
        measured = [row for row in rows if row.get(key)]  # --eval-every
        epochs = [row["epoch"] for row in measured]
        line |= {"marker": "." if len(measured) == 1 else ""}
        for group in GROUPS if measured else ():
            grid[group].plot(epochs, _accuracies(measured, key, group), **line)
            if split == "test" and all(row.get("val_accuracy") for row in measured):
                thin = line | {"linewidth": 0.5}
                grid[group].plot(epochs, _accuracies(measured, "val_accuracy", group), **thin)
    grid["loss"].set_title("training loss")
    for group in GROUPS:
        grid[group].set_title(f"{of_split} accuracy, {group}, %")
        grid[group].set_ylim(0, 103)
    for axes in grid.values():
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))
    for place in ("medium", "few"):
        grid[place].set_xlabel("epoch")
    add_legend(figure, grid["loss"])
    return figure


def _by_class(models: list[Model], key: str, label: str) -> tuple[Figure, Axes]:
    figure = new_figure()
    axes = figure.add_subplot()
    for index, model in enumerate(models):
        draw_ranked(axes, ranked(model, key), index, plain(model["run"]))
    start_at_zero(axes)
    axes.set_ylabel(label)
    label_classes(axes, models)
    return figure, axes


def _accuracies(rows: list[dict], key: str, group: str) -> np.ndarray:
    """A group's accuracy by epoch; NaN, which draws nothing, for a group without images."""
    return np.array([row[key][group] for row in rows], dtype=float)
