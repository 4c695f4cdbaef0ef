"""bench train: speed of training, and of loading pictures."""

from pathlib import Path

import click

from wbcli import console
from wbcli.cli.inputs import load, on_device, wrong_usage
from wbcli.cli.options import everywhere, json_option
from wbcli.cli.parameters import Arch, Command, Count, FiniteRange
from wbcli.config.resolve import resolve_stage1
from wbcli.config.settings import Config

ROUNDS = "Rounds; in each every way has its turn."


@click.command("train", cls=Command, group="bench")
@click.option(
    "--data",
    metavar="NAME|FOLDER",
    help="In memory: training is timed; on disk: loading.  [default: fashionmnistlt, or without "
    "its files digitslt]",
)
@click.option(
    "--arch",
    type=Arch(),
    default="resnet20",
    show_default=True,
    help="Network, in memory.",
)
@click.option("--image-size", type=int, help="Side of the crops, on disk.  [default: 224]")
@click.option(
    "--images",
    type=Count(2, most=10**7),
    default=2048,
    help="Most pictures that are read, on disk.  [default: 2048]",
)
@click.option(
    "--batch-size", type=Count(2), default=64, show_default=True, help="Images of a step."
)
@click.option("--steps", type=Count(1), default=20, help="Steps of a round.  [default: 20]")
@click.option("--rounds", type=Count(2), default=8, show_default=True, help=ROUNDS)
@click.option("--compile", is_flag=True, help="torch.compile our network.")
@click.option("--graph", is_flag=True, help="Capture our steps as CUDA graphs.")
@click.option(
    "--accuracy",
    type=FiniteRange(0, 100),
    metavar="PERCENT",
    help="Time the training until the test accuracy is so high, instead.",
)
@json_option
@everywhere
def train_command(data, image_size, precision, data_dir, device, as_json, **options):
    """Time training, and the loading of pictures on disk.

    Training: against a loop as in the released code (Pillow picture by picture, a read of the loss
    in every step), and against a good plain loop over tensors. Loading: against the decoder alone,
    and a DataLoader with torchvision's transforms.

    \b
    Example:
      wbcli bench train
      wbcli bench train --data digitslt --accuracy 85
      wbcli bench train --data path/to/folder
    """
    from wbcli import device as devices
    from wbcli.bench import timing

    with wrong_usage():
        place = str((data_dir or Path("data")).resolve())
        given = {"dataset": data or _default_data(place), "data_dir": place}
        given |= {"precision": precision, "graph": options["graph"]}
        device, given = on_device(device, given, None)
        keys = ("arch", "batch_size", "seed", "compile")
        given |= {key: options[key] for key in keys} | {"image_size": image_size}
        settings = resolve_stage1(given)
    devices.prepare(device, settings.precision, 0, deterministic=False)
    bench_way = _bench_loading if settings.image_size else _bench_training
    if options["accuracy"] is not None:
        bench_way = _bench_accuracy
    machine = timing.machine(device)
    results, columns, rows, caption = bench_way(settings, device, options)
    if as_json:
        head = {"bench": "train", "machine": machine, "shapes": [settings.dataset]}
        keys = ("arch", "batch_size", "precision", "compile", "graph")
        head |= {key: getattr(settings, key) for key in keys}
        console.print_json(head | {"results": results})
        return
    console.print_table(columns, rows, f"{machine_line(machine)}\n{caption}")


def _default_data(data_dir: str) -> str:
    from wbcli.data.sets import fashion

    return "fashionmnistlt" if fashion.is_here(Path(data_dir)) else "digitslt"


def _bench_training(settings: Config, device, options: dict) -> tuple:
    from wbcli.bench import training, ways
    from wbcli.models import networks

    dataset = load(settings)
    with wrong_usage():  # before there are processes that could say it
        networks.for_run(settings, dataset.num_classes)
    results = training.run(settings, options["steps"], options["rounds"], device)
    keys = ("images_per_second", "epochs_per_minute", "peak_mb", "flop_utilisation")
    return (
        results,
        ["name", "ms", "spread", "ratio", "images/s", "epochs/min", "peak MB", "utilisation"],
        [
            [r["name"], r["median_us"] / 1000, r["spread"], r["ratio"], *[r[key] for key in keys]]
            for r in results
        ],
        f"{settings.dataset}, {settings.arch}, batch {settings.batch_size}, {settings.precision}"
        f"; ms: of a step, median of {options['rounds']} rounds of {options['steps']}; spread: "
        f"interquartile range over median; ratio: time over that of {ways.OURS}; peak: "
        "memory of its process; utilisation: FLOP/s over those of a large matrix product in that "
        "precision",
    )


def _bench_accuracy(settings: Config, device, options: dict) -> tuple:
    from wbcli.bench import training

    load(settings)
    results = training.run_to_accuracy(
        settings,
        options["accuracy"],
        device,
        lambda name, epoch, accuracy: console.say(f"{name}: epoch {epoch}, {accuracy:.2f}"),
    )
    return (
        results,
        ["name", "seconds", "epochs", "accuracy"],
        [list(r.values()) for r in results],
        f"{settings.dataset}, {settings.arch}, batch {settings.batch_size}, lr {settings.lr:g}, wd "
        f"{settings.wd:g}, cosine over {settings.epochs} epochs; seconds of training until the "
        f"test accuracy is {options['accuracy']:g}, – where it never is",
    )


def _bench_loading(settings: Config, device, options: dict) -> tuple:
    from wbcli.bench.data import OURS, run

    dataset, keys = load(settings), ("images", "batch_size", "rounds")
    results = run(dataset, *[options[key] for key in keys], device)
    keys = ("name", "processes", "images_per_second", "median_us", "spread", "ratio", "per_process")
    return (
        results,
        ["name", "processes", "images/s", "µs", "spread", "ratio", "per process"],
        [[r[key] for key in keys] for r in results],
        f"{settings.dataset} at {settings.image_size}; µs: of a picture, median of "
        f"{options['rounds']} rounds; spread: interquartile range over median; ratio: time over "
        f"that of {OURS}; per process: images per second and process over those of "
        "the decoder alone",
    )


def machine_line(machine: dict) -> str:
    return ", ".join(f"{key} {value}" for key, value in machine.items() if value)
