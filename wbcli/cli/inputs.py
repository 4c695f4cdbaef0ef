"""What commands take: data sets, runs, the device; and mistakes as wrong usage."""

from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import click

from wbcli import console
from wbcli.config.settings import Config
from wbcli.runs.find import NAME, find, newest
from wbcli.runs.run import Run
from wbcli.words import counted

CHOSEN_ON_TEST = "{run}: its settings were chosen on the test set, so its numbers are too good"


@contextmanager
def wrong_usage():
    """What is refused before any work starts is wrong usage: exit code 2."""
    try:
        yield
    except ValueError as error:
        raise click.UsageError(str(error), click.get_current_context()) from error


def needs_extra(extra: str, *packages: str) -> None:
    """End with one line and exit code 1 where a package of an extra is not installed."""
    for package in packages:
        if find_spec(package) is None:
            command = click.get_current_context().command_path
            raise click.ClickException(f"{command} needs {package}: pip install 'wbcli[{extra}]'")


def check_new_file(option: str, path: Path) -> None:
    """Refuse to write over a file of the user's, or into a folder that is not there."""
    if path.exists():
        raise ValueError(f"{option} {path} exists: choose another name, or delete it")
    if not path.parent.is_dir():
        raise ValueError(f"{option} {path}: there is no folder {path.parent}")


@contextmanager
def kept_when_stopped():
    """Say how to go on when Ctrl-C or SIGTERM ends a search or a study."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        console.warn("stopped; what was finished is kept: repeat the command to go on")
        raise


def load(settings: Config, origin: Run | None = None, *needs: str):
    """`take` of a data set's files, with the notes on them.

    Args:
        origin: the run whose images these are.
        needs: splits that must be those of that run; with `train` they are for training.
    """
    dataset = take(settings, origin=origin, trains="train" in needs)
    dataset.require(*needs)
    for note in [*dataset.notes, *dataset.changes]:
        console.warn(note)
    return dataset


def take(settings: Config, content=None, origin: Run | None = None, trains=False):
    """The data set of these settings; a setting that it cannot have is wrong usage.

    Args:
        content: what `read_files` gave, where the files were read before.
        origin, trains: see `load` and `recorded.for_run`.
    """
    from wbcli.data.recorded import for_run

    recorded = origin and origin.data_record()
    with can_be_had():
        return for_run(settings, recorded, content=content, trains=trains)


@contextmanager
def can_be_had():
    """A setting that a data set cannot have is wrong usage."""
    from wbcli.data.longtail import SettingError

    try:
        yield
    except SettingError as error:
        raise click.UsageError(str(error), click.get_current_context()) from error


def without_broken(settings: Config) -> Config:
    """The settings without broken and missing files; says which, and what that changes."""
    content = read_files(settings)
    found = examine_files(content)
    files = sorted({problem.file for problem in found.problems if problem.file})
    for problem in found.problems:
        console.warn(problem.text)
    settings = replace(settings, left_out=tuple(files) or None)
    if files:
        dataset = take(settings, content)
        split = dataset.measured
        console.say(
            f"left out: {counted(len(files), 'file')}; training counts now "
            f"{shortened(dataset.original_counts)} (were {shortened(found.class_counts)}), "
            f"{counted(len(dataset.split(split).labels), f'{split} image')} "
            f"(were {found.images[split]})"
        )
    return settings


def shortened(counts: list[int]) -> str:
    """Class counts for a message, of hundreds of classes the first and the last."""
    if len(counts) <= 200:
        return str(counts)
    ends = [", ".join(map(str, part)) for part in (counts[:5], counts[-5:])]
    return f"[{ends[0]}, …, {ends[1]}]"


def read_files(settings: Config):
    """Lists, folders or arrays of a data set, as `datasets.read` gives them."""
    from wbcli.data import datasets

    return datasets.read(settings.dataset, settings.data_dir)


def examine_files(content):
    """`check.examine` of what `read_files` gave, with a progress bar."""
    from wbcli.data import check

    with console.counting(check.num_files(content)) as advance:
        return check.examine(content, advance)


def find_parent(runs_dir: Path, reference: str | None) -> Run:
    """The stage-1 run of that name or path, or the newest finished one."""
    if reference is None:
        run = newest(runs_dir, ("stage1",))
        console.say(f"from run {run.name}, the newest finished stage-1 run")
        return run
    run = find(runs_dir, reference)
    config_of_run = run.config()
    if config_of_run.stage != "stage1":
        raise ValueError(
            f"expected a stage-1 run, {run.name} is a {config_of_run.stage} run of "
            f"{config_of_run.parent}: name that one"
        )
    run.must_classify()
    return run


def find_runs(runs_dir: Path, names: tuple[str, ...]) -> list[Run]:
    """The finished runs of these names or paths; without any, the newest one."""
    if names:
        return [find(runs_dir, name) for name in names]
    run = newest(runs_dir, ("stage1", "stage2", "normalize"))
    console.say(f"run {run.name}, the newest finished one")
    return [run]


def reference_to(run: Run, runs_dir: Path) -> str:
    """How a child names its parent: by name within the runs folder, else by path."""
    inside = run.path.resolve().parent == runs_dir.resolve()
    return run.name if inside and NAME.fullmatch(run.name) else str(run.path.resolve())


def on_device(name: str, options: dict, data_dir: Path | None, parent: Run | None = None) -> tuple:
    """The device, and the options with the precision and the data folder of this process."""
    from wbcli import device as devices

    device = devices.resolve(name)
    if options.get("graph") and device.type != "cuda":
        raise ValueError("--graph captures CUDA graphs: it needs a CUDA device, here is none")
    recipe = options.get("recipe") or (parent and parent.config().recipe)
    precision = devices.resolve_precision(options["precision"], device, recipe)
    options = options | {"precision": precision}
    if data_dir is not None:
        options["data_dir"] = str(data_dir.resolve())
    return device, options
