"""The kernels over generated shapes, dtypes, layouts and shares of clipped rows.

Each op is compared with the formula in float64, and with its torch twin where only equal bits
will do. Whatever the dispatcher has is tested, on every device there is.
"""

import math
import os
import random
import shutil
import subprocess
import sys
from itertools import product

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode

from wbcli.balance import extension, ops, reference

DEVICES = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
WIDTHS = [1, 2, 3, 7, 8, 31, 32, 33, 64, 65, 100, 127, 128, 129, 255, 512, 513, 1000, 1024, 2048]
WIDE = [2049, 4096, 5000, 8192, 16400]


def placed(layout: str, w: Tensor) -> Tensor:
    """A tensor with the values of `w` [K, D] in another place or order of memory."""
    rows, width = w.shape
    if layout == "contiguous":
        return w.clone()
    if layout == "columns of a wider one":  # rows start at odd addresses
        room = w.new_full((rows, width + 3), 9.0)
        room[:, 1 : width + 1] = w
        return room[:, 1 : width + 1]
    if layout == "every second row":
        room = w.new_full((2 * rows, width), 9.0)
        room[::2] = w
        return room[::2]
    if layout == "transposed":
        return w.t().contiguous().t()
    if layout == "every second column":
        room = w.new_full((rows, 2 * width), 9.0)
        room[:, ::2] = w
        return room[:, ::2]
    assert layout == "filters, channels last"
    return w.reshape(rows, width, 1, 1).repeat(1, 1, 2, 1).to(memory_format=torch.channels_last)


LAYOUTS = [
    "contiguous",
    "columns of a wider one",
    "every second row",
    "transposed",
    "every second column",
    "filters, channels last",
]


def draw_weight(case: int, dtype: torch.dtype, device: str) -> tuple[Tensor, str, random.Random]:
    """A weight of a shape, layout and lengths of rows that follow from the number `case`."""
    dice = random.Random(case)
    width = dice.choice(WIDE if dice.random() < 0.15 else WIDTHS)
    rows = dice.choice([1, 2, 3, 5, 17, 100] if width < 2048 else [1, 2, 5])
    generator = torch.Generator().manual_seed(case)
    w = torch.randn(rows, width, generator=generator) * torch.rand(rows, 1, generator=generator)
    layout = dice.choice(LAYOUTS)
    return placed(layout, w.to(dtype).to(device)), layout, dice


def draw_radius(w: Tensor, dice: random.Random) -> float | Tensor:
    """One that clips no row, about half of them or all; or one for each row."""
    norms = reference.row_norms(w).double()
    share = dice.choice(["none", "half", "all", "each its own"])
    if share == "each its own":
        factors = [dice.choice([0.0, 0.3, 0.999, 1.001, 2.0, math.inf]) for _ in norms]
        return (norms * torch.tensor(factors, device=w.device)).nan_to_num(0.0).to(torch.float32)
    radius = {"none": 2 * norms.max(), "half": norms.median(), "all": norms.min() / 2}[share]
    return max(radius.item(), 1e-6)


def in_float64(w: Tensor) -> Tensor:
    return w.detach().double().clone()


def norms_in_float64(w: Tensor) -> Tensor:
    return torch.linalg.vector_norm(w.double().flatten(1), dim=1)


def column(values: float | Tensor, w: Tensor) -> Tensor:
    values = torch.as_tensor(values, dtype=torch.float64, device=w.device)
    return values.expand(w.shape[0]).reshape(-1, *[1] * (w.ndim - 1))


def norm_tolerance(w: Tensor) -> float:
    """Relative error that a norm may have: rounding errors of D sums add up like a random walk."""
    width = w[0].numel()
    return (8 + math.sqrt(width)) * torch.finfo(reference.accumulation_dtype(w.dtype)).eps


def assert_rounded_once(got: Tensor, expected: Tensor) -> None:
    """`expected` is in float64: `got` is within one rounding, and the errors of a norm, of it."""
    numbers = torch.finfo(got.dtype)
    rtol = numbers.eps / 2 + norm_tolerance(got)
    torch.testing.assert_close(got.double(), expected, rtol=rtol, atol=numbers.smallest_normal)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_row_norms(dtype, device):
    for case in range(60):
        w, _, _ = draw_weight(case, dtype, device)
        norms = ops.row_norms(w)
        assert norms.dtype == reference.accumulation_dtype(dtype)
        expected = norms_in_float64(w)
        torch.testing.assert_close(norms.double(), expected, rtol=norm_tolerance(w), atol=0)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_max_norm(dtype, device):
    for case in range(100):
        w, _, dice = draw_weight(case, dtype, device)
        radius = draw_radius(w, dice)
        before, norms = w.clone(), norms_in_float64(w)
        delta = column(radius, w)
        long = column(norms, w) > delta
        expected = torch.where(long, in_float64(w) * delta / column(norms, w), in_float64(w))
        ops.max_norm_(w, radius)
        clear = (column(norms, w) / delta - 1).abs().flatten() > 1e-4  # not on the edge
        inside = clear & ~long.flatten()
        assert torch.equal(w[inside], before[inside])
        assert_rounded_once(w, expected)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_tau_norm(dtype, device):
    for case in range(60):
        w, _, dice = draw_weight(case, dtype, device)
        tau = dice.choice([0.0, 0.5, 1.0, 1.9])
        norms = column(norms_in_float64(w), w)
        expected = torch.where(norms > 0, in_float64(w) / norms**tau, 0.0)
        ops.tau_norm_(w, tau)
        assert_rounded_once(w, expected)


def draw_step(w: Tensor, dice: random.Random) -> dict:
    """Settings of a step: numbers, 0-d tensors and one value per row, in any mixture."""

    def setting(low: float, high: float) -> float | Tensor:
        kind = dice.choice(["number", "0-d", "rows"])
        if kind == "rows":
            values = [dice.uniform(low, high) for _ in range(2 * w.shape[0])]
            values = torch.tensor(values, device=w.device, dtype=dice.choice(DTYPES[:2]))
            return dice.choice([values[::2], values[: w.shape[0]], values[0].expand(w.shape[0])])
        value = dice.uniform(low, high)
        return torch.tensor(value, device=w.device) if kind == "0-d" else value

    momentum = dice.choice([0.0, 0.9])
    nesterov = bool(momentum) and dice.random() < 0.3
    projection = dice.choice(["none", "max_norm", "unit_norm"])
    return {
        "lr": setting(0.01, 0.5),
        "weight_decay": dice.choice([0.0, setting(0.0, 0.1)]),
        "momentum": momentum,
        "dampening": 0.0 if nesterov else dice.choice([0.0, 0.4]),
        "nesterov": nesterov,
        "maximize": dice.random() < 0.2,
        "radius": setting(0.1, 2.0) if projection == "max_norm" else None,
        "unit_norm": projection == "unit_norm",
    }


def step_in_float64(
    w: Tensor, grad: Tensor, buf: Tensor | None, step: dict
) -> tuple[Tensor, Tensor | None]:
    """The equations of `ops.sgd_max_norm_`, in float64: the new w and m."""
    x, g, m = in_float64(w), in_float64(grad), None
    g = (-g if step["maximize"] else g) + column(step["weight_decay"], w) * x
    if buf is not None:
        m = step["momentum"] * in_float64(buf) + (1 - step["dampening"]) * g
        g = g + step["momentum"] * m if step["nesterov"] else m
    x = x - column(step["lr"], w) * g
    x = x.to(w.dtype).double()  # a step rounds what a projection then reads
    norms = column(norms_in_float64(x), w)
    if step["unit_norm"]:
        x = torch.where(norms > 0, x / norms, x)
    elif step["radius"] is not None:
        delta = column(step["radius"], w)
        x = torch.where(norms > delta, x * delta / norms, x)
    return x, m


def assert_as_computed(got: Tensor, expected: Tensor, what: tuple) -> None:
    """Within a few roundings of the largest terms: a step makes several, a norm some more."""
    error = (got.double() - expected).abs().amax() / (1 + expected.abs().amax())
    assert error < 4 * torch.finfo(got.dtype).eps + 1e-14, what


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_sgd_max_norm(dtype, device):
    for case in range(120):
        w, layout, dice = draw_weight(case, dtype, device)
        step = draw_step(w, dice)
        grad = torch.randn(w.shape, generator=torch.Generator().manual_seed(case))
        grad = grad.to(dtype).to(device)
        buf = grad.flip(0) / 2 if step["momentum"] else None
        if w.ndim == 2:
            grad = placed(dice.choice(LAYOUTS[:5]), grad)
            buf = None if buf is None else placed(dice.choice(LAYOUTS[:5]), buf)
            grad = grad[:1].expand(grad.shape) if dice.random() < 0.1 else grad
        expected, expected_buf = step_in_float64(w, grad, buf, step)
        ops.sgd_max_norm_(w, grad, buf, **step)
        assert_as_computed(w, expected, (layout, step))
        if buf is not None:
            assert_as_computed(buf, expected_buf, (layout, step))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_fused_step_is_a_step_and_then_the_projection(dtype, device):
    for case in range(60):
        w, _, dice = draw_weight(case, dtype, device)
        step = draw_step(w, dice) | {"radius": draw_radius(w, dice), "unit_norm": False}
        grad = torch.randn(w.shape, generator=torch.Generator().manual_seed(case))
        grad = torch.empty_like(w).copy_(grad)
        buf = torch.zeros_like(w) if step["momentum"] else None
        separate, separate_buf = w.clone(), None if buf is None else buf.clone()
        ops.sgd_max_norm_(w, grad, buf, **step)
        ops.sgd_max_norm_(separate, grad, separate_buf, **(step | {"radius": None}))
        ops.max_norm_(separate, step["radius"])
        assert buf is None or torch.equal(buf, separate_buf)
        # a sum of squares may run in another order where one of the operands is not aligned
        rtol = torch.finfo(dtype).eps + norm_tolerance(w)
        torch.testing.assert_close(w, separate, rtol=rtol, atol=0)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("width", [64, 65])
def test_special_values_go_as_in_the_torch_twin(width, dtype, device):
    special = [0.0, -0.0, math.nan, math.inf, -math.inf, 1e-30, 1e30]
    w = torch.ones(len(special), width, dtype=torch.float64)
    w[:, width // 2] = torch.tensor(special, dtype=torch.float64)
    w[0] = 0.0
    w = w.to(dtype).to(device)
    radii = torch.tensor([1.0, 0.0, 1.0, 2.0, math.inf, 3.0, 1.0], device=device)
    calls = [
        (lambda x: ops.max_norm_(x, 1.0), lambda x: reference.max_norm_(x, 1.0)),
        (lambda x: ops.max_norm_(x, math.inf), lambda x: reference.max_norm_(x, math.inf)),
        (lambda x: ops.max_norm_(x, radii), lambda x: reference.max_norm_(x, radii)),
        (lambda x: ops.tau_norm_(x, 1.0), lambda x: reference.tau_norm_(x, 1.0)),
        (lambda x: ops.tau_norm_(x, 0.0), lambda x: reference.tau_norm_(x, 0.0)),
    ]
    for ours, twin in calls:
        got, expected = w.clone(), w.clone()
        ours(got)
        twin(expected)
        torch.testing.assert_close(got, expected, equal_nan=True)
        assert torch.equal(got[0], w[0]), "a zero row stays zero"
        assert got[2].isnan().any() and not got[5].isnan().any(), "NaN is its row's problem"
    torch.testing.assert_close(ops.row_norms(w), reference.row_norms(w), equal_nan=True)


@pytest.mark.parametrize("device", DEVICES)
def test_no_weight_decay_does_not_look_at_the_weight(device):
    w = torch.tensor([[math.inf, 1.0], [1.0, 1.0]], device=device)
    buf = torch.zeros_like(w)
    ops.sgd_max_norm_(w, torch.ones_like(w), buf, lr=0.5, momentum=0.9, weight_decay=0.0)
    assert torch.equal(buf, torch.ones_like(w)), "0 times inf would be NaN"
    assert w.tolist() == [[math.inf, 0.5], [0.5, 0.5]]


@pytest.mark.parametrize("device", DEVICES)
def test_norms_of_expanded_rows(device):
    row = torch.tensor([[3.0, 4.0]], device=device)
    assert ops.row_norms(row.expand(3, 2)).tolist() == [5.0, 5.0, 5.0]
    assert ops.row_norms(row.t().expand(2, 3)).tolist() == pytest.approx([27**0.5, 48**0.5])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_only_the_rows_are_written(layout, device):
    w = placed(layout, torch.full((6, 33), 2.0, device=device))
    storage = w.untyped_storage()
    everything = torch.empty(0, device=device).set_(storage)
    before = (everything == 9.0).sum()
    ops.max_norm_(w, 1.0)
    ops.sgd_max_norm_(w, torch.ones_like(w), torch.zeros_like(w), lr=0.1, momentum=0.9, radius=1.0)
    assert (everything == 9.0).sum() == before
    assert (ops.row_norms(w) < 1.001).all()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_a_16_bit_row_does_not_end_above_its_radius_by_more_than_a_rounding(dtype, device):
    w = torch.randn(500, 2048, generator=torch.Generator().manual_seed(0)).to(dtype).to(device)
    ops.max_norm_(w, 1.0)
    above = norms_in_float64(w) - 1.0
    # the roundings of 2,048 elements mostly cancel; a factor rounded to 16 bits would not
    assert above.max() < torch.finfo(dtype).eps / 8


@pytest.mark.parametrize("device", DEVICES)
def test_the_same_bits_every_time_and_with_any_number_of_threads(device):
    w = torch.randn(1000, 513, generator=torch.Generator().manual_seed(0)).to(device)
    results, threads = [], torch.get_num_threads()
    try:
        for count in (1, 2, 3, 1):
            torch.set_num_threads(count)
            results.append(ops.max_norm_(w.clone(), 20.0))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(result, results[0]) for result in results)


READ_ONLY = """
import warnings, numpy, torch
from wbcli.balance import ops
warnings.simplefilter("ignore")
w = torch.from_numpy(numpy.memmap("weight", dtype="float32", mode="r", shape=(64, 100)))
print("norms", ops.row_norms(w).sum().item() > 0, flush=True)
ops.max_norm_(w, 1e9)
print("inside", flush=True)
ops.max_norm_(w, 1e-3)
print("outside", flush=True)
"""


@pytest.mark.skipif(extension.kernels("cpu") == "torch", reason="the torch twin writes every row")
def test_rows_inside_their_ball_are_not_written(tmp_path):
    torch.ones(64, 100).numpy().tofile(tmp_path / "weight")
    done = subprocess.run(
        [sys.executable, "-c", READ_ONLY], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.stdout.split() == ["norms", "True", "inside"], done.stderr
    assert done.returncode < 0, "writing to read-only memory ends a process by a signal"


def available_bytes() -> int:
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(available_bytes() < 10 * 2**30, reason="needs 10 GB of free memory")
def test_more_than_two_to_the_31_elements():
    w = torch.zeros(2**20 + 1, 2048, dtype=torch.bfloat16)
    w[0], w[-1] = 2.0, 3.0
    ops.max_norm_(w, 1.0)
    norms = ops.row_norms(w)
    assert norms[1:-1].amax() == 0
    torch.testing.assert_close(norms[[0, -1]], torch.ones(2), rtol=1e-2, atol=0)


def samples(device: str) -> dict[str, list[tuple]]:
    """Arguments for every op."""
    generator = torch.Generator().manual_seed(0)
    w, grad, buf = (torch.randn(5, 8, generator=generator).to(device) for _ in range(3))
    rows = torch.rand(5, generator=generator).to(device)
    numbers = (0.1, 0.9, 0.0, 0.01, False, False, 1.0, False)
    return {
        "row_norms": [(w,), (w.t(),), (w.bfloat16(),), (w.clone().requires_grad_(),)],
        "max_norm_": [(w.clone(), 1.0), (w.clone().t(), 1.0), (w.clone(), 0.0, rows)],
        "tau_norm_": [(w.clone(), 1.0), (w.clone().half(), 0.5)],
        "sgd_max_norm_": [
            (w.clone(), grad, buf.clone(), *numbers),
            (w.clone(), grad, None, *numbers),
            (w.clone(), grad, buf.clone(), *numbers, rows, rows, rows),
        ],
    }


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", ["row_norms", "max_norm_", "tau_norm_", "sgd_max_norm_"])
def test_opcheck(name, device):
    for arguments in samples(device)[name]:
        checked = torch.library.opcheck(getattr(torch.ops.wbcli, name).default, arguments)
        assert set(checked.values()) == {"SUCCESS"}


def inductor_works() -> bool:
    capability = torch.backends.cpu.get_cpu_capability()
    return capability != "DEFAULT" and shutil.which(os.environ.get("CXX", "c++")) is not None


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "backend",
    [
        "aot_eager",
        pytest.param(
            "inductor",
            marks=pytest.mark.skipif(
                not inductor_works(), reason="Inductor needs a C++ compiler and AVX2"
            ),
        ),
    ],
)
def test_everything_compiles_into_one_graph(backend, device):
    generator = torch.Generator().manual_seed(0)
    w, grad, buf = (torch.randn(5, 8, generator=generator).to(device) for _ in range(3))
    radii = torch.rand(5, generator=generator).to(device)

    def train(w, grad, buf, radii):
        ops.sgd_max_norm_(w, grad, buf, lr=0.1, momentum=0.9, weight_decay=0.1, radius=radii)
        ops.max_norm_(w, 0.5)
        ops.tau_norm_(w, 0.5)
        return ops.row_norms(w) * 2

    eager, compiled = [w.clone(), buf.clone()], [w.clone(), buf.clone()]
    expected = train(eager[0], grad, eager[1], radii)
    got = torch.compile(train, fullgraph=True, backend=backend)(
        compiled[0], grad, compiled[1], radii
    )
    torch.testing.assert_close([got, *compiled], [expected, *eager])


def test_row_norms_have_gradients():
    w = torch.randn(4, 3, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(ops.row_norms, w)
    zero = torch.zeros(2, 3, requires_grad=True)
    ops.row_norms(zero).sum().backward()
    assert torch.equal(zero.grad, torch.zeros(2, 3)), "no NaN at 0"


@pytest.mark.parametrize(
    "change",
    [
        lambda w: ops.max_norm_(w, 0.1),
        ops.tau_norm_,
        lambda w: ops.sgd_max_norm_(w, torch.ones(3, 4), lr=0.1),
        lambda w: ops.sgd_max_norm_(torch.ones(3, 4), torch.ones(3, 4), w, lr=0.1, momentum=0.9),
    ],
)
def test_autograd_refuses_to_go_back_through_values_that_were_changed(change):
    w = torch.randn(3, 4, requires_grad=True)
    loss = (w * w).sum()
    change(w)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (lambda w: (w[0],), "expected rows [K, ...], got 1 dimension(s)"),
        (lambda w: (w.long(),), "expected float64, float32, bfloat16 or float16"),
    ],
)
@pytest.mark.skipif(extension.kernels("cpu") == "torch", reason="checks of the compiled kernels")
def test_kernels_called_past_the_door_check_before_they_touch_memory(arguments, message):
    with pytest.raises(RuntimeError) as error:
        torch.ops.wbcli.row_norms.default(*arguments(torch.ones(3, 4)))
    assert message in str(error.value)


@pytest.mark.skipif(extension.kernels("cpu") == "torch", reason="checks of the compiled kernels")
def test_kernels_called_past_the_door_want_operands_that_are_alike():
    w, numbers = torch.ones(3, 4), (0.1, 0.9, 0.0, 0.0, False, False, 1.0, False)
    step = torch.ops.wbcli.sgd_max_norm_.default
    for grad, buf in product([torch.ones(3, 5), w.double(), w], [w.double(), torch.ones(2, 4)]):
        with pytest.raises(RuntimeError, match="must have the shape, dtype and device of w"):
            step(w, grad, buf, *numbers)
    for rows in [torch.ones(2), torch.ones(3, 1), torch.ones(3).double()]:
        with pytest.raises(RuntimeError, match="radius must be"):
            torch.ops.wbcli.max_norm_.default(w, 1.0, rows)
    expanded = torch.ones(1, 4).expand(3, 4)
    with pytest.raises(RuntimeError, match="w is expanded"):
        torch.ops.wbcli.max_norm_.default(expanded, 1.0)
    with pytest.raises(RuntimeError, match="buf is expanded"):
        step(w, w.clone(), expanded, *numbers)
    assert torch.equal(w, torch.ones(3, 4))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_cuda_graph_follows_settings_in_device_memory():
    w, grad, buf = (torch.randn(50, 64, device="cuda") for _ in range(3))
    lr, radius = torch.tensor(0.1, device="cuda"), torch.rand(50, device="cuda")
    start, start_buf = w.clone(), buf.clone()

    def step():
        ops.sgd_max_norm_(w, grad, buf, lr=lr, momentum=0.9, weight_decay=0.01, radius=radius)

    step()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    for new in (0.1, 0.02):
        lr.fill_(new)
        w.copy_(start)
        buf.copy_(start_buf)
        graph.replay()
        expected, expected_buf = start.clone(), start_buf.clone()
        reference.sgd_max_norm_(
            expected,
            grad,
            expected_buf,
            lr=new,
            momentum=0.9,
            dampening=0.0,
            weight_decay=0.01,
            nesterov=False,
            maximize=False,
            radius=radius,
            unit_norm=False,
        )
        torch.testing.assert_close(w, expected)


def test_ops_trace_with_fake_tensors():
    with FakeTensorMode():
        w, radius = torch.empty(3, 4), torch.empty(3)
        assert ops.max_norm_(w, radius) is w
        assert ops.row_norms(w.bfloat16()).dtype == torch.float32
