"""Metrics of a classifier on a split: accuracy by class and group, likelihoods, calibration.

Counts and sums stay on the device and are read once, at the end; no [N, K] is kept.

Legend: N images, B batch, K classes.
"""

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wbcli.balance.ops import row_norms
from wbcli.config.settings import Config
from wbcli.data import datasets
from wbcli.data.batches import Batches, batches_of
from wbcli.device import autocast, resolve_precision
from wbcli.models.networks import Network

ECE_BINS = 15
TEMPERED = ("temperature", "nll_with_temperature", "ece_with_temperature")
MAX_CONFUSION = 200  # classes; above, the confusion matrix is of groups of classes
CONFUSION_GROUPS = 50


@torch.no_grad()
def measure(
    network: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    num_classes: int,
    *,
    tta: bool = False,
    temperature: float | None = None,
    groups: Tensor | None = None,
) -> dict:
    """Run `network` in evaluation mode over (images, labels) batches.

    Args:
        tta: average the logits of each image and its mirror image.
        temperature: T of which also the `nll` and `ece` of softmax(logits/T) are asked for.
        groups: int64 [K] on the device, the group 0..G-1 of each class; asks for `confusion`.

    Returns:
        num_images; per class [K] arrays `images`, `accuracy` (per cent, NaN without
        images), `marginal_likelihood` (mean probability of the class over all images);
        `top5` (per cent, mean over classes), `macro_f1` (per cent), `nll` (nats, mean over
        images), `ece` (per cent, 15 equal-width bins of the top probability); per bin
        [15] arrays `bin_images`, and sums `bin_confidence` and `bin_hits`;
        `nll_with_temperature` and `ece_with_temperature`, None without; with `groups`
        also `confusion` [G, G], images by the group of their label and of their prediction.
    """
    network.eval()
    num_groups = 0 if groups is None else int(groups.max()) + 1
    sums = None
    for images, labels in batches:
        logits = logits_of(network, images, tta)
        terms = _batch_sums(logits, labels, num_classes, groups, num_groups)
        if temperature is not None:
            tempered = F.log_softmax(logits / temperature, 1)
            tempered = _calibration_sums(tempered, *tempered.exp().max(1), labels)
            terms |= {f"tempered_{key}": value for key, value in tempered.items()}
        sums = terms if sums is None else {key: sums[key] + terms[key] for key in sums}
    return _metrics({key: value.cpu().numpy() for key, value in sums.items()})


def logits_of(network: nn.Module, images: Tensor, tta: bool) -> Tensor:
    """float32 logits [B, K], averaged with those of the mirror images if `tta`."""
    logits = network(images).float()
    return (logits + network(images.flip(3)).float()) / 2 if tta else logits


def _batch_sums(
    logits: Tensor, labels: Tensor, num_classes: int, groups: Tensor | None, num_groups: int
) -> dict[str, Tensor]:
    log_probabilities = F.log_softmax(logits, 1)
    probabilities = log_probabilities.exp()
    top = logits.topk(min(5, num_classes), 1).indices  # [B, ≤5]
    confidence, predicted = probabilities.max(1)
    in_top5 = (top == labels[:, None]).any(1).double()
    sums = {
        "images": _sums_at(labels, num_classes),
        "hits": _sums_at(labels, num_classes, (predicted == labels).double()),
        "hits5": _sums_at(labels, num_classes, in_top5),
        "predicted": _sums_at(predicted, num_classes),
        "likelihood": probabilities.double().sum(0),
        **_calibration_sums(log_probabilities, confidence, predicted, labels),
    }
    if groups is not None:
        pairs = _sums_at(groups[labels] * num_groups + groups[predicted], num_groups**2)
        sums["confusion"] = pairs.view(num_groups, num_groups)
    return sums


def _calibration_sums(
    log_probabilities: Tensor, confidence: Tensor, predicted: Tensor, labels: Tensor
) -> dict[str, Tensor]:
    bins = (confidence * ECE_BINS).ceil().long().clamp(1, ECE_BINS) - 1  # (l, u]
    return {
        "nll": F.nll_loss(log_probabilities.double(), labels, reduction="sum"),
        "bin_images": _sums_at(bins, ECE_BINS),
        "bin_confidence": _sums_at(bins, ECE_BINS, confidence.double()),
        "bin_hits": _sums_at(bins, ECE_BINS, (predicted == labels).double()),
    }


def _sums_at(index: Tensor, size: int, weights: Tensor | None = None) -> Tensor:
    """float64 [size]: how often each place stands in `index`, or the sum of its weights."""
    if weights is None:
        weights = torch.ones_like(index, dtype=torch.float64)
    return torch.zeros(size, dtype=torch.float64, device=index.device).index_add_(0, index, weights)


def _metrics(sums: dict[str, np.ndarray]) -> dict:
    images, hits = sums["images"], sums["hits"]
    present, total = images > 0, images.sum()
    with np.errstate(invalid="ignore"):
        accuracy, top5 = 100 * hits / images, 100 * sums["hits5"] / images
    f1 = 200 * hits[present] / (images + sums["predicted"])[present]
    tempered = "tempered_nll" in sums
    return {
        "num_images": int(total),
        "images": images.astype(int),
        "accuracy": accuracy,
        "marginal_likelihood": sums["likelihood"] / total,
        "top5": top5[present].mean(),
        "macro_f1": f1.mean(),
        "nll": sums["nll"].item() / total,
        "ece": _ece(sums, total),
        "nll_with_temperature": sums["tempered_nll"].item() / total if tempered else None,
        "ece_with_temperature": _ece(sums, total, "tempered_") if tempered else None,
        **{key: sums[key] for key in ("bin_images", "bin_confidence", "bin_hits")},
        **({"confusion": sums["confusion"]} if "confusion" in sums else {}),
    }


def _ece(sums: dict[str, np.ndarray], total: float, of: str = "") -> float:
    return 100 * np.abs(sums[f"{of}bin_hits"] - sums[f"{of}bin_confidence"]).sum() / total


def group_means(accuracy: np.ndarray, groups: dict[str, np.ndarray]) -> dict[str, float | None]:
    """Mean accuracy over all classes and over each group; None where no class has an image.

    Args:
        accuracy: [K] per cent, NaN for a class without test images (left out of means).
        groups: name → mask [K].
    """
    present = ~np.isnan(accuracy)
    masks = {"all": np.ones_like(present)} | groups
    return {
        name: float(accuracy[mask & present].mean()) if (mask & present).any() else None
        for name, mask in masks.items()
    }


@torch.no_grad()
def fit_temperature(
    network: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], *, tta: bool = False
) -> float | None:
    """The T > 0 that minimises the NLL of softmax(logits/T) on validation batches.

    The NLL is convex in β = 1/T, so the sign of its derivative Σ_i (E_p[z_i] − z_iy), with
    p = softmax(β·z_i), brackets the minimum: bisection of ln T between -12 and 12. None where
    every image is classified correctly: the NLL then falls all the way to T = 0. Features
    [N, D] are kept and logits made of them again, [B, K] at a time.
    Source: Guo et al., ICML 2017.
    """
    network.eval()
    whole = isinstance(network, Network)
    backbone = network.backbone if whole else nn.Identity()
    classifier = network.classifier if whole else network

    def features_of(images: Tensor) -> Tensor:
        features = backbone(images)  # the classifier is linear: it may see the mean of the two
        return (features + backbone(images.flip(3))) / 2 if tta else features

    pairs = [(features_of(images), labels) for images, labels in batches]

    def over_images(term: Callable[[Tensor, Tensor], Tensor]) -> float:
        return sum(term(classifier(x).double(), y[:, None]).sum() for x, y in pairs).item()

    if not over_images(lambda z, y: z.argmax(1, keepdim=True) != y):
        return None

    def slope(z: Tensor, y: Tensor) -> Tensor:
        return (torch.softmax(beta * z, 1) * z).sum(1) - z.gather(1, y)[:, 0]

    low, high = -12.0, 12.0
    while high - low > 1e-4:
        middle = (low + high) / 2
        beta = float(np.exp(-middle))
        low, high = (middle, high) if over_images(slope) > 0 else (low, middle)
    return float(np.exp((low + high) / 2))


def keep_temperature(run, config: Config, network: nn.Module, val: Batches) -> float | None:
    """Fit T on validation images for what `predict` reads of a run, and keep it there."""
    with autocast(val.labels.device, config.precision):
        temperature = fit_temperature(network, val.evaluate(), tta=config.tta)
    run.write_temperature(default_checkpoint(config), config.tta, temperature)
    return temperature


def default_checkpoint(config: Config) -> str:
    """What a run is measured by: its last epoch, under `released` the one best on the test set."""
    by_test = config.checkpoint == "best-on-test" and config.stage != "normalize"
    return "best" if by_test else "last"


def evaluate_run(
    run,
    device: torch.device,
    *,
    split: str,
    checkpoint: str | None,
    tta: bool | None,
    precision: str,
    data_dir: Path | None = None,
    confusion: bool = False,
    on_note: Callable[[str], None] = lambda text: None,
) -> dict:
    """What `wbcli eval` prints of a run, and writes into its result.json.

    Args:
        run: a finished `run.Run`.
        split: `test`, `val` or `train`.
        checkpoint, tta: `last` or `best`, and mirror images; None takes what the recipe says.
        precision: `auto` takes what the run's recipe says.
        data_dir: None takes the run's.
        confusion: also return, but do not write, `confusion`: {"names", "counts"}, classes
            by training images, most first (`confusion_groups`).
        on_note: told how the data set differs from what trained the run, and why the numbers
            cannot be kept in the run's folder.

    Raises:
        ValueError: `best` on a run without validation images, a split that is not there, or
            not the one that the run had.
    """
    config = run.config()
    dataset = datasets.for_run(config, run.data_record(), data_dir=data_dir)
    dataset.require(split)
    for note in [*dataset.notes, *dataset.changes]:
        on_note(note)
    checkpoint = checkpoint or default_checkpoint(config)
    chosen = {"split": split, "checkpoint": checkpoint, "tta": config.tta if tta is None else tta}
    network = run.network(dataset.class_names, checkpoint)
    network.to(device, memory_format=torch.channels_last)
    groups = None
    if confusion:
        index, names = confusion_groups(_known_counts(run, dataset), dataset.class_names)
        groups = torch.from_numpy(index).to(device)
    kept = (
        _kept_temperature(run, checkpoint, chosen["tta"], on_note)
        if "val" in dataset.gone
        else None
    )
    with autocast(device, resolve_precision(precision, device, config.recipe)):
        metrics = _measure_split(network, dataset, split, device, chosen["tta"], groups, kept)
    result = _result(run.name, config, network, dataset, chosen, metrics)
    try:
        default = default_checkpoint(config), config.tta
        if (checkpoint, chosen["tta"]) == default and dataset.has("val"):
            run.write_temperature(checkpoint, chosen["tta"], metrics["temperature"])
        run.write_result(split, result)
    except OSError as error:
        on_note(f"the numbers of {run.name} are not kept: {error.strerror}")
    if confusion:
        result |= {"confusion": {"names": names, "counts": metrics["confusion"].tolist()}}
    return result


def _kept_temperature(
    run, checkpoint: str, tta: bool, on_note: Callable[[str], None]
) -> float | None:
    """What stands in for the temperature that only the run's own validation images can give."""
    kept = (run.temperature(checkpoint, tta) or {}).get("temperature")
    what = "the temperature is the one that it kept" if kept else "it kept no temperature"
    on_note(f"run {run.name}: without its validation images {what}")
    return kept


def _measure_split(
    network: nn.Module,
    dataset: datasets.Dataset,
    split: str,
    device: torch.device,
    tta: bool,
    groups: Tensor | None,
    temperature: float | None,
) -> dict:
    """`measure` of the split, with the `temperature` that the validation images ask for.

    It is fitted first, so that one pass over the split gives the numbers with and without it;
    where they are not the run's, it is the one that was given.
    """
    if dataset.has("val"):
        val = batches_of(dataset, "val", device).evaluate()
        temperature = fit_temperature(network, val, tta=tta)
    batches = batches_of(dataset, split, device).evaluate()
    metrics = measure(
        network, batches, dataset.num_classes, tta=tta, temperature=temperature, groups=groups
    )
    return metrics | {"temperature": temperature}


def _result(
    name: str,
    config: Config,
    network: Network,
    dataset: datasets.Dataset,
    chosen: dict,
    metrics: dict,
) -> dict:
    """What result.json says of a split."""
    return {
        "run": name,
        "dataset": config.dataset,
        "imbalance_factor": config.imbalance_factor,
        **chosen,
        "selected_on": config.selected_on,
        "num_classes": dataset.num_classes,
        "num_images": metrics["num_images"],
        "limits": dataset.limits,
        "accuracy": group_means(metrics["accuracy"], dataset.groups()),
        **{key: float(metrics[key]) for key in ("top5", "macro_f1", "nll", "ece")},
        **{key: metrics[key] for key in TEMPERED},
        "reliability": _reliability(metrics),
        "per_class": _per_class(network, dataset, metrics),
    }


def _known_counts(run, dataset: datasets.Dataset) -> list[int]:
    if dataset.class_counts is None:
        raise ValueError(
            f"run {run.name} does not say how many images of each class trained it, by which "
            "figures are ordered: only a run of this version has a report"
        )
    return dataset.class_counts


def confusion_groups(counts: list[int], names: list[str]) -> tuple[np.ndarray, list[str]]:
    """The place [K] of each class in a confusion matrix, and the names of the places.

    Classes stand in the order of their training images, most first. More than 200 of them
    share 50 places, which are named by the training images of their classes.
    """
    order = np.argsort(-np.array(counts), kind="stable")
    if len(counts) <= MAX_CONFUSION:
        parts, labels = order[:, None], [names[k] for k in order]
    else:
        parts = np.array_split(order, CONFUSION_GROUPS)
        ends = [(counts[part[0]], counts[part[-1]]) for part in parts]
        labels = [f"{most}–{least}" if most > least else str(most) for most, least in ends]
    index = np.empty(len(counts), dtype=np.int64)
    for place, part in enumerate(parts):
        index[part] = place
    return index, labels


def _reliability(metrics: dict) -> list[dict]:
    """Images of every bin, their mean confidence and accuracy in per cent, null without any."""
    sums = [metrics[key].tolist() for key in ("bin_images", "bin_confidence", "bin_hits")]
    return [
        {
            "images": int(images),
            "confidence": 100 * confidence / images if images else None,
            "accuracy": 100 * hits / images if images else None,
        }
        for images, confidence, hits in zip(*sums, strict=True)
    ]


def _per_class(network: nn.Module, dataset: datasets.Dataset, metrics: dict) -> list[dict]:
    norms = row_norms(network.classifier.weight.detach()).tolist()
    return [
        {
            "class": k,
            "name": dataset.class_names[k],
            "train_images": dataset.class_counts[k] if dataset.class_counts else None,
            "test_images": int(metrics["images"][k]),
            "accuracy": None if np.isnan(metrics["accuracy"][k]) else float(metrics["accuracy"][k]),
            "marginal_likelihood": float(metrics["marginal_likelihood"][k]),
            "row_norm": norms[k],
        }
        for k in range(dataset.num_classes)
    ]
