"""What all figures share: size, pens, the order of classes, and files that come out the same.

Figures never touch pyplot, so they need no display and leave no state behind.

Legend: K classes.
"""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from wbcli.files.storage import replacing
from wbcli.report import fonts

Model = dict[str, Any]  # what `wbcli eval --json` prints of a run

SIZE = (4.8, 3.2)  # inch: 10 pt stay readable where a phone shows it 340 pixels wide
MAX_CLASSES = 200  # above, a figure shows bins of classes
NUM_BINS = 40
MAX_NAMES = 30  # above, classes are not named on an axis
PNG_DPI = 200

# Of the palette of Okabe and Ito (2008), safe for the colour-blind, those with a contrast of
# 3:1 on white and on a dark page.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")
LINES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D")
GREY = "#808080"  # for what is no model: class counts, ideals, limits

STYLE = {
    "font.family": fonts.FAMILY,
    "font.size": 10,
    "axes.titlesize": 10,
    "legend.fontsize": 9,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": False,
    "figure.facecolor": "white",
    "legend.frameon": False,
    "lines.linewidth": 1.4,
    "lines.markersize": 4,
    "svg.fonttype": "none",  # text stays text: small files that can be read aloud
}
styled = rc_context(STYLE)  # decorates what draws: the house's style, whatever the user's is


def new_figure(width: float = SIZE[0], height: float = SIZE[1]) -> Figure:
    return Figure(figsize=(width, height), layout="constrained")


def pen(index: int) -> dict[str, Any]:
    """Colour and line of the index-th model; both differ among four, the pair among sixteen."""
    shape = (index + index // len(COLOURS)) % len(LINES)
    return {"color": COLOURS[index % len(COLOURS)], "linestyle": LINES[shape]}


def marked_pen(index: int) -> dict[str, Any]:
    shape = (index + index // len(COLOURS)) % len(MARKERS)
    return pen(index) | {"marker": MARKERS[shape]}


def plain(text: str, limit: int = 30) -> str:
    """A name as matplotlib shall print it: no mathematics, no control codes, its ends if long."""
    text = "".join(c if c.isprintable() else "\ufffd" for c in str(text))
    if len(text) > limit:
        text = f"{text[: limit // 2]}…{text[-(limit // 2 - 1) :]}"
    text = text.replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text  # legends leave out "_…"


def add_legend(figure: Figure, *axes: Axes) -> None:
    """One legend above the axes, where it hides no data."""
    entries = [a.get_legend_handles_labels() for a in axes]
    handles = [handle for entry in entries for handle in entry[0]]
    labels = [label for entry in entries for label in entry[1]]
    if labels:
        columns = max(1, 54 // (max(map(len, labels)) + 6))
        figure.legend(handles, labels, loc="outside upper center", ncols=columns)


def class_counts(model: Model) -> np.ndarray:
    return np.array([row["train_images"] for row in model["per_class"]])


def by_count(counts: np.ndarray) -> np.ndarray:
    """Indices [K] of the classes, most training images first."""
    return np.argsort(-np.asarray(counts), kind="stable")


def ranked(model: Model, key: str) -> np.ndarray:
    """`key` of every class, most training images first; NaN for null."""
    values = np.array([row[key] for row in model["per_class"]], dtype=float)
    return values[by_count(class_counts(model))]


def binned(values: np.ndarray) -> dict[str, np.ndarray]:
    """Mean, 10th and 90th percentile of NUM_BINS equal groups of ranked values, and their place."""
    parts = np.array_split(values, NUM_BINS)
    ends = np.cumsum([len(part) for part in parts])
    parts = [part[~np.isnan(part)] for part in parts]
    return {
        "rank": ends - (np.diff(ends, prepend=0) - 1) / 2,
        "mean": np.array([part.mean() if part.size else np.nan for part in parts]),
        "low": np.array([np.quantile(part, 0.1) if part.size else np.nan for part in parts]),
        "high": np.array([np.quantile(part, 0.9) if part.size else np.nan for part in parts]),
    }


def draw_ranked(axes: Axes, values: np.ndarray, index: int, label: str) -> None:
    """A line over the ranks 1..K of the classes; of many, the mean of bins and 10-90 % band."""
    if len(values) > MAX_CLASSES:
        bins = binned(values)
        axes.plot(bins["rank"], bins["mean"], label=label, **pen(index))
        axes.fill_between(
            bins["rank"],
            bins["low"],
            bins["high"],
            color=COLOURS[index % len(COLOURS)],
            alpha=0.15,
            linewidth=0,
        )
    else:
        line = marked_pen(index) if len(values) <= MAX_NAMES else pen(index)
        axes.plot(np.arange(1, len(values) + 1), values, label=label, **line)


def label_classes(axes: Axes, models: list[Model]) -> None:
    """Name the classes below the axis where there are few, else say how they are ordered."""
    orders = {tuple(by_count(class_counts(model))) for model in models}
    rows = models[0]["per_class"]
    names = [plain(rows[k]["name"], 12) for k in by_count(class_counts(models[0]))]
    if len(orders) == 1 and len(names) <= MAX_NAMES:
        steep = len(names) > 12 or max(map(len, names)) > 3
        axes.set_xticks(range(1, len(names) + 1), names, rotation=90 if steep else 0)
    bins = f"\n(means of {NUM_BINS} bins; 10–90 % shaded)" if len(names) > MAX_CLASSES else ""
    axes.set_xlabel(f"classes, most training images first{bins}")


def start_at_zero(axes: Axes) -> None:
    """From 0 to a little above the data, where rows of one norm would else lie on the edge."""
    axes.set_ylim(0, 1.06 * axes.dataLim.y1)


def save(figure: Figure, folder: Path, name: str) -> str:
    """Write NAME.png and NAME.svg, byte for byte the same for the same figure and fonts.

    Returns:
        The characters that no installed font has.
    """
    folder.mkdir(parents=True, exist_ok=True)
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with rc_context(STYLE | {"svg.hashsalt": name}), warnings.catch_warnings():
        absent = fonts.use_fallbacks(figure)
        warnings.filterwarnings("ignore", "Glyph .* missing")  # those: who calls says so
        with replacing(folder / f"{name}.png") as partial:
            figure.savefig(partial, format="png", dpi=PNG_DPI, metadata={"Software": None})
        with replacing(folder / f"{name}.svg") as partial:
            figure.savefig(partial, format="svg", metadata=nothing)
    return absent
