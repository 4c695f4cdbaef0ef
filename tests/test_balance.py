"""The relative threshold and the share of clipped rows, by hand."""

import pytest
import torch

from wbcli.balance import clipped_fraction, relative_radius

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


def test_rows_on_the_surface_count_as_clipped():
    assert clipped_fraction([ROWS], [5.0]) == pytest.approx(2 / 3)
    assert clipped_fraction([ROWS], [10.1]) == 0
    assert clipped_fraction([ROWS, ROWS[:1]], [10.0, 5.0]) == pytest.approx(2 / 4)
