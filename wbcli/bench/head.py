"""Speed of a classifier on features: a whole step, and a whole training as accurate as another's.

A step is forward, cross-entropy, backward and the optimiser; all ways take it on the same batch,
and differ in the optimiser alone. In a round every way has its turn, in an order drawn anew.

Legend: B batch, K classes, D features.
"""

import random
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from wbcli.balance.optim import SGD
from wbcli.bench.timing import compare, time_cpu, time_cuda
from wbcli.data.datasets import Dataset
from wbcli.deploy.probe import balanced_head

SHAPES = ((100, 512), (1000, 768), (8142, 2048))
OURS = "wbcli"
STEP = {"lr": 0.01, "momentum": 0.9, "weight_decay": 5e-4}
BUDGETS = (1, 2, 5, 10, 20, 50, 100, 200)  # epochs of stage 1, of which stage 2 has half


def steps(
    shapes: list[tuple[int, int]], batch_size: int, rounds: int, device: torch.device
) -> list[dict]:
    """A result for each shape and way: see `timing.compare`; and `images_per_second`."""
    results, measure = [], time_cuda if device.type == "cuda" else time_cpu
    for num_classes, num_features in shapes:
        ways = _ways(num_classes, num_features, batch_size, device)
        times: dict[str, list[float]] = {name: [] for name in ways}
        for number in range(rounds + 2):  # two that warm up
            for name in random.Random(number).sample(list(ways), len(ways)):
                took = measure(ways[name])[0]
                if number > 1:
                    times[name].append(took)
        for result in compare(times, OURS).values():
            per_second = 1e6 * batch_size / result["median_us"]
            shape = {"shape": f"{num_classes}x{num_features}", "images_per_second": per_second}
            results.append(shape | result)
    return results


def _ways(
    num_classes: int, num_features: int, batch_size: int, device: torch.device
) -> dict[str, Callable[[], object]]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(batch_size, num_features, generator=generator).to(device)
    y = torch.randint(num_classes, (batch_size,), generator=generator).to(device)
    torch.manual_seed(0)
    start = nn.Linear(num_features, num_classes)
    radius = start.weight.detach().norm(dim=1).median().item()

    def way(optimizer: type, renorm: bool = False, **constraint: Any) -> Callable[[], object]:
        layer = nn.Linear(num_features, num_classes, device=device)
        layer.load_state_dict(start.state_dict())
        rows, rest = {"params": [layer.weight]} | constraint, {"params": [layer.bias]}
        how = {} if optimizer is SGD else {"fused": True}
        taken = optimizer([rows, rest], **STEP, **how)

        def step() -> None:
            taken.zero_grad()
            F.cross_entropy(layer(x), y).backward()
            taken.step()
            if renorm:
                with torch.no_grad():
                    layer.weight.renorm_(2, 0, radius)

        return step

    return {
        OURS: way(SGD, max_norm=radius),
        "linear+fused+renorm": way(torch.optim.SGD, renorm=True),
        "linear+fused": way(torch.optim.SGD),
    }


class Rows(NamedTuple):
    """Standardised features and labels that train, and others to measure with."""

    name: str
    x: np.ndarray
    y: np.ndarray
    test_x: np.ndarray
    test_y: np.ndarray


def rows_of(dataset: Dataset) -> Rows:
    """Features of a file, or the pixels of small images in their place."""
    parts = [dataset.train, dataset.split(dataset.measured)]
    x, test_x = (np.asarray(p.images, np.float64).reshape(len(p.labels), -1) for p in parts)
    mean, std = x.mean(0), x.std(0)
    std[std == 0] = 1
    x, test_x = ((part - mean) / std for part in (x, test_x))
    return Rows(
        f"{dataset.name} {len(x)}x{x.shape[1]}", x, parts[0].labels, test_x, parts[1].labels
    )


def to_equal_accuracy(rows: Rows, rounds: int, device: torch.device) -> list[dict]:
    """For each of scikit-learn's ways its time, and that of our shortest training which is as
    accurate on the test rows, by the mean over classes; `ratio` is null where none is.
    """
    from sklearn.linear_model import LogisticRegression, SGDClassifier

    peers = {
        "logistic-regression": LogisticRegression(max_iter=2000),
        "sgd-classifier": SGDClassifier(loss="log_loss", random_state=0),
    }
    results = []
    for name, peer in peers.items():
        wanted = _accuracy(rows, peer.fit(rows.x, rows.y).predict(rows.test_x))
        epochs = next((e for e in BUDGETS if _ours(rows, e, device)[1] >= wanted), None)
        times: dict[str, list[float]] = {OURS: [], name: []}
        for _ in range(rounds):
            started = time.perf_counter()
            peer.fit(rows.x, rows.y)
            times[name].append(1e6 * (time.perf_counter() - started))
            times[OURS].append(_ours(rows, epochs or BUDGETS[-1], device)[0])
        accuracy = _ours(rows, epochs or BUDGETS[-1], device)[1]
        found = compare(times, OURS)
        found[name]["ratio"] = found[name]["ratio"] if epochs else None
        told = {name: {"balanced_accuracy": wanted}}
        told[OURS] = {"balanced_accuracy": accuracy, "epochs": epochs, "as_accurate_as": name}
        results += [{"shape": rows.name} | found[n] | told[n] for n in (name, OURS)]
    return results


def _ours(rows: Rows, epochs: int, device: torch.device) -> tuple[float, float]:
    """Microseconds of a training, and what it is worth."""
    x, y = torch.from_numpy(rows.x).float(), torch.from_numpy(rows.y)
    started = time.perf_counter()
    how = {"normalise": "none", "epochs": epochs, "device": str(device)}
    network = balanced_head(x, y, **how).network
    took = 1e6 * (time.perf_counter() - started)
    with torch.no_grad():
        logits = network(torch.from_numpy(rows.test_x).float().to(device))
    return took, _accuracy(rows, logits.argmax(1).cpu().numpy())


def _accuracy(rows: Rows, predicted: np.ndarray) -> float:
    """Per cent, mean over the classes that have test rows."""
    present = np.unique(rows.test_y)
    hits = predicted == rows.test_y
    return 100 * float(np.mean([hits[rows.test_y == k].mean() for k in present]))
