"""data list, data show, data get."""

from pathlib import Path

import click

from wbcli import config, console
from wbcli.cli.options import (
    Command,
    data_options,
    everywhere,
    json_option,
    load,
    wrong_usage,
)


@click.group("data")
def data_command():
    """List, show and fetch data sets.

    \b
    Example:
      wbcli data list
      wbcli data show digitslt
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
def show_command(
    name, as_json, data_dir, imbalance_factor, imbalance_type, subset, val_per_class, **unused
):
    """Show how many images of each class would train.

    \b
    Example:
      wbcli data show cifar100lt --imbalance-factor 50
    """
    with wrong_usage():
        settings = config.resolve_stage1(
            {
                "dataset": name,
                "data_dir": str(data_dir or "data"),
                "imbalance_factor": imbalance_factor,
                "imbalance_type": imbalance_type,
                "subset": subset,
                "val_per_class": val_per_class,
            }
        )
    dataset = load(settings)
    shown = {
        "dataset": name,
        "num_classes": dataset.num_classes,
        "num_train": len(dataset.train.labels),
        "num_test": len(dataset.test.labels),
        "class_counts": dataset.class_counts,
        "limits": dataset.limits,
    }
    if as_json:
        console.print_json(shown)
        return
    tests = dataset.test_counts()
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


@data_command.command("get", cls=Command, group="data")
@click.argument("name")
@everywhere
def get_command(name, data_dir, **unused):
    """Make sure that a data set's files are here: find them, or download and check them.

    \b
    Example:
      wbcli data get cifar100lt --data-dir data
    """
    from wbcli.data.sources import find

    with wrong_usage():
        source = find(name)
    data_dir = data_dir or Path("data")
    folder = source.fetch(data_dir)
    for note in source.read(data_dir).notes:
        console.warn(note)
    click.echo(folder or f"{name} {source.needs}: nothing to download")
