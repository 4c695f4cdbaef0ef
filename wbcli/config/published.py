"""The recipe `published`: how the authors of a method trained it, network and augmentation aside.

Milestones are shares of the epochs after which the rate is multiplied by `step_factor`.
"""

from wbcli.config.recipes import Default, sourced
from wbcli.data.sources import Source

SMALL, IMAGENET, INAT = "in memory", "on disk", "inat18"  # whose values a data set takes

_CIFAR = {
    "epochs": 200,
    "batch_size": 128,
    "lr": 0.1,
    "momentum": 0.9,
    "wd": 2e-4,
    "schedule": "step",
    "warmup": 5,
    "milestones": (0.8, 0.9),
    "step_factor": 0.01,
}
_LDAM = sourced("Cao et al., NeurIPS 2019, the code on CIFAR", **_CIFAR)
_CUI = sourced("Cui et al., CVPR 2019, the code on CIFAR", **_CIFAR)
_SSP = sourced("Yang & Xu, NeurIPS 2020, the code on CIFAR", **_CIFAR)
_MENON = "Menon et al., ICLR 2021, appendix D"
_MENON_LARGE = {"epochs": 90, "batch_size": 512, "lr": 0.4, "momentum": 0.9}
_MENON_LARGE |= {"schedule": "cosine", "warmup": 5}
_REN = "Ren et al., NeurIPS 2020, the code for CIFAR-100-LT of factor 200"
_TANG = "Tang et al., NeurIPS 2020, the code"
_TANG_SMALL = {"epochs": 200, "batch_size": 256, "lr": 0.2, "wd": 5e-4, "warmup": 5}

PUBLISHED: dict[str, dict[str, dict[str, Default]]] = {
    "cb": {SMALL: _CUI},
    "focal": {SMALL: _CUI},
    "cb-focal": {SMALL: _CUI},
    "balanced-softmax": {  # 13,000 steps, of which 800 warm up, from half the rate on
        SMALL: sourced(
            _REN, epochs=614, batch_size=512, lr=0.1, wd=5e-4, schedule="cosine", warmup=38
        )
    },
    "logit-adjustment": {
        SMALL: sourced(_MENON, **_CIFAR | {"wd": 1e-4, "step_factor": 0.1}),
        IMAGENET: sourced(_MENON, wd=5e-4, **_MENON_LARGE),
        INAT: sourced(_MENON, wd=1e-4, **_MENON_LARGE),
    },
    "ldam": {SMALL: _LDAM},
    "ldam-drw": {SMALL: _LDAM},
    "ssp": {SMALL: _SSP},
    "deconfound": {  # whose warm-up begins at a third of the rate
        SMALL: sourced(
            _TANG, schedule="step", milestones=(0.6, 0.8), step_factor=0.01, **_TANG_SMALL
        ),
        IMAGENET: sourced(
            _TANG, epochs=90, batch_size=512, lr=0.2, wd=5e-4, schedule="cosine", warmup=0
        ),
    },
    "wd-fr-etf": {
        SMALL: sourced(
            "Hasegawa & Sato, ICLR 2024, the code on CIFAR-100",
            epochs=320,
            batch_size=64,
            lr=0.01,
            momentum=0.9,
            wd=5e-3,
            schedule="cosine",
            warmup=0,
        )
    },
}


def published(method: str, source: Source) -> dict[str, Default]:
    """The optimiser's settings that the authors of a method trained it with.

    Sets in memory take those of CIFAR, sets on disk those of ImageNet-LT.

    Raises:
        ValueError: there are none.
    """
    known = PUBLISHED.get(method, {})
    group = SMALL if source.image_size is None else IMAGENET
    found = known.get(source.name) or known.get(group)
    if found is None:
        have = ", ".join(name for name, groups in PUBLISHED.items() if group in groups)
        raise ValueError(
            f"--recipe published: nothing is known of {method} on sets {group}; there it has "
            f"{have}: use --recipe paper"
        )
    return found
