"""wbcli.SGD against torch.optim.SGD followed by a projection written out here."""

import copy

import pytest
import torch
from torch import nn

import wbcli
from wbcli import SGD

PLAIN = [
    {"momentum": 0.0, "weight_decay": 0.0},
    {"momentum": 0.9, "weight_decay": 0.1},
    {"momentum": 0.9, "weight_decay": 0.1, "nesterov": True},
    {"momentum": 0.9, "weight_decay": 0.01, "dampening": 0.5},
    {"momentum": 0.5, "maximize": True},
]
CONSTRAINTS = [{}, {"max_norm": 0.3}, {"unit_norm": True}]


def head() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(8, 5)


def steps(layer: nn.Module, optimizer: torch.optim.Optimizer, count: int = 20, after=None) -> None:
    """`count` steps on random batches, the same for every caller."""
    generator = torch.Generator().manual_seed(7)
    for _ in range(count):
        images = torch.randn(16, 8, generator=generator)
        labels = torch.randint(5, (16,), generator=generator)
        optimizer.zero_grad()
        nn.functional.cross_entropy(layer(images), labels).backward()
        optimizer.step()
        if after:
            after()


def project_plainly(weight: nn.Parameter, max_norm=None, unit_norm=False) -> None:
    with torch.no_grad():
        for row in weight:
            norm = row.norm()
            if unit_norm or (max_norm is not None and norm > max_norm):
                row *= (1.0 if unit_norm else max_norm) / norm


@pytest.mark.parametrize("constraint", CONSTRAINTS, ids=str)
@pytest.mark.parametrize("plain", PLAIN, ids=str)
def test_equals_torch_sgd_followed_by_a_projection(plain, constraint):
    ours, theirs = head(), head()
    steps(ours, SGD(ours.parameters(), lr=0.3, **plain, **constraint))
    optimizer = torch.optim.SGD(theirs.parameters(), lr=0.3, **plain)
    steps(theirs, optimizer, after=lambda: project_plainly(theirs.weight, **constraint))
    torch.testing.assert_close(ours.weight, theirs.weight, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ours.bias, theirs.bias, rtol=1e-5, atol=1e-6)
    if constraint.get("max_norm"):
        on_surface = wbcli.row_norms(ours.weight) > 0.3 * (1 - 1e-5)
        assert on_surface.any(), "the constraint never bound: this test compared nothing"


def test_one_value_per_row_is_as_many_optimisers():
    lr, decay = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5]), torch.tensor([0.0, 0.1, 0.2, 0.3, 0.4])
    radius = torch.tensor([0.3, 0.5, 0.7, 0.9, 9.0])
    ours, start = head().weight, head().weight.detach()
    grads = torch.randn(20, 5, 8, generator=torch.Generator().manual_seed(3))
    optimizer = SGD([ours], lr=lr, momentum=0.9, weight_decay=decay, max_norm=radius)
    for grad in grads:
        ours.grad = grad
        optimizer.step()
    for k in range(5):
        row = nn.Parameter(start[k : k + 1].clone())
        one = torch.optim.SGD([row], lr=lr[k].item(), momentum=0.9, weight_decay=decay[k].item())
        for grad in grads:
            row.grad = grad[k : k + 1]
            one.step()
            project_plainly(row, max_norm=radius[k].item())
        torch.testing.assert_close(ours[k : k + 1], row, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("plain", PLAIN, ids=str)
def test_rows_inside_their_ball_have_the_bits_of_torch_sgd(plain, dtype):
    generator = torch.Generator().manual_seed(5)
    start = torch.randn(20, 133, generator=generator, dtype=dtype)
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    optimizers = [
        SGD([ours], lr=0.1, **plain, max_norm=1e9),
        torch.optim.SGD([theirs], lr=0.1, **plain),
    ]
    for _ in range(20):
        ours.grad = torch.randn(20, 133, generator=generator, dtype=dtype)
        theirs.grad = ours.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_16_bit_weights_round_once_a_step(dtype):
    start = torch.randn(20, 64, generator=torch.Generator().manual_seed(5)).to(dtype)
    ours = nn.Parameter(start.clone())
    optimizer = SGD([ours], lr=0.1, momentum=0.9, weight_decay=0.01, max_norm=1e9)
    ours.grad = torch.ones_like(ours)
    optimizer.step()
    expected = start.double() - 0.1 * (1 + 0.01 * start.double())
    torch.testing.assert_close(ours.double(), expected, rtol=torch.finfo(dtype).eps / 1.9, atol=0)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_filters_are_rows(memory_format):
    torch.manual_seed(0)
    ours = nn.Conv2d(3, 8, 3).to(memory_format=memory_format)
    theirs = copy.deepcopy(ours)
    images = torch.randn(4, 3, 8, 8)
    optimizers = {
        ours: SGD(ours.parameters(), lr=0.1, momentum=0.9, max_norm=0.4),
        theirs: torch.optim.SGD(theirs.parameters(), lr=0.1, momentum=0.9),
    }
    for _ in range(5):
        for layer, optimizer in optimizers.items():
            optimizer.zero_grad()
            (layer(images) - 3).square().mean().backward()
            optimizer.step()
        project_plainly(theirs.weight, max_norm=0.4)
    torch.testing.assert_close(ours.weight, theirs.weight)
    assert wbcli.row_norms(ours.weight).max() > 0.3999, "the constraint never bound"


def test_settings_in_tensors_are_followed_when_they_change():
    lr, radius = torch.tensor(0.3), torch.tensor(0.5)
    ours, theirs = head(), head()
    optimizer = SGD(ours.parameters(), lr=lr, max_norm=radius)
    for new_lr, new_radius in [(0.3, 0.5), (0.1, 0.2)]:
        lr.fill_(new_lr)
        radius.fill_(new_radius)
        steps(ours, optimizer, 3)
        plain = torch.optim.SGD(theirs.parameters(), lr=new_lr)
        steps(theirs, plain, 3, after=lambda r=new_radius: project_plainly(theirs.weight, r))
        torch.testing.assert_close(ours.weight, theirs.weight, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(ours.bias, theirs.bias, rtol=1e-5, atol=1e-6)


LAYOUTS = {
    "contiguous": lambda t: t.clone(),
    "a slice of columns": lambda t: torch.cat([t, t], 1)[:, : t.shape[1]],
    "every second row": lambda t: t.repeat_interleave(2, 0)[::2],
    "transposed": lambda t: t.t().contiguous().t(),
    "expanded": lambda t: t[:1, :1].expand(t.shape),
}


@pytest.mark.parametrize("constraint", [{}, {"max_norm": 1.0}], ids=str)
@pytest.mark.parametrize("grad_layout", LAYOUTS)
@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != "expanded"])
def test_weights_and_gradients_may_lie_in_memory_as_they_like(layout, grad_layout, constraint):
    values = torch.randn(4, 6, generator=torch.Generator().manual_seed(1))
    place, place_grad = LAYOUTS[layout], LAYOUTS[grad_layout]
    ours, theirs = nn.Parameter(place(values)), nn.Parameter(values.clone())
    optimizers = [
        SGD([ours], lr=0.1, momentum=0.9, **constraint),
        torch.optim.SGD([theirs], lr=0.1, momentum=0.9, foreach=False),
    ]
    for seed in range(3):
        grad = torch.randn(4, 6, generator=torch.Generator().manual_seed(seed))
        ours.grad, theirs.grad = place_grad(grad), place_grad(grad).clone()
        for optimizer in optimizers:
            optimizer.step()
        project_plainly(theirs, **constraint)
    torch.testing.assert_close(ours, theirs)


def test_a_slice_of_a_matrix_is_stepped_and_nothing_beside_it():
    base = torch.zeros(4, 6)
    layer = nn.Linear(3, 4, bias=False)
    layer.weight = nn.Parameter(base[:, :3])
    layer(torch.ones(1, 3)).sum().backward()
    SGD(layer.parameters(), lr=1.0).step()
    assert torch.equal(base, torch.tensor([[-1.0, -1.0, -1.0, 0.0, 0.0, 0.0]]).repeat(4, 1))


def test_momentum_of_another_memory_format_is_continued():
    torch.manual_seed(0)
    first = nn.Conv2d(3, 4, 3)
    images = torch.randn(2, 3, 5, 5)
    plain = torch.optim.SGD(first.parameters(), lr=0.1, momentum=0.9)
    second = copy.deepcopy(first).to(memory_format=torch.channels_last)
    for layer in (first, second):
        layer(images).square().sum().backward()
    plain.step()
    second.load_state_dict(first.state_dict())
    optimizer = SGD(second.parameters(), lr=0.1, momentum=0.9)
    optimizer.load_state_dict(copy.deepcopy(plain.state_dict()))
    for _ in range(2):
        plain.step()
        optimizer.step()
    torch.testing.assert_close(second.weight, first.weight)


def test_a_fused_step_that_pytorch_would_get_wrong_is_refused():
    p = nn.Parameter(torch.zeros(4, 6)[:, :3])
    p.grad = torch.ones(4, 3)
    with pytest.raises(ValueError, match="fused=True: PyTorch's fused SGD needs"):
        SGD([p], lr=1.0, fused=True).step()


def test_complex_and_scalar_parameters_are_stepped():
    for start in (torch.ones(3, 2, dtype=torch.complex64), torch.tensor(1.0)):
        p = nn.Parameter(start.clone())
        p.grad = torch.ones_like(p)
        SGD([p], lr=0.5, weight_decay=torch.tensor(0.0)).step()
        torch.testing.assert_close(p.data, start / 2)


def test_a_refused_step_leaves_no_buffer_behind():
    p = nn.Parameter(torch.zeros(2, 2))
    optimizer = SGD([p], lr=1.0, momentum=0.9, dampening=0.5, max_norm=100.0)
    p.grad = torch.ones(2, 2).to_sparse()
    with pytest.raises(ValueError, match="grad must have the layout of the weight"):
        optimizer.step()
    p.grad = torch.ones(2, 2)
    optimizer.step()
    assert torch.equal(p.data, -torch.ones(2, 2)), "the first buffer is the gradient itself"


@pytest.mark.parametrize("constraint", [{"max_norm": 0.6}, {"unit_norm": True}], ids=str)
def test_a_state_without_constraints_keeps_those_of_the_constructor(constraint):
    for saved in (SGD(head().parameters(), lr=0.3), torch.optim.SGD(head().parameters(), lr=0.3)):
        optimizer = SGD(head().parameters(), lr=9.0, **constraint)
        optimizer.load_state_dict(saved.state_dict())
        group = optimizer.param_groups[0]
        assert group["lr"] == 0.3
        assert {key: group[key] for key in constraint} == constraint
    other = SGD(head().parameters(), lr=0.3, max_norm=0.9)
    optimizer.load_state_dict(other.state_dict())
    group = optimizer.param_groups[0]
    assert (group["max_norm"], group["unit_norm"]) == (0.9, False)


def test_a_state_from_before_an_option_existed_takes_its_default():
    layer = head()
    state = torch.optim.SGD(layer.parameters(), lr=0.3).state_dict()
    for key in ("maximize", "foreach", "fused", "differentiable"):
        state["param_groups"][0].pop(key)
    optimizer = SGD(layer.parameters(), lr=9.0)
    optimizer.load_state_dict(state)
    steps(layer, optimizer, 1)
    assert optimizer.param_groups[0]["maximize"] is False


def test_a_parameter_may_get_its_first_gradient_later():
    first, second = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
    optimizer = SGD([first, second], lr=0.1, momentum=0.9)
    first.grad = torch.ones(3)
    optimizer.step()
    second.grad = torch.ones(3)
    optimizer.step()
    torch.testing.assert_close(first.data, torch.full((3,), 1 - 0.1 - 0.19))
    torch.testing.assert_close(second.data, torch.full((3,), 1 - 0.1))


def test_the_step_compiles():
    ours, compiled = head(), head()
    optimizer = SGD(ours.parameters(), lr=0.1, momentum=0.9, max_norm=0.5)
    steps(ours, optimizer, 3)
    optimizer = SGD(compiled.parameters(), lr=0.1, momentum=0.9, max_norm=0.5)
    optimizer.step = torch.compile(optimizer.step, backend="aot_eager")
    steps(compiled, optimizer, 3)
    torch.testing.assert_close(ours.weight, compiled.weight)


def test_state_dicts_are_exchanged_with_torch_sgd():
    ours, theirs = head(), head()
    plain = torch.optim.SGD(theirs.parameters(), lr=0.3, momentum=0.9)
    steps(theirs, plain, 5)
    ours.load_state_dict(theirs.state_dict())
    constrained = SGD(ours.parameters(), lr=9.0, max_norm=0.6)
    constrained.load_state_dict(copy.deepcopy(plain.state_dict()))
    assert constrained.param_groups[0]["lr"] == 0.3
    assert constrained.param_groups[0]["max_norm"] == 0.6, "the constructor's constraint is kept"

    back = torch.optim.SGD(theirs.parameters(), lr=9.0)
    back.load_state_dict(copy.deepcopy(constrained.state_dict()))
    steps(ours, constrained)
    steps(theirs, back, after=lambda: project_plainly(theirs.weight, max_norm=0.6))
    torch.testing.assert_close(ours.weight, theirs.weight, rtol=1e-5, atol=1e-6)


def test_a_hook_gives_any_optimiser_the_constraint():
    layer = head()
    optimizer = torch.optim.AdamW([{"params": layer.parameters(), "max_norm": 0.4}], lr=0.1)
    optimizer.register_step_post_hook(wbcli.project)
    steps(layer, optimizer, 5)
    assert wbcli.row_norms(layer.weight).max() <= 0.4 * (1 + 1e-6)
    assert layer.bias.norm() > 0.2, "the bias is left alone"


def test_a_hook_refuses_both_constraints_at_once():
    layer = head()
    group = {"params": layer.parameters(), "max_norm": 1.0, "unit_norm": True}
    with pytest.raises(ValueError, match="exclude each other"):
        wbcli.project(torch.optim.Adam([group]))


def test_constrained_weights_must_be_rows_of_real_numbers():
    with pytest.raises(ValueError, match="expected a floating-point tensor of rows"):
        SGD([nn.Parameter(torch.ones(2, 2, dtype=torch.complex64))], max_norm=1.0)


def test_only_rows_are_constrained():
    layer = nn.Sequential(nn.Linear(8, 5), nn.LayerNorm(5))
    with torch.no_grad():
        layer[1].weight.fill_(3.0)
    steps(layer, SGD(layer.parameters(), lr=1e-3, max_norm=0.1), 2)
    assert wbcli.row_norms(layer[0].weight).max() <= 0.1 * (1 + 1e-6)
    assert layer[1].weight.min() > 2.9


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_norm": 1.0, "unit_norm": True}, "exclude each other"),
        ({"max_norm": -1.0}, "max_norm must be at least 0, got -1.0"),
        ({"max_norm": torch.ones(4)}, "one per row ([5] for a weight of shape [5, 8])"),
        ({"lr": -0.1}, "lr must be at least 0, got -0.1"),
        ({"weight_decay": -0.1}, "weight_decay must be at least 0"),
        ({"momentum": -0.1}, "momentum must be at least 0"),
        ({"nesterov": True}, "nesterov needs a momentum above 0"),
        ({"dampening": "x"}, "dampening must be a finite number, got 'x'"),
        ({"foreach": True, "fused": True}, "foreach and fused exclude each other"),
        ({"differentiable": True}, "no gradient goes through a step"),
    ],
)
def test_wrong_settings_are_refused_at_once(settings, message):
    with pytest.raises(ValueError) as error:
        SGD([head().weight], **settings)
    assert message in str(error.value)


def test_where_somebody_compiles_the_guards_of_torch_are_met(monkeypatch):
    """torch.optim marks these methods for torch.compile, and imports it to do so."""
    import torch._dynamo  # as torch.compile does

    names = ("zero_grad", "state_dict", "add_param_group", "load_state_dict")
    for name in names:
        monkeypatch.delattr(getattr(torch.optim.Optimizer, name).__wrapped__, "__dynamo_disable", 0)
    w = torch.nn.Parameter(torch.ones(2, 3))
    optimizer = SGD([w], lr=0.1)
    optimizer.zero_grad()
    optimizer.load_state_dict(optimizer.state_dict())
    for name in names:
        assert hasattr(getattr(torch.optim.Optimizer, name).__wrapped__, "__dynamo_disable")
