"""Training benchmark: our epochs against the loops that people write.

Every way trains the same network on the same images in the same precision, in a process of its own
with the settings of the process that are its own, and is asked for an epoch at a time, in turns.

Legend: N images, B batch.
"""

import random
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from multiprocessing import get_context
from multiprocessing.connection import Connection

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from wbcli import device as devices
from wbcli.bench.timing import compare
from wbcli.bench.ways import OURS, WAYS
from wbcli.config.settings import Config
from wbcli.data import recorded
from wbcli.data.batches.splits import batches_of
from wbcli.data.datasets import Dataset, Split
from wbcli.evaluate.metrics import group_means, measure
from wbcli.models import networks

WARM_UP = 2  # rounds
MATMUL = {"cpu": 2048, "cuda": 8192}  # side of the matrix product that stands for the peak


def run(
    config: Config,
    steps: int,
    rounds: int,
    device: torch.device,
    on_round: Callable[[int], None] = lambda number: None,
) -> list[dict]:
    """Time an epoch of `steps` batches of every way in every round, in an order drawn anew.

    Returns:
        For each way `name`, `median_us` (of a step), `spread` (interquartile range over median),
        `ratio` (its time over ours), `images_per_second`, `epochs_per_minute` (of the whole
        training split), `peak_mb` (of its process; on a GPU of its tensors), `flops_per_step`
        and `flop_utilisation` (over those of a product of two large matrices).
    """
    dataset = recorded.for_run(config)
    times: dict[str, list[float]] = {name: [] for name in WAYS}
    with _Processes(config, steps, device) as processes:
        shuffle = random.Random(0)
        for number in range(rounds + WARM_UP):
            on_round(number)
            for name in shuffle.sample(list(WAYS), len(WAYS)):
                times[name].append(processes.ask(name, "epoch", number))
        peaks = {name: processes.ask(name, "peak_mb") for name in WAYS}
    flops, peak_flops = flops_per_step(config, dataset), _matmul_flops(device, config.precision)
    images = min(steps * config.batch_size, len(dataset.train.labels))
    num_steps = images / config.batch_size
    by_step = {
        name: [1e6 * seconds / num_steps for seconds in values[WARM_UP:]]
        for name, values in times.items()
    }
    rows = []
    for name, row in compare(by_step, OURS).items():
        per_second = 1e6 * config.batch_size / row["median_us"]
        rows.append(
            row
            | {
                "images_per_second": per_second,
                "epochs_per_minute": 60 * per_second / len(dataset.train.labels),
                "peak_mb": peaks[name],
                "flops_per_step": flops,
                "flop_utilisation": flops * per_second / config.batch_size / peak_flops,
            }
        )
    return rows


def run_to_accuracy(
    config: Config,
    accuracy: float,
    device: torch.device,
    on_epoch: Callable[[str, int, float], None] = lambda name, epoch, accuracy: None,
) -> list[dict]:
    """Seconds of training, without evaluation, until the test accuracy first reaches `accuracy`.

    Returns:
        For each way `name`, `seconds` (None: not within the epochs of the settings), `epochs`
        and the last `accuracy`, per cent, mean over classes.
    """
    rows = []
    with _Processes(config, None, device) as processes:
        for name in WAYS:
            seconds, found, epoch = 0.0, 0.0, 0
            while epoch < config.epochs and found < accuracy:
                seconds += processes.ask(name, "epoch", epoch)
                found, epoch = processes.ask(name, "accuracy"), epoch + 1
                on_epoch(name, epoch, found)
            reached = seconds if found >= accuracy else None
            rows.append({"name": name, "seconds": reached, "epochs": epoch, "accuracy": found})
    return rows


class _Processes:
    """A process for each way, which does what it is asked for."""

    def __init__(self, config: Config, steps: int | None, device: torch.device):
        context, self.pipes, self.processes = get_context("spawn"), {}, []
        threads = torch.get_num_threads()
        for name in WAYS:
            self.pipes[name], theirs = context.Pipe()
            arguments = (theirs, name, config, steps, device, threads)
            self.processes.append(context.Process(target=_serve, args=arguments))
            self.processes[-1].start()
            theirs.close()

    def __enter__(self) -> "_Processes":
        return self

    def __exit__(self, *error) -> None:
        for pipe in self.pipes.values():
            pipe.close()
        for process in self.processes:
            process.join()

    def ask(self, name: str, *question) -> float:
        self.pipes[name].send(question)
        try:
            return self.pipes[name].recv()
        except EOFError:
            raise RuntimeError(f"bench train: the process of {name!r} ended, see above") from None


def _serve(
    pipe: Connection,
    name: str,
    config: Config,
    steps: int | None,
    device: torch.device,
    threads: int,
) -> None:
    torch.set_num_threads(threads)
    device = devices.resolve(str(device))  # a process has a current GPU of its own
    dataset = recorded.for_run(config)
    split = dataset.train
    if steps:
        chosen = np.random.default_rng(0).permutation(len(split.labels))
        chosen = chosen[: steps * config.batch_size]
        split = Split(split.images[chosen], split.labels[chosen])
        config = replace(config, epochs=10**6)  # the learning rate stays where it starts
    way = WAYS[name](split, dataset, config, device)
    answers = {
        "epoch": lambda number: _seconds(way, number, device),
        "accuracy": lambda: _accuracy(way.network, dataset, device),
        "peak_mb": lambda: devices.peak_mb(device),
    }
    for what, *details in _questions(pipe):
        pipe.send(answers[what](*details))


def _questions(pipe: Connection) -> Iterator[tuple]:
    while True:
        try:
            yield pipe.recv()
        except EOFError:
            return


def _seconds(way, number: int, device: torch.device) -> float:
    started = time.perf_counter()
    way.epoch(number)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def _accuracy(network: nn.Module, dataset: Dataset, device: torch.device) -> float:
    batches = batches_of(dataset, "test", device).evaluate()
    metrics = measure(network, batches, dataset.num_classes)
    return group_means(metrics["accuracy"], {})["all"]


def flops_per_step(config: Config, dataset: Dataset) -> int:
    """Of the products in a forward and a backward pass, additions counted, too."""
    network = networks.for_run(config, dataset.num_classes)
    shape = (config.batch_size, *dataset.source.image)
    with FlopCounterMode(display=False) as counter:
        network(torch.zeros(shape)).sum().backward()
    return counter.get_total_flops()


def _matmul_flops(device: torch.device, precision: str) -> float:
    """FLOP per second of a product of two large matrices in that precision."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    side, seconds = MATMUL[device.type], []
    a = torch.randn(side, side, device=device, dtype=dtype)
    for _ in range(7):
        started = time.perf_counter()
        a @ a
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - started)
    return 2 * side**3 / statistics.median(seconds[2:])
