"""Ops against numbers worked out by hand and against a plain float64 computation.

Every test runs on what the dispatcher has: compiled kernels, or the torch twins
(test_extension.py runs this file on both, and on every instruction set of the processor).
"""

import math

import numpy as np
import pytest
import torch

import wbcli
from wbcli.balance import ops, reference

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


def plain_max_norm(w: torch.Tensor, radii: list[float]) -> torch.Tensor:
    """The formula, a row at a time, in float64."""
    rows = []
    for row, radius in zip(w.double(), radii, strict=True):
        norm = math.sqrt(sum(x * x for x in row.flatten().tolist()))
        rows.append(row * (radius / norm) if norm > radius else row)
    return torch.stack(rows)


def test_row_norms_by_hand():
    w = torch.tensor([[3.0, 4.0], [0.0, 0.0], [-5.0, 12.0]])
    assert ops.row_norms(w).tolist() == [5.0, 0.0, 13.0]


def test_row_norms_of_filters_read_them_flattened():
    w = torch.ones(2, 1, 2, 2)
    w[1] *= 3
    assert ops.row_norms(w).tolist() == [2.0, 6.0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_row_norms_of_16_bit_rows_are_summed_in_float32(dtype):
    w = torch.full((1, 4096), 100.0, dtype=dtype)  # squares overflow float16
    norms = ops.row_norms(w)
    assert norms.dtype == torch.float32
    assert norms.tolist() == [6400.0]


def test_row_norms_are_differentiable():
    w = torch.tensor([[3.0, 4.0]], requires_grad=True)
    ops.row_norms(w).sum().backward()
    torch.testing.assert_close(w.grad, torch.tensor([[0.6, 0.8]]))


def test_max_norm_by_hand():
    w = torch.tensor([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]])
    ops.max_norm_(w, 1.0)
    torch.testing.assert_close(w, torch.tensor([[0.6, 0.8], [0.3, 0.4], [0.0, 0.0]]))


def test_max_norm_takes_a_radius_for_each_row():
    w = torch.tensor([[3.0, 4.0], [3.0, 4.0], [3.0, 4.0]])
    ops.max_norm_(w, torch.tensor([10.0, 2.5, 0.0], dtype=torch.float64))
    torch.testing.assert_close(w, torch.tensor([[3.0, 4.0], [1.5, 2.0], [0.0, 0.0]]))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(7, 33), (4, 3, 3, 3)])
def test_max_norm_equals_the_plain_formula(dtype, shape):
    w = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    radius = float(reference.row_norms(w).median())
    expected = plain_max_norm(w, [radius] * shape[0])
    ops.max_norm_(w, radius)
    torch.testing.assert_close(w.double(), expected, rtol=4 * torch.finfo(dtype).eps, atol=0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_inside_their_ball_keep_their_bits(dtype):
    w = torch.randn(50, 20, generator=torch.Generator().manual_seed(1)).to(dtype)
    before, inside = w.clone(), reference.row_norms(w) <= 4.5
    assert 0 < inside.sum() < 50
    ops.max_norm_(w, 4.5)
    assert torch.equal(w[inside], before[inside])
    assert not torch.equal(w[~inside], before[~inside])


def test_any_strides_and_leaf_parameters_are_projected_in_place():
    transposed = torch.full((3, 2), 2.0).t()
    ops.max_norm_(transposed, 1.0)
    torch.testing.assert_close(transposed, torch.full((2, 3), 3**-0.5))
    for rows in (torch.tensor([[3.0, 4.0]]), torch.tensor([[3.0], [4.0]]).t().expand(1, 2)):
        leaf = torch.nn.Parameter(rows)
        assert wbcli.max_norm_(leaf, 1.0) is leaf
        torch.testing.assert_close(leaf.data, torch.tensor([[0.6, 0.8]]))
    leaf = torch.nn.Parameter(torch.full((3, 2), 2.0).t())  # its rows are not in one piece
    wbcli.tau_norm_(wbcli.max_norm_(leaf, 1.0))
    wbcli.sgd_max_norm_(leaf, torch.zeros(2, 3), lr=0.1)
    torch.testing.assert_close(leaf.data, torch.full((2, 3), 3**-0.5))
    assert leaf.is_leaf and leaf.requires_grad


def test_nan_rows_stay_nan_and_are_nobody_elses_problem():
    w = torch.tensor([[math.nan, 4.0], [3.0, 4.0]])
    ops.max_norm_(w, 1.0)
    assert w[0].isnan().tolist() == [True, False]
    torch.testing.assert_close(w[1], torch.tensor([0.6, 0.8]))


def test_empty_weights_are_left_as_they_are():
    for shape in [(0, 4), (4, 0), (0, 0)]:
        w = torch.empty(shape)
        assert ops.max_norm_(w, 1.0) is w
        assert ops.sgd_max_norm_(w, w.clone(), lr=0.1, radius=1.0) is w
        torch.ones(1000).mul_(2)  # memory that a result could find
        assert torch.equal(ops.row_norms(w), torch.zeros(shape[0]))


def test_tau_norm_by_hand():
    rows = [[3.0, 4.0], [0.0, 0.0], [0.6, 0.8]]
    for tau, first in [(0.0, 5.0), (0.5, math.sqrt(5)), (1.0, 1.0), (1.9, 5**-0.9), (2.0, 0.2)]:
        w = torch.tensor(rows)
        ops.tau_norm_(w, tau)
        torch.testing.assert_close(ops.row_norms(w), torch.tensor([first, 0.0, 1.0]))
        torch.testing.assert_close(w[2], torch.tensor(rows[2]))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ops.row_norms(torch.ones(3)), "expected a floating-point tensor of rows"),
        (lambda: ops.row_norms(torch.ones(3, 2).long()), "got torch.int64 of shape [3, 2]"),
        (lambda: ops.row_norms([[1.0]]), "expected a tensor of rows [K, D], got list"),
        (lambda: ops.max_norm_(torch.ones(3, 2), -1.0), "must be at least 0, got -1.0"),
        (lambda: ops.max_norm_(torch.ones(3, 2), math.nan), "must be at least 0, got nan"),
        (lambda: ops.max_norm_(torch.ones(3, 2), torch.ones(2)), "one per row ([3] for a weight"),
        (lambda: ops.max_norm_(torch.ones(3, 2), torch.ones(3, 1)), "got shape [3, 1]"),
        (lambda: ops.max_norm_(torch.ones(2, 2), -torch.ones(2)), "in every row, got -1.0"),
        (lambda: ops.max_norm_(torch.ones(2, 2), torch.ones(2).int()), "got torch.int32"),
        (lambda: ops.max_norm_(torch.ones(2, 2), None), "must be a number or a tensor, got None"),
        (lambda: ops.max_norm_(torch.ones(1, 2).expand(2, 2), 1.0), "w is expanded: its elements"),
        (lambda: ops.max_norm_(torch.ones(2, 2).to_sparse(), 1.0), "dense), got torch.float32"),
        (lambda: ops.max_norm_(torch.ones(2, 2, dtype=torch.float8_e5m2), 1.0), "got torch.float8"),
        (
            lambda: ops.max_norm_(torch.ones(2, 2), torch.ones(2, device="meta")),
            "radius is on meta, the weight on cpu: move one",
        ),
        (
            lambda: ops.max_norm_(torch.ones(2, 2), torch.ones((), device="meta")),
            "radius is on meta, the weight on cpu: move one",
        ),
        (lambda: ops.max_norm_(torch.ones(4, 2), np.ones(4)), "must be a number or a tensor, got"),
        (lambda: ops.max_norm_(torch.ones(2, 2).requires_grad_() * 1, 1.0), "this op has no grad"),
        (lambda: ops.tau_norm_(torch.ones(2, 2), "1"), "tau must be a finite number"),
        (lambda: ops.tau_norm_(torch.ones(2, 2), -1.0), "tau must be a finite number"),
        (lambda: ops.tau_norm_(torch.ones(2, 2), math.inf), "tau must be a finite number"),
    ],
)
def test_wrong_arguments_are_told_what_was_expected(call, message):
    with pytest.raises(ValueError) as error:
        call()
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"grad": None}, "grad must be a tensor like the weight, got NoneType"),
        ({"grad": torch.ones(3, 3)}, "grad must have the shape of the weight, [2, 3], got [3, 3]"),
        ({"grad": torch.ones(2, 3).double()}, "the dtype of the weight, torch.float32, got"),
        ({"grad": torch.ones(2, 3).to_sparse()}, "the layout of the weight, torch.strided, got"),
        ({"grad": torch.ones(2, 3, device="meta")}, "the device of the weight, cpu, got meta"),
        ({"buf": torch.ones(2)}, "buf must have the shape of the weight, [2, 3], got [2]"),
        ({"buf": torch.ones(1, 3).expand(2, 3)}, "buf is expanded: its elements share memory"),
        ({"buf": None}, "a momentum above 0 needs a buf: zeros before the first step"),
        ({"lr": None}, "lr must be a number or a tensor, got None"),
        ({"lr": -0.1}, "lr must be at least 0, got -0.1"),
        ({"lr": torch.tensor([0.1, -0.1])}, "lr must be at least 0 in every row, got -0.1"),
        ({"weight_decay": math.nan}, "weight_decay must be at least 0, got nan"),
        ({"weight_decay": torch.ones(3)}, "weight_decay must be one value or one per row ([2]"),
        ({"momentum": -0.9}, "momentum must be at least 0, got -0.9"),
        ({"dampening": math.nan}, "dampening must be a finite number, got nan"),
        ({"nesterov": True, "dampening": 0.1}, "nesterov needs a momentum above 0 and no"),
        ({"radius": -1.0}, "radius must be at least 0, got -1.0"),
        ({"radius": 1.0, "unit_norm": True}, "unit_norm and a radius exclude each other"),
    ],
)
def test_wrong_steps_are_told_what_was_expected_and_change_nothing(change, message):
    w = torch.ones(2, 3)
    step = {"grad": torch.ones(2, 3), "buf": torch.zeros(2, 3), "lr": 0.1, "momentum": 0.9}
    with pytest.raises(ValueError) as error:
        ops.sgd_max_norm_(w, **(step | change))
    assert message in str(error.value)
    assert torch.equal(w, torch.ones(2, 3))
