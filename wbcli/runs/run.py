"""Run directories: names, finding a run again, and what is in its files.

A run is finished when `model.safetensors` exists; it is written last.
"""

import json
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from wbcli.config.settings import Config, from_dict, resolved_limits
from wbcli.data import packed, sources
from wbcli.data.chosen import Chosen
from wbcli.data.record import Record, check_classes
from wbcli.files.readers import read_bytes
from wbcli.files.storage import is_number, read_json, write_file, write_json
from wbcli.runs import locks
from wbcli.runs.metrics import MAX_BYTES, append, rows_of
from wbcli.runs.states import IMAGES, REMEDIES, read_state, write_state

TEMPORARY = re.compile(r"\.(?:[a-z]+(?:\.[a-z0-9]+)+\.\d+\.partial|features\.\d+\.\d+)")  # ours
YEAR_3000 = 32503680000  # seconds since 1970


@dataclass(frozen=True)
class Run:
    """A run directory; reading its files checks them."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def finished(self) -> bool:
        return (self.path / "model.safetensors").is_file()

    @property
    def started(self) -> bool:
        return (self.path / "config.json").is_file()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Be the one process that writes here; see `locks.hold`.

        What a process that was killed had half written is deleted.
        """
        with locks.hold(self.path, f"run {self.name}"):
            for name in filter(TEMPORARY.fullmatch, os.listdir(self.path)):
                (self.path / name).unlink(missing_ok=True)
            yield

    def must_be_new(self, trains: bool = True) -> None:
        """Raises ValueError where something has been trained, or was to be, or lies there."""
        if self.started or self.resumable or self.finished:
            remedy = "continue it with --resume, or " * trains + "choose another --name"
            raise ValueError(f"run {self.name!r} exists in {self.path.parent}: {remedy}")
        self.must_be_ours()

    def must_be_ours(self) -> None:
        """Raises ValueError where the folder is one of other things."""
        there = os.listdir(self.path) if self.path.is_dir() else []
        others = [name for name in there if name != locks.NAME]
        if others and not (self.started or self.resumable or self.finished):
            raise ValueError(f"{self.path} is no run, it holds {others[0]}: choose another --name")

    def discard(self) -> None:
        """Delete a run that holds no weights; its name is free again."""
        if self.resumable or self.finished:
            return
        ours = ("metrics.jsonl", "temperature.json", "best.pt", IMAGES, "config.json")
        for name in (*ours * self.started, locks.NAME):  # without config.json nothing is ours
            (self.path / name).unlink(missing_ok=True)
        if not any(self.path.iterdir()):
            self.path.rmdir()

    @property
    def resumable(self) -> bool:
        return (self.path / "checkpoint.pt").is_file()

    @property
    def trained(self) -> bool:
        """Whether it has a record, and something was trained by it."""
        return self.started and (self.resumable or self.finished)

    def record(self) -> dict[str, Any]:
        """config.json: the settings, and what they ran on; `created` is 0 where it is no time."""
        record = read_json(self.path / "config.json")
        if not (is_number(record.get("created")) and 0 <= record["created"] < YEAR_3000):
            record["created"] = 0
        return record

    def config(self) -> Config:
        try:
            return from_dict(self.record())
        except ValueError as error:
            raise ValueError(f"run {self.name}: {error}") from error

    def class_names(self) -> list[str] | None:
        """As they were when it trained; None for a run that did not record them."""
        return self._recorded("class_names", str, "texts")

    def class_counts(self) -> list[int] | None:
        """Images of each class on which it trained; None for a run that did not record them."""
        return self._counts("class_counts")

    def _counts(self, key: str) -> list[int] | None:
        found, names = self._recorded(key, int, "counts"), self.class_names()
        if found is None or names is None:
            return None
        if len(found) != len(names) or not all(0 <= count < packed.MAX_COUNT for count in found):
            raise ValueError(
                f"run {self.name}: {key} of config.json does not count the images of each of "
                f"{len(names)} classes"
            )
        return found

    def images(self) -> Chosen | None:
        """Which images trained it and which it held out; None where it did not record them.

        Raises:
            ValueError: the file is damaged.
        """
        path = self.path / IMAGES
        if not path.exists():
            return None
        try:
            return packed.unpack(read_bytes(path, packed.MAX_PACKED))
        except ValueError as error:
            raise ValueError(f"{path} cannot be read: {error}; {REMEDIES[IMAGES]}") from error

    def data_record(self) -> Record:
        """What it recorded of the data set that trained it: see `recorded.for_run`."""
        config = self.config()
        record = Record(
            run=self.name,
            class_names=self.class_names(),
            class_counts=self.class_counts(),
            original_counts=self._counts("original_counts"),
            limits=resolved_limits(config),
            images=self.images(),
        )
        source = sources.find(config.dataset)
        by_name = source.image_size is not None
        once = source.num_classes is None or not by_name
        if wrong := record.contradiction(by_name, once, not config.val_per_class):
            raise ValueError(
                f"run {self.name}: {wrong}; which images the run had is not known then: put the "
                "file back as it was, or train anew"
            )
        return record

    def _recorded(self, key: str, kind: type, words: str) -> list | None:
        found = self.record().get(key)
        if found is not None and not (
            isinstance(found, list) and all(type(value) is kind for value in found)
        ):
            raise ValueError(f"run {self.name}: {key} of config.json is no list of {words}")
        return found

    def write_temperature(self, checkpoint: str, tta: bool, temperature: float | None) -> None:
        """Keep what was fitted on validation images, for `predict` (None: there is no minimum)."""
        content = {"checkpoint": checkpoint, "tta": tta, "temperature": temperature}
        write_json(self.path / "temperature.json", content)

    def temperature(self, checkpoint: str, tta: bool) -> dict[str, Any] | None:
        """What `write_temperature` kept for this checkpoint, or None."""
        path = self.path / "temperature.json"
        found = read_json(path) if path.is_file() else {}
        same = found.get("checkpoint") == checkpoint and found.get("tta") == tta
        if not same or "temperature" not in found:
            return None
        value = found["temperature"]
        if value is not None and not (is_number(value) and value > 0):
            raise ValueError(
                f"{path}: expected a temperature above 0 or null; delete the file, and wbcli eval "
                f"{self.name} fits it again"
            )
        return found

    def metrics(self) -> list[dict[str, Any]]:
        """A dict for each finished epoch, up to the first torn or damaged line."""
        path = self.path / "metrics.jsonl"
        return rows_of(read_bytes(path, MAX_BYTES)) if path.is_file() else []

    def epochs_done(self) -> int:
        rows = self.metrics()
        return rows[-1]["epoch"] if rows else 0

    def write_record(
        self, config: Config, circumstances: dict[str, Any], images: Chosen | None = None
    ) -> None:
        """Write config.json and images.json.gz; a run that is resumed stays as old as it is.

        Args:
            circumstances: what it runs on, and the names and counts of its classes.
            images: which train and which are held out; None where that is not known.
        """
        try:
            created = self.record()["created"]
        except (FileNotFoundError, ValueError):  # a damaged one is written anew
            created = time.time()
        record = {"run": self.name, "created": created} | asdict(config)
        record |= {"limits": resolved_limits(config)} | circumstances
        write_json(self.path / "config.json", record)
        if images:
            write_file(self.path / IMAGES, packed.pack(images))

    def write_metrics(self, rows: list[dict[str, Any]]) -> None:
        """Replace metrics.jsonl."""
        text = "".join(json.dumps(row) + "\n" for row in rows)
        write_file(self.path / "metrics.jsonl", text.encode())

    def append_metrics(self, row: dict[str, Any]) -> str:
        """Add a line to metrics.jsonl and return it; where that fails the file stays as it was."""
        return append(self.path / "metrics.jsonl", row)

    def write_result(self, split: str, result: dict[str, Any]) -> None:
        """Replace what result.json says of `split`."""
        path = self.path / "result.json"
        try:
            before = read_json(path)
        except (FileNotFoundError, ValueError):  # a damaged one has nothing left to keep
            before = {}
        write_json(path, before | {split: result})

    def save_state(self, name: str, state: dict[str, Any]) -> None:
        """Write `checkpoint.pt` or `best.pt`: tensors and plain containers only."""
        write_state(self.path / name, state)

    def load_state(self, name: str) -> dict[str, Any]:
        """Raises ValueError when the file is torn or holds more than tensors and containers."""
        return read_state(self.name, self.path / name)

    def save_weights(self, weights: dict[str, Any]) -> None:
        from safetensors.torch import save

        content = save({key: value.contiguous().cpu() for key, value in weights.items()})
        write_file(self.path / "model.safetensors", content)

    def load_weights(self) -> dict[str, Any]:
        from wbcli.files import weights

        path = self.path / "model.safetensors"
        try:
            return weights.read(path)
        except FileNotFoundError:
            raise ValueError(
                f"run {self.name} is not finished: it has no model.safetensors"
            ) from None
        except ValueError as error:
            raise ValueError(f"{path} cannot be read: {error}") from error

    def must_classify(self) -> None:
        """Raises ValueError where it was not trained on the classes of its data set."""
        config = self.config()
        if not config.entry().classifies:
            raise ValueError(
                f"run {self.name} is one of {config.method}, which scores no classes of the data "
                f"set: start a training from it (wbcli stage1 {config.dataset} --init {self.name})"
            )

    def network(self, class_names: list[str], checkpoint: str = "last"):
        """The network of a finished run, from its last epoch or, with `best`, from best.pt.

        Args:
            class_names: of the data set that it is for.

        Raises:
            ValueError: other classes, no such checkpoint, or weights of another network.
        """
        from wbcli.models import networks

        self.must_classify()
        config, num_classes = self.config(), len(class_names)
        check_classes(self.name, self.class_names(), class_names)
        if checkpoint == "best" and not (self.path / "best.pt").is_file():
            raise ValueError(
                f"run {self.name} kept no best epoch: that needs validation images "
                "(train with --val-per-class N)"
            )
        network = networks.for_run(config, num_classes)
        best = checkpoint == "best"
        weights = self.load_state("best.pt")["model"] if best else self.load_weights()
        try:
            network.load_state_dict(weights)
        except Exception as error:  # a changed best.pt can hold anything in the place of weights
            what = f"{config.arch} with {num_classes} classes"
            reason = " ".join(str(error).split())[:200]
            wrong = f"run {self.name}: its weights do not fit {what} ({reason})"
            raise ValueError(wrong) from error
        return network
