"""bench head: speed of a classifier on features."""

from importlib.util import find_spec
from pathlib import Path

import click

from wbcli import console
from wbcli.cli.bench_training import ROUNDS, machine_line
from wbcli.cli.inputs import load, wrong_usage
from wbcli.cli.options import everywhere, json_option
from wbcli.cli.parameters import Command, Count, NamedPath, Shape
from wbcli.config.resolve import resolve_stage1


@click.command("head", cls=Command, group="bench")
@click.option(
    "--shape",
    "shapes",
    type=Shape(),
    multiple=True,
    help="Classes × features; repeat for several.  [default: several]",
)
@click.option(
    "--batch-size",
    type=Count(2),
    default=64,
    show_default=True,
    help="Rows of a step.",
)
@click.option("--rounds", type=Count(2), default=20, show_default=True, help=ROUNDS)
@click.option(
    "--features",
    "files",
    type=NamedPath(),
    multiple=True,
    help="Files on which whole trainings are timed; repeat for several.  [default: the digits' "
    "pixels]",
)
@json_option
@everywhere
def head_command(shapes, batch_size, rounds, files, as_json, device, data_dir, **unused):
    """Time the training of a classifier on features.

    A whole step, against torch.nn.Linear with PyTorch's fused SGD, with and without renorm_. Then
    whole trainings, both stages, that are as accurate on test rows as scikit-learn's
    LogisticRegression and SGDClassifier, by the mean over classes: the shortest of 1 to 200 epochs.

    \b
    Example:
      wbcli bench head
      wbcli bench head --shape 1000x768 --features digits.npz
    """
    from wbcli import device as devices
    from wbcli.bench import head, timing

    with wrong_usage():
        device = devices.resolve(device)
        place = {"data_dir": str(data_dir or Path("data")), "precision": "fp32"}
        settings = [
            resolve_stage1(place | {"dataset": str(name)}) for name in files or ("digitslt",)
        ]
    results = head.steps(list(shapes or head.SHAPES), batch_size, rounds, device)
    if find_spec("sklearn"):
        for one in settings:
            rows = head.rows_of(load(one))
            results += head.to_equal_accuracy(rows, max(2, rounds // 7), device)
    else:
        console.warn("scikit-learn is left out: pip install 'wbcli[sklearn]'")
    machine = timing.machine(device)
    if as_json:
        names = list(dict.fromkeys(result["shape"] for result in results))
        about = {"bench": "head", "machine": machine, "shapes": names}
        console.print_json(about | {"results": results})
        return
    keys = ("images_per_second", "ratio", "balanced_accuracy", "epochs")
    console.print_table(
        ["shape", "name", "ms", "spread", "images/s", "ratio", "accuracy", "epochs"],
        [
            [r["shape"], r["name"], r["median_us"] / 1000, r["spread"]] + [r.get(k) for k in keys]
            for r in results
        ],
        f"{machine_line(machine)}\nsteps of {batch_size} rows; ms: median of the rounds; spread: "
        "interquartile range over median; ratio: time over that of wbcli, median of the rounds; "
        "accuracy: per cent, mean over classes, on test rows; a training of wbcli stands below the "
        "one that it is as accurate as",
    )
