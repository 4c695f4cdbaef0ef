"""The paper's figure 7: the K rows of a classifier over two features, as points in the plane.

Legend: K classes.
"""

import io
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from wbcli.files.storage import replacing
from wbcli.report.canvas import GREY, MAX_NAMES, PNG_DPI, by_count, new_figure, plain, styled

ANIMATION_SECONDS = 8
Variant = tuple[str, list[tuple[str, np.ndarray]]]  # (title, [(moment, rows [K, 2])])


@styled
def weights_2d(panels: list[Variant], class_counts: list[int] | np.ndarray) -> Figure:
    """A line of panels for each variant, a column for each moment; large points: many images.

    The panels of a variant share their limits, so that rows can be seen to grow.
    """
    columns = max(len(moments) for _, moments in panels)
    figure = new_figure(1.3 + 1.6 * columns, 0.5 + 1.6 * len(panels))
    grid = figure.subplots(len(panels), columns, squeeze=False)
    for line, (title, moments) in zip(grid, panels, strict=True):
        for axes, (moment, rows) in zip(line, moments, strict=False):
            _draw_rows(axes, rows, class_counts, _reach(moments))
            if axes in grid[0]:
                axes.set_title(plain(moment))
        for axes in line[len(moments) :]:
            axes.set_axis_off()
        line[0].set_ylabel(plain(title))
    _add_colours(figure, grid, class_counts)
    return figure


def animate_weights_2d(
    path: Path, panels: list[Variant], class_counts: list[int] | np.ndarray
) -> None:
    """Write an animated GIF: the variants side by side, a frame for each moment."""
    from PIL import Image

    frames = []
    for moment in range(max(len(moments) for _, moments in panels)):
        buffer = io.BytesIO()
        _frame(panels, moment, class_counts).savefig(buffer, format="png", dpi=PNG_DPI // 2)
        frames.append(Image.open(buffer).convert("RGB"))
    each = min(800, max(50, 1000 * ANIMATION_SECONDS // len(frames)))  # milliseconds
    with replacing(path) as partial:
        frames[0].save(
            partial,
            format="GIF",
            save_all=True,
            append_images=frames[1:],
            duration=[each] * (len(frames) - 1) + [each + 1500],  # a rest at the end
            loop=0,
        )


@styled
def _frame(panels: list[Variant], moment: int, counts: list[int] | np.ndarray) -> Figure:
    """Every variant at one moment, or at its last where it has fewer."""
    figure = new_figure(1.3 + 2 * len(panels), 2.5)
    grid = figure.subplots(1, len(panels), squeeze=False)
    for axes, (title, moments) in zip(grid[0], panels, strict=True):
        name, rows = moments[min(moment, len(moments) - 1)]
        _draw_rows(axes, rows, counts, _reach(moments))
        axes.set_title(f"{plain(title)}\n{plain(name)}")
    _add_colours(figure, grid, counts)
    return figure


def _reach(moments: list[tuple[str, np.ndarray]]) -> float:
    """Half the side of a square around the origin that holds every row of every moment."""
    return 1.1 * max(np.abs(rows).max() for _, rows in moments) or 1.0


def _draw_rows(axes: Axes, rows: np.ndarray, counts: list[int] | np.ndarray, reach: float) -> None:
    rows, counts = np.asarray(rows, dtype=float), np.asarray(counts)
    order = by_count(counts)  # rare classes last, so that they lie on top
    many = len(rows) > MAX_NAMES
    colours = {"norm": _scale(counts), "rasterized": many}
    spokes = np.stack([np.zeros_like(rows), rows], 1)[order]  # [K, 2 ends, 2]
    axes.add_collection(
        LineCollection(spokes, array=counts[order], lw=0.3 if many else 1, **colours)
    )
    size = (4 if many else 10) + (10 if many else 30) * counts[order] / counts.max()
    axes.scatter(*rows[order].T, c=counts[order], s=size, zorder=3, **colours)
    axes.axhline(0, color=GREY, lw=0.5)
    axes.axvline(0, color=GREY, lw=0.5)
    axes.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")
    axes.locator_params(nbins=3)
    axes.tick_params(labelsize=7)


def _scale(counts: list[int] | np.ndarray) -> LogNorm:
    top = int(np.max(counts))
    return LogNorm(max(1, int(np.min(counts))), max(top, 2))


def _add_colours(figure: Figure, grid: np.ndarray, counts: list[int] | np.ndarray) -> None:
    """The colour bar of class frequencies; the scatter of the first panel stands for all."""
    figure.colorbar(grid[0, 0].collections[1], ax=grid, aspect=40, label="training images")
