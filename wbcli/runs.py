"""Run directories: names, finding a run again, and files that are whole or not there.

A run is finished when `model.safetensors` exists; it is written last.
"""

import hashlib
import json
import os
import re
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from wbcli.config import Config, from_dict

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
STATES = {  # what the two checkpoints hold
    "checkpoint.pt": {"epoch", "model", "optimizer", "radii", "best"},
    "best.pt": {"epoch", "model", "accuracy"},
}


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

    def record(self) -> dict[str, Any]:
        """config.json: the settings, and what they ran on."""
        return read_json(self.path / "config.json")

    def config(self) -> Config:
        try:
            return from_dict(self.record())
        except ValueError as error:
            raise ValueError(f"run {self.name}: {error}") from error

    def class_names(self) -> list[str] | None:
        """As they were when it trained; None for a run that did not record them."""
        return self.record().get("class_names")

    def write_temperature(self, checkpoint: str, tta: bool, temperature: float | None) -> None:
        """Keep what was fitted on validation images, for `predict` (None: there is no minimum)."""
        content = {"checkpoint": checkpoint, "tta": tta, "temperature": temperature}
        write_json(self.path / "temperature.json", content)

    def temperature(self, checkpoint: str, tta: bool) -> dict[str, Any] | None:
        """What `write_temperature` kept for this checkpoint, or None."""
        path = self.path / "temperature.json"
        found = read_json(path) if path.is_file() else {}
        same = found.get("checkpoint") == checkpoint and found.get("tta") == tta
        return found if same and "temperature" in found else None

    def metrics(self) -> list[dict[str, Any]]:
        """A dict for each finished epoch, up to the first torn or damaged line."""
        path = self.path / "metrics.jsonl"
        rows = []
        for line in path.read_text().splitlines() if path.is_file() else []:
            try:
                row = json.loads(line)
            except ValueError:
                break
            if (
                not isinstance(row, dict)
                or not {"epoch", "seconds", "accuracy", "row_norms"} <= row.keys()
            ):
                break
            rows.append(row)
        return rows

    def epochs_done(self) -> int:
        rows = self.metrics()
        return rows[-1]["epoch"] if rows else 0

    def write_record(self, config: Config, circumstances: dict[str, Any]) -> None:
        """Write config.json; a run that is resumed stays as old as it is.

        Args:
            circumstances: what it runs on, and the names of its classes.
        """
        created = self.record().get("created") if self.started else time.time()
        record = {"run": self.name, "created": created} | asdict(config) | circumstances
        write_json(self.path / "config.json", record)

    def write_metrics(self, rows: list[dict[str, Any]]) -> None:
        """Replace metrics.jsonl (on resume: by the epochs that the checkpoint has seen)."""
        with replacing(self.path / "metrics.jsonl") as partial:
            partial.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def append_metrics(self, row: dict[str, Any]) -> None:
        with (self.path / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")
            file.flush()
            os.fsync(file.fileno())

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
        import torch

        with replacing(self.path / name) as partial:
            torch.save(state, partial)

    def load_state(self, name: str) -> dict[str, Any]:
        """Raises ValueError when the file is torn or holds more than tensors and containers."""
        import torch

        try:
            state = torch.load(self.path / name, map_location="cpu", weights_only=True)
            missing = STATES[name] - state.keys()
        except FileNotFoundError:
            raise ValueError(f"run {self.name} has no {name}") from None
        except OSError:
            raise
        except Exception as error:  # a damaged or hostile file can raise anything
            reason = str(error).splitlines()[0]
            raise ValueError(f"{self.path / name} cannot be read: {reason}") from error
        if missing:
            raise ValueError(f"{self.path / name} lacks {', '.join(sorted(missing))}")
        return state

    def save_weights(self, weights: dict[str, Any]) -> None:
        from safetensors.torch import save_file

        with replacing(self.path / "model.safetensors") as partial:
            save_file({key: value.contiguous().cpu() for key, value in weights.items()}, partial)

    def load_weights(self) -> dict[str, Any]:
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        path = self.path / "model.safetensors"
        try:
            return load_file(path)
        except FileNotFoundError:
            raise ValueError(
                f"run {self.name} is not finished: it has no model.safetensors"
            ) from None
        except SafetensorError as error:
            raise ValueError(f"{path} cannot be read: {error}") from error

    def network(self, num_classes: int, checkpoint: str = "last"):
        """The network of a finished run, from its last epoch or, with `best`, from best.pt.

        Raises:
            ValueError: no such checkpoint, or weights of another network.
        """
        from wbcli import models

        config = self.config()
        if checkpoint == "best" and not (self.path / "best.pt").is_file():
            raise ValueError(
                f"run {self.name} kept no best epoch: that needs validation images "
                "(train with --val-per-class N)"
            )
        network = models.for_run(config, num_classes)
        last = checkpoint == "last"
        weights = self.load_weights() if last else self.load_state("best.pt")["model"]
        try:
            network.load_state_dict(weights)
        except RuntimeError as error:
            raise ValueError(
                f"run {self.name}: its weights do not fit {config.arch} with "
                f"{num_classes} classes ({str(error).splitlines()[1].strip()})"
            ) from error
        return network


def create(runs_dir: Path, config: Config, name: str | None) -> Run:
    """A new run directory, `DATASET-STAGE-NNN` with the next free number unless named.

    Raises:
        ValueError: a name that exists already or that is not a plain file name.
    """
    make_folder(runs_dir)
    if name is not None:
        run = named(runs_dir, name)
        try:
            run.path.mkdir()
        except FileExistsError:
            if run.started:
                raise ValueError(
                    f"run {name!r} exists in {runs_dir}: continue it with --resume, "
                    "or choose another --name"
                ) from None
        return run
    prefix = f"{plain(config.dataset)}-{config.stage}-"
    taken = [path.name.removeprefix(prefix) for path in runs_dir.glob(f"{prefix}*")]
    number = max((int(n) for n in taken if n.isdecimal()), default=0)
    while True:
        number += 1
        path = runs_dir / f"{prefix}{number:03d}"
        try:
            path.mkdir()
        except FileExistsError:  # another process took it just now
            continue
        return Run(path)


def plain(name: str) -> str:
    """What of a name can stand in a run's: a folder of pictures may have any."""
    return re.sub(r"[^A-Za-z0-9._]+", "-", name).strip("-._")[:60] or "folder"


def make_folder(runs_dir: Path) -> None:
    """Raises ValueError where a file has that name."""
    try:
        runs_dir.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise ValueError(f"--runs-dir {runs_dir}: expected a folder, this is a file") from None


def named(runs_dir: Path, name: str) -> Run:
    if not NAME.fullmatch(name):
        raise ValueError(
            f"{name!r} cannot name a run: use letters, digits, '.', '_' and '-', "
            "with a letter or digit first, at most 100"
        )
    return Run(runs_dir / name)


def all_runs(runs_dir: Path, on_damage: Callable[[str], None] = lambda what: None) -> list[Run]:
    """Every run of the folder, oldest first (not those of studies, which are a level deeper).

    Runs whose config.json cannot be read are left out; `on_damage` is told why.
    """
    found = []
    for path in runs_dir.glob("*/config.json"):
        run = Run(path.parent)
        try:
            run.config()
            found.append((run.record().get("created", 0), run.name, run))
        except ValueError as error:
            on_damage(str(error))
    return [run for _, _, run in sorted(found, key=lambda entry: entry[:2])]


def newest(runs_dir: Path, stages: tuple[str, ...]) -> Run:
    """The newest finished run of one of `stages`.

    Raises:
        ValueError: there is none.
    """
    for run in reversed(all_runs(runs_dir)):
        if run.finished and run.record().get("stage") in stages:
            return run
    wanted = " or ".join(stages)
    raise ValueError(
        f"no finished {wanted} run in {runs_dir}: train one (wbcli stage1 digitslt), "
        "or name its folder with --runs-dir"
    )


def find(runs_dir: Path, reference: str) -> Run:
    """A finished run by its name or its path.

    Raises:
        ValueError: there is no such run, or it is not finished.
    """
    candidates = [Run(Path(reference).resolve())]
    if NAME.fullmatch(reference):
        candidates.insert(0, Run(runs_dir / reference))
    run = next((run for run in candidates if run.started), None)
    if run is None:
        have = ", ".join(run.name for run in all_runs(runs_dir)[-5:]) or "none"
        raise ValueError(f"no run {reference!r} in {runs_dir} (newest there: {have})")
    if not run.finished:
        raise ValueError(
            f"run {run.name} is not finished ({run.epochs_done()} of {run.config().epochs} "
            f"epochs): repeat its command with --name {run.name} --resume"
        )
    return run


def fingerprint(settings: dict[str, Any]) -> str:
    """Eight characters that differ for different settings (where the data lie is none)."""
    kept = {key: value for key, value in settings.items() if key != "data_dir"}
    text = json.dumps(kept, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()[:8]


def part(studies: Path, config: Config) -> Run:
    """The run of a study that has these settings: always the same folder, finished or not."""
    return Run(studies / f"{plain(config.dataset)}-{config.stage}-{fingerprint(asdict(config))}")


def is_run_of(run: Run, config: Config) -> bool:
    """Whether the run has exactly these settings."""
    return run.config() == config


def read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a JSON object, got {type(content).__name__}")
    return content


def write_json(path: Path, content: dict[str, Any]) -> None:
    with replacing(path) as partial:
        text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        partial.write_bytes(text.encode("utf-8", "backslashreplace"))  # names of undecodable bytes


@contextmanager
def replacing(path: Path):
    """Yield a temporary path in the same folder; on success flush it to disk and rename it.

    Whatever fails, `path` is as it was before or whole and new.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    finally:
        partial.unlink(missing_ok=True)
