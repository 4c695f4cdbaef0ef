"""Speed of the ops against what a user could call instead: all in one run, in turns.

Every round restores the operands, puts the caches into the wanted state and times one call of
each peer, in an order drawn anew. A peer is timed on the same tensors as everybody else; what
it moves is counted from its own code, in passes over the weight.

Legend: K rows, D entries of a row; a pass is K·D·itemsize bytes.
"""

import random
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from wbcli.balance import ops, reference
from wbcli.balance.optim import SGD
from wbcli.bench.timing import Peer, compare, time_cpu, time_cuda

SHAPES = ((100, 64), (100, 512), (1000, 2048), (8142, 2048), (100_000, 2048))
CLIPPED = ("none", "half", "all")
CACHES = ("cold", "warm")
FLUSH_BYTES = 512 * 2**20  # more than the last-level cache of any machine we know
MIN_ROUNDS = 5
STEP = {"lr": 0.01, "momentum": 0.9, "weight_decay": 5e-4}


@dataclass(frozen=True)
class Case:
    shape: tuple[int, int]
    clipped: str
    cache: str


class Operands:
    """A weight, its gradient and momentum buffer, and a radius that clips the wanted share."""

    def __init__(self, case: Case, dtype: torch.dtype, device: torch.device, steps: bool):
        generator = torch.Generator(device).manual_seed(0)
        self.start = torch.randn(case.shape, generator=generator, device=device).to(dtype)
        # Rows of lengths 0.5 to 1.5, as after training: no two are clipped alike.
        lengths = torch.linspace(0.5, 1.5, case.shape[0], device=device)[:, None]
        self.start *= lengths.to(dtype)
        self.weight = self.start.clone()
        self.other = torch.randn(case.shape, generator=generator, device=device).to(dtype)
        self.buffer_start = self.other.mul(0.1) if steps else None
        self.buffer = self.buffer_start.clone() if steps else None
        norms = reference.row_norms(self._after_step() if steps else self.start)
        radii = {"none": 2 * norms.max(), "half": norms.median(), "all": norms.min() / 2}
        self.radius = radii[case.clipped].item()
        self.share = (norms > self.radius).float().mean().item()

    def restore(self) -> None:
        self.weight.copy_(self.start)
        if self.buffer is not None:
            self.buffer.copy_(self.buffer_start)

    def _after_step(self) -> Tensor:
        w, buffer = self.start.clone(), self.buffer_start.clone()
        return ops.sgd_max_norm_(w, self.other, buffer, **STEP)


def op_peers(x: Operands, compiled: bool) -> dict[str, Peer]:
    """MaxNorm alone; and, as limits, one read and one copy of the weight."""
    w, radius, share = x.weight, x.radius, x.share
    peers = {
        "wbcli.max_norm_": Peer(lambda: ops.max_norm_(w, radius), 1 + share),
        "renorm_": Peer(lambda: w.renorm_(2, 0, radius), 3),
        "by hand": Peer(lambda: _by_hand(w, radius), 3),
        "released code": Peer(lambda: _released(w, radius), 2 + 12 * share),
    }
    if compiled:
        twin, tensor = _compile(reference.max_norm_), torch.tensor(radius, device=w.device)
        peers["torch.compile"] = Peer(lambda: twin(w, tensor), 3)
    return peers | {
        "read": Peer(lambda: w.sum(), 1),
        "copy": Peer(lambda: w.copy_(x.other), 2),
    }


def step_peers(x: Operands, compiled: bool) -> dict[str, Peer]:
    """SGD with momentum, weight decay and MaxNorm; plain fused SGD and a copy as limits."""
    w, radius = x.weight, x.radius
    ours = _optimizer(SGD, x, max_norm=radius)
    default, fused = _optimizer(torch.optim.SGD, x), _optimizer(torch.optim.SGD, x, fused=True)

    def then_renorm(optimizer: torch.optim.Optimizer) -> Callable[[], object]:
        return lambda: (optimizer.step(), w.renorm_(2, 0, radius))

    peers = {
        "wbcli.SGD": Peer(ours.step, 5),
        "default SGD + renorm_": Peer(then_renorm(default), 14),
        "fused SGD + renorm_": Peer(then_renorm(fused), 8),
    }
    if compiled:
        # In one function, Inductor's C++ backend fails on a norm behind a step (torch 2.14).
        step, project = _compile(reference.sgd_), _compile(reference.max_norm_)
        tensor = torch.tensor(radius, device=w.device)
        peers["torch.compile"] = Peer(
            lambda: (step(w, x.other, x.buffer, **STEP), project(w, tensor)), 8
        )
    return peers | {
        "fused SGD": Peer(fused.step, 5),
        "copy": Peer(lambda: w.copy_(x.other), 2),
    }


PEERS = {"op": op_peers, "step": step_peers}


def run(
    name: str,
    cases: list[Case],
    dtype: torch.dtype,
    device: torch.device,
    *,
    rounds: int,
    seconds: float,
    compiled: bool,
    on_case: Callable[[Case], None] = lambda case: None,
    on_omission: Callable[[str], None] = lambda reason: None,
) -> list[dict]:
    """Time `op` or `step`; a result for each case and peer.

    Args:
        rounds, seconds: a case ends after so many rounds, or after so many seconds and
            MIN_ROUNDS rounds.
        compiled: whether torch.compile of the torch twin is one of the peers; where it
            fails it is left out, and `on_omission` is told why.

    Returns:
        Dicts of case, `name`, `median_us`, `spread` (interquartile range over median),
        `ratio` (median over the rounds of its time over the time of `ratio_to`, which is
        ours), `bytes`, `fraction_of_copy` (bytes per second over those of the copy) and, on a
        GPU, whose time the others are, `host_us` (median until the call returns).
    """
    flush = torch.ones(FLUSH_BYTES // 4, device=device)
    results = []
    for case in cases:
        on_case(case)
        operands = Operands(case, dtype, device, steps=name == "step")
        peers = PEERS[name](operands, compiled)
        compiled = compiled and _compiles(peers, on_omission)
        times, host = _time_in_turns(peers, operands, flush, case.cache, rounds, seconds)
        one_pass = operands.weight.numel() * operands.weight.element_size()
        results += _summarize(case, dtype, peers, times, host, one_pass)
    return results


def _compiles(peers: dict[str, Peer], on_omission: Callable[[str], None]) -> bool:
    """Whether torch.compile works on this machine; without it the peer is taken out."""
    try:
        peers["torch.compile"].call()
    except RuntimeError as error:
        del peers["torch.compile"]
        on_omission(f"torch.compile is left out, it fails here: {str(error).splitlines()[0]}")
        return False
    return True


def _time_in_turns(
    peers: dict[str, Peer],
    operands: Operands,
    flush: Tensor,
    cache: str,
    rounds: int,
    seconds: float,
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Microseconds of every peer in every round, on the device and on the host.

    The first two rounds warm up and are dropped. The cache is emptied by reading: lines that were
    written would be written back within the call that is timed.
    """
    timer = time_cuda if flush.is_cuda else time_cpu
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in peers}
    shuffle = random.Random(0)
    for number in range(rounds + 2):
        if number == 2:
            started = time.perf_counter()
        for name in shuffle.sample(list(peers), len(peers)):  # who ran before leaves traces
            if cache == "warm":
                peers[name].call()  # warms the caches of its code, too
            operands.restore()
            if cache == "cold":
                flush.sum()
            times[name].append(timer(peers[name].call))
        if number >= MIN_ROUNDS + 1 and time.perf_counter() - started > seconds:
            break
    device, host = (
        {name: [pair[side] for pair in pairs[2:]] for name, pairs in times.items()}
        for side in range(2)
    )
    return device, host


def _summarize(
    case: Case,
    dtype: torch.dtype,
    peers: dict[str, Peer],
    times: dict[str, list[float]],
    host: dict[str, list[float]],
    one_pass: int,
) -> list[dict]:
    compared = compare(times, next(iter(peers)))
    copy_speed = peers["copy"].passes / compared["copy"]["median_us"]
    rows = []
    for name, peer in peers.items():
        rows.append(
            compared[name]
            | {
                "shape": f"{case.shape[0]}x{case.shape[1]}",
                "dtype": str(dtype).removeprefix("torch."),
                "clipped": case.clipped,
                "cache": case.cache,
                "bytes": round(peer.passes * one_pass),
                "fraction_of_copy": peer.passes / compared[name]["median_us"] / copy_speed,
                "host_us": statistics.median(host[name]),
                "rounds": len(times[name]),
            }
        )
    return rows


def _by_hand(w: Tensor, radius: float) -> Tensor:
    """What most people write."""
    norms = torch.linalg.vector_norm(w, dim=1, keepdim=True)
    return w.mul_((radius / norms).clamp(max=1))


def _released(w: Tensor, radius: float) -> Tensor:
    """The released code's way: a factor for every element, and boolean masks."""
    norms = torch.linalg.vector_norm(w, dim=1)
    factors = torch.ones_like(w)
    over = norms > radius
    factors[over] = (radius / norms[over]).unsqueeze(1).expand_as(factors[over])
    w[over] = w[over] * factors[over]
    return w


def _compile(function: Callable) -> Callable:
    return torch.compile(function, dynamic=False, fullgraph=True)


def _optimizer(kind: type, x: Operands, **options) -> torch.optim.Optimizer:
    x.weight.grad = x.other
    optimizer = kind([x.weight], **STEP, **options)
    optimizer.state[x.weight]["momentum_buffer"] = x.buffer
    return optimizer
