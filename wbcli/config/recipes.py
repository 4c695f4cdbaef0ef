"""The recipes: every default with its source."""

from typing import Any, NamedTuple

from wbcli.data import sources

# Where a default comes from; the README's table shows the letter.
SOURCES = {
    "p": "the paper",
    "r": "the released code",
    "s": "our search on validation images of this data set",
    "j": "our search on validation images of a JPEG copy of this data set, with resnet20",
    "t": "our search on 40 classes of Tiny ImageNet, 32 × 32: 2,065 pictures trained, 2,000 judged",
    "o": "our choice, not from the paper",
    "n": "our choice, not measured: no pretrained weights could be had",
}


class Default(NamedTuple):
    value: Any
    source: str


def sourced(source: str, **values: Any) -> dict[str, Default]:
    """Values that all have this source."""
    return {key: Default(value, source) for key, value in values.items()}


_PAPER_STAGE1 = (
    sourced("p", epochs=200, batch_size=64, lr=0.01, momentum=0.9, loss="ce")
    | sourced("r", arch="resnet34", wd=5e-3)
    | sourced("o", init="he", cosine_end="from-lr", checkpoint="last", tta=False)
)
_PAPER_STAGE2 = (
    sourced("p", batch_size=64, momentum=0.9, project="step", layers=1)
    | sourced("r", epochs=10, lr=0.01, wd=0.1, loss="cb-bce", maxnorm=0.1)
    | sourced("o", frozen_batch_norm="eval", cosine_end="from-lr", checkpoint="last", tta=False)
)
_RELEASED_COMMON = sourced(
    "r",
    batch_size=64,
    lr=0.01,
    momentum=0.9,
    cosine_end="to-zero",
    checkpoint="best-on-test",
    tta=True,
)
_RELEASED_STAGE1 = _RELEASED_COMMON | sourced(
    "r", epochs=320, loss="ce", arch="resnet34", wd=5e-3, init="conv-default"
)
_RELEASED_STAGE2 = _RELEASED_COMMON | sourced(
    "r",
    epochs=10,
    wd=0.1,
    loss="cb-bce",
    maxnorm=0.1,
    project="epoch",
    layers=1,
    frozen_batch_norm="train",
)
_FASHION_STAGE2 = {"epochs": 10, "lr": 0.01, "wd": 5e-4, "loss": "cb", "maxnorm": 0.1}
# The large sets: the paper tuned λ, λ₂ and δ on them and does not give the values.
_LARGE_STAGE1 = _PAPER_STAGE1 | sourced("o", arch="resnet50", wd=5e-4)
_LARGE_STAGE2 = (
    _PAPER_STAGE2
    | sourced("p", loss="cb")
    | sourced("o", epochs=10, lr=0.01, wd=5e-4, maxnorm=0.1, views=1)
)
_FINETUNE_STAGE1 = (
    sourced("p", momentum=0.9, loss="ce")
    | sourced("n", arch="torchvision:resnet50", epochs=30, batch_size=64, lr=0.01, wd=5e-4)
    | sourced("n", backbone_lr_factor=0.1)
    | sourced("o", cosine_end="from-lr", checkpoint="last", tta=False)
)
_FINETUNE_STAGE2 = _LARGE_STAGE2 | sourced(
    "n", epochs=10, batch_size=64, lr=0.01, wd=5e-4, maxnorm=0.1, views=1
)
_SMALL_STAGE1 = (
    _PAPER_STAGE1
    | sourced("t", arch="resnet8", epochs=200, batch_size=32, lr=0.05, wd=2e-3)
    | sourced("o", image_size=32)
)
_SMALL_STAGE2 = (
    _PAPER_STAGE2
    | sourced("t", lr=0.02, wd=0.015, loss="cb", maxnorm=0.5)
    | sourced("o", epochs=10, batch_size=64, views=10)
)
_OURS = {"epochs": 200, "batch_size": 64, "lr": 0.01}  # where the paper trained nothing

_LINEAR = {"arch": "linear", "epochs": 50, "lr": 0.01, "wd": 5e-4, "batch_size": 64}

FOLDER = "folder"  # of one's own pictures, whatever its name
FEATURES = "features"  # a file of them
DEFAULTS: dict[tuple[str, str, str], dict[str, Default]] = {
    ("paper", "cifar100lt", "stage1"): _PAPER_STAGE1,
    ("paper", "cifar100lt", "stage2"): _PAPER_STAGE2,
    ("paper", "cifar10lt", "stage1"): _PAPER_STAGE1,
    ("paper", "cifar10lt", "stage2"): _PAPER_STAGE2
    | sourced("p", loss="cb")
    | sourced("j", lr=0.04, wd=4e-5, maxnorm=0.01),
    ("paper", "fashionmnistlt", "stage1"): _PAPER_STAGE1
    | sourced("o", arch="resnet20", epochs=20)
    | sourced("s", wd=5e-4),
    ("paper", "fashionmnistlt", "stage2"): _PAPER_STAGE2 | sourced("s", **_FASHION_STAGE2),
    ("paper", "digitslt", "stage1"): _PAPER_STAGE1
    | sourced("o", arch="resnet8")
    | sourced("s", epochs=100, batch_size=16, lr=0.05, wd=2e-3),
    ("paper", "digitslt", "stage2"): _PAPER_STAGE2
    | sourced("s", epochs=10, lr=0.01, wd=5e-4, loss="cb", maxnorm=0.1),
    ("paper", "imagenetlt", "stage1"): _LARGE_STAGE1 | sourced("p", arch="resnext50"),
    ("paper", "imagenetlt", "stage2"): _LARGE_STAGE2,
    ("paper", "placeslt", "stage1"): _LARGE_STAGE1 | sourced("o", **_OURS),
    ("paper", "placeslt", "stage2"): _LARGE_STAGE2 | sourced("o", batch_size=64),
    ("paper", "inat18", "stage1"): _LARGE_STAGE1 | sourced("p", arch="resnet50", batch_size=512),
    ("paper", "inat18", "stage2"): _LARGE_STAGE2 | sourced("p", batch_size=512),
    ("paper", FOLDER, "stage1"): _LARGE_STAGE1 | sourced("o", **_OURS),
    ("paper", FOLDER, "stage2"): _LARGE_STAGE2 | sourced("o", batch_size=64),
    ("small", FOLDER, "stage1"): _SMALL_STAGE1,
    ("small", FOLDER, "stage2"): _SMALL_STAGE2,
    ("finetune", FOLDER, "stage1"): _FINETUNE_STAGE1,
    ("finetune", FOLDER, "stage2"): _FINETUNE_STAGE2,
    ("paper", FEATURES, "stage1"): _PAPER_STAGE1 | sourced("o", **_LINEAR),
    ("paper", FEATURES, "stage2"): _PAPER_STAGE2 | sourced("o", batch_size=64, **_FASHION_STAGE2),
    ("released", "cifar100lt", "stage1"): _RELEASED_STAGE1,
    ("released", "cifar100lt", "stage2"): _RELEASED_STAGE2,
    ("released", "cifar10lt", "stage1"): _RELEASED_STAGE1,
    ("released", "cifar10lt", "stage2"): _RELEASED_STAGE2,
    ("released", "fashionmnistlt", "stage1"): _RELEASED_STAGE1
    | sourced("o", arch="resnet20", init="he"),
    ("released", "fashionmnistlt", "stage2"): _RELEASED_STAGE2,
    ("released", "digitslt", "stage1"): _RELEASED_STAGE1 | sourced("o", arch="resnet8", init="he"),
    ("released", "digitslt", "stage2"): _RELEASED_STAGE2,
}


def recipe_defaults(recipe: str, dataset: str, stage: str) -> dict[str, Any]:
    """Every setting of the recipe; `finetune` is one for all data sets.

    Raises:
        ValueError: the recipe says nothing of such a data set.
    """
    recipe = "paper" if recipe == "published" else recipe  # where a method says nothing
    known = dataset if dataset in sources.SOURCES and recipe != "finetune" else FOLDER
    if sources.find(dataset).features:
        known = FEATURES
    if (recipe, known, stage) not in DEFAULTS:
        why = {
            "released": f"the released code says nothing of {dataset}",
            "finetune": f"it is for pictures, and {dataset} has features",
            "small": f"it is for a folder of one's own pictures, got {dataset}",
        }[recipe]
        raise ValueError(f"--recipe {recipe}: {why}; use --recipe paper")
    table = DEFAULTS[recipe, known, stage]
    return {"stage": stage} | {key: default.value for key, default in table.items()}
