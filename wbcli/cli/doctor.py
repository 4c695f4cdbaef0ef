"""doctor: versions, device, kernels."""

import click

from wbcli import console, doctor
from wbcli.cli.options import Command, everywhere, json_option, wrong_usage


@click.command("doctor", cls=Command)
@json_option
@everywhere
def doctor_command(device, as_json, **unused):
    """Show versions, device and kernels.

    \b
    Example:
      wbcli doctor --json
    """
    with wrong_usage():
        found = doctor.examine(device)
    if as_json:
        console.print_json(found)
        return
    rows = [[part, state] for part, state in found.items() if part != "extension"]
    rows += [[f"kernels, {name}", state] for name, state in doctor.kernels().items()]
    console.print_table(["part", "state"], rows)
