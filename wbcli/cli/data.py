"""data list, data show, data check, data get."""

from pathlib import Path

import click

from wbcli import console
from wbcli.cli.inputs import examine_files, load, read_files, take, wrong_usage
from wbcli.cli.options import data_options, everywhere, json_option
from wbcli.cli.parameters import Command
from wbcli.config.resolve import resolve_stage1
from wbcli.config.settings import Config
from wbcli.words import counted


@click.group("data")
def data_command():
    """List, show, check and fetch data sets.

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
@json_option
@everywhere
def check_command(name, as_json, data_dir, runs_dir, device, **options):
    """Read every file of a data set, and name what is wrong.

    Broken and missing files, mistakes in lists, and the same picture in two of train, val and test
    or under two labels: it exits with 1 if there are any. Classes without images and copies within
    a class are warnings.

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
        console.print_json(
            {"dataset": settings.dataset, "images": found.images, "problems": problems}
        )
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


def _settings(name: str, data_dir: Path | None, options: dict) -> Config:
    with wrong_usage():
        options |= {"dataset": name, "data_dir": str(data_dir or "data"), "precision": "fp32"}
        return resolve_stage1(options)
