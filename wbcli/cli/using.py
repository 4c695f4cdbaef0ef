"""predict and export: what a trained run is for."""

import csv
import sys
from pathlib import Path

import click

from wbcli import console
from wbcli.cli.inputs import (
    check_new_file,
    find_runs,
    needs_extra,
    reference_to,
    wrong_usage,
)
from wbcli.cli.options import everywhere, json_option
from wbcli.cli.parameters import Command, NamedPath
from wbcli.runs.find import find
from wbcli.runs.run import Run
from wbcli.words import counted


@click.command("predict", cls=Command)
@click.argument("run")
@click.argument("given", metavar="FILE|FOLDER...", nargs=-1, required=True, type=NamedPath())
@click.option("--top", type=click.IntRange(1), default=5, show_default=True, help="Classes shown.")
@json_option
@click.option(
    "--csv",
    "as_csv",
    is_flag=True,
    help="Print a CSV line for each picture and class, and for each file that cannot be read.",
)
@everywhere
def predict_command(run, given, top, as_json, as_csv, runs_dir, device, precision, data_dir, seed):
    """Classify one's own pictures with a run, or features with a run that was trained on such.

    Probabilities have the temperature that was fitted on the run's validation images; a run
    without them gives scores. Folders are searched for pictures. Files that cannot be read are
    named with the reason, and it then exits with 1. Of a file of features (.npz, .safetensors) it
    takes the array features, and no labels.

    \b
    Example:
      wbcli predict digitslt-stage2-001 my-pictures/ one.png
    """
    from wbcli import device as devices
    from wbcli.deploy import predict

    with wrong_usage():
        if as_json and as_csv:
            raise ValueError("--json and --csv exclude each other: give one of them")
        device = devices.resolve(device)
        run = find(runs_dir, run)
        precision = devices.resolve_precision(precision, device, run.config().recipe)
    model = predict.load(run)
    paths, tables, broken = [], [], []
    if model.source.features:
        tables, broken = _read_features(given, model, run)
    else:
        paths, notes = predict.find_pictures(list(given))
        for note in notes:
            console.warn(note)
    devices.prepare(device, precision, 0, deterministic=False)
    if model.temperature is None:
        console.warn(
            f"{run.name} has no temperature, since {model.missing}: "
            "these are scores (logits), no probabilities"
        )
    images = []
    pictures = predict.predict(model, paths, device, precision, top) if paths else ()
    for path, answer in pictures:
        if isinstance(answer, str):
            console.warn(f"{path}: {answer}")
            broken.append({"file": str(path), "reason": answer})
        else:
            images.append({"file": str(path), "top": answer})
    for path, table in tables:
        several = {"array": table.name} if table.name != "features" else {}
        answers = predict.predict_rows(model, table, device, precision, top)
        for row, answer in enumerate(answers):
            images.append({"file": str(path), **several, "row": row, "top": answer})
    reference = reference_to(run, runs_dir)
    value = "score" if model.temperature is None else "probability"
    if as_json:
        found = {"run": reference, "temperature": model.temperature, "images": images}
        console.print_json(found | {"broken": broken})
    elif as_csv:
        _print_csv(images, broken, value)
    elif images:
        _print_table(images, value)
    if broken:
        files = counted(len(paths or given), "file")
        raise click.ClickException(f"{len(broken)} of {files} cannot be read")


def _print_csv(images: list[dict], broken: list[dict], value: str) -> None:
    """A line for each class of each picture; then one for each broken file, with the reason."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["file", "rank", "class", "name", value, "reason"])
    for image in images:
        for rank, found in enumerate(image["top"], start=1):
            writer.writerow([_place(image), rank, found["class"], found["name"], found[value], ""])
    writer.writerows([file["file"], "", "", "", "", file["reason"]] for file in broken)


def _place(image: dict) -> str:
    """Where a picture is, or a row of features."""
    if "row" not in image:
        return image["file"]
    array = f":{image['array']}" if "array" in image else ""
    return f"{image['file']}{array}[{image['row']}]"


def _read_features(given: tuple[Path, ...], model, run: Run) -> tuple[list, list[dict]]:
    """Each file with its tables of features, and those that cannot be read, with the reason."""
    from wbcli.data import features

    for path in given:
        if not features.is_one(path):
            raise ValueError(
                f"{path}: run {run.name} was trained on features, so it takes a file of them "
                f"({', '.join(features.SUFFIXES)}), which wbcli features writes, and no pictures"
            )
        if not path.is_file():
            raise FileNotFoundError(f"{path}: there is no such file")
    tables, broken = [], []
    for path in given:
        try:
            found = features.read_unlabelled(path, model.config.num_features, run.name)
            tables += [(path, table) for table in found]
        except ValueError as error:
            reason = str(error).removeprefix(f"{path}: ")
            console.warn(f"{path}: {reason}")
            broken.append({"file": str(path), "reason": reason})
    return tables, broken


def _print_table(images: list[dict], value: str) -> None:
    rows = [
        ["" if rank else _place(image), found["class"], found["name"], f"{found[value]:.4f}"]
        for image in images
        for rank, found in enumerate(image["top"])
    ]
    console.print_table(["file", "class", "name", value], rows)


@click.command("export", cls=Command)
@click.argument("run", required=False)
@click.option(
    "--format",
    "form",
    type=click.Choice(["onnx", "torch", "safetensors"]),
    default="onnx",
    show_default=True,
    help="Kind of file: ONNX, a program of torch.export, or weights alone.",
)
@click.option(
    "--output",
    type=NamedPath(),
    metavar="FILE",
    help="File that is written.  [default: export.onnx, .pt2 or .safetensors in the run's folder]",
)
@click.option(
    "--checkpoint",
    type=click.Choice(["last", "best"]),
    help="Last epoch (default), or the best on validation images.",
)
@json_option
@everywhere
def export_command(run, form, output, checkpoint, as_json, runs_dir, data_dir, **unused):
    """Write a run's network for other programs.

    The file has the class names, the preprocessing and the temperature in it, takes batches of
    any size, and is compared with the run before it is kept: on real test images, or where those
    are not there on made-up ones. Without RUN it takes the newest finished run.

    \b
    Example:
      wbcli export digitslt-stage2-001 --format onnx
    """
    if form == "onnx":
        needs_extra("export", "onnx", "onnxscript")
    from wbcli.deploy import export, predict

    with wrong_usage():
        (run,) = find_runs(runs_dir, (run,) if run else ())
        path = output or run.path / f"export{export.SUFFIXES[form]}"
        if output:
            check_new_file("--output", output)
    model = predict.load(run, checkpoint)
    images, kind = _images_to_compare(run, model, data_dir)
    result = export.export(model, run.name, form, path, images)
    if as_json:
        names = {"run": reference_to(run, runs_dir), "path": str(path), "format": form}
        console.print_json(names | result | {"verified_on": kind if result["images"] else None})
        return
    if result["max_difference"] is None:
        console.warn("not compared with the run: that needs onnxruntime (pip install onnxruntime)")
        click.echo(f"{path}: checked with {result['verified_with']}")
        return
    click.echo(
        f"{path}: the same logits as {run.name} on {result['images']} {kind}, within "
        f"{result['max_difference']:.1e} of the largest ({result['verified_with']})"
    )


def _images_to_compare(run: Run, model, data_dir: Path | None):
    """Some test images and what they are called; made-up ones where the data set is not there,
    unless it is asked for with --data-dir.
    """
    from wbcli.data import recorded
    from wbcli.deploy import export

    record = run.data_record()
    given = click.get_current_context().get_parameter_source("data_dir")
    try:
        dataset = recorded.for_run(model.config, record, data_dir=data_dir)
        return export.real_images(dataset), f"{dataset.measured} images"
    except (OSError, ValueError) as error:
        if given is click.core.ParameterSource.COMMANDLINE:
            raise
        console.warn(f"{error}; compared on made-up images instead")
        return export.made_up_images(model), "made-up images"
