"""Whole training steps as CUDA graphs: crop, forward, backward, optimiser, replayed by one call.

A step of a small network is hundreds of kernels, and launching them takes longer than running
them. The graph draws its images itself: it holds the epoch's order, crops and flips, and a
position in them that it moves on. The learning rate is a tensor. An epoch has two sizes of
batch, so there are two graphs, and nothing runs outside them.

Legend: N images, B batch.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from wbcli.data.batches.batch import Batch, bounds
from wbcli.data.batches.memory import Batches

WARM_UP = 3  # steps before a capture, which let libraries allocate what they keep
Step = Callable[[Batch], None]
Drawn = tuple[tuple[str, ...], tuple[str, ...]]  # streams, views


class Undrawn:
    """The key of a batch within a graph: what is drawn from it would be drawn once for ever."""

    def _refuse(self, *_) -> None:
        raise RuntimeError("its method draws from the key of a batch")

    __iter__ = __len__ = __getitem__ = __hash__ = _refuse


def record(run: Callable[[], None], state: list[Tensor]) -> Callable[[], None]:
    """Capture `run` on the current GPU; returns its replay.

    Args:
        state: every tensor that `run` changes and that outlives it; warming up leaves no trace.

    Raises:
        RuntimeError: something in it cannot be captured. Nothing more can then be done on this
            device: torch stays on the stream of the capture.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        warm_up(run, state)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay


def warm_up(run: Callable[[], None], state: list[Tensor]) -> None:
    """Run it a few times, each from where `state` is, and leave `state` as it was."""
    before = [tensor.clone() for tensor in state]
    for _ in range(WARM_UP):
        run()
        with torch.no_grad():
            for tensor, value in zip(state, before, strict=True):
                tensor.copy_(value)


class GraphedEpochs:
    """The training epochs of a split in memory, a graph for each size of batch.

    Args:
        step: one optimiser step on a batch, which waits for nothing on the host.
        state: see `record`; with what `step` sums up.
        drawn: as many streams and views as every epoch has.
    """

    def __init__(self, batches: Batches, step: Step, state: list[Tensor], drawn: Drawn):
        self.batches, self.step, self.num_views = batches, step, len(drawn[1])
        self.bounds = bounds(batches.size, batches.batch_size)
        device = batches.labels.device
        self.draws = batches.draw(0, 0, *drawn).to(device)  # [S·(1 + 3V), N], of the epoch
        self.position = torch.zeros((), dtype=torch.int64, device=device)
        self.replays = {
            size: record(lambda size=size: self._run(size), [*state, self.position])
            for size in sorted({stop - start for start, stop in self.bounds})
        }

    def steps(
        self, seed: int, epoch: int, *drawn, first: int = 0, progress: float = 0.0
    ) -> Iterator[tuple[Callable[[], None], int]]:
        """For each batch of an epoch what trains on it, and its size; those of `Batches.steps`."""
        self.draws.copy_(self.batches.draw(seed, epoch, *drawn, progress))
        left = self.bounds[first:]
        self.position.fill_(left[0][0] if left else 0)
        for start, stop in left:
            yield self.replays[stop - start], stop - start

    def _run(self, size: int) -> None:
        places = self.position + torch.arange(size, device=self.position.device)
        self.step(self.batches.take(self.draws[:, places], self.num_views, Undrawn()))
        self.position += size
