"""The tuner: λ, η, t or δ, β, the loss and τ, chosen by accuracy on validation images."""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from shlex import quote
from typing import Any

import optuna
import torch
from optuna.distributions import BaseDistribution

from wbcli.config.methods import NUMBERS
from wbcli.config.settings import CHOICES, Config, from_dict
from wbcli.data import datasets
from wbcli.files import storage
from wbcli.report import figures
from wbcli.runs.find import fingerprint, part
from wbcli.runs.run import Run
from wbcli.training import features, heads, stages
from wbcli.training.lab import last_epoch
from wbcli.tune.search import How, outcome, run_search, save

VIEWS = 10  # cached views of the training images, at most
MOST = {"tau": 3.0, "alpha": 6.0}  # that is tried: of α twice the largest published


def _train_trial(
    trial: optuna.Trial,
    base: Config,
    studies: Path,
    dataset: datasets.Dataset,
    device: torch.device,
    select: str,
    told: stages.Listener,
) -> float | None:
    """Accuracy of the network that `base` trains with the trial's settings, in its last epoch.

    The training is a run under `studies`, found again by its settings. None: it was pruned,
    being worse than the median of the others at the same epoch, or its loss diverged.
    """
    settings = base.changed(trial.params)
    key = "accuracy" if select == "test" else "val_accuracy"

    reported = set()  # a trial that was pruned once is trained again from its start

    def report(row: dict[str, Any]) -> None:
        if row.get(key) and row["epoch"] not in reported:
            reported.add(row["epoch"])
            trial.report(row[key]["all"], row["epoch"])

    def consider(row: dict[str, Any]) -> None:
        report(row)
        if row["epoch"] < settings.epochs and trial.should_prune():
            raise optuna.TrialPruned

    def listen(row: dict[str, Any]) -> None:
        told.on_epoch(row)
        consider(row)

    run = part(studies, settings)
    try:
        for row in run.metrics():  # of a search that was killed
            consider(row)
        listener = stages.Listener(told.on_batch, listen, on_save=told.on_save)
        stages.train_part(settings, studies, dataset, device, listener)
    except (optuna.TrialPruned, ArithmeticError):
        (run.path / "checkpoint.pt").unlink(missing_ok=True)
        return None
    return last_epoch(run, key)[key]["all"]


def tune_stage1(
    base: Config,
    space: dict[str, BaseDistribution],
    how: How,
    studies: Path,
    dataset: datasets.Dataset,
    device: torch.device,
    listener: Callable[[optuna.Trial], AbstractContextManager[stages.Listener]],
) -> dict[str, Any]:
    """Search settings of stage 1: every trial is a training, pruned by the median of the others.

    Args:
        listener: who listens to the training of a trial.

    Returns:
        See `outcome`; it is in the search's folder, too, with a figure of accuracy against λ.
    """

    def evaluate(trials: list[optuna.Trial]) -> list[float | None]:
        return [evaluate_one(trial) for trial in trials]

    def evaluate_one(trial: optuna.Trial) -> float | None:
        with listener(trial) as told:
            return _train_trial(trial, base, studies, dataset, device, how.select, told)

    found = run_search(base, dataset.name, space, how, studies, evaluate)
    wds = [
        (trial["params"]["wd"], trial["accuracy"])
        for trial in found["trials"]
        if "wd" in trial["params"] and not trial["pruned"]
    ]
    if wds:
        label = f"{base.dataset}, {how.select}"
        figure = figures.accuracy_against_wd([(label, sorted(wds))])
        figures.save(figure, Path(found["path"]) / "figures", "accuracy_against_wd")
    return found


def tune_stage2(
    base: Config,
    parent: Run,
    space: dict[str, BaseDistribution],
    how: How,
    studies: Path,
    dataset: datasets.Dataset,
    device: torch.device,
) -> dict[str, Any]:
    """Search settings of stage 2: the candidates of a round train as one batch of heads."""
    heads.check(base)
    network = stages.starting_network(base, parent, dataset, device)
    cached = features.of_splits(network, dataset, base, device, studies, keep=True)

    def evaluate(trials: list[optuna.Trial]) -> list[float | None]:
        return heads.evaluate_candidates(
            network.classifier,
            cached["train"],
            cached[how.select],
            base,
            dataset.class_counts,
            [trial.params for trial in trials],
        )

    origin = {"parent": fingerprint(asdict(parent.config()))}
    return run_search(base, parent.name, space, how, studies, evaluate, origin)


def tune_normalize(
    base: Config,
    parent: Run,
    trials: int,
    select: str,
    studies: Path,
    dataset: datasets.Dataset,
    device: torch.device,
) -> dict[str, Any]:
    """Search the number of an adjustment, τ or α, on `grid`."""
    started = time.perf_counter()
    network = stages.starting_network(base, parent, dataset, device)
    chosen_on = features.of_splits(network, dataset, base, device, studies)[select]
    number = NUMBERS[base.method]
    default = base.entry().options[number].default
    values = grid(trials, MOST[number], default)
    accuracies = heads.evaluate_adjusted(
        base.method, network.classifier, dataset.class_counts, chosen_on, values
    )
    found = [
        {"params": {number: value}, "accuracy": accuracy, "pruned": False}
        for value, accuracy in zip(values, accuracies, strict=True)
    ]
    origin = {"parent": fingerprint(asdict(parent.config())), "trials": trials}
    settings = asdict(base) | {"origin": origin, "select": select}
    folder = studies / f"tune-normalize-{parent.name}-{fingerprint(settings)}"
    best = found[middle_best(accuracies)]
    result = outcome(found, best, select, time.perf_counter() - started)
    return save(folder, result, base)


def tau_grid(trials: int) -> list[float]:
    """τ of τ-normalisation."""
    return grid(trials, MOST["tau"], 1.0)


def grid(trials: int, most: float, default: float) -> list[float]:
    """Even steps from 0 to the most; the default alone where there is one point."""
    return [most * i / (trials - 1) for i in range(trials)] if trials > 1 else [default]


def middle_best(accuracies: list[float]) -> int:
    """Index of the best of an ordered grid: of equals, the middle one, farthest from worse."""
    best = max(accuracies)
    equals = [i for i, accuracy in enumerate(accuracies) if accuracy == best]
    return equals[len(equals) // 2]


def latest(
    studies: Path,
    stage: str,
    reference: str,
    parent: Config,
    on_damage: Callable[[str], None] = lambda what: None,
) -> dict[str, Any]:
    """What the newest search of that stage found for this parent run.

    A search whose outcome is torn or edited has none until its command is repeated.

    Args:
        reference: what a child calls the parent.
        parent: its settings: a run of another training under the same name is another run.
        on_damage: told which outcome is left out, and why.

    Raises:
        ValueError: there is none.
    """
    wanted = {"parent": fingerprint(asdict(parent))}
    found = []
    for path in studies.glob(f"tune-{stage}-*/result.json"):
        try:
            result = storage.read_json(path)
            if "best" not in result or result.get("origin") != wanted:
                continue
            if _checked(result).parent == reference:
                found.append((path.stat().st_mtime_ns, result))
        except (ValueError, OSError) as error:
            on_damage(f"{path}: {error}")
    if not found:
        raise ValueError(
            f"nothing was tuned for {reference}: search first with "
            f"wbcli tune {stage} {quote(reference)}"
        )
    return max(found, key=lambda entry: entry[0])[1]


def _checked(result: dict[str, Any]) -> Config:
    """The settings of an outcome.

    Raises:
        ValueError: something in it has another type than `search.save` gave it.
    """
    settings = from_dict(result.get("settings"))
    best = result["best"]
    if not (isinstance(best, dict) and isinstance(best.get("params"), dict)):
        raise ValueError("best has no params")
    if result.get("selected_on") not in CHOICES["selected_on"]:
        raise ValueError("selected_on is neither val nor test")
    if settings.selected_on is None:
        raise ValueError("its settings do not say on what they were selected")
    return settings
