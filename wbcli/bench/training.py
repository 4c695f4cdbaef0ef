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
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode

from wbcli import device as devices
from wbcli.bench.ops import compare
from wbcli.config.settings import Config
from wbcli.data import datasets
from wbcli.data.batches import Batches, batches_of
from wbcli.data.datasets import Dataset, Split
from wbcli.data.pictures import decoding
from wbcli.evaluate.metrics import group_means, measure
from wbcli.methods.losses import class_balanced_weights
from wbcli.models import networks
from wbcli.training.fit import fit, make_optimizer

OURS = "wbcli"
WARM_UP = 2  # rounds
MATMUL = {"cpu": 2048, "cuda": 8192}  # side of the matrix product that stands for the peak


class Ours:
    """`fit.fit`, as `wbcli stage1` calls it."""

    def __init__(self, split: Split, dataset: Dataset, config: Config, device: torch.device):
        devices.prepare(device, config.precision, config.seed, config.deterministic)
        self.network = networks.for_run(config, dataset.num_classes)
        self.network.to(device, memory_format=torch.channels_last)
        optimizer = make_optimizer(list(self.network.parameters()), [], [], config)
        weights = class_balanced_weights(dataset.class_counts).float().to(device)
        batches = Batches(split, dataset.source, config.batch_size, device)
        trained = torch.compile(self.network) if config.compile else self.network
        self.epochs = fit(trained, batches, optimizer, weights, config)

    def epoch(self, number: int) -> None:
        next(self.epochs)


class PlainTensors:
    """A good plain loop: normalised tensors on the device, crops by indexing, no waiting."""

    def __init__(self, split: Split, dataset: Dataset, config: Config, device: torch.device):
        torch.manual_seed(config.seed)
        devices.set_float32(config.precision)
        torch.backends.cudnn.benchmark = True
        self.network = networks.for_run(config, dataset.num_classes)
        self.network.to(device, memory_format=torch.channels_last)
        self.config, source = config, dataset.source
        mean, std = (torch.tensor(x)[:, None, None] for x in (source.mean, source.std))
        images = (torch.from_numpy(split.images).float() / 255 - mean) / std
        self.padding, self.flip = source.padding, source.flip
        self.images = F.pad(images, (source.padding,) * 4).to(device)
        self.labels = torch.from_numpy(split.labels).to(device)
        self.height, self.width = split.images.shape[2:]
        self.optimizer = torch.optim.SGD(
            self.network.parameters(),
            lr=config.lr,
            momentum=config.momentum,
            weight_decay=config.wd,
            fused=True,
        )

    def epoch(self, number: int) -> None:
        self.network.train()
        device, size = self.labels.device, len(self.labels)
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.lr_at(number)
        loss_sum = torch.zeros((), device=device)
        for index in torch.randperm(size, device=device).split(self.config.batch_size):
            with devices.autocast(device, self.config.precision):
                logits = self.network(self.augmented(index))
            loss = F.cross_entropy(logits.float(), self.labels[index])
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            loss_sum += loss.detach()
        loss_sum.item()

    def augmented(self, index: Tensor) -> Tensor:
        device, shape = index.device, (2, len(index), 1)
        top, left = torch.randint(0, 2 * self.padding + 1, shape, device=device)
        rows = top + torch.arange(self.height, device=device)
        columns = left + torch.arange(self.width, device=device)
        if self.flip:
            mirrored = torch.rand(len(index), 1, device=device) < 0.5
            columns = torch.where(mirrored, columns.flip(1), columns)
        channels = torch.arange(self.images.shape[1], device=device)
        return self.images[
            index[:, None, None, None],
            channels[None, :, None, None],
            rows[:, None, :, None],
            columns[:, None, None, :],
        ]


class PublishedStyle:
    """As in the released code: Pillow picture by picture, and a read of the loss in every step."""

    def __init__(self, split: Split, dataset: Dataset, config: Config, device: torch.device):
        from torchvision import transforms

        torch.manual_seed(config.seed)
        devices.set_float32(config.precision)
        self.network = networks.for_run(config, dataset.num_classes).to(device)
        self.config, self.device, source = config, device, dataset.source
        steps = [transforms.RandomCrop(split.images.shape[2:], padding=source.padding)]
        steps += [transforms.RandomHorizontalFlip()] * source.flip
        steps += [transforms.ToTensor(), transforms.Normalize(source.mean, source.std)]
        workers = decoding.workers_to_use()
        self.loader = DataLoader(
            _PillowImages(split, transforms.Compose(steps)),
            config.batch_size,
            shuffle=True,
            num_workers=workers,
            persistent_workers=workers > 0,  # kinder than the released code
            # A process that was spawned would spawn these, too, which takes seconds for each.
            multiprocessing_context="fork" if workers else None,
        )
        self.optimizer = torch.optim.SGD(
            self.network.parameters(),
            lr=config.lr,
            momentum=config.momentum,
            weight_decay=config.wd,
        )

    def epoch(self, number: int) -> None:
        self.network.train()
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.lr_at(number)
        loss_sum, hits = 0.0, 0
        for images, labels in self.loader:
            images, labels = images.to(self.device), labels.to(self.device)
            self.optimizer.zero_grad()
            with devices.autocast(self.device, self.config.precision):
                logits = self.network(images)
            loss = F.cross_entropy(logits.float(), labels)
            loss.backward()
            self.optimizer.step()
            loss_sum += loss.item() * len(labels)
            hits += (logits.argmax(1) == labels).sum().item()


class _PillowImages(torch.utils.data.Dataset):
    def __init__(self, split: Split, transform: Callable):
        self.arrays = np.ascontiguousarray(split.images.transpose(0, 2, 3, 1))
        self.labels, self.transform = split.labels, transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int):
        from PIL import Image

        return self.transform(Image.fromarray(self.arrays[i].squeeze())), int(self.labels[i])


WAYS = {OURS: Ours, "plain tensors": PlainTensors, "published style": PublishedStyle}


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
    dataset = datasets.for_run(config)
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
    dataset = datasets.for_run(config)
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
