"""features: what a run's network makes of images, as a file; and the options for such a file."""

from collections.abc import Callable
from pathlib import Path

import click

from wbcli import console
from wbcli.cli.inputs import check_new_file, find_runs, reference_to, wrong_usage
from wbcli.cli.options import apply, everywhere, json_option
from wbcli.cli.parameters import Command, FiniteRange, NamedPath
from wbcli.config.settings import NORMALISATIONS
from wbcli.words import counted


def feature_options(command: Callable) -> Callable:
    """How a file of features is taken."""
    share = FiniteRange(0, 1, max_open=True)
    options = [
        click.option(
            "--normalise",
            type=click.Choice(NORMALISATIONS),
            help="What a linear network does with features first: each row to length 1 (l2), or "
            "each feature to mean 0 and deviation 1 (standard).  [default: none]",
        ),
        click.option(
            "--val",
            type=share,
            help="Share of each class for validation, where a file has features and labels "
            "undivided.  [default: 0.1]",
        ),
        click.option(
            "--test", type=share, help="Share of each class for testing, there.  [default: 0.2]"
        ),
    ]
    return apply(options, command)


@click.command("features", cls=Command)
@click.argument("run", required=False)
@click.option(
    "--split",
    type=click.Choice(["train", "val", "test"]),
    help="Images that are taken.  [default: every split that there is]",
)
@click.option(
    "--output",
    type=NamedPath(),
    required=True,
    metavar="FILE",
    help="File that is written, .npz or .safetensors.",
)
@click.option(
    "--checkpoint",
    type=click.Choice(["last", "best"]),
    help="Last epoch (default), or the best on validation images.",
)
@json_option
@everywhere
def features_command(
    run, split, output, checkpoint, as_json, runs_dir, device, precision, data_dir, seed
):
    """Write what a run's network makes of images, as a file of features.

    It has train_features, train_labels, and so on, un-augmented, and the class names: a data set
    for wbcli stage1, and arrays for any other program. --data-dir may name another labelled set, as
    for eval, or a folder of unlabelled pictures, of which features and files are written.
    Without RUN it takes the newest finished run.

    \b
    Example:
      wbcli features digitslt-stage1-001 --output digits.npz
      wbcli stage1 digits.npz
    """
    from wbcli import device as devices
    from wbcli.data.pictures.decoding import EXTENSIONS
    from wbcli.deploy import predict
    from wbcli.files.arrays import SUFFIXES

    with wrong_usage():
        if output.suffix not in SUFFIXES:
            raise ValueError(
                f"--output {output}: expected a name that ends in .npz or .safetensors"
            )
        check_new_file("--output", output)
        device = devices.resolve(device)
        (run,) = find_runs(runs_dir, (run,) if run else ())
        precision = devices.resolve_precision(precision, device, run.config().recipe)
    devices.prepare(device, precision, 0, deterministic=False)
    model = predict.load(run, checkpoint)
    taken = model, device, precision
    loose = data_dir and any(path.suffix.lower() in EXTENSIONS for path in data_dir.glob("*"))
    if loose and not model.source.features:
        counts, broken = _of_pictures(data_dir, split, output, *taken)
    else:
        counts, broken = _of_splits(run, data_dir, split, output, *taken), 0
    told = {"run": reference_to(run, runs_dir), "path": str(output), "images": counts}
    told |= {"num_features": model.network.num_features}
    if as_json:
        console.print_json(told)
    else:
        images = ", ".join(f"{count} {name}" for name, count in counts.items())
        click.echo(f"{output}: {counted(told['num_features'], 'feature')} of {images} images")
    if broken:
        what = "is no whole picture" if broken == 1 else "are no whole pictures"
        raise click.ClickException(f"{counted(broken, 'file')} {what} and left out")


def _of_splits(run, data_dir: Path | None, split: str | None, output: Path, model, *how) -> dict:
    """Write the splits of a labelled set; returns how many images each has."""
    from wbcli.data import recorded
    from wbcli.deploy import features
    from wbcli.evaluate import others

    record = run.data_record()
    another = data_dir and others.is_another(model.config, record, data_dir)
    load = others.load if another else recorded.for_run
    dataset = load(model.config, record, data_dir=data_dir)
    there = ["train"] * (not another) + dataset.measurable()
    with wrong_usage():
        splits = [split] if split else there
        dataset.require(*splits)
        for name in splits:
            dataset.split(name)
    for note in [*dataset.notes, *dataset.changes]:
        console.warn(note)
    arrays, labels, width = {}, {}, model.network.num_features
    for name in splits:
        found = dataset.split(name).labels
        parts = features.of_split(model, dataset, name, *how)
        arrays[f"{name}_features"] = len(found), width, parts
        labels[f"{name}_labels"] = found
    features.write(output, arrays, labels | {"class_names": dataset.class_names})
    return {name: len(dataset.split(name).labels) for name in splits}


def _of_pictures(folder: Path, split: str | None, output: Path, *taken) -> tuple[dict, int]:
    """Write those of unlabelled pictures; returns how many there are, and how many are broken."""
    from wbcli.deploy import features, predict

    with wrong_usage():
        if split:
            raise ValueError(f"--split {split}: {folder} holds pictures without labels")
    paths, notes = predict.find_pictures([folder])
    for note in notes:
        console.warn(note)
    found, names, broken = features.of_pictures(taken[0], paths, *taken[1:])
    for path, reason in broken:
        console.warn(f"{path}: {reason}")
    if not names:
        raise ValueError(f"{folder}: none of {counted(len(paths), 'file')} is a whole picture")
    features.write(output, {"features": (*found.shape, iter([found]))}, {"files": names})
    return {"unlabelled": len(names)}, len(broken)
