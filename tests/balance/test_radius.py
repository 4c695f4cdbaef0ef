"""The relative threshold and the share of clipped rows, by hand."""

import pytest
import torch

from wbcli.balance.radius import clipped_fraction, relative_radius, rows_at, share_above

ROWS = torch.tensor([[3.0, 4.0], [0.0, 1.0], [6.0, 8.0]])  # norms 5, 1, 10


@pytest.mark.parametrize(("t", "radius"), [(0.0, 1.0), (0.1, 1.9), (0.5, 5.5), (1.0, 10.0)])
def test_radius_lies_between_the_shortest_and_the_longest_row(t, radius):
    assert relative_radius(ROWS, t) == pytest.approx(radius)


def test_filters_are_rows():
    assert relative_radius(ROWS.reshape(3, 2, 1, 1), 0.5) == pytest.approx(5.5)


@pytest.mark.parametrize(
    ("weight", "t", "message"),
    [
        (ROWS, 1.1, "must be in [0, 1], got 1.1"),
        (ROWS, -0.1, "must be in [0, 1], got -0.1"),
        (torch.zeros(2, 2), 0.5, "puts the MaxNorm radius at 0 (row norms 0 to 0)"),
        (torch.tensor([[0.0], [1.0]]), 0.0, "choose a larger t"),
    ],
)
def test_thresholds_without_a_ball_are_refused(weight, t, message):
    with pytest.raises(ValueError) as error:
        relative_radius(weight, t)
    assert message in str(error.value)


def fraction(weights, radii, starts=None):
    starts = starts or [w + 100 for w in weights]
    pairs = zip(starts, radii, strict=True)
    return clipped_fraction(weights, radii, [rows_at(start, radius) for start, radius in pairs])


def test_the_share_of_rows_above_their_radius():
    """A row that is as long as the radius is not above it."""
    assert share_above([ROWS], [7.0]) == pytest.approx(1 / 3)
    assert share_above([ROWS], [10.0]) == 0
    assert share_above([ROWS, ROWS[:1]], [10.0, 4.0]) == pytest.approx(1 / 4)


def test_rows_on_the_surface_count_as_clipped():
    assert fraction([ROWS], [5.0]) == pytest.approx(2 / 3)
    assert fraction([ROWS], [10.1]) == 0
    assert fraction([ROWS, ROWS[:1]], [10.0, 5.0]) == pytest.approx(2 / 4)


@pytest.mark.parametrize(("t", "others"), [(0.0, 2 / 3), (1.0, 0)])
def test_the_row_that_defines_the_radius_counts_once_it_has_moved(t, others):
    """At t = 0 it is the shortest row, at t = 1 the longest, which no projection has touched."""
    radius = relative_radius(ROWS, t)
    projected = ROWS * (radius / ROWS.norm(dim=1)).clamp(max=1)[:, None]
    assert fraction([projected], [radius], [ROWS]) == pytest.approx(others)
    turned = projected.flip(1)  # as long as before
    assert fraction([turned], [radius], [ROWS]) == pytest.approx(others + 1 / 3)
