"""What only a GPU can say of the kernels: see also the cases on "cuda" of test_kernels.py.

tests/gpu/correct.sh runs the test of every kernel under compute-sanitizer, too.
"""

import pytest
import torch
from torch import Tensor

from balance.test_kernels import DTYPES, assert_as_computed, norms_in_float64, step_in_float64
from wbcli import SGD
from wbcli.balance import extension, ops

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
WIDTHS = [1, 33, 64, 256, 512, 516, 1032, 1033, 2056, 4104, 8200, 16400]  # every kernel and tier
STEP = {
    "lr": 0.1,
    "momentum": 0.9,
    "weight_decay": 0.01,
    "dampening": 0.0,
    "nesterov": False,
    "maximize": False,
    "radius": 5.0,
    "unit_norm": False,
}


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def to_gpu(t: Tensor, gap: int) -> Tensor:
    """`t` [K, D] with `gap` elements between its rows; made on the CPU: no kernel but ours runs."""
    rows, width = t.shape
    before = min(gap, 1)  # then no row is aligned
    room = t.new_full((rows, width + gap), 9.0)
    room[:, before : before + width] = t
    return room.cuda()[:, before : before + width]


def test_the_compiled_kernels_are_tested():
    assert extension.kernels("cuda") == "compiled", extension.MISSING["cuda"]


@pytest.mark.parametrize("gap", [0, 3])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_kernel(dtype, gap):
    for width in WIDTHS:
        w, grad, buf = (draw(7, width, seed=seed).to(dtype) for seed in range(3))
        step = STEP | {"radius": norms_in_float64(w).median().item()}
        expected, expected_buf = step_in_float64(w, grad, buf, step)
        on_gpu = [to_gpu(t, gap) for t in (w, grad, buf)]
        norms = ops.row_norms(on_gpu[0]).cpu().double()
        torch.testing.assert_close(norms, norms_in_float64(w), rtol=1e-5, atol=0)
        ops.sgd_max_norm_(*on_gpu, **step)
        assert_as_computed(on_gpu[0].cpu(), expected, (width, gap))
        assert_as_computed(on_gpu[2].cpu(), expected_buf, (width, gap))
        ops.max_norm_(on_gpu[0], step["radius"] / 2)
        ops.tau_norm_(on_gpu[0], 1.0)
        norms = norms_in_float64(on_gpu[0].cpu())
        rtol = 1e-5 + torch.finfo(dtype).eps
        torch.testing.assert_close(norms, torch.ones_like(norms), rtol=rtol, atol=0)


def test_steps_have_the_bits_of_torch_sgd_where_no_row_is_clipped():
    ours, theirs = (torch.nn.Parameter(draw(100, 512).cuda()) for _ in range(2))
    settings = {"lr": 0.03, "momentum": 0.9, "weight_decay": 5e-3}
    optimizers = SGD([ours], **settings, max_norm=1e9), torch.optim.SGD([theirs], **settings)
    for seed in range(20):
        ours.grad = draw(100, 512, seed=seed).cuda()
        theirs.grad = ours.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("constraint", [{"max_norm": 0.5}, {"unit_norm": True}], ids=str)
def test_training_with_wbcli_sgd_is_that_on_a_cpu(constraint):
    weights = []
    for device in ("cpu", "cuda"):
        torch.manual_seed(0)
        layer = torch.nn.Linear(33, 10).to(device)
        optimizer = SGD(layer.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01, **constraint)
        for seed in range(20):
            optimizer.zero_grad()
            images = draw(8, 33, seed=seed).to(device)
            layer(images).square().mean().neg().backward()  # rows grow
            optimizer.step()
        weights.append(layer.weight.detach().cpu())
    torch.testing.assert_close(*weights, rtol=1e-4, atol=1e-5)
    norms = norms_in_float64(weights[1])
    assert norms.max() > constraint.get("max_norm", 1.0) * (1 - 1e-5), "no constraint has bound"


def test_a_call_waits_for_what_its_own_stream_has_before_it():
    stream = torch.cuda.Stream()
    w = torch.zeros(8142, 2048, device="cuda")
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(20_000_000)  # cycles of the GPU: the host is far ahead
        w.fill_(1.0)
        ops.max_norm_(w, 1.0)
    stream.synchronize()
    torch.testing.assert_close(ops.row_norms(w), torch.ones(8142, device="cuda"))


@pytest.mark.parametrize("layout", ["aligned", "odd", "transposed"])
def test_a_graph_is_replayed_with_the_values_of_the_day(layout):
    start = [draw(50, 66, seed=seed) for seed in range(3)]
    gap = 3 if layout == "odd" else 0
    w, grad, buf = (to_gpu(t, gap) for t in start)
    if layout == "transposed":  # is copied, and copied back
        w, grad, buf = (t.t().contiguous().t() for t in (w, grad, buf))
    lr = torch.full((50,), 0.1, device="cuda")
    step = STEP | {"lr": lr}
    ops.sgd_max_norm_(w, grad, buf, **step)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        ops.sgd_max_norm_(w, grad, buf, **step)
    for value in (0.1, 0.02):
        w.copy_(start[0]), buf.copy_(start[2]), lr.fill_(value)
        graph.replay()
        expected, expected_buf = step_in_float64(*start, STEP | {"lr": value})
        assert_as_computed(w.cpu(), expected, (layout, value))
        assert_as_computed(buf.cpu(), expected_buf, (layout, value))


def test_more_than_two_to_the_31_elements():
    if torch.cuda.mem_get_info()[0] < 6 * 2**30:
        pytest.skip("needs 6 GB of free memory on the GPU")
    w = torch.zeros(2**20 + 1, 2048, dtype=torch.bfloat16, device="cuda")
    w[0], w[-1] = 2.0, 3.0
    ops.max_norm_(w, 1.0)
    norms = ops.row_norms(w).cpu()
    assert norms[1:-1].amax() == 0
    torch.testing.assert_close(norms[[0, -1]], torch.ones(2), rtol=1e-2, atol=0)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs a second GPU")
def test_a_device_that_is_not_the_current_one():
    w = draw(100, 64)
    torch.testing.assert_close(ops.row_norms(w.to("cuda:1")).cpu(), ops.row_norms(w))
