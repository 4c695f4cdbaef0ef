"""The trainings that a study is made of: each is a run, found again by its settings.

They live under `runs/studies/`. A part that is finished is not trained again, whichever study
asks for it; one that was interrupted goes on from its last epoch.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from wbcli.config.resolve import resolve_normalize, resolve_stage1, resolve_stage2
from wbcli.config.settings import Config
from wbcli.data import datasets
from wbcli.data.recorded import for_run
from wbcli.models.networks import Network
from wbcli.runs.find import first_part, part
from wbcli.runs.run import Run
from wbcli.training import features, stages
from wbcli.training.features import Features
from wbcli.training.session import ignore

STAGE2_ONLY = ("beta", "project")  # settings that a study passes on to stage 2 alone


@contextmanager
def silent(label: str, settings: Config, images: int) -> Iterator[stages.Listener]:
    """The listener of a lab that nobody watches."""
    yield stages.Listener()


@dataclass
class Lab:
    """Trains parts with shared options.

    Args:
        studies: the folder of the runs.
        options: options of stage 1 (and those of STAGE2_ONLY), as on the command line.
        listen: who listens to a part: called with its label, settings and number of images.
        num_frozen: networks whose features are kept.
        on_note: told how a data set differs from the one that finished parts were trained on.
    """

    studies: Path
    device: torch.device
    options: dict[str, Any]
    listen: Callable[[str, Config, int], AbstractContextManager[stages.Listener]] = silent
    num_frozen: int = 2
    on_note: Callable[[str], None] = ignore
    _datasets: dict[str, datasets.Dataset] = field(default_factory=dict)
    _frozen: dict[str, tuple[Network, dict[str, Features]]] = field(default_factory=dict)

    def stage1(self, seed: int, label: str, **options: Any) -> Run:
        given = {k: v for k, v in self.options.items() if k not in STAGE2_ONLY}
        return self._train(resolve_stage1(given | {"seed": seed} | options), label)

    def stage2(self, parent: Run, label: str, **options: Any) -> Run:
        settings = self.stage2_settings(parent, **options)
        cached = self.frozen(parent, settings)[1] if features.can_cache(settings) else None
        return self._train(settings, label, cached)

    def stage2_settings(self, parent: Run, **options: Any) -> Config:
        keys = (*STAGE2_ONLY, "eval_every", "precision", "deterministic", "data_dir")
        given = {key: self.options.get(key) for key in keys}
        return resolve_stage2(parent.config(), parent.name, given | options)

    def normalize(self, parent: Run, label: str, **options: Any) -> Run:
        given = {key: self.options[key] for key in ("precision", "data_dir")}
        settings = resolve_normalize(parent.config(), parent.name, given | options)
        run = part(self.studies, settings)
        if not run.finished:
            with run.locked(), self.listen(label, settings, 0):
                stages.normalize(settings, run, parent, self.dataset(settings), self.device)
        return run

    def dataset(self, settings: Config) -> datasets.Dataset:
        """The images of these settings: those of the parts that were trained on such before."""
        key = str([settings.dataset, *[getattr(settings, name) for name in datasets.SELECTION]])
        if key not in self._datasets:
            first = first_part(self.studies, settings)
            recorded = first and first.data_record()
            found = self._datasets[key] = for_run(settings, recorded, trains=True)
            found.require("train", "val")
            found.split("test")  # every table is of test images
            for change in found.changes:
                self.on_note(change)
        return self._datasets[key]

    def frozen(self, parent: Run, settings: Config) -> tuple[Network, dict[str, Features]]:
        """The parent's network, and the features it makes of every split.

        Those of the last `num_frozen` parents are kept.
        """
        name = f"{parent.name} {settings.batch_size} {settings.views} {settings.precision}"
        if name not in self._frozen:
            dataset = self.dataset(settings)
            network = stages.starting_network(settings, parent, dataset, self.device)
            splits = features.of_splits(
                network, dataset, settings, self.device, self.studies, keep=True
            )
            while len(self._frozen) >= self.num_frozen:
                del self._frozen[next(iter(self._frozen))]  # the oldest
            self._frozen[name] = network, splits
        return self._frozen[name]

    def _train(
        self, settings: Config, label: str, cached: dict[str, Features] | None = None
    ) -> Run:
        run = part(self.studies, settings)
        if not run.finished:
            dataset = self.dataset(settings)
            with self.listen(label, settings, len(dataset.train.labels)) as listener:
                stages.train_part(settings, self.studies, dataset, self.device, listener, cached)
        return run


def last_epoch(run: Run, accuracies: str = "accuracy") -> dict[str, Any]:
    """Metrics of a finished part, which has these accuracies.

    Raises:
        ValueError: they are missing or damaged.
    """
    row = (run.metrics() or [{"epoch": 0}])[-1]
    if row["epoch"] < run.config().epochs or not row.get(accuracies):
        raise ValueError(
            f"{run.path / 'metrics.jsonl'} is missing or damaged: delete the folder {run.path}, "
            "and it will be made again"
        )
    return row
