"""Figures of the norms in a network, layer by layer."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from wbcli.report.canvas import (
    COLOURS,
    MAX_CLASSES,
    SIZE,
    add_legend,
    by_count,
    new_figure,
    pen,
    plain,
    start_at_zero,
    styled,
)

POINTS_PER_LAYER = 40


@styled
def norm_heat_maps(
    panels: list[tuple[str, list[list[float]]]], class_counts: list[int] | np.ndarray
) -> Figure:
    """Row norms by class and epoch, a panel for each (title, norms [E][K]), one colour scale."""
    order = by_count(class_counts)
    images = [np.array(norms)[:, order].T for _, norms in panels]  # [K, E]
    top = max(image.max() for image in images)
    figure = new_figure(max(SIZE[0], 1.1 + 2 * len(panels)))
    all_axes = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for axes, (title, _), image in zip(all_axes, panels, images, strict=True):
        epochs, classes = image.shape[1], image.shape[0]
        if classes > MAX_CLASSES:
            parts = np.array_split(image, MAX_CLASSES)
            image = np.array([part.mean(0) for part in parts])
        shown = axes.imshow(
            image,
            aspect="auto",
            interpolation="none",
            extent=(0.5, epochs + 0.5, classes + 0.5, 0.5),
            vmin=0,
            vmax=top,
        )
        axes.set_title(plain(title, 24))
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True, min_n_ticks=1))
    all_axes[0].yaxis.set_major_locator(MaxNLocator(integer=True))
    all_axes[0].set_ylabel("classes, most images at the top")
    figure.colorbar(shown, ax=all_axes, label="norm of the classifier row")
    return figure


@styled
def filter_norms(models: list[tuple[str, list[tuple[str, list[float]]]]]) -> Figure:
    """Norms of the filters, layer by layer from input to output.

    Args:
        models: (title, [(layer, norms of its filters)]). Within its layer's place on the axis
            a model draws its norms from high to low, their mean, and ±1 standard deviation.
    """
    figure = new_figure()
    axes = figure.add_subplot()
    for index, (title, layers) in enumerate(models):
        colour = {"color": COLOURS[index % len(COLOURS)]}
        for place, (_, norms) in enumerate(layers):
            left, right = place + 0.08, place + 0.92
            heights = np.sort(norms)[::-1]
            picked = np.linspace(0, len(heights) - 1, min(len(heights), POINTS_PER_LAYER))
            heights = heights[picked.round().astype(int)]
            axes.plot(np.linspace(left, right, len(heights)), heights, lw=0.7, alpha=0.7, **colour)
            mean, deviation = np.mean(norms), np.std(norms)
            label = None if place else plain(title)
            axes.plot((left, right), (mean, mean), label=label, **pen(index))
            band = (mean - deviation, mean + deviation)
            axes.fill_between((left, right), *band, alpha=0.2, lw=0, **colour)
    names = [plain(name, 24) for name, _ in models[0][1]]
    if len(names) <= 12:
        axes.set_xticks(np.arange(len(names)) + 0.5, names, rotation=90, fontsize=8)
    axes.set_xlabel("layers, input to output")
    axes.set_ylabel("norm of a filter")
    start_at_zero(axes)
    add_legend(figure, axes)
    return figure
