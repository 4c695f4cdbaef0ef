"""report: figures and one HTML page."""

from pathlib import Path

import click

from wbcli import console
from wbcli.cli.inputs import find_runs, needs_extra, reference_to, wrong_usage
from wbcli.cli.options import everywhere, json_option
from wbcli.cli.parameters import Command, NamedPath


@click.command("report", cls=Command)
@click.argument("names", metavar="[RUN]...", nargs=-1)
@click.option(
    "--output",
    type=NamedPath(),
    help="Folder for report.html and figures/.  [default: the first run's]",
)
@json_option
@everywhere
def report_command(names, output, as_json, runs_dir, device, precision, data_dir, seed):
    """Draw figures and write one HTML page.

    Measures the runs on the test set, or on validation images where there is none, as eval does,
    and shows accuracy, norms, likelihoods, calibration and training side by side. Without RUN it
    takes the newest finished run.

    \b
    Example:
      wbcli report
      wbcli report naive digitslt-stage2-001 --output compared
    """
    needs_extra("study", "matplotlib")
    from wbcli import device as devices
    from wbcli.report import report

    with wrong_usage():
        device = devices.resolve(device)
        devices.resolve_precision(precision, device)  # what this device cannot do
        chosen = find_runs(runs_dir, tuple(dict.fromkeys(names)))
        report.check_comparable(chosen)
        folder = output or chosen[0].path
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise ValueError(f"--output {folder}: expected a folder, this is a file") from None
    devices.prepare(device, precision, 0, deterministic=False)
    how = {"precision": precision, "data_dir": data_dir, "on_note": console.warn}
    written = report.write(chosen, device, folder, **how)
    if as_json:
        named = {"runs": [reference_to(run, runs_dir) for run in chosen]}
        console.print_json(written | named)
        return
    drawn = [[Path(path).stem, path] for path in written["figures"] if path.endswith(".png")]
    console.print_table(["figure", "file (and .svg beside it)"], drawn, f"page: {written['page']}")
