"""runs: list what has been trained."""

import time
from dataclasses import asdict

import click

from wbcli import console
from wbcli.cli.options import everywhere, json_option
from wbcli.cli.parameters import Command
from wbcli.config.methods import HEADS
from wbcli.config.settings import Config
from wbcli.runs.find import all_runs
from wbcli.runs.metrics import measured
from wbcli.runs.run import Run

ACCURACIES = ("many", "medium", "few", "all")  # means over classes
KEYS = (
    "stage",
    "dataset",
    "imbalance_factor",
    "recipe",
    "arch",
    "method",
    "method_options",
    "loss",
    "beta",
    "defer",
    "defer_from",
    "heads",
    "classifier",
    "layers",
    "sampling",
    "aug",
    "fit",
    "init_from",
    "pretrained",
    "freeze",
    "wd",
    "maxnorm",
    "radius",
    "unit_norm",
    "tau",
    "parent",
    "selected_on",
    "epochs",
    "created",
)


@click.command("runs", cls=Command)
@json_option
@everywhere
def runs_command(as_json, runs_dir, **unused):
    """List what has been trained.

    With the numbers of the last epoch on the test set, or on validation images where there is none.
    Settings are the method, what differs from its defaults, weight decay and constraint; --json
    has the others, too.

    \b
    Example:
      wbcli runs
    """
    found = [(run, run.config()) for run in all_runs(runs_dir, on_damage=console.warn)]
    rows = [_summary(run, config) for run, config in found]
    if as_json:
        console.print_json(rows)
        return
    if not rows:
        console.say(f"no runs in {runs_dir}: train one with wbcli stage1 digitslt")
        return
    columns = ["run", "from", "network", "recipe", "settings", "epochs", *ACCURACIES, "created"]
    on_val = [r["run"] for r in rows if r.get("val_accuracy")]
    console.print_table(
        columns,
        [
            [r["run"], r["parent"], r["arch"], r["recipe"], settings_of(config)]
            + [f"{r['epochs_done']}/{r['epochs']}"]
            + [(r["accuracy"] or r.get("val_accuracy") or {}).get(key) for key in ACCURACIES]
            + [time.strftime("%Y-%m-%d %H:%M", time.localtime(r["created"]))]
            for r, (_, config) in zip(rows, found, strict=True)
        ],
        f"on validation images, since there is no test set: {', '.join(on_val)}" if on_val else "",
    )


def settings_of(config: Config) -> str:
    """The method, what differs from its defaults, and what holds rows back."""
    method = config.method
    if config.stage == "normalize":
        options = config.options()
        shown = [console.format_settings(options)] if options else []
        return " ".join([method] * (method not in options) + shown)
    name = config.loss if method in (config.loss, "wb") else method
    unlike = [f"{key.replace('_', '-')} {_short(v)}" for key, v in _not_by_default(config).items()]
    flags = ["pretrained"] * config.pretrained
    constraints = [
        f"{key} {value:g}"
        for key in ("wd", "maxnorm", "radius")
        if (value := getattr(config, key)) is not None
    ]
    return " ".join([name, *unlike, *flags, *constraints, *["unit-norm"] * config.unit_norm])


def _not_by_default(config: Config) -> dict[str, object]:
    """What was asked for beside the method, by the names of the options."""
    entry = config.entry()
    pairs = {
        key: (value, entry.options[key].default)
        for key, value in config.options().items()
        if key != "loss"  # which is the name
    }
    head, its_options = config.heads[0]
    start = entry.heads[0]
    if config.stage == "stage1":
        pairs["head"] = head, start
        own = HEADS.get(head, {})
        pairs |= {
            key: (value, own[key].default) for key, value in its_options.items() if key in own
        }
        # A method's default of an option that its head has, too, is the method's.
        pairs |= {k: (v, entry.options[k].default) for k, v in config.method_options.items()}
    else:
        pairs["classifier"] = config.classifier, start
    sampling = entry.settings.get("sampling")
    pairs["sampling"] = config.sampling, sampling.default if sampling else "instance"
    pairs |= {"aug": (config.aug, "basic"), "fit": (config.fit, "crop")}
    pairs |= {"init": (config.init_from, None), "freeze": (config.freeze, None)}
    return {key: value for key, (value, default) in pairs.items() if value not in (None, default)}


def _short(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _summary(run: Run, config: Config) -> dict:
    values, rows = asdict(config) | run.record(), run.metrics()
    found = (measured(row) for row in reversed(rows))
    split, accuracy = next((pair for pair in found if pair[1]), ("test", None))
    return (
        {"run": run.name, "path": str(run.path), "finished": run.finished}
        | {key: values.get(key, 0) for key in KEYS}
        | {
            "epochs_done": rows[-1]["epoch"] if rows else 0,
            "accuracy": accuracy if split == "test" else None,
        }
        | ({"val_accuracy": accuracy} if split == "val" else {})
    )
