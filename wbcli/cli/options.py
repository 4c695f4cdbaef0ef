"""Options that several commands share, and how every command reads the environment."""

import math
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import click

from wbcli import console
from wbcli.config.settings import (
    ARCHS,
    CACHES,
    LAYERS,
    LOSSES,
    PRECISIONS,
    RECIPES,
    SAVE_EVERY,
    Config,
)
from wbcli.runs.run import NAME, Run, find, newest
from wbcli.words import counted

CHOSEN_ON_TEST = "{run}: its settings were chosen on the test set, so its numbers are too good"


class Command(click.Command):
    """A command whose every option can come from WBCLI_COMMAND_OPTION or WBCLI_OPTION.

    A command inside a group is WBCLI_GROUP_COMMAND_OPTION.
    """

    def __init__(self, name: str, group: str = "", **kwargs):
        super().__init__(name, **kwargs)
        path = f"{group}_{name}".strip("_").replace("-", "_").upper()
        for param in self.params:
            if isinstance(param, click.Option):
                option = max(param.opts, key=len).strip("-").replace("-", "_").upper()
                special = [param.envvar] if param.envvar else []
                param.envvar = [f"WBCLI_{path}_{option}", *special, f"WBCLI_{option}"]


class RelativeThreshold(click.ParamType):
    name = "t|none"

    def convert(self, value, param, ctx):
        if value == "none":
            return value
        try:
            return float(value)
        except ValueError:
            self.fail(f"expected a number in [0, 1] or 'none', got {value!r}", param, ctx)


class Count(click.IntRange):
    """An integer from `least` to `most`: more can only be a mistake, and would fill the memory."""

    def __init__(self, least: int, most: int = 10**5):
        super().__init__(least)
        self.most = most

    def convert(self, value, param, ctx):
        number = super().convert(value, param, ctx)
        if number > self.most:
            self.fail(f"expected at most {self.most}, got {number}", param, ctx)
        return number


class FiniteRange(click.FloatRange):
    """Numbers of a range; neither nan, which no comparison refuses, nor inf."""

    def convert(self, value, param, ctx):
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"expected a finite number, got {number}", param, ctx)
        return number


class NamedPath(click.Path):
    """A path that has a name: '' comes from a shell variable that is not set."""

    def __init__(self):
        super().__init__(path_type=Path)

    def convert(self, value, param, ctx):
        if value == "":
            self.fail("expected the name of a file or folder, got ''", param, ctx)
        return super().convert(value, param, ctx)


def everywhere(command: Callable) -> Callable:
    """The options that stand after every command."""
    options = [
        click.option(
            "--device",
            default="auto",
            metavar="auto|cpu|cuda[:N]",
            show_default=True,
            help="Where it computes; auto takes a GPU where there is one.",
        ),
        click.option(
            "--seed", type=int, help="Seed of everything random.  [default: 0, or the run's]"
        ),
        click.option(
            "--precision",
            type=click.Choice(PRECISIONS),
            default="auto",
            show_default=True,
            help="Arithmetic; auto is bf16 on a GPU that has it, but fp32 under --recipe released, "
            "and fp32 elsewhere.",
        ),
        click.option(
            "--data-dir",
            type=NamedPath(),
            envvar="WBCLI_DATA",
            help="Folder with the data set's files.  [default: data, or the run's]",
        ),
        click.option(
            "--runs-dir",
            type=NamedPath(),
            envvar="WBCLI_RUNS",
            default="runs",
            callback=_refuse_a_file,
            show_default=True,
            help="Folder that holds the runs.",
        ),
        click.option(
            "--workers",
            type=Count(0, most=1024),
            expose_value=False,
            callback=_set_workers,
            help="Processes that decode pictures on disk.  [default: one for each CPU]",
        ),
        click.option(
            "--max-pixels",
            type=Count(1, most=10**10),
            expose_value=False,
            callback=_set_max_pixels,
            metavar="N",
            help="Pixels of a picture; a larger one is taken for an attack.  [default: 100000000]",
        ),
        click.option(
            "-q",
            "--quiet",
            is_flag=True,
            expose_value=False,
            callback=_set_verbosity(-1),
            help="Print results and warnings only.",
        ),
        click.option(
            "-v",
            "--verbose",
            is_flag=True,
            expose_value=False,
            callback=_set_verbosity(1),
            help="Say more.",
        ),
    ]
    return _apply(options, command)


def data_options(command: Callable) -> Callable:
    """Which images of a data set train."""
    options = [
        *IMBALANCE,
        click.option(
            "--limits",
            type=int,
            nargs=2,
            metavar="MANY FEW",
            help="Classes of more than MANY images are Many, of fewer than FEW are Few.",
        ),
        click.option(
            "--image-size",
            type=int,
            help="Side of the crops of pictures on disk.  [default: 224]",
        ),
        click.option(
            "--subset",
            type=click.Choice(["first", "shuffled"]),
            help="Images kept: the first of each class (default), or LDAM-DRW's.",
        ),
    ]
    return _apply(options, command)


def training_options(command: Callable) -> Callable:
    """What both stages take, with what a run of one's own is called."""
    options = [
        click.option("--name", help="Name of the run.  [default: DATASET-STAGE-NNN]"),
        click.option("--resume", is_flag=True, help="Continue an unfinished run, or start it."),
        click.option(
            "--save-every",
            type=click.IntRange(1),
            default=SAVE_EVERY,
            show_default=True,
            metavar="N",
            help="Write a checkpoint after every N steps, too, not only after an epoch.",
        ),
        click.option("--dry-run", is_flag=True, help="Print the settings and stop."),
        json_option,
    ]
    return setting_options(_apply(options, command))


def setting_options(command: Callable) -> Callable:
    """Settings of a training; what is not given comes from the recipe."""
    options = [
        click.option("--wd", type=float, help="Weight decay λ."),
        click.option("--lr", type=float, help="First learning rate of the cosine."),
        click.option("--momentum", type=float, help="Momentum of SGD."),
        click.option("--epochs", type=int, help="Epochs that are trained."),
        click.option("--batch-size", type=int, help="Images of a step."),
        click.option(
            "--eval-every",
            type=int,
            metavar="N",
            help="Measure after every N epochs, and after the last.  [default: 1]",
        ),
        click.option(
            "--accumulate",
            type=int,
            metavar="N",
            help="Send a batch through the network in N parts, for less memory; the same step, "
            "but that batch norm sees the parts.",
        ),
        click.option("--compile", is_flag=True, default=None, help="torch.compile the network."),
        click.option(
            "--graph",
            is_flag=True,
            default=None,
            help="Capture whole steps as CUDA graphs (images in memory).",
        ),
        click.option("--arch", type=click.Choice(ARCHS), help="Network."),
        click.option(
            "--loss",
            type=click.Choice(LOSSES),
            help="Cross-entropy (ce) or focal; cb: class-balanced; cb-bce: the released code's.",
        ),
        click.option("--beta", type=float, help="β of the class-balanced losses, in [0, 1)."),
        click.option("--radius", type=float, help="MaxNorm radius δ > 0 of the rows itself."),
        click.option("--unit-norm", is_flag=True, default=None, help="Keep rows at length 1."),
        click.option(
            "--project",
            type=click.Choice(["step", "epoch"]),
            help="Project after every step, or once an epoch.",
        ),
        click.option(
            "--recipe",
            type=click.Choice(RECIPES),
            help="Defaults of the paper's text, or of the released code.",
        ),
        click.option(
            "--deterministic",
            is_flag=True,
            default=None,
            help="Deterministic kernels only (a GPU is slower for it).",
        ),
    ]
    return _apply(options, command)


def head_options(command: Callable) -> Callable:
    """What only stage 2 takes."""
    options = [
        click.option(
            "--maxnorm",
            type=RelativeThreshold(),
            help="MaxNorm radius between the shortest (0) and longest (1) row of stage 1; none "
            "leaves MaxNorm out.",
        ),
        click.option(
            "--layers",
            type=click.Choice(LAYERS),
            help="How many of the last layers train; 1 is the classifier alone.",
        ),
        click.option(
            "--views",
            type=int,
            metavar="V",
            help="Augmented views that are cached, for epochs to take turns with.  "
            "[default: one for each epoch; on disk 1; in a search at most 10]",
        ),
        click.option(
            "--cache",
            type=click.Choice(CACHES),
            help="What features of the frozen network are kept in, or none to run it every "
            "epoch.  [default: fp32]",
        ),
    ]
    return _apply(options, command)


def json_option(command: Callable) -> Callable:
    return click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")(command)


IMBALANCE = [
    click.option(
        "--imbalance-factor",
        type=float,
        help="Images of the head class over the tail's.  [default: 100; digits 50; on disk: all "
        "images train]",
    ),
    click.option(
        "--imbalance-type",
        type=click.Choice(["exp", "step"]),
        help="Class sizes fall exponentially, or by one step.  [default: exp]",
    ),
    click.option(
        "--val-per-class",
        type=int,
        metavar="N",
        help="Hold N images of each class out of training, for validation.",
    ),
]


def imbalance_options(command: Callable) -> Callable:
    return _apply(IMBALANCE, command)


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
        origin, trains: see `load` and `datasets.for_run`.
    """
    from wbcli.data import datasets

    recorded = origin and origin.data_record()
    with can_be_had():
        return datasets.for_run(settings, recorded, content=content, trains=trains)


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
        console.say(
            f"left out: {counted(len(files), 'file')}; training counts now "
            f"{shortened(dataset.original_counts)} (were {shortened(found.class_counts)}), "
            f"{counted(len(dataset.test.labels), 'test image')} (were {found.images['test']})"
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


def _refuse_a_file(ctx, param, folder: Path) -> Path:
    if folder.is_file():
        raise click.UsageError(f"--runs-dir {folder}: expected a folder, this is a file", ctx)
    return folder


def _set_workers(ctx, param, count: int | None) -> None:
    if count is not None:
        from wbcli.data.pictures import decoding

        decoding.workers = count


def _set_max_pixels(ctx, param, count: int | None) -> None:
    if count is not None:
        from wbcli.data.pictures import decoding

        decoding.max_pixels = count


def _set_verbosity(level: int) -> Callable:
    def callback(ctx, param, given):
        if given:
            console.verbosity = level

    return callback


def _apply(options: list[Callable], command: Callable) -> Callable:
    for option in reversed(options):
        command = option(command)
    return command
