"""reproduce: the tables and figures of the paper, on any data set."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from wbcli import console
from wbcli.cli.images import data_options
from wbcli.cli.inputs import can_be_had, kept_when_stopped, needs_extra, on_device, wrong_usage
from wbcli.cli.options import everywhere, json_option, setting_options
from wbcli.cli.parameters import Command, Count
from wbcli.config.resolve import resolve_stage1
from wbcli.config.settings import Config
from wbcli.data import sources
from wbcli.data.pictures.preprocessing import split_arch
from wbcli.files import storage
from wbcli.runs import find

STUDIES = (
    "ablation",
    "methods",
    "imbalance",
    "large-scale",
    "wd-sweep",
    "norms",
    "weights2d",
    "maxnorm",
)
DRAWN = ("wd-sweep", "norms", "weights2d")  # studies with a figure
SETTLED = ("loss", "radius", "unit_norm")  # by the rows of a study
NO_VAL = "--search needs validation images: give --val-per-class N, too"
GROUPS = ("many", "medium", "few", "all")


@click.command("reproduce", cls=Command)
@click.argument("study", type=click.Choice(STUDIES), default="ablation")
@click.option("--dataset", help="Name or folder.  [default: digitslt; large-scale: imagenetlt]")
@click.option("--seeds", type=Count(1, most=1000), help="Train with so many seeds.  [default: 3]")
@click.option(
    "--search",
    "trials",
    type=Count(1),
    metavar="N",
    help="First find each row's values, with N trials on --val-per-class images.",
)
@click.option(
    "--search-layers",
    type=Count(1),
    default=5,
    show_default=True,
    help="Search rows of at most so many layers; those of more take the values of one.",
)
@json_option
@data_options
@setting_options
@everywhere
def reproduce_command(study, as_json, runs_dir, **options):
    """Rerun a table or figure of the paper.

    \b
      ablation     every combination of the method's parts
      methods      every method, each with stage 2 of weight balancing on top
      imbalance    seven of them at imbalance factors 100, 50 and 10
      large-scale  the same seven on ImageNet-LT and iNaturalist 2018
      wd-sweep     accuracy against the weight decay of stage 1
      norms        row norms over the epochs: naive, L2, WD, MaxNorm, WD + MaxNorm
      weights2d    classifier rows in two dimensions under four constraints
      maxnorm      each loss of stage 2 with weight decay, MaxNorm, both

    Without arguments: the ablation on the digits that ship with wbcli, three seeds. Options
    of training are those of stage 1. What is finished is found again and not recomputed.

    \b
    Example:
      wbcli reproduce
      wbcli reproduce wd-sweep --dataset fashionmnistlt --seed 1
    """
    with wrong_usage():
        lab, seeds, budget = _open_lab(study, runs_dir / "studies", options)
    if study in DRAWN or budget:
        needs_extra("study", "matplotlib", *["optuna"] * bool(budget))
    with wrong_usage():
        find.make_folder(runs_dir)
    dataset = lab.options["dataset"]
    with can_be_had():
        data = lab.dataset(resolve_stage1(lab.options))
    if budget and not budget.val_per_class and data.val is None:
        with wrong_usage():
            raise ValueError(NO_VAL)
    for note in data.notes:
        console.warn(note)
    folder = lab.studies / f"{study}-{find.plain(dataset)}"
    folder.mkdir(parents=True, exist_ok=True)
    result = {"study": study, "dataset": dataset, "seeds": seeds}
    with kept_when_stopped():
        result |= _run(study, lab, seeds, budget, folder / "figures", data.class_counts)
    storage.write_json(folder / "result.json", result)
    if as_json:
        console.print_json(result)
        return
    shown = {"imbalance": _print_imbalance, "methods": _print_methods}
    shown.get(study, _print_rows)(result, data.limits)
    console.say(f"written to {folder}")


def _run(study: str, lab, seeds: list[int], budget, figures: Path, class_counts: list[int]) -> dict:
    from wbcli.study import maxnorm, methods, tables

    if study == "methods":
        return methods.compare(lab, seeds)
    run_table = {
        "ablation": tables.ablation,
        "maxnorm": maxnorm.compare,
        "imbalance": tables.imbalance,
        "large-scale": tables.large_scale,
    }
    if study in run_table:
        return run_table[study](lab, seeds, budget)
    from wbcli.study import variants

    if study == "wd-sweep":
        return variants.sweep(lab, seeds, figures)
    draw = variants.norms if study == "norms" else variants.weights_2d
    return draw(lab, seeds, figures, class_counts)


def _open_lab(study: str, studies: Path, options: dict) -> tuple:
    """The lab, the seeds, and what is searched first."""
    from wbcli.study import maxnorm
    from wbcli.study.presets import Budget
    from wbcli.training.lab import Lab

    _refuse_what_is_settled(study, options)
    device, options = on_device(options.pop("device"), options, options["data_dir"] or Path("data"))
    if options["dataset"] is None:
        options["dataset"] = "imagenetlt" if study == "large-scale" else "digitslt"
    seed, count = options.pop("seed"), options.pop("seeds")
    first = seed or 0
    seeds = list(range(first, first + (count or (3 if seed is None else 1))))
    trials, layers = options.pop("trials"), options.pop("search_layers")
    for seed in (seeds[-1], first):
        settings = resolve_stage1(options | {"seed": seed})
    options |= {key: getattr(settings, key) for key in ("dataset", "data_dir")}
    budget = None
    if trials:
        if not options["val_per_class"] and sources.find(options["dataset"]).has_val is False:
            raise ValueError(NO_VAL)
        budget = Budget(trials, options.pop("val_per_class"), layers)
    if study == "maxnorm":
        maxnorm.known(options["dataset"], budget)
    frozen = len(seeds) if budget else 1
    lab = Lab(studies, device, options, _listen(), frozen, on_note=console.warn)
    return lab, seeds, budget


def _refuse_what_is_settled(study: str, options: dict) -> None:
    """Options that the study itself decides; they are taken out of `options`."""
    settled = [key for key in SETTLED if options.pop(key) is not None]
    if settled:
        flag = settled[0].replace("_", "-")
        raise ValueError(f"--{flag} is settled by the rows of a study: leave it out")
    if study == "imbalance" and options["imbalance_factor"] is not None:
        raise ValueError("imbalance runs the factors 100, 50 and 10: leave --imbalance-factor out")
    if study == "wd-sweep" and options["wd"] is not None:
        raise ValueError("--wd is what wd-sweep varies: leave it out")
    if study == "ablation" and split_arch(options["arch"] or ""):
        raise ValueError(
            "ablation trains the last two and five layers, which are known of our own networks "
            "only: take another --arch, or another study, such as imbalance"
        )
    if study == "maxnorm" and options["recipe"] == "released":
        raise ValueError(
            "--recipe released: maxnorm compares classifiers on a network that stands still, and "
            "there its batch norms move: leave it out"
        )
    if study == "methods" and options["trials"]:
        raise ValueError("methods trains each method as it is: leave --search out")
    if study in DRAWN and options["trials"]:
        raise ValueError(f"--search finds values of rows that follow stage 1: {study} has none")


def _listen():
    from wbcli.training import stages

    @contextmanager
    def listen(label: str, settings: Config, images: int) -> Iterator[stages.Listener]:
        console.say(label)
        with console.Progress(settings.epochs, images, lines=False) as progress:
            yield stages.Listener(progress.on_batch, progress.on_epoch, on_save=progress.on_save)

    return listen


def _print_rows(result: dict, limits: dict) -> None:
    paper = result.get("paper_dataset")
    columns = ["row", "layers", *GROUPS, "clipped"]
    columns += [f"paper ({paper}): many", *GROUPS[1:]] if paper else []
    columns += [f"all, less {other}" for other in _others(result)]
    rows = [
        [row["name"], row["layers"] or None, *[_cell(row["ours"][group]) for group in GROUPS]]
        + [_cell(row["clipped"], digits=0)]
        + ([row["paper"][group] for group in GROUPS] if paper else [])
        + [_interval(row["against"][other]) for other in _others(result)]
        for row in result["rows"]
    ]
    clipped = any(row["clipped"] for row in result["rows"])
    console.print_table(columns, rows, _caption(result, limits, clipped))
    if "published" in result:
        published = [[p["name"], *[p["paper"][g] for g in GROUPS]] for p in result["published"]]
        _print_published(result, list(GROUPS), published)


def _print_methods(result: dict, limits: dict) -> None:
    rows = [
        [row["name"], *[_cell(row["ours"][group]) for group in GROUPS]]
        + [_interval(row["against"][other]) for other in _others(result)]
        for row in result["rows"]
    ]
    columns = ["method", *GROUPS, *[f"all, less {other}" for other in _others(result)]]
    console.print_table(columns, rows, _caption(result, limits))


def _others(result: dict) -> list[str]:
    """What every row is paired with."""
    return list(result["rows"][0].get("against", {}))


def _interval(value: dict | None) -> str:
    if value is None:
        return "–"
    return f"{value['mean']:+.2f} [{value['low']:+.2f}, {value['high']:+.2f}]"


def _print_imbalance(result: dict, limits: dict) -> None:
    factors = list(dict.fromkeys(row["imbalance_factor"] for row in result["rows"]))
    columns = [f"IF {factor}" for factor in factors]
    by_name: dict[str, list[dict]] = {}
    for row in result["rows"]:
        by_name.setdefault(row["name"], []).append(row)
    rows = [
        [name, *[_cell(row["ours"]["all"]) for row in same]] + [row["paper"]["all"] for row in same]
        for name, same in by_name.items()
    ]
    paper = f"paper ({result['paper_dataset']}): {columns[0]}"
    heads = ["row, all classes", *columns, paper, *columns[1:]]
    console.print_table(heads, rows, _caption(result, limits))
    published: dict[str, list] = {}
    for entry in result["published"]:
        published.setdefault(entry["name"], [entry["name"]]).append(entry["paper"]["all"])
    _print_published(result, columns, list(published.values()))
    click.echo(result["note"])


def _print_published(result: dict, columns: list[str], rows: list[list]) -> None:
    caption = f"published figures on {result['paper_dataset']}, as the paper quotes them; not rerun"
    click.echo()
    console.print_table(["other methods", *columns], rows, caption)


def _caption(result: dict, limits: dict, clipped: bool = False) -> str:
    count = len(result["seeds"])
    spread = f"mean ± standard deviation of {count} seeds" if count > 1 else "one seed"
    text = (
        f"{result['dataset']}: test accuracy in per cent, mean over classes, last epoch, {spread}; "
        f"many: over {limits['many']} training images, few: under {limits['few']}"
    )
    if clipped:
        text += "; clipped: rows that MaxNorm holds at its radius, per cent"
    if "values" in result:
        text += f"\nvalues of the rows: {result['values']}"
    if count > 1 and _others(result):
        text += "\nless: mean of the paired differences and its 95 % interval (Student's t)"
    return text


def _cell(value: dict | None, digits: int = 2) -> str:
    if value is None:
        return "–"
    spread = "" if value["std"] is None else f" ± {value['std']:.{digits}f}"
    return f"{value['mean']:.{digits}f}{spread}"
