"""Search: candidates are asked for in rounds, by Optuna, and the outcome is kept in a folder.

A sampler is made anew for each round from (seed, trials so far): a search that was interrupted
goes on as if it had not been, but for the round that was lost.
"""

import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState
from sqlalchemy.engine import URL
from sqlalchemy.exc import SQLAlchemyError

from wbcli.config.settings import LOSSES, STAGE2_LOSSES, Config
from wbcli.files import storage
from wbcli.runs import find, locks

RANGES: dict[str, dict[str, tuple[float, float]]] = {
    "stage1": {
        "wd": (1e-5, 1e-1),
        "lr": (1e-3, 3e-1),
        "tau": (0.0, 2.0),
        "gamma": (0.0, 5.0),
        "max-margin": (0.0, 1.0),
        "scale": (5.0, 60.0),
        "alpha": (0.0, 3.0),
        "feature-decay": (1e-4, 1e-1),
        "defer-from": (0.5, 0.95),
    },
    "deconfound": {"gamma": (2**-8, 0.5)},  # where it is not that of the focal losses
    "stage2": {
        "wd": (1e-5, 1.0),
        "lr": (1e-3, 1e-1),
        "maxnorm": (0.0, 1.0),
        "radius": (1e-2, 1e1),
        "tau": (0.0, 2.0),  # of the loss logit-adjustment
    },
}
LINEAR = ("maxnorm", "tau", "gamma", "max-margin", "alpha", "defer-from")  # others logarithmic
BETAS = (0.0, 0.9, 0.99, 0.999, 0.9999, 0.99999)
ROUND = "round"  # the study's attribute with the accuracies of its last round
DONE = (TrialState.COMPLETE, TrialState.PRUNED)


@dataclass(frozen=True)
class How:
    """How a search goes: so many trials, in rounds of so many, chosen on `val` or `test`.

    storage: an Optuna storage URL that processes share; None: a file of this search.
    on_round: told after every round how many trials are done, and the best accuracy.
    """

    trials: int
    round_size: int
    sampler: str
    select: str
    storage: str | None = None
    on_round: Callable[[int, float | None], None] = lambda done, best: None

    def identity(self) -> list[object]:
        """What makes it another search; with more trials it is the same one, continued."""
        return [self.round_size, self.sampler, self.select]


Evaluate = Callable[[list[optuna.Trial]], list[float | None]]


def make_space(
    stage: str, names: list[str], ranges: dict[str, tuple[float, float]]
) -> dict[str, BaseDistribution]:
    """The distribution of each searched option; `ranges` replace the stage's own RANGES.

    Logarithmic but for LINEAR, and `beta` and `loss` (a choice of values).

    Raises:
        ValueError: a range that is empty, or that a logarithm cannot have.
    """
    space: dict[str, BaseDistribution] = {}
    for name in names:
        if name in ("beta", "loss"):
            losses = STAGE2_LOSSES if stage == "stage2" else LOSSES
            space[name] = CategoricalDistribution(BETAS if name == "beta" else losses)
            continue
        low, high = ranges.get(name) or RANGES[stage][name]
        log = name not in LINEAR
        if not low < high or (log and low <= 0):
            raise ValueError(
                f"--range {name} {low:g} {high:g}: expected a low end below the high end"
                + (" and above 0 (it is searched on a logarithmic scale)" if log else "")
            )
        space[name] = FloatDistribution(low, high, log=log)
    return space


def open_study(storage: str | None, folder: Path, warmup: int) -> optuna.Study:
    """The study of this name: new, or as far as it has come.

    Args:
        storage: an Optuna storage URL that processes may share; None: a file in `folder`.
        folder: its name is the study's.
        warmup: epochs before which no trial is pruned.

    Raises:
        ValueError: the storage cannot be opened.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if storage is None:
        folder.mkdir(parents=True, exist_ok=True)
    own = folder / "optuna.db"
    try:
        study = optuna.create_study(
            storage=storage or URL.create("sqlite", database=str(own.resolve())).render_as_string(),
            study_name=folder.name,
            direction="maximize",
            pruner=optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=warmup),
            load_if_exists=True,
        )
    except Exception as error:  # whatever the driver of that database raises
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        remedy = "" if storage else f"; delete the folder {folder} to search anew"
        if "disk" in reason:
            remedy = ": see whether the disk is full"
        raise ValueError(
            f"the storage {storage or own} cannot be opened: {reason}{remedy}"
        ) from error
    if storage is None:  # nobody else writes there: what still runs was interrupted
        _tell(study, study.user_attrs.get(ROUND, {}))
        for trial in study.get_trials(states=(TrialState.RUNNING,)):
            study.tell(trial.number, state=TrialState.FAIL)
    return study


def _tell(study: optuna.Study, accuracies: dict[str, float | None]) -> None:
    """Tell the accuracies of trials by their numbers, but for those that have theirs; None: pruned.

    A kill within a round would make it another round, were it not known as a whole.
    """
    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        accuracy = accuracies.get(str(trial.number), ...)
        if accuracy is None:
            study.tell(trial.number, state=TrialState.PRUNED)
        elif accuracy is not ...:
            study.tell(trial.number, accuracy)


def search(
    study: optuna.Study,
    space: dict[str, BaseDistribution],
    evaluate: Evaluate,
    how: How,
    seed: int,
) -> None:
    """Ask for candidates in rounds until the study has as many as `how` says.

    Args:
        evaluate: accuracies of a round's candidates; None for one that was pruned.
    """
    while (done := len(study.get_trials(states=DONE))) < how.trials:
        started = time.perf_counter()
        before = done + len(study.get_trials(states=(TrialState.RUNNING,)))
        study.sampler = _make_sampler(how, (1000 * seed + before) % 2**32)
        asked = [study.ask(space) for _ in range(min(how.round_size, how.trials - done))]
        found = {str(t.number): a for t, a in zip(asked, evaluate(asked), strict=True)}
        study.set_user_attr(ROUND, found)
        _tell(study, found)
        seconds = study.user_attrs.get("seconds", 0.0) + time.perf_counter() - started
        study.set_user_attr("seconds", seconds)
        whole = study.get_trials(states=(TrialState.COMPLETE,))
        how.on_round(done + len(asked), max((trial.value for trial in whole), default=None))


def _make_sampler(how: How, seed: int) -> optuna.samplers.BaseSampler:
    startup = max(how.round_size, 10)
    if how.sampler == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    if how.sampler == "gp":
        return optuna.samplers.GPSampler(seed=seed, n_startup_trials=startup)
    return optuna.samplers.TPESampler(seed=seed, n_startup_trials=startup, multivariate=True)


def run_search(
    base: Config,
    label: str,
    space: dict[str, BaseDistribution],
    how: How,
    studies: Path,
    evaluate: Evaluate,
    origin: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Search, and keep the outcome in a folder of its own under `studies`.

    Args:
        base: the settings that the candidates change.
        label: part of the folder's name.
        origin: what else the outcome depends on.

    Returns:
        `best`, `trials`, `selected_on`, `seconds`, `path`, and `settings` of the best.

    Raises:
        ArithmeticError: no trial came to its end.
    """
    identity = {"origin": origin, "space": repr(space), "how": how.identity()}
    settings = asdict(base) | identity
    folder = studies / f"tune-{base.stage}-{label}-{find.fingerprint(settings)}"
    with nullcontext() if how.storage else locks.hold(folder, f"the search {folder.name}"):
        study = open_study(how.storage, folder, base.epochs // 4)
        try:
            search(study, space, evaluate, how, base.seed)
        except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:  # a full disk
            reason = str(error.__cause__ or error).splitlines()[0]
            raise OSError(None, f"{reason}, while writing the search {folder}") from error
    trials = [
        {
            "params": trial.params,
            "accuracy": trial.value if trial.value is not None else _last_reported(trial),
            "pruned": trial.state is TrialState.PRUNED,
        }
        for trial in study.get_trials(states=DONE)
    ]
    # Heads that diverged have accuracy 0, which no head that did not diverge has.
    whole = [trial for trial in trials if not trial["pruned"] and trial["accuracy"] > 0]
    if not whole:
        raise ArithmeticError("every trial diverged: narrow the search with --range")
    best = max(whole, key=lambda trial: trial["accuracy"])  # the first of equals
    seconds = study.user_attrs.get("seconds", 0.0)
    result = outcome(trials, best, how.select, seconds) | {"origin": origin}
    return save(folder, result, base)


def _last_reported(trial: optuna.trial.FrozenTrial) -> float | None:
    values = trial.intermediate_values
    return values[max(values)] if values else None


def outcome(
    trials: list[dict[str, Any]], best: dict[str, Any], selected_on: str, seconds: float
) -> dict[str, Any]:
    """`best`, `trials`, `selected_on`, `seconds`: what `wbcli tune --json` prints.

    A pruned trial has the accuracy at which it was stopped, and cannot win.
    """
    return {
        "best": {key: best[key] for key in ("params", "accuracy")},
        "trials": trials,
        "selected_on": selected_on,
        "seconds": seconds,
    }


def save(folder: Path, found: dict[str, Any], base: Config) -> dict[str, Any]:
    """Write `result.json`: the outcome, and the settings that the best candidate belongs to."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = asdict(base.changed(found["best"]["params"]))
    found |= {"path": str(folder), "settings": settings}
    storage.write_json(folder / "result.json", found)
    return found
