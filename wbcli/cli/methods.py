"""methods: what can be trained and compared."""

import click

from wbcli import console
from wbcli.cli.inputs import wrong_usage
from wbcli.cli.options import everywhere, json_option
from wbcli.cli.parameters import Command

STAGES = {1: "stage1", 2: "stage2", 0: "normalize"}  # the command that takes a stage's methods


@click.command("methods", cls=Command)
@click.argument("name", required=False)
@json_option
@everywhere
def methods_command(name, as_json, **options):
    """What can be trained and compared.

    NAME is a method; without it, all of them are listed. Those of stage 1 train a network, those of
    stage 2 retrain the classifier of a run, and those of normalize need no training.

    \b
    Example:
      wbcli methods
      wbcli methods cb
    """
    from wbcli.methods.make import described

    with wrong_usage():
        found = described(name)
    if as_json:
        console.print_json(found)
    elif name is None:
        rows = [[m["name"], STAGES[m["stage"]], m["title"], m["cost"]] for m in found]
        console.print_table(["method", "command", "what it is", "cost"], rows)
    else:
        for method in found:
            _print_method(method)


def _print_method(method: dict) -> None:
    command = f"wbcli {STAGES[method['stage']]} --method {method['name']}"
    rows = [["command", command], ["what it is", method["title"]]]
    rows += [["source", method["source"]], ["cost", method["cost"]]]
    for key, option in method["options"].items():
        told = f"{option['help']}; default {_shown(option['default'])} ({option['source']})"
        rows.append(["--" + key.replace("_", "-"), told])
    for group, values in method["recipe"].items():
        told = console.format_settings({key: found["value"] for key, found in values.items()})
        sources = dict.fromkeys(found["source"] for found in values.values())
        rows.append(["--recipe published", f"{group}: {told} ({'; '.join(sources)})"])
    for row in method["published"]:
        factor = row["imbalance_factor"]
        where = row["dataset"] if factor is None else f"{row['dataset']}, imbalance factor {factor}"
        told = f"{row['all']} % on {where}, {row['network']}, {row['epochs']} epochs"
        rows.append(["published", told])
    rows += [["note", note] for note in method["notes"]]
    console.print_table(["", method["name"]], rows)


def _shown(default: object) -> str:
    return "none" if default is None else str(default)
