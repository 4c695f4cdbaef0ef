"""bench op, step, head, train, eval, tune: speed and memory, measured here."""

import click

from wbcli import console
from wbcli.cli.bench_head import head_command
from wbcli.cli.bench_training import ROUNDS, machine_line, train_command
from wbcli.cli.inputs import wrong_usage
from wbcli.cli.options import everywhere, json_option
from wbcli.cli.parameters import Command, Count, FiniteRange, Shape

DTYPES = ("float32", "float64", "bfloat16", "float16")
COLUMNS = ("shape", "clipped", "cache", "name")
ONE = "Rows × columns of a weight"
SHAPE = f"{ONE}; repeat for several.  [default: several]"


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
    from wbcli.bench import timing, tune

    with wrong_usage():
        device = devices.resolve(device)
    shapes = list(shapes or tune.SHAPES)
    results = tune.run(shapes, heads, steps, rounds, device)
    machine = timing.machine(device)
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
        f"{machine_line(machine)}\n{steps} steps of {tune.BATCH} images; ms: median of {rounds} "
        "rounds; spread: interquartile range over median; ratio: time over that of the heads "
        "trained together; difference: largest, of a row, between the two ways, over its norm",
    )


bench_command.add_command(train_command)
bench_command.add_command(head_command)


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
    from wbcli.bench import evaluate, timing

    with wrong_usage():
        device = devices.resolve(device)
    results = evaluate.run([images // 4, images // 2, images], *shape, device)
    machine = timing.machine(device)
    if as_json:
        name = f"{shape[0]}x{shape[1]}"
        console.print_json(
            {"bench": "eval", "machine": machine, "shapes": [name], "results": results}
        )
        return
    console.print_table(
        ["name", "images", "seconds", "peak MB", "growth MB"],
        [[r["name"], r["images"], r["seconds"], r["peak_mb"], r["growth_mb"]] for r in results],
        f"{shape[0]} classes, {shape[1]} features; {machine_line(machine)}\n"
        "peak: of a process of its own, with torch in it; growth: since the first count",
    )


def _bench(
    name, shapes, dtype, shares, caches, rounds, seconds, compiled, as_json, device, **unused
):
    import torch

    from wbcli import device as devices
    from wbcli.bench import ops, timing

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
    machine = timing.machine(device)
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
        f"{dtype}; {machine_line(machine)}\n"
        f"µs: median, of the device; spread: interquartile range over median; ratio: time over "
        f"that of {results[0]['ratio_to']}, median of the rounds; of copy: bytes per second over "
        "those of the copy; host µs: median until the call returns",
    )
