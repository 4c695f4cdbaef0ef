"""Speed of the tuner's batch: M heads trained together against the same M one after another.

Both sides train the same candidates from the same start on the same cached features; a round
times each side once, in an order drawn anew.

Legend: M heads, N images, K classes, D features.
"""

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn

from wbcli.balance.radius import radius_of
from wbcli.bench.timing import compare
from wbcli.config.settings import Config
from wbcli.data.batches.batch import Batch
from wbcli.data.batches.splits import Data
from wbcli.methods.make import for_run
from wbcli.models.networks import Network
from wbcli.training.fit import fit, make_optimizer
from wbcli.training.heads import Heads, train_heads

SHAPES = ((10, 64), (100, 64), (100, 512))
BATCH = 64
OURS, ALONE = "together", "one after another"


class RandomFeatures:
    """Standard normal features [N, D] and labels, in batches as `Features.steps` gives them."""

    def __init__(self, size: int, num_classes: int, num_features: int, device: torch.device):
        generator = torch.Generator().manual_seed(0)
        self.size = size
        self.values = torch.randn(size, num_features, generator=generator).to(device)
        self.labels = torch.randint(num_classes, (size,), generator=generator).to(device)

    def steps(self, seed: int, epoch: int, *drawn, first: int = 0, **how) -> Iterator[Batch]:
        generator = torch.Generator().manual_seed(epoch)
        order = torch.randperm(self.size, generator=generator).to(self.labels.device)
        for index in order.split(BATCH)[first:]:
            yield Batch(self.values[index], self.labels[index])


def run(
    shapes: list[tuple[int, int]], num_heads: int, steps: int, rounds: int, device: torch.device
) -> list[dict]:
    """Two results for each shape, as of `ops.run`; `difference` is the largest ‖w − w'‖/‖w'‖."""
    results = []
    for num_classes, num_features in shapes:
        torch.manual_seed(0)
        start = nn.Linear(num_features, num_classes, device=device)
        features = RandomFeatures(steps * BATCH, num_classes, num_features, device)
        counts = [max(1, 500 // (k + 1)) for k in range(num_classes)]
        configs = candidates(num_heads)

        def together(start=start, features=features, configs=configs, counts=counts) -> Heads:
            return train_heads(start, features, configs, counts)

        def alone(start=start, features=features, configs=configs, counts=counts) -> list:
            return [_train_alone(start, features, config, counts) for config in configs]

        pairs = zip(_weights(together()), [head.weight for head in alone()], strict=True)
        difference = max(_difference(w, reference) for w, reference in pairs)
        times = _time_in_turns({OURS: together, ALONE: alone}, rounds, device)
        case = {"shape": f"{num_classes}x{num_features}", "heads": num_heads, "steps": steps}
        results += [case | row | {"difference": difference} for row in _summarize(times)]
    return results


def candidates(count: int) -> list[Config]:
    """Settings that differ in λ, η and t, and in which all three act."""
    base = Config(
        stage="stage2",
        dataset="",
        data_dir="",
        recipe="paper",
        arch="resnet8",
        imbalance_factor=1,
        loss="cb",
        layers=1,
        epochs=1,
    )
    return [
        replace(base, wd=1e-4 * (i + 1), lr=0.01 + 1e-3 * i, maxnorm=i / count)
        for i in range(count)
    ]


def _train_alone(start: nn.Linear, features, config: Config, counts: list[int]) -> nn.Linear:
    """As stage 2 trains it."""
    network = Network(nn.Identity(), start.in_features, start.out_features)
    network.classifier.load_state_dict(start.state_dict())
    method = for_run(config, network, counts).to(start.weight.device)
    radius = radius_of(config.maxnorm, config.radius, start.weight)
    optimizer = make_optimizer(method.groups(), [radius], config)
    for _ in fit(method, Data(features), optimizer, config):
        pass
    return network.classifier


def _weights(heads: Heads) -> list[Tensor]:
    return [heads.head(i)[0] for i in range(heads.count)]


def _difference(w: Tensor, reference: Tensor) -> float:
    return ((w - reference).norm(dim=1) / reference.norm(dim=1)).max().item()


def _time_in_turns(
    sides: dict[str, Callable[[], object]], rounds: int, device: torch.device
) -> dict[str, list[float]]:
    """Microseconds of each side in each round."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    shuffle = random.Random(0)
    for _ in range(rounds):
        for name in shuffle.sample(list(sides), len(sides)):
            _wait_for(device)
            started = time.perf_counter_ns()
            sides[name]()
            _wait_for(device)
            times[name].append((time.perf_counter_ns() - started) / 1000)
    return times


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _summarize(times: dict[str, list[float]]) -> list[dict]:
    return [
        row | {"bytes": None, "fraction_of_copy": None, "rounds": len(times[name])}
        for name, row in compare(times, OURS).items()
    ]
