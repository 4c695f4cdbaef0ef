"""wbcli: image classifiers that are fair to rare classes, by weight balancing.

Source of the method: Alshammari, Wang, Ramanan, Kong, "Long-Tailed Recognition via
Weight Balancing", CVPR 2022 (arXiv 2203.14197).
"""

__version__ = "0.2.0"
__all__ = [
    "SGD",
    "balanced_head",
    "max_norm_",
    "project",
    "row_norms",
    "sgd_max_norm_",
    "tau_norm_",
]

_ROOMS = {"SGD": "balance.optim", "project": "balance.optim", "balanced_head": "deploy.probe"}


def __getattr__(name: str):
    """Import the public names on first use, so that `wbcli --help` need not load torch."""
    if name not in __all__:
        raise AttributeError(f"module 'wbcli' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"wbcli.{_ROOMS.get(name, 'balance.ops')}"), name)
