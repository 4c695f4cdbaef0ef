"""eval: measure runs."""

import csv
import io
import sys
from pathlib import Path

import click

from wbcli import console
from wbcli.cli.inputs import (
    CHOSEN_ON_TEST,
    check_new_file,
    find_runs,
    reference_to,
    wrong_usage,
)
from wbcli.cli.options import everywhere, json_option
from wbcli.cli.parameters import Command, NamedPath
from wbcli.files import storage
from wbcli.words import are, counted, has

MEASURED = ("many", "medium", "few", "all", "images")  # means over classes, and over images
METRICS = ("top5", "macro_f1", "nll", "ece")


@click.command("eval", cls=Command)
@click.argument("names", metavar="[RUN]...", nargs=-1)
@click.option(
    "--split",
    type=click.Choice(["test", "val", "train"]),
    help="Images that are measured.  [default: test, or val where there is no test set]",
)
@click.option(
    "--checkpoint",
    type=click.Choice(["last", "best"]),
    help="Last epoch (default), or the best on validation images.",
)
@click.option("--tta/--no-tta", default=None, help="Average the image and its mirror image.")
@json_option
@click.option("--csv", "as_csv", is_flag=True, help="Print a CSV line for each run.")
@click.option(
    "--confusion",
    type=NamedPath(),
    metavar="FILE.csv",
    help="Write how often each class (row) was predicted as each class (column).",
)
@everywhere
def eval_command(
    names,
    split,
    checkpoint,
    tta,
    as_json,
    as_csv,
    confusion,
    runs_dir,
    device,
    precision,
    data_dir,
    seed,
):
    """Measure runs.

    Accuracy as the mean over all, many-, medium- and few-shot classes, and over images;
    likelihoods and calibration. Without RUN it takes the newest finished run; -v prints every
    class, with its precision, recall and F1. --data-dir may name another labelled
    set: a folder that holds CLASS/, test/CLASS/ or test.csv.

    \b
    Example:
      wbcli eval
      wbcli eval naive digitslt-stage2-001 --json
      wbcli eval naive --confusion confusion.csv
    """
    from wbcli import device as devices
    from wbcli.evaluate.measured import evaluate_run

    with wrong_usage():
        if as_json and as_csv:
            raise ValueError("--json and --csv exclude each other: give one of them")
        given = click.get_current_context().get_parameter_source("data_dir")
        named = given is click.core.ParameterSource.COMMANDLINE
        if named and not data_dir.is_dir():
            raise ValueError(f"--data-dir {data_dir}: there is no such folder")
        if confusion:
            check_new_file("--confusion", confusion)
        device = devices.resolve(device)
        devices.resolve_precision(precision, device)  # what this device cannot do
        chosen = find_runs(runs_dir, names)
        if confusion and len(chosen) > 1:
            raise ValueError("--confusion FILE.csv is of one run: name one RUN")
    devices.prepare(device, precision, 0, deterministic=False)
    results = [
        evaluate_run(
            run,
            device,
            split=split,
            checkpoint=checkpoint,
            tta=tta,
            precision=precision,
            data_dir=data_dir,
            confusion="classes" if confusion else None,
            on_note=console.warn,
        )
        for run in chosen
    ]
    if confusion:
        _write_confusion(confusion, **results[0].pop("confusion"))
    for result in results:
        absent = [c["name"] for c in result["per_class"] if c["test_images"] == 0]
        if absent:
            names = ", ".join(absent[:5]) + (", …" if len(absent) > 5 else "")
            console.warn(
                f"{result['run']}: {counted(len(absent), 'class')} {has(len(absent))} no images in "
                f"this split and {are(len(absent))} left out of the means: {names}"
            )
    if as_json:
        for run, result in zip(chosen, results, strict=True):
            result["run"] = reference_to(run, runs_dir)
        console.print_json(results[0] if len(results) == 1 else results)
    elif as_csv:
        _print_csv(results)
    else:
        _print_results(results)


def _print_results(results: list[dict]) -> None:
    columns = ["run", "split", "checkpoint", "mirror", *MEASURED, *METRICS]
    rows = [
        [r["run"], r["split"], r["checkpoint"], "yes" if r["tta"] else "no"]
        + [r["accuracy"][key] for key in MEASURED]
        + [r[key] for key in METRICS]
        for r in results
    ]
    if any(r["temperature"] for r in results):
        columns += ["T", "nll/T", "ece/T"]
        keys = ("temperature", "nll_with_temperature", "ece_with_temperature")
        rows = [row + [r[key] for key in keys] for row, r in zip(rows, results, strict=True)]
    limits = {(r["dataset"], r["limits"]["many"], r["limits"]["few"]) for r in results}
    caption = "per cent, but nll in nats; images: accuracy over images, not classes; " + "; ".join(
        f"{dataset}: many over {many} training images, few under {few}"
        for dataset, many, few in sorted(limits)
    )
    places = sorted({r["measured_on"] for r in results if "measured_on" in r})
    caption += "".join(f"; measured on {place}" for place in places)
    console.print_table(columns, rows, caption)
    for result in results:
        if result["selected_on"] == "test":
            console.warn(CHOSEN_ON_TEST.format(run=result["run"]))
        if console.verbosity > 0:
            click.echo(f"\n{result['run']}")
            keys = list(result["per_class"][0])
            columns = [f"{result['split']}_images" if k == "test_images" else k for k in keys]
            console.print_table(columns, [[c[key] for key in keys] for c in result["per_class"]])


def _print_csv(results: list[dict]) -> None:
    plain = (
        "run",
        "dataset",
        "imbalance_factor",
        "split",
        "checkpoint",
        "tta",
        "num_classes",
        "num_images",
    )
    rest = (*METRICS, "temperature", "nll_with_temperature", "ece_with_temperature")
    writer = csv.writer(sys.stdout, lineterminator="\n")
    elsewhere = ["measured_on"] * any("measured_on" in r for r in results)
    writer.writerow([*plain, *MEASURED, *rest, *elsewhere])
    for r in results:
        writer.writerow(
            [*[r[key] for key in plain], *[r["accuracy"][key] for key in MEASURED]]
            + [r[key] for key in rest]
            + [r.get(key) for key in elsewhere]
        )


def _write_confusion(path: Path, names: list[str], counts) -> None:
    """Counts [K, K], rows true, columns predicted, with names in the header and before each row."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["true \\ predicted", *names])
    writer.writerows([name, *row.tolist()] for name, row in zip(names, counts, strict=True))
    storage.write_file(path, text.getvalue().encode("utf-8", "backslashreplace"))
