"""What is measured of a run: `wbcli eval`, and its result.json."""

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from wbcli.config.settings import Config
from wbcli.data import datasets, recorded
from wbcli.data.batches.memory import Batches
from wbcli.data.batches.splits import batches_of
from wbcli.device import autocast, resolve_precision
from wbcli.evaluate import others
from wbcli.evaluate.metrics import fit_temperature, group_means, measure
from wbcli.models.networks import Network

TEMPERED = ("temperature", "nll_with_temperature", "ece_with_temperature")
MAX_CONFUSION = 200  # classes; above, the confusion matrix is of groups of classes
CONFUSION_GROUPS = 50


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
    split: str | None,
    checkpoint: str | None,
    tta: bool | None,
    precision: str,
    data_dir: Path | None = None,
    confusion: str | None = None,
    on_note: Callable[[str], None] = lambda text: None,
) -> dict:
    """What `wbcli eval` prints of a run, and writes into its result.json.

    Args:
        run: a finished `run.Run`.
        split: `test`, `val` or `train`; None takes test, or val where there is no test set.
        checkpoint, tta: `last` or `best`, and mirror images; None takes what the recipe says.
        precision: `auto` takes what the run's recipe says.
        data_dir: None takes the run's; of another labelled set (`others`) the test images are
            measured, and nothing is written.
        confusion: also return, but do not write, `confusion`: {"names", "counts" [G, G]}, of all
            classes in their order (`classes`), or for a figure by training images, most first
            (`groups`: see `confusion_groups`).
        on_note: told how the data set differs from what trained the run, and why the numbers
            cannot be kept in the run's folder.

    Raises:
        ValueError: `best` on a run without validation images, a split that is not there, or
            not the one that the run had.
    """
    config, record = run.config(), run.data_record()
    elsewhere = data_dir is not None and others.is_measured(config, record, data_dir, split)
    load = others.load if elsewhere else recorded.for_run
    with others.telling_own(config, data_dir):
        dataset = load(config, record, data_dir=data_dir)
    split = split or dataset.measured
    dataset.split(split)  # must be there, and be the run's
    for note in [*dataset.notes, *dataset.changes]:
        on_note(note)
    if tta and dataset.source.features:
        raise ValueError(f"--tta: {config.dataset} has features, which have no mirror image")
    checkpoint = checkpoint or default_checkpoint(config)
    chosen = {"split": split, "checkpoint": checkpoint, "tta": config.tta if tta is None else tta}
    network = run.network(dataset.class_names, checkpoint)
    network.to(device, memory_format=torch.channels_last)
    groups = None
    if confusion:
        index, names = np.arange(dataset.num_classes), dataset.class_names
        if confusion == "groups":
            index, names = confusion_groups(_known_counts(run, dataset), names)
        groups = torch.from_numpy(index).to(device)
    kept = None
    if elsewhere:
        kept = (run.temperature(checkpoint, chosen["tta"]) or {}).get("temperature")
    elif "val" in dataset.gone:
        kept = _kept_temperature(run, checkpoint, chosen["tta"], on_note)
    naming = others.naming_broken(dataset.test.images) if elsewhere else nullcontext()
    with naming, autocast(device, resolve_precision(precision, device, config.recipe)):
        metrics = _measure_split(network, dataset, split, device, chosen["tta"], groups, kept)
    result = _result(run.name, config, network, dataset, chosen, metrics)
    if elsewhere:
        result |= {"measured_on": str(data_dir.resolve())}
    else:  # what a run keeps is of its own data set
        _keep(run, config, result, dataset.has("val"), on_note)
    if confusion:
        result |= {"confusion": {"names": names, "counts": metrics["confusion"]}}
    return result


def _keep(run, config: Config, result: dict, has_val: bool, on_note: Callable[[str], None]) -> None:
    """Write the numbers, and the temperature where it is the one that `predict` takes."""
    chosen = result["checkpoint"], result["tta"]
    try:
        if chosen == (default_checkpoint(config), config.tta) and has_val:
            run.write_temperature(*chosen, result["temperature"])
        run.write_result(result["split"], result)
    except OSError as error:
        on_note(f"the numbers of {run.name} are not kept: {error.strerror}")


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
        "accuracy": group_means(metrics["accuracy"], dataset.groups())
        | {"images": float(metrics["image_accuracy"])},
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


def _per_class(network: Network, dataset: datasets.Dataset, metrics: dict) -> list[dict]:
    norms = network.classifier.row_norms()
    norms = [None] * dataset.num_classes if norms is None else norms.tolist()
    precision, recall, f1 = (
        [None if np.isnan(value) else value for value in metrics[key].tolist()]
        for key in ("precision", "accuracy", "f1")
    )
    return [
        {
            "class": k,
            "name": dataset.class_names[k],
            "train_images": dataset.class_counts[k] if dataset.class_counts else None,
            "test_images": int(metrics["images"][k]),
            "accuracy": recall[k],
            "precision": precision[k],
            "recall": recall[k],
            "f1": f1[k],
            "marginal_likelihood": float(metrics["marginal_likelihood"][k]),
            "row_norm": norms[k],
        }
        for k in range(dataset.num_classes)
    ]
