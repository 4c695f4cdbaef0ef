"""Runs of a folder: made, named, and found again."""

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from wbcli.config.settings import Config
from wbcli.data.datasets import SELECTION
from wbcli.runs.run import Run
from wbcli.runs.states import IMAGES

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def create(runs_dir: Path, config: Config, name: str | None) -> Run:
    """A new run directory, `DATASET-STAGE-NNN` with the next free number unless named.

    Raises:
        ValueError: a name that exists already or that is not a plain file name.
        locks.Busy: another process works there.
    """
    make_folder(runs_dir)
    if name is not None:
        run = named(runs_dir, name)
        try:
            run.path.mkdir()
        except FileExistsError:
            if not run.path.is_dir():
                raise ValueError(f"{run.path} is a file: choose another --name") from None
            with run.locked():
                run.must_be_new(config.stage != "normalize")
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
    if name == "studies":
        raise ValueError("'studies' is where tune and reproduce keep theirs: choose another --name")
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
            found.append((run.record()["created"], run.name, run))
        except (ValueError, OSError) as error:
            on_damage(str(error))
    return [run for _, _, run in sorted(found, key=lambda entry: entry[:2])]


def newest(runs_dir: Path, stages: tuple[str, ...]) -> Run:
    """The newest finished run of one of `stages`.

    Raises:
        ValueError: there is none.
    """
    for run in reversed(all_runs(runs_dir)):
        config = run.config()
        if run.finished and config.stage in stages and config.entry().classifies:
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


def weights_of(runs_dir: Path, reference: str) -> tuple[Path, bool]:
    """The file of weights that --init names, and whether it is a run's.

    Raises:
        ValueError: neither a file nor a finished run.
    """
    if Path(reference).is_file() and not Run(runs_dir / reference).started:
        return Path(reference), False
    try:
        return find(runs_dir, reference).path / "model.safetensors", True
    except ValueError as error:
        raise ValueError(f"--init {reference}: no such file, and {error}") from error


def fingerprint(settings: dict[str, Any]) -> str:
    """Eight characters that differ for different settings (where the data lie is none)."""
    kept = {key: value for key, value in settings.items() if key != "data_dir"}
    text = json.dumps(kept, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()[:8]


def same_images(config: Config, other: Config) -> bool:
    """Whether two settings choose the same images of the same data set."""
    keys = ("dataset", *SELECTION)
    return all(getattr(config, key) == getattr(other, key) for key in keys)


def first_part(studies: Path, config: Config) -> Run | None:
    """The oldest run of a study that these settings choose the same images for: all of a study
    train on its images.
    """
    found = all_runs(studies) if studies.is_dir() else []
    found = [run for run in found if run.trained and same_images(run.config(), config)]
    recorded = [run for run in found if (run.path / IMAGES).is_file()]
    return next(iter(recorded or found), None)


def part(studies: Path, config: Config) -> Run:
    """The run of a study that has these settings: always the same folder, finished or not."""
    return Run(studies / f"{plain(config.dataset)}-{config.stage}-{fingerprint(asdict(config))}")


def changes(run: Run, config: Config) -> list[str]:
    """Settings that are not the run's, as `wd 0.1 → 0.2`."""
    before, now = run.config().identity(), config.identity()
    return [f"{key} {before[key]} → {now[key]}" for key in now if before[key] != now[key]]
