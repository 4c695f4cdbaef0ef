"""data list, data show, data check, data get, data split."""

import shlex
from pathlib import Path

import click

from wbcli import console
from wbcli.cli.features import feature_options
from wbcli.cli.images import data_options
from wbcli.cli.inputs import examine_files, load, read_files, take, wrong_usage
from wbcli.cli.options import everywhere, json_option
from wbcli.cli.parameters import Command, FiniteRange, NamedPath
from wbcli.config.checks import BOUNDS, check_number
from wbcli.config.resolve import resolve_stage1
from wbcli.config.settings import Config
from wbcli.words import counted, printable


@click.group("data")
def data_command():
    """List, show, check, fetch and divide data sets.

    \b
    Example:
      wbcli data list
      wbcli data show digitslt
      wbcli data check path/to/folder
    """


@data_command.command("list", cls=Command, group="data")
@json_option
@everywhere
def list_command(as_json, **unused):
    """List the data sets and where each comes from.

    \b
    Example:
      wbcli data list
    """
    from wbcli.data.sources import SOURCES

    rows = [
        {
            "dataset": source.name,
            "title": source.title,
            "num_classes": source.num_classes,
            "imbalance_factor": source.imbalance_factor,
            "limits": source.limits,
            "files": source.needs,
        }
        for source in SOURCES.values()
    ]
    if as_json:
        console.print_json(rows)
        return
    console.print_table(
        ["data set", "images of", "classes", "default IF", "many over", "few under", "files"],
        [
            [*list(r.values())[:4], r["limits"]["many"], r["limits"]["few"], r["files"]]
            for r in rows
        ],
    )


@data_command.command("show", cls=Command, group="data")
@click.argument("name")
@data_options
@feature_options
@json_option
@everywhere
def show_command(name, as_json, data_dir, runs_dir, device, seed, precision, **options):
    """Show how many images of each class would train.

    \b
    Example:
      wbcli data show cifar100lt --imbalance-factor 50
    """
    settings = _settings(name, data_dir, options)
    dataset = load(settings)
    shown = {
        "dataset": settings.dataset,
        "num_classes": dataset.num_classes,
        "num_train": len(dataset.train.labels),
        "num_test": len(dataset.test.labels) if dataset.test else 0,
        "class_counts": dataset.class_counts,
        "limits": dataset.limits,
    }
    if as_json:
        console.print_json(shown)
        return
    tests = dataset.test_counts() or [0] * dataset.num_classes
    group = {k: g for g, mask in dataset.groups().items() for k in mask.nonzero()[0]}
    console.print_table(
        ["class", "name", "split", "training images", "test images"],
        [
            [k, dataset.class_names[k], group[k], dataset.class_counts[k], tests[k]]
            for k in range(dataset.num_classes)
        ],
        f"{shown['num_train']} training and {shown['num_test']} test images; many: over "
        f"{dataset.limits['many']} training images, few: under {dataset.limits['few']}",
    )


@data_command.command("check", cls=Command, group="data")
@click.argument("name")
@data_options
@feature_options
@json_option
@everywhere
def check_command(name, as_json, data_dir, runs_dir, device, **options):
    """Read every file of a data set, and name what is wrong.

    Broken and missing files, mistakes in lists, and the same picture in two of train, val and test
    or under two labels: it exits with 1 if there are any. Classes without images, copies within a
    class, and files that look like the same picture saved twice are warnings.

    \b
    Example:
      wbcli data check imagenetlt --data-dir /data/imagenet
    """
    settings = _settings(name, data_dir, options)
    content = read_files(settings)
    found = examine_files(content)
    if not found.problems:
        take(settings, content)
    for sentence in found.warnings:
        console.warn(sentence)
    problems = [problem.text for problem in found.problems]
    if as_json:
        told = {"dataset": settings.dataset, "images": found.images, "problems": problems}
        console.print_json(told | {"similar": found.similar})
    else:
        for problem in problems:
            click.echo(problem)
        images = ", ".join(f"{count} {split}" for split, count in found.images.items())
        total = counted(len(problems), "problem") if problems else "no problems"
        click.echo(f"{settings.dataset}: {images} images; {total}")
    if problems:
        raise SystemExit(1)


@data_command.command("get", cls=Command, group="data")
@click.argument("name")
@everywhere
def get_command(name, data_dir, **unused):
    """Make sure that a data set's files are here: find them, or download and check them.

    \b
    Example:
      wbcli data get cifar100lt --data-dir data
    """
    from wbcli.data.sources import find, locate

    with wrong_usage():
        name, place = locate(name, str(data_dir or "data"))
    source = find(name)
    folder = source.fetch(Path(place))
    for note in source.read(Path(place)).notes:
        console.warn(note)
    click.echo(folder or f"{name} {source.needs}: nothing to download")


@data_command.command("split", cls=Command, group="data")
@click.argument("folder", type=NamedPath())
@click.option(
    "--val",
    type=FiniteRange(0, 1, max_open=True),
    default=0.1,
    show_default=True,
    help="Share of each class for validation; 0 writes no val.csv.",
)
@click.option(
    "--test",
    type=FiniteRange(0, 1, max_open=True),
    default=0.2,
    show_default=True,
    help="Share of each class for testing; 0 writes no test.csv.",
)
@click.option("--output", type=NamedPath(), help="Folder for the lists.  [default: FOLDER]")
@json_option
@everywhere
def split_command(folder, val, test, output, as_json, seed, **unused):
    """Divide one folder of class folders, by lists.

    Writes train.csv, val.csv and test.csv with the columns path,label; nothing is moved or copied,
    and no list is overwritten. At least one picture of every class trains, copies of one picture
    stay in one list, and the same command writes the same lists.

    \b
    Example:
      wbcli data split photos --val 0.1 --test 0.2
      wbcli stage1 photos
    """
    from wbcli.data.sets import split

    output = output or folder
    with wrong_usage():
        check_number("seed", seed or 0, **BOUNDS["seed"])
        if not folder.is_dir():
            raise ValueError(f"{folder}: there is no such folder")
        if not 0 < val + test < 1:
            raise ValueError(
                f"--val {val:g} and --test {test:g}: expected shares that together are above 0 "
                "and below 1, so that there is something to train on and something to measure with"
            )
        split.class_folders(folder, {})  # before files are read
        split.check(output)
        division = split.divide(folder, {"val": val, "test": test}, seed or 0)
    for note in division.notes:
        console.warn(note)
    paths = split.write(division, folder, output)
    counts = {name: division.class_counts(name) for name in paths}
    if as_json:
        lists = {
            name: {"path": str(path), "images": sum(counts[name]), "class_counts": counts[name]}
            for name, path in paths.items()
        }
        names = list(map(printable, division.class_names))
        console.print_json({"path": str(output), "class_names": names, "lists": lists})
        return
    console.print_table(
        ["list", "pictures", "classes", "most of a class", "fewest", "file"],
        [
            [name, sum(of), sum(n > 0 for n in of), max(of), min(of), str(paths[name])]
            for name, of in counts.items()
        ],
        f"{counted(len(division.class_names), 'class')}; train with "
        f"wbcli stage1 {shlex.quote(str(output))}",
    )


def _settings(name: str, data_dir: Path | None, options: dict) -> Config:
    with wrong_usage():
        options |= {"dataset": name, "data_dir": str(data_dir or "data"), "precision": "fp32"}
        return resolve_stage1(options)
