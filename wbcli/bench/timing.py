"""Times of calls in turns, and what every benchmark says of them."""

import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from wbcli import __version__
from wbcli.balance import extension

SLEEP_CYCLES = 400_000  # of a GPU, 0.2 ms: longer than it takes to launch any of the peers


@dataclass(frozen=True)
class Peer:
    """Something to time: a call that takes no arguments, and the passes over memory it makes."""

    call: Callable[[], object]
    passes: float


def machine(device: torch.device) -> dict[str, object]:
    """What the figures hold for."""
    on_gpu = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if on_gpu else processor(),
        "threads": None if on_gpu else torch.get_num_threads(),
        "capability": None if on_gpu else torch.backends.cpu.get_cpu_capability(),
        "kernels": extension.kernels(device.type),
        "wbcli": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def time_cpu(call: Callable[[], object]) -> tuple[float, float]:
    started = time.perf_counter_ns()
    call()
    took = (time.perf_counter_ns() - started) / 1000
    return took, took


def time_cuda(call: Callable[[], object]) -> tuple[float, float]:
    """On the device, which sleeps while the call is launched: it would wait for the host else."""
    started, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda._sleep(SLEEP_CYCLES)
    started.record()
    before = time.perf_counter_ns()
    call()
    took = (time.perf_counter_ns() - before) / 1000
    ended.record()
    ended.synchronize()
    return 1000 * started.elapsed_time(ended), took


def compare(times: dict[str, list[float]], ours: str) -> dict[str, dict]:
    """What every benchmark says of the microseconds of each way in each round.

    Returns:
        For each name `name`, `median_us`, `spread` (interquartile range over median), `ratio_to`
        (`ours`) and `ratio` (median over the rounds of its time over ours).
    """
    compared = {}
    for name, values in times.items():
        low, _, high = statistics.quantiles(values, n=4)
        median = statistics.median(values)
        ratios = [mine / yours for mine, yours in zip(values, times[ours], strict=True)]
        compared[name] = {
            "name": name,
            "median_us": median,
            "spread": (high - low) / median,
            "ratio_to": ours,
            "ratio": statistics.median(ratios),
        }
    return compared


def processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            names = [
                line.split(":", 1)[1].strip() for line in file if line.startswith("model name")
            ]
    except OSError:
        names = []
    return names[0] if names else platform.processor()
