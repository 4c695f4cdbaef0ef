"""A run from the command line: opened, trained or continued, reported."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from wbcli import console
from wbcli.cli.inputs import (
    CHOSEN_ON_TEST,
    load,
    shortened,
    wrong_usage,
)
from wbcli.config.settings import Config
from wbcli.data.pictures.preprocessing import split_arch
from wbcli.data.sources import SOURCES
from wbcli.runs.find import all_runs, changes, create, named, same_images, weights_of
from wbcli.runs.metrics import measured
from wbcli.runs.run import Run
from wbcli.words import counted

WORDS = {"test": "test", "val": "validation"}  # before "accuracy"
FEW_PICTURES = 5000  # that train
HOW = ("name", "resume", "dry_run", "as_json", "save_every")  # options that are no settings
CALIBRATION_NOTE = (
    "the loss cb-bce is so small that weight decay keeps the logits near 0: accuracies hold, "
    "but probabilities, NLL and ECE mean nothing without a temperature "
    "(fitted by eval where stage 1 had --val-per-class)"
)


def run_training(
    settings: Config,
    device,
    runs_dir: Path,
    parent: Run | None,
    name: str | None,
    resume: bool,
    dry_run: bool,
    as_json: bool,
    save_every: int,
) -> list[dict] | None:
    """Train, or say what would be trained; returns the metrics of its epochs."""
    from wbcli.training import stages

    before = run_to_continue(runs_dir, settings, name) if resume else None
    dataset = load_data(settings, before, parent)
    if not (before and before.finished):
        describe_run(settings, dataset)
    if not before:
        _advise(settings, len(dataset.train.labels))
    if dry_run:
        _print_settings(settings, dataset, as_json)
        return None
    with wrong_usage():
        if not (before and before.trained):
            _can_start(settings, dataset.num_classes, runs_dir)
        run = before or create(runs_dir, settings, name)
    with run.locked():
        with wrong_usage():
            _check_continuable(run, settings, resume)
        if run.finished:
            console.say(f"run {run.name} is finished: nothing to continue")
        else:
            console.say(f"run {run.path}")
            with (
                kept_run(run, settings) as on_save,
                console.Progress(settings.epochs, len(dataset.train.labels)) as progress,
            ):

                def saved(epoch: int, step: int) -> None:
                    on_save(epoch, step)
                    progress.on_save(epoch, step)

                hears = progress.on_batch, progress.on_epoch, console.warn, saved
                listener = stages.Listener(*hears)
                stages.train(
                    settings, run, dataset, device, runs_dir, listener, save_every=save_every
                )
    rows = run.metrics()
    done = rows and (measured(rows[-1])[1] or not settings.entry().classifies)
    if not done:  # a finished run's last epoch is measured
        raise ValueError(
            f"{run.path / 'metrics.jsonl'} is missing or damaged; the weights are not: "
            f"measure them with wbcli eval {run.name}"
        )
    report_run(run, settings, rows, dataset.limits, as_json)
    return rows


def _can_start(settings: Config, num_classes: int, runs_dir: Path) -> None:
    """See that the network of stage 1 can start, before there is a run that cannot be trained."""
    from wbcli.models import init, networks

    if not (settings.init_from or split_arch(settings.arch)) or settings.parent:
        return
    network = networks.for_run(settings, num_classes)
    weights = settings.init_from and weights_of(runs_dir, settings.init_from)
    if left_out := init.start(network, settings, weights):
        what = f"{counted(len(left_out), 'tensor')} beside the network, such as"
        console.warn(f"--init: left out {what} {left_out[0]}")


def run_to_continue(runs_dir: Path, settings: Config, name: str | None) -> Run | None:
    """What --resume continues: the run of that name, or of these settings; None: there is none."""
    if name:
        with wrong_usage():
            run = named(runs_dir, name)
        return run if run.path.is_dir() else None
    same = [run for run in all_runs(runs_dir) if not changes(run, settings)]
    unfinished = [run for run in same if not run.finished]
    return (unfinished or same or [None])[-1]


def load_data(settings: Config, before: Run | None, parent: Run | None):
    """The data set: with the images of the run that goes on, else of the one that it follows."""
    with wrong_usage():
        goes_on = before and before.trained and not changes(before, settings)
    if goes_on:
        return load(settings, before, *("train", "val") * (not before.finished))
    follows = parent and same_images(parent.config(), settings)
    return load(settings, parent if follows else None, "train", "val")


def _check_continuable(run: Run, settings: Config, resume: bool) -> None:
    """Refuse a run that is not to be continued, or not with these settings.

    One in which nothing has been trained may be started with any.
    """
    if not resume:
        run.must_be_new()
    run.must_be_ours()
    if not run.started or not (run.resumable or run.finished):
        return
    changed = changes(run, settings)
    if changed:
        schedule = ""
        if any(change.startswith("epochs ") for change in changed):
            schedule = ", and another cosine schedule from the first epoch on"
        raise ValueError(
            f"run {run.name} has other settings ({'; '.join(changed)}){schedule}: "
            "resume it with its own, or choose another --name"
        )


@contextmanager
def kept_run(run: Run, settings: Config) -> Iterator[Callable[[int, int], None]]:
    """Say what is saved, and how to go on, when something ends the training; yields `on_save`.

    A run in which nothing was trained leaves nothing behind.
    """
    from wbcli.data.pictures.workers import Killed

    saved = None

    def on_save(*position: int) -> None:
        nonlocal saved
        saved = position

    def how() -> str:
        if saved is None:
            return "nothing was trained yet"
        epoch, step = saved
        within = f" and {counted(step, 'step')} of the next" if step else ""
        return (
            f"{epoch} of {counted(settings.epochs, 'epoch')}{within} are saved; "
            f"continue with the same command and --name {run.name} --resume"
        )

    try:
        yield on_save
    except (KeyboardInterrupt, SystemExit):
        console.warn(f"stopped; {how()}")
        raise
    except Killed as error:
        raise Killed(f"{error}; {how()}") from error
    except OSError as error:
        file = f" ({error.filename})" if error.filename else ""
        raise OSError(error.errno, f"{error.strerror or error}{file}; {how()}") from error
    finally:
        run.discard()


def describe_run(settings: Config, dataset) -> None:
    from wbcli.data import check

    counts = dataset.original_counts or dataset.class_counts
    if settings.checkpoint == "best-on-test":
        console.say(
            "recipe released: keeps the epoch that is best on the test set and averages mirror "
            "images, as the authors' code did; such numbers are not comparable with honest ones"
        )
    if settings.val_per_class:
        console.say(
            f"validation: {len(dataset.val.labels)} images; training counts now "
            f"{shortened(dataset.class_counts)} (were {shortened(counts)})"
        )
    others = dataset.test_counts(), dataset.val_counts()
    for sentence in check.empty_classes(dataset.class_names, counts, *others):
        console.warn(sentence)


def _advise(settings: Config, pictures: int) -> None:
    """Where class frequencies are corrected twice, or few pictures meet the default network."""
    if settings.corrects_twice():
        console.warn(
            f"{' and '.join(settings.corrections())} each make up for the class frequencies: rare "
            "classes may be preferred now"
        )
    default = settings.recipe == "paper" and settings.arch == "resnet50" and not settings.init_from
    is_own = bool(settings.image_size) and settings.dataset not in SOURCES
    if settings.stage == "stage1" and default and is_own and pictures < FEW_PICTURES:
        console.say(
            f"{counted(pictures, 'training picture')}: few for a resnet50 that starts from "
            "nothing; --recipe small is for so many"
        )


def _print_settings(settings: Config, dataset, as_json: bool) -> None:
    values = asdict(settings)
    if as_json:
        console.print_json(values | {"class_counts": dataset.class_counts})
        return
    rows = [[key, "–" if value is None else str(value)] for key, value in values.items()]
    console.print_table(["setting", "value"], [*rows, ["class_counts", str(dataset.class_counts)]])


def report_run(run: Run, settings: Config, rows: list[dict], limits: dict, as_json: bool) -> None:
    (split, accuracy), seconds = measured(rows[-1]), sum(row["seconds"] for row in rows)
    if as_json:
        result = {"run": run.name, "path": str(run.path), "seconds": seconds}
        result |= {"accuracy": rows[-1]["accuracy"]}
        result |= {"val_accuracy": accuracy} if split == "val" else {}
        chosen = {"selected_on": settings.selected_on} if settings.selected_on else {}
        console.print_json(result | chosen)
        return
    if not settings.entry().classifies:
        console.print_table(
            ["run", "train"],
            [[run.name, rows[-1]["train_accuracy"]]],
            f"per cent of the training images that {settings.method} told, last epoch; "
            f"{seconds:.1f} s; start another training from it with --init {run.name}",
        )
        return
    if settings.selected_on == "test":
        console.warn(CHOSEN_ON_TEST.format(run=run.name))
    console.print_table(
        ["run", "many", "medium", "few", "all"],
        [[run.name, *[accuracy[key] for key in ("many", "medium", "few", "all")]]],
        f"{WORDS[split]} accuracy in per cent, mean over classes, last epoch; many: over "
        f"{limits['many']} training images, few: under {limits['few']}; {seconds:.1f} s",
    )


def warn_if_corrected_twice(trained: Config, method: str) -> None:
    """Where the class frequencies are in what trained a run, and would be put in once more."""
    by = trained.corrections()
    if method in ("logit-adjustment", "mla") and by:
        console.warn(
            f"{by[0]} has made up for the class frequencies already, and {method} does it a second "
            "time: rare classes may be preferred now"
        )
