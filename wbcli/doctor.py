"""What this installation is made of, and which kernels it uses and why."""

import platform

from wbcli import __version__


def examine(device_name: str = "auto") -> dict:
    """Versions, the device that a run would use, and the state of the compiled extension."""
    import torch

    from wbcli.device import resolve

    device = resolve(device_name)
    return {
        "wbcli": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": str(device),
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "extension": {
            "built": False,
            "cpu": False,
            "cuda": False,
            "reason": f"wbcli {__version__} has no compiled kernels; every op runs its torch twin",
        },
    }
