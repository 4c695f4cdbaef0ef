"""What the figures draw: their artists hold the numbers they were given."""

import numpy as np
import pytest

pytest.importorskip("matplotlib")

import matplotlib

from wbcli.report import canvas, figures

COUNTS = [5, 100, 20]  # by training images: classes 1, 2, 0
PALETTE_CONTRAST = 3.0  # WCAG 2.1, 1.4.11
PAPERS = ("#ffffff", "#16181c")  # of the page, light and dark


def model(run="naive", counts=COUNTS, **columns):
    rows = [
        {
            "class": k,
            "name": f"thing {k}",
            "train_images": count,
            "accuracy": 10.0 * k,
            "marginal_likelihood": 0.2 + 0.1 * k,
            "row_norm": 1.0 + k,
        }
        | {key: values[k] for key, values in columns.items()}
        for k, count in enumerate(counts)
    ]
    bins = [{"images": 0, "confidence": None, "accuracy": None}] * 13
    bins += [{"images": 2, "confidence": 90.0, "accuracy": 50.0}]
    bins += [{"images": 6, "confidence": 98.0, "accuracy": 100.0}]
    return {
        "run": run,
        "split": "test",
        "limits": {"many": 40, "few": 10},
        "ece": 11.5,
        "reliability": bins,
        "per_class": rows,
    }


def large(run="large", num_classes=8142):
    """Counts 1000 … 2 in shuffled order; accuracy is the count's rank from the rear."""
    generator = np.random.default_rng(0)
    ranks = generator.permutation(num_classes)
    counts = (1000 * 500.0 ** (-ranks / num_classes)).astype(int)
    accuracy = (100 * (1 - ranks / num_classes)).tolist()
    norms = generator.uniform(0.5, 1, num_classes).tolist()
    return model(run, counts.tolist(), accuracy=accuracy, row_norm=norms)


def ydata(axes):
    return [np.asarray(line.get_ydata()).tolist() for line in axes.lines]


def lines(axes):
    return dict(zip([line.get_label() for line in axes.lines], ydata(axes), strict=True))


def labels(figure):
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def test_classes_stand_by_training_images_most_first():
    accuracy = figures.per_class_accuracy([model(), model("wd", accuracy=[1.0, 2.0, None])])
    drawn = lines(accuracy.axes[0])
    assert drawn["naive"] == [10, 20, 0]
    np.testing.assert_equal(drawn["wd"], [2, np.nan, 1])
    assert [t.get_text() for t in accuracy.axes[0].get_xticklabels()] == [
        "thing 1",
        "thing 2",
        "thing 0",
    ]
    assert lines(figures.row_norms([model()]).axes[0]) == {"naive": [2, 3, 1]}


def test_marginal_likelihood_is_drawn_with_its_ideal():
    drawn = lines(figures.marginal_likelihood([model()]).axes[0])
    assert drawn["naive"] == pytest.approx([0.3, 0.4, 0.2])
    assert drawn["ideal, 1/K = 0.333"] == pytest.approx([1 / 3, 1 / 3])


def test_class_frequencies_are_drawn_once_for_equal_counts_and_with_both_limits():
    same, other = model("same"), model("other", [3, 2, 1])
    axes = figures.class_frequencies([model(), same, other]).axes[0]
    assert ydata(axes) == [
        [100, 20, 5],
        [3, 2, 1],
        [40, 40],
        [10, 10],
    ]
    assert [text.get_text() for text in axes.texts] == ["Many above 40", "Few below 10"]


def test_heat_maps_share_one_colour_scale():
    panels = [("a", [[1.0, 2.0, 3.0], [1.5, 2.5, 3.5]]), ("b", [[0.5, 0.5, 7.0]])]
    figure = figures.norm_heat_maps(panels, COUNTS)
    first, second = (axes.images[0] for axes in figure.axes[:2])
    assert first.get_array().tolist() == [[2, 2.5], [3, 3.5], [1, 1.5]]  # classes 1, 2, 0
    assert second.get_array().tolist() == [[0.5], [7], [0.5]]
    assert first.get_clim() == second.get_clim() == (0, 7)


def test_filter_norms_are_sorted_beside_mean_and_deviation():
    norms = [1.0, 4.0, 1.0]  # mean 2, deviation √2
    axes = figures.filter_norms([("naive", [("conv1", norms), ("classifier", [3.0])])]).axes[0]
    assert ydata(axes) == [[4, 1, 1], [2, 2], [3], [3, 3]]
    band = axes.collections[0].get_paths()[0].vertices[:, 1]
    assert [band.min(), band.max()] == pytest.approx([2 - 2**0.5, 2 + 2**0.5])


def test_accuracy_against_wd_keeps_zero_on_a_log_axis_and_names_the_best():
    points = [(5e-3, 47.0), (0.0, 38.0), (5e-2, 20.0)]
    figure = figures.accuracy_against_wd([("stage 1", points)])
    axes = figure.axes[0]
    assert axes.lines[1].get_xydata().tolist() == [[0, 38], [5e-3, 47], [5e-2, 20]]
    assert axes.lines[0].get_xydata().tolist() == [[5e-3, 47]]
    assert labels(figure) == ["stage 1: 47.00 % at λ = 0.005"]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["0", "0.001", "0.01", "0.1"]
    places = axes.transData.transform([(x, 0) for x in (0, 5e-3, 5e-2)])[:, 0]
    assert places[2] - places[1] > 10 and places[1] - places[0] > 10
    assert len(figures.accuracy_against_wd([("", points)], best=False).axes[0].lines) == 1
    assert figures.accuracy_against_wd([("", [(0.0, 1.0)])]).axes[0].get_xscale() == "linear"


def test_confusion_is_per_cent_of_the_row_and_blank_without_images():
    axes = figures.confusion([[3, 1, 0], [0, 0, 0], [0, 1, 1]], ["a", "b", "c"]).axes[0]
    shares = axes.images[0].get_array().filled(np.nan)
    np.testing.assert_equal(shares, [[75, 25, 0], [np.nan] * 3, [0, 50, 50]])
    assert [text.get_text() for text in axes.texts] == ["75", "25", "50", "50"]


def test_reliability_leaves_out_empty_bins():
    figure = figures.reliability([model()])
    assert figure.axes[0].lines[1].get_xydata().tolist() == [[90, 50], [98, 100]]
    assert labels(figure) == ["calibrated", "naive, ECE 11.5 %"]


def test_learning_curves_by_group():
    def row(epoch, few):
        accuracy = {"all": 50.0 + epoch, "many": 90.0, "medium": 60.0, "few": few}
        return {"epoch": epoch, "train_loss": 1 / epoch, "accuracy": accuracy}

    bare = [row(1, None), row(2, None)]
    validated = [row(1, 5.0) | {"val_accuracy": dict.fromkeys(accuracy_keys(), 7.0)}]
    axes = figures.learning_curves([("bare", bare), ("validated", validated)]).axes
    assert lines(axes[0]) == {"bare": [1, 0.5], "validated": [1]}
    assert ydata(axes[1]) == [[51, 52], [51], [7]]
    np.testing.assert_equal(axes[4].lines[0].get_ydata(), [np.nan, np.nan])
    assert axes[4].get_title() == "test accuracy, few, %"
    assert axes[0].lines[1].get_marker() == "."  # a single epoch is seen all the same


def test_learning_curves_of_epochs_that_were_not_all_measured():
    accuracy = {"all": 51.0, "many": 90.0, "medium": 60.0, "few": 5.0}
    rows = [
        {"epoch": epoch, "train_loss": 1 / epoch, "accuracy": None} for epoch in (1, 2, 3, 4, 5)
    ]
    for i in (1, 3):
        rows[i] |= {"accuracy": accuracy, "val_accuracy": accuracy | {"all": 40.0 + i}}
    once = [rows[0], rows[1]]
    axes = figures.learning_curves([("run", rows), ("once", once), ("never", rows[:1])]).axes
    assert lines(axes[0]) == {
        "run": [1, 1 / 2, 1 / 3, 1 / 4, 1 / 5],
        "once": [1, 0.5],
        "never": [1],
    }
    run, validation, single, _ = axes[1].lines
    assert run.get_xydata().tolist() == [[2, 51], [4, 51]]
    assert validation.get_xydata().tolist() == [[2, 41], [4, 43]]
    assert single.get_xydata().tolist() == [[2, 51]]
    assert (run.get_marker(), single.get_marker()) == ("", "."), "one point is no line"


def accuracy_keys():
    return ("all", "many", "medium", "few")


def test_weights_2d_puts_variants_in_lines_and_keeps_their_limits():
    small, wide = np.array([[1.0, 0], [0, 1], [-1, 0]]), np.array([[9.0, 0], [0, 9], [-10, 0]])
    panels = [("naive", [("0", small), ("4000", wide)]), ("L2", [("0", small), ("4000", small)])]
    axes = figures.weights_2d(panels, COUNTS).axes
    assert axes[1].collections[1].get_offsets().tolist() == wide[[1, 2, 0]].tolist()
    assert axes[1].collections[1].get_array().tolist() == [100, 20, 5]
    spokes = axes[1].collections[0].get_segments()
    assert spokes[0].tolist() == [[0, 0], [0, 9]]
    assert axes[0].get_xlim() == axes[1].get_ylim() == (-11, 11)
    assert axes[2].get_xlim() == axes[3].get_xlim() == pytest.approx((-1.1, 1.1))


def test_the_animation_has_a_frame_for_each_moment(tmp_path):
    from PIL import Image

    rows = np.eye(3)[:, :2]
    panels = [("naive", [(str(t), (1 + t) * rows) for t in range(3)]), ("L2", [("0", rows)])]
    figures.animate_weights_2d(tmp_path / "w.gif", panels, COUNTS)
    animation = Image.open(tmp_path / "w.gif")
    assert animation.n_frames == 3
    assert [path.name for path in tmp_path.iterdir()] == ["w.gif"]


def test_many_classes_are_drawn_in_bins():
    axes = figures.per_class_accuracy([large()]).axes[0]
    means = axes.lines[0].get_ydata()
    assert len(means) == canvas.NUM_BINS
    assert (np.diff(means) < 0).all()
    assert means.mean() == pytest.approx(50, abs=0.1)
    assert "means of 40 bins" in axes.get_xlabel()


def test_bins_hold_mean_and_range_and_leave_out_nan():
    values = np.repeat(np.arange(40.0), 10)
    values[:10] = np.nan
    values[10:20] = np.arange(10)
    bins = canvas.binned(values)
    np.testing.assert_equal(bins["mean"][:3], [np.nan, 4.5, 2])
    assert (bins["low"][1], bins["high"][1]) == pytest.approx((0.9, 8.1))
    assert bins["rank"][[0, 39]].tolist() == [5.5, 395.5]


def test_files_of_8142_classes_are_small_and_the_same_every_time(tmp_path):
    models = [large("one"), large("two")]
    first = figures.per_class_accuracy(models)
    figures.save(first, tmp_path / "a", "accuracy")
    figures.save(figures.per_class_accuracy(models), tmp_path / "b", "accuracy")
    for name in ("accuracy.png", "accuracy.svg"):
        content = (tmp_path / "a" / name).read_bytes()
        assert content == (tmp_path / "b" / name).read_bytes()
        assert len(content) < 300_000
    assert b"<metadata" not in content


def test_names_are_printed_as_they_are(tmp_path):
    hostile = model("_$x^2$_" + "long" * 20)
    for row, name in zip(hostile["per_class"], ["$\\frac$", "<script>\x00", "猫"], strict=True):
        row["name"] = name
    figure = figures.row_norms([hostile])
    figures.save(figure, tmp_path, "norms")
    svg = (tmp_path / "norms.svg").read_text(encoding="utf-8")
    assert "$\\frac$" in svg and "&lt;script&gt;\ufffd" in svg and "猫" in svg
    assert "_$x^2$_longlong…" in svg


def test_pens_differ_in_more_than_colour():
    pens = [tuple(canvas.pen(index).values()) for index in range(16)]
    assert len(set(pens)) == 16
    assert len({line for _, line in pens[:4]}) == 4


@pytest.mark.parametrize("colour", canvas.COLOURS)
@pytest.mark.parametrize("paper", PAPERS)
def test_colours_stand_out_on_light_and_dark_paper(colour, paper):
    lighter, darker = sorted((luminance(colour), luminance(paper)), reverse=True)
    assert (lighter + 0.05) / (darker + 0.05) >= PALETTE_CONTRAST


def luminance(colour):
    channels = np.array(matplotlib.colors.to_rgb(colour))
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return linear @ [0.2126, 0.7152, 0.0722]
