"""stage1, stage2, normalize: resolve the settings, call, print."""

from functools import partial
from pathlib import Path

import click

from wbcli import console
from wbcli.cli.choosing import head_options, method_options
from wbcli.cli.features import feature_options
from wbcli.cli.images import data_options, imbalance_options
from wbcli.cli.inputs import (
    find_parent,
    load,
    needs_extra,
    on_device,
    reference_to,
    without_broken,
    wrong_usage,
)
from wbcli.cli.networks import OPTIMIZER, describe_network, network_options
from wbcli.cli.options import everywhere, json_option, training_options
from wbcli.cli.parameters import Command
from wbcli.cli.rows import about_rows, not_held
from wbcli.cli.running import (
    CALIBRATION_NOTE,
    HOW,
    report_run,
    run_training,
    warn_if_corrected_twice,
)
from wbcli.config.resolve import resolve_normalize, resolve_stage1, resolve_stage2, stage2_options
from wbcli.config.settings import STAGE2_LOSSES, Config, from_dict
from wbcli.files.downloads import digest
from wbcli.runs.find import create, find, named, weights_of


@click.command("stage1", cls=Command)
@click.argument("dataset")
@data_options
@feature_options
@click.option("--bottleneck", type=int, help="Width of a linear layer before the classifier.")
@click.option(
    "--init",
    "init_from",
    metavar="RUN|FILE",
    help="Start from the network of a run without its classifier, or from these weights "
    "(safetensors, or a state dict, of wbcli or of others).",
)
@click.option("--skip-broken", is_flag=True, help="Leave files out that are no whole picture.")
@network_options
@OPTIMIZER
@method_options(1)
@training_options
@everywhere
def stage1_command(dataset, runs_dir, device, data_dir, skip_broken, **options):
    """Train the network on a long-tailed data set.

    DATASET is a name (wbcli data list), or a folder of train/CLASS/ and test/CLASS/ pictures, or
    of train.csv and test.csv, or a file of features (.npz, .safetensors).

    \b
    Example:
      wbcli stage1 cifar100lt --wd 5e-3
      wbcli stage1 digitslt --wd 0 --name naive
      wbcli stage1 path/to/folder --image-size 128
    """
    how = {key: options.pop(key) for key in HOW}
    with wrong_usage():
        options["dataset"] = dataset
        device, options = on_device(device, options, data_dir or Path("data"))
        if options["init_from"] is not None:
            options |= _start(runs_dir, options["init_from"])
        settings = resolve_stage1(options)
    if options["arch"] is None and settings.arch == "resnet34":
        console.say(
            "network: resnet34, the released code's, from which the paper's numbers come "
            "(its text says ResNet32; --arch resnet32 is that one)"
        )
    describe_network(settings)
    if skip_broken:
        if how["name"] and not how["resume"]:  # before all files are read
            with wrong_usage():
                named(runs_dir, how["name"]).must_be_new()
        settings = without_broken(settings)
    run_training(settings, device, runs_dir, None, **how)


@click.command("stage2", cls=Command)
@click.argument("run", required=False)
@head_options
@click.option("--from-tune", is_flag=True, help="With what wbcli tune stage2 found for RUN.")
@imbalance_options
@OPTIMIZER
@method_options(2)
@partial(training_options, losses=STAGE2_LOSSES)
@everywhere
def stage2_command(run, runs_dir, device, data_dir, from_tune, **options):
    """Retrain the classifier of a stage-1 run.

    The class-balanced loss, weight decay and MaxNorm act on the last layers; the rest is
    frozen. Another --method retrains it in another way (wbcli methods). Without RUN it takes the
    newest finished stage-1 run.

    \b
    Example:
      wbcli stage2 --maxnorm 0.1
      wbcli stage2 naive --loss cb --wd 0.1 --maxnorm none
      wbcli stage2 naive --method crt
    """
    from wbcli.training import features

    how = {key: options.pop(key) for key in HOW}
    with wrong_usage():
        parent = find_parent(runs_dir, run)
        reference = reference_to(parent, runs_dir)
        options["layers"] = options["layers"] and int(options["layers"])
        device, options = on_device(device, options, data_dir, parent)
        views = options["views"]
        if from_tune:
            needs_extra("study", "optuna", "matplotlib")
            options = _tuned(runs_dir, reference, parent.config(), options)
        settings = resolve_stage2(parent.config(), reference, options)
        if views and not features.is_frozen(settings):
            raise ValueError(
                "--views: the network stands still with --layers 1 and --recipe paper only"
            )
    if settings.checkpoint == "best-on-test" and parent.config().checkpoint == "last":
        console.warn(
            f"{parent.name} was trained by the recipe paper and kept no best-on-test "
            "checkpoint: stage 2 starts from its last epoch"
        )
    if settings.loss == "cb-bce":
        console.say(f"note: {CALIBRATION_NOTE}")
    for sentence in about_rows(settings, parent.config()):
        console.say(sentence)
    rows = run_training(settings, device, runs_dir, parent, **how)
    if rows and rows[-1].get("clipped_fraction") == 0:
        console.warn(not_held(settings, rows))


@click.command("normalize", cls=Command)
@click.argument("run", required=False)
@click.option(
    "--tau",
    type=float,
    help="τ ≥ 0 of tau (1 is L2), logit-adjustment and mla.  [default: 1; of mla 0.65]",
)
@method_options(0)
@click.option("--name", help="Name of the new run.  [default: DATASET-normalize-NNN]")
@json_option
@everywhere
def normalize_command(run, runs_dir, device, name, as_json, data_dir, **options):
    """Make a classifier fairer to rare classes, without training.

    By τ-normalisation, which divides every row of the classifier by its norm to the power τ, or by
    another --method (wbcli methods), in a new run. Without RUN it takes the newest finished
    stage-1 run.

    \b
    Example:
      wbcli normalize --tau 1.9
      wbcli normalize --method logit-adjustment
    """
    from wbcli.training import stages

    with wrong_usage():
        parent = find_parent(runs_dir, run)
        reference = reference_to(parent, runs_dir)
        device, options = on_device(device, options, data_dir, parent)
        settings = resolve_normalize(parent.config(), reference, options)
    warn_if_corrected_twice(parent.config(), settings.method)
    splits = ("train", "val") if settings.method == "ncm" else ("val",)
    dataset = load(settings, parent, *splits)
    with wrong_usage():
        run = create(runs_dir, settings, name)
    with run.locked():
        try:
            row = stages.normalize(settings, run, parent, dataset, device)
        finally:
            run.discard()
    report_run(run, settings, [row], dataset.limits, as_json)


def _start(runs_dir: Path, reference: str) -> dict[str, str]:
    """The settings that name what a training starts from: a run, or a file."""
    path, of_run = weights_of(runs_dir, reference)
    name = reference_to(find(runs_dir, reference), runs_dir) if of_run else str(path.resolve())
    return {"init_from": name, "init_digest": digest(path, "sha256")}


def _tuned(runs_dir: Path, reference: str, parent: Config, options: dict) -> dict:
    """What was tuned for this parent run, under what was given here."""
    from wbcli.tune import tune

    found = tune.latest(runs_dir / "studies", "stage2", reference, parent, console.warn)
    given = {key: value for key, value in options.items() if value is not None}
    settings = from_dict(found["settings"])
    if given.get("method", settings.method) != settings.method:
        raise ValueError(
            f"--from-tune: what was found is of the method {settings.method}, not of "
            f"{given['method']}: leave one of them out"
        )
    tuned = stage2_options(settings, given)
    console.say(
        f"tuned on {found['selected_on']}: {console.format_settings(found['best']['params'])}"
    )
    return tuned | given | {"selected_on": found["settings"]["selected_on"]}
