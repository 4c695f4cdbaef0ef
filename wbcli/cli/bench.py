"""bench op, step, train, eval, tune: speed and memory, measured here."""

import re
from pathlib import Path

import click

from wbcli import console
from wbcli.cli.options import (
    Command,
    Count,
    FiniteRange,
    everywhere,
    json_option,
    load,
    on_device,
    wrong_usage,
)
from wbcli.config.settings import ARCHS, Config, resolve_stage1

DTYPES = ("float32", "float64", "bfloat16", "float16")
MAX_ELEMENTS = 2**30  # of a weight
COLUMNS = ("shape", "clipped", "cache", "name")
ONE = "Rows × columns of a weight"
SHAPE = f"{ONE}; repeat for several.  [default: several]"
ROUNDS = "Rounds; in each every way has its turn."


class Shape(click.ParamType):
    name = "KxD"

    def convert(self, value, param, ctx):
        if isinstance(value, tuple):
            return value
        match = re.fullmatch(r"(\d{1,9})[x×](\d{1,9})", value)
        if not match or not all(int(size) > 0 for size in match.groups()):
            self.fail(f"expected rows x columns, such as 8142x2048, got {value!r}", param, ctx)
        shape = int(match[1]), int(match[2])
        if shape[0] * shape[1] > MAX_ELEMENTS:
            self.fail(f"expected at most {MAX_ELEMENTS} elements, got {value!r}", param, ctx)
        return shape


def bench_options(command):
    options = [
        click.option("--shape", "shapes", type=Shape(), multiple=True, help=SHAPE),
        click.option(
            "--dtype",
            type=click.Choice(DTYPES),
            default="float32",
            show_default=True,
            help="Of the weight.",
        ),
        click.option(
            "--clipped",
            "shares",
            type=click.Choice(["none", "half", "all"]),
            multiple=True,
            help="Rows outside their ball.  [default: each in turn]",
        ),
        click.option(
            "--cache",
            "caches",
            type=click.Choice(["cold", "warm"]),
            multiple=True,
            help="Caches flushed before every call (cold), or not.  [default: both]",
        ),
        click.option("--rounds", type=Count(2), default=50, show_default=True, help=ROUNDS),
        click.option(
            "--seconds",
            type=FiniteRange(0, min_open=True),
            default=10.0,
            show_default=True,
            help="A case ends early after so long.",
        ),
        click.option(
            "--compile/--no-compile",
            "compiled",
            default=True,
            show_default=True,
            help="Time torch.compile of the torch twin too; it needs a C++ compiler.",
        ),
        json_option,
        everywhere,
    ]
    for option in reversed(options):
        command = option(command)
    return command


@click.group("bench")
def bench_command():
    """Time the kernels, and the tuner, against what could be used instead.

    \b
    Example:
      wbcli bench op
      wbcli bench step --shape 8142x2048 --json
    """


@bench_command.command("op", cls=Command, group="bench")
@bench_options
def op_command(**options):
    """Time MaxNorm alone.

    Against renorm_, what one writes by hand, the released code's way, and torch.compile.
    "read" and "copy" are one read and one copy of the weight: what no op can beat with no
    row clipped, and with all of them.

    \b
    Example:
      wbcli bench op --shape 8142x2048 --cache cold
    """
    _bench("op", **options)


@bench_command.command("step", cls=Command, group="bench")
@bench_options
def step_command(**options):
    """Time an SGD step with MaxNorm.

    Against torch.optim.SGD and renorm_ after it, and torch.compile. "fused SGD" is PyTorch's
    without any projection: what no step with one can beat by much.

    \b
    Example:
      wbcli bench step --shape 8142x2048 --cache cold
    """
    _bench("step", **options)


@bench_command.command("tune", cls=Command, group="bench")
@click.option("--shape", "shapes", type=Shape(), multiple=True, help=SHAPE)
@click.option(
    "--heads",
    type=Count(1, most=4096),
    default=64,
    show_default=True,
    help="Classifiers that are trained.",
)
@click.option(
    "--steps",
    type=Count(1),
    default=10,
    show_default=True,
    help="Steps of a training, of 64 images each.",
)
@click.option("--rounds", type=Count(2), default=20, show_default=True, help=ROUNDS)
@json_option
@everywhere
def tune_command(shapes, heads, steps, rounds, as_json, device, **unused):
    """Time classifiers trained together.

    Against the same classifiers trained one after another as stage 2 does it, on the same
    cached features.

    \b
    Example:
      wbcli bench tune --shape 100x512
    """
    from wbcli import device as devices
    from wbcli.bench import ops, tune

    with wrong_usage():
        device = devices.resolve(device)
    shapes = list(shapes or tune.SHAPES)
    results = tune.run(shapes, heads, steps, rounds, device)
    machine = ops.machine(device)
    if as_json:
        names = list(dict.fromkeys(result["shape"] for result in results))
        console.print_json(
            {"bench": "tune", "machine": machine, "shapes": names, "results": results}
        )
        return
    console.print_table(
        ["shape", "heads", "name", "ms", "spread", "ratio", "difference"],
        [
            [r["shape"], r["heads"], r["name"], r["median_us"] / 1000, r["spread"], r["ratio"]]
            + [f"{r['difference']:.1e}"]
            for r in results
        ],
        f"{_describe(machine)}\n{steps} steps of {tune.BATCH} images; ms: median of {rounds} "
        "rounds; spread: interquartile range over median; ratio: time over that of the heads "
        "trained together; difference: largest, of a row, between the two ways, over its norm",
    )


@bench_command.command("train", cls=Command, group="bench")
@click.option(
    "--data",
    metavar="NAME|FOLDER",
    help="In memory: training is timed; on disk: loading.  [default: fashionmnistlt, or without "
    "its files digitslt]",
)
@click.option(
    "--arch",
    type=click.Choice(ARCHS),
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
    from wbcli.bench import ops

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
    machine = ops.machine(device)
    results, columns, rows, caption = bench_way(settings, device, options)
    if as_json:
        head = {"bench": "train", "machine": machine, "shapes": [settings.dataset]}
        keys = ("arch", "batch_size", "precision", "compile", "graph")
        head |= {key: getattr(settings, key) for key in keys}
        console.print_json(head | {"results": results})
        return
    console.print_table(columns, rows, f"{_describe(machine)}\n{caption}")


def _default_data(data_dir: str) -> str:
    from wbcli.data.sets import fashion

    return "fashionmnistlt" if fashion.is_here(Path(data_dir)) else "digitslt"


def _bench_training(settings: Config, device, options: dict) -> tuple:
    from wbcli.bench import training

    load(settings)
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
        f"interquartile range over median; ratio: time over that of {training.OURS}; peak: "
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


@bench_command.command("eval", cls=Command, group="bench")
@click.option("--shape", type=Shape(), default=(8142, 2048), help=f"{ONE}.  [default: 8142x2048]")
@click.option(
    "--images",
    type=Count(64, most=10**8),
    default=24426,
    show_default=True,
    help="The largest of three counts: a quarter of it, half of it, and all.",
)
@json_option
@everywhere
def eval_command(shape, images, as_json, device, **unused):
    """Measure the memory of an evaluation as images grow.

    Against an evaluation that keeps the logits of all images.

    \b
    Example:
      wbcli bench eval --shape 8142x2048 --images 24426
    """
    from wbcli import device as devices
    from wbcli.bench import evaluate, ops

    with wrong_usage():
        device = devices.resolve(device)
    results = evaluate.run([images // 4, images // 2, images], *shape, device)
    machine = ops.machine(device)
    if as_json:
        name = f"{shape[0]}x{shape[1]}"
        console.print_json(
            {"bench": "eval", "machine": machine, "shapes": [name], "results": results}
        )
        return
    console.print_table(
        ["name", "images", "seconds", "peak MB", "growth MB"],
        [[r["name"], r["images"], r["seconds"], r["peak_mb"], r["growth_mb"]] for r in results],
        f"{shape[0]} classes, {shape[1]} features; {_describe(machine)}\n"
        "peak: of a process of its own, with torch in it; growth: since the first count",
    )


def _describe(machine: dict) -> str:
    return ", ".join(f"{key} {value}" for key, value in machine.items() if value)


def _bench(
    name, shapes, dtype, shares, caches, rounds, seconds, compiled, as_json, device, **unused
):
    import torch

    from wbcli import device as devices
    from wbcli.bench import ops

    with wrong_usage():
        device = devices.resolve(device)
    cases = [
        ops.Case(shape, share, cache)
        for shape in shapes or ops.SHAPES
        for share in shares or ops.CLIPPED
        for cache in caches or ops.CACHES
    ]
    results = ops.run(
        name,
        cases,
        getattr(torch, dtype),
        device,
        rounds=rounds,
        seconds=seconds,
        compiled=compiled,
        on_case=lambda case: console.say(
            f"{case.shape[0]}x{case.shape[1]} {dtype}, {case.clipped} clipped, {case.cache} cache"
        ),
        on_omission=console.warn,
    )
    machine = ops.machine(device)
    if as_json:
        measured = list(dict.fromkeys(result["shape"] for result in results))
        console.print_json(
            {"bench": name, "machine": machine, "shapes": measured, "results": results}
        )
        return
    console.print_table(
        [*COLUMNS, "µs", "spread", "ratio", "MB", "of copy", "host µs"],
        [
            [result[column] for column in COLUMNS]
            + [result["median_us"], result["spread"], result["ratio"], result["bytes"] / 1e6]
            + [result["fraction_of_copy"], result["host_us"]]
            for result in results
        ],
        f"{dtype}; {_describe(machine)}\n"
        f"µs: median, of the device; spread: interquartile range over median; ratio: time over "
        f"that of {results[0]['ratio_to']}, median of the rounds; of copy: bytes per second over "
        "those of the copy; host µs: median until the call returns",
    )
