"""The device and the arithmetic of a process: chosen once, said aloud, recorded in the run."""

import ctypes
import os
import platform
import resource
from contextlib import AbstractContextManager
from importlib.metadata import version

import torch

from wbcli import __version__
from wbcli.balance import extension
from wbcli.config import resolve as config_resolve
from wbcli.data.pictures.preprocessing import split_arch
from wbcli.files.arrays import free_memory
from wbcli.words import are, counted

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's malloc.h


def resolve(name: str) -> torch.device:
    """`auto` is the first GPU, or the CPU without one; a GPU becomes the current one.

    Raises:
        ValueError: a GPU was asked for that is not there.
    """
    if name == "auto":
        name = "cuda:0" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda") or (device.type == "cpu" and device.index):
        raise ValueError(f"--device must be auto, cpu, cuda or cuda:N, got {name!r}")
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            raise ValueError(
                f"--device {name}: {counted(count, 'GPU')} {are(count)} visible to torch "
                f"{torch.__version__}; "
                "use --device cpu, or see wbcli doctor"
            )
        device = torch.device("cuda", device.index or 0)
        torch.cuda.set_device(device)  # streams, events and graphs are made on the current one
    return device


def resolve_precision(precision: str, device: torch.device, recipe: str | None = None) -> str:
    """The precision that a run of this recipe will use; see `resolve.resolve_precision`."""
    has_bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return config_resolve.resolve_precision(precision, device.type, has_bf16, recipe)


def prepare(device: torch.device, precision: str, seed: int, deterministic: bool) -> None:
    """Seed torch and set the arithmetic of this process."""
    torch.manual_seed(seed)
    _keep_pages()
    set_float32(precision)
    torch.backends.cudnn.benchmark = not deterministic
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)


def set_float32(precision: str) -> None:
    """Have a GPU multiply float32 as TF32 for `tf32`, and as it is for all else.

    Not by `fp32_precision`: after that the getters of before raise, and Inductor reads them.
    """
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = precision == "tf32"


def _keep_pages() -> None:
    """Have glibc keep the memory of freed tensors: every step wants the same again.

    By default it returns large blocks to the system, which then hands out fresh pages, one fault
    for each 4 KiB, in every step.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        for option, value in ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, 2**31 - 1)):
            libc.mallopt(option, value)


def autocast(device: torch.device, precision: str, *, cache: bool = True) -> AbstractContextManager:
    """bf16 autocast for `bf16`, nothing for `fp32` and `tf32`.

    Args:
        cache: keep a weight's bf16 form within a step (not while a CUDA graph is captured).
    """
    bf16 = precision == "bf16"
    return torch.autocast(device.type, torch.bfloat16, enabled=bf16, cache_enabled=cache)


def free_bytes(device: torch.device) -> int:
    """Memory of the device that is free, as far as the system tells."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else free_memory()


def peak_mb(device: torch.device) -> float:
    """Peak memory in MiB: of this process, or on a GPU of its tensors."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    try:  # getrusage would know the parent's peak, too
        with open("/proc/self/status") as file:
            return next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) / 1024
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def environment(device: torch.device, arch: str = "") -> dict:
    """What a run ran on, for config.json; with the version of the library that has its network."""
    library = [named[0] for named in [split_arch(arch)] if named]
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return {
        "device": str(device),
        "gpu": gpu,
        "kernels": extension.kernels(device.type),
        "threads": torch.get_num_threads(),
        "versions": {
            "wbcli": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            **{name: version(name) for name in library},
        },
    }
