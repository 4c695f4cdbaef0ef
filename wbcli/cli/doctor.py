"""doctor: versions, device, kernels."""

import platform

import click

from wbcli import __version__, console
from wbcli.cli.inputs import wrong_usage
from wbcli.cli.options import everywhere, json_option
from wbcli.cli.parameters import Command


@click.command("doctor", cls=Command)
@json_option
@everywhere
def doctor_command(device, as_json, **unused):
    """Show versions, device and kernels.

    \b
    Example:
      wbcli doctor --json
    """
    with wrong_usage():
        found = examine(device)
    if as_json:
        console.print_json(found)
        return
    rows = [[part, state] for part, state in found.items() if part != "extension"]
    rows += [[f"kernels, {name}", state] for name, state in kernels().items()]
    console.print_table(["part", "state"], rows)


def examine(device_name: str = "auto") -> dict:
    """Versions, the device that a run would use, and the state of the compiled extension."""
    import torch

    from wbcli.balance import extension
    from wbcli.device import resolve

    device = resolve(device_name)
    built = {name: extension.library(name) is not None for name in extension.MISSING}
    return {
        "wbcli": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": str(device),
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "extension": {
            "built": any(built.values()),
            **built,
            "reason": "; ".join(f"{name}: {state}" for name, state in kernels().items()),
        },
    }


def kernels() -> dict[str, str]:
    """For `cpu` and `cuda`: the compiled kernels in use, or why there are none."""
    import torch

    from wbcli.balance import extension

    in_use = {
        "cpu": f"compiled kernels for {torch.backends.cpu.get_cpu_capability()}",
        "cuda": f"compiled kernels for CUDA {extension.build_record()['cuda_version']}",
    }
    return {name: reason or in_use[name] for name, reason in extension.MISSING.items()}
