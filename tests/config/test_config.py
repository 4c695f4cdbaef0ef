"""Settings: what fills what was not given, what is refused, and the schedule."""

import json
import math
from dataclasses import asdict, fields, replace
from pathlib import Path

import pytest
import torch

from wbcli import device as devices
from wbcli.config.recipes import DEFAULTS, FOLDER, SOURCES
from wbcli.config.resolve import (
    resolve_normalize,
    resolve_precision,
    resolve_stage1,
    resolve_stage2,
    stage2_options,
)
from wbcli.config.settings import Config, from_dict
from wbcli.evaluate import measured


def stage1(**options):
    return resolve_stage1({"dataset": "cifar100lt", "data_dir": "data"} | options)


def stage2(parent=None, **options):
    return resolve_stage2(parent or stage1(), "parent", options)


def test_charter_commands_have_the_known_values():
    """wbcli stage1 cifar100lt --wd 5e-3, then stage2 --maxnorm 0.1, as method.md tells."""
    first = stage1(wd=5e-3)
    assert (first.arch, first.epochs, first.batch_size, first.lr) == ("resnet34", 200, 64, 0.01)
    assert (first.loss, first.momentum, first.imbalance_factor) == ("ce", 0.9, 100)
    second = stage2(first, maxnorm=0.1)
    assert (second.loss, second.wd, second.maxnorm) == ("cb-bce", 0.1, 0.1)
    assert (second.lr, second.epochs, second.project, second.layers) == (0.01, 10, "step", 1)
    assert (second.frozen_batch_norm, second.checkpoint, second.tta) == ("eval", "last", False)


def test_the_released_recipe_follows_the_authors_code():
    first = stage1(recipe="released")
    assert (first.arch, first.epochs, first.wd) == ("resnet34", 320, 5e-3)
    assert (first.init, first.cosine_end) == ("conv-default", "to-zero")
    assert (first.checkpoint, first.tta) == ("best-on-test", True)
    second = stage2(first)
    assert second.recipe == "released", "inherited from stage 1"
    assert (second.loss, second.wd, second.maxnorm) == ("cb-bce", 0.1, 0.1)
    assert (second.project, second.frozen_batch_norm) == ("epoch", "train")
    assert (second.checkpoint, second.tta, second.cosine_end) == ("best-on-test", True, "to-zero")


def test_every_recipe_covers_every_data_set_and_stage_with_the_same_settings():
    for stage in ("stage1", "stage2"):
        tables = [table for key, table in DEFAULTS.items() if key[2] == stage]
        own = ("small", "finetune")
        known = {key[:2] for key in DEFAULTS if key[2] == stage and key[0] not in own}
        assert len(known) == 2 * 4 + 5, "the released code says nothing of sets on disk"
        assert ("finetune", FOLDER, stage) in DEFAULTS, "which is one for all data sets"
        assert ("small", FOLDER, stage) in DEFAULTS, "which is for folders alone"
        common = {"batch_size", "lr", "momentum", "epochs", "loss", "wd", "checkpoint", "tta"}
        assert all(common <= set(table) for table in tables)
    sources = {d.source for table in DEFAULTS.values() for d in table.values()}
    assert sources == set(SOURCES)


def test_data_sets_with_ten_classes_do_not_take_the_released_loss_scale():
    for dataset in ("digitslt", "fashionmnistlt", "cifar10lt"):
        second = stage2(stage1(dataset=dataset))
        assert second.loss == "cb"
        assert second.wd < 0.1


def test_options_win_over_the_recipe():
    assert stage1(lr=0.5, epochs=3, arch="resnet32").lr == 0.5
    assert stage2(wd=0.0).wd == 0.0


def test_stage2_inherits_the_data_and_the_seed():
    parent = stage1(seed=5, imbalance_factor=50.0, subset="shuffled", val_per_class=3)
    child = stage2(parent)
    for key in ("seed", "imbalance_factor", "subset", "val_per_class", "arch", "data_dir"):
        assert getattr(child, key) == getattr(parent, key)
    assert child.parent == "parent"
    assert stage2(parent, seed=6).seed == 6


@pytest.mark.parametrize(
    ("options", "constraint", "maxnorm"),
    [
        ({}, "max_norm", 0.1),
        ({"maxnorm": 0.3}, "max_norm", 0.3),
        ({"maxnorm": "none"}, None, None),
        ({"radius": 2.0}, "max_norm", None),
        ({"unit_norm": True}, "unit_norm", None),
    ],
)
def test_a_constraint_given_replaces_the_default_one(options, constraint, maxnorm):
    settings = stage2(**options)
    assert settings.constraint() == constraint
    assert settings.maxnorm == maxnorm


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"wd": -1.0}, "--wd must be a finite number at least 0, got -1"),
        ({"wd": math.nan}, "--wd must be a finite number at least 0, got nan"),
        ({"lr": 0.0}, "--lr must be a finite number above 0, got 0"),
        ({"lr": math.inf}, "--lr must be a finite number above 0, got inf"),
        ({"momentum": 1.0}, "--momentum must be a finite number at least 0 and below 1, got 1"),
        ({"epochs": 0}, "--epochs must be a finite number at least 1, got 0"),
        ({"batch_size": 1}, "--batch-size must be a finite number at least 2, got 1"),
        ({"imbalance_factor": 0.9}, "--imbalance-factor must be a finite number at least 1"),
        ({"val_per_class": -1}, "--val-per-class must be a finite number at least 0, got -1"),
        ({"radius": 0.0}, "--radius must be a finite number above 0, got 0"),
        ({"beta": 1.5}, "--beta must be a finite number at least 0 and at most 1, got 1.5"),
        ({"beta": -0.1}, "--beta must be a finite number at least 0 and at most 1, got -0.1"),
        ({"bottleneck": 0}, "--bottleneck must be a finite number at least 1, got 0"),
        ({"seed": -1}, "--seed must be a finite number at least 0"),
        ({"radius": 1.0, "unit_norm": True}, "--radius and --unit-norm exclude each other"),
        ({"dataset": "mnist"}, "unknown data set 'mnist'"),
    ],
)
def test_stage1_settings_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError) as error:
        stage1(**options)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 10**6 + 1}, "--epochs must be a finite number at most 1000000, got 1000001"),
        (
            {"batch_size": 10**9},
            "--batch-size must be a finite number at most 1000000, got 1000000000",
        ),
        ({"val_per_class": 10**9}, "--val-per-class must be a finite number at most 1000000"),
        ({"views": 10**6}, "--views must be a finite number at most 10000, got 1000000"),
        ({"bottleneck": 10**6}, "--bottleneck must be a finite number at most 65536, got 1000000"),
        ({"wd": 1e31}, "--wd must be a finite number at most 1e+30, got 1e+31"),
        ({"lr": 1e308}, "--lr must be a finite number at most 1e+30, got 1e+308"),
        ({"radius": 1e39}, "--radius must be a finite number at most 1e+30, got 1e+39"),
        ({"tau": 101.0}, "--tau must be a finite number at most 100, got 101"),
        ({"image_size": 4097}, "--image-size must be a finite number at least 8 and at most 4096"),
    ],
)
def test_what_never_ends_or_fills_the_memory_is_refused(options, message):
    with pytest.raises(ValueError) as error:
        replace(stage1(), **options)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": 10**23}, "--seed must be an integer of at most 64 bits, got one of 77 bits"),
        ({"epochs": 2.0}, "--epochs must be an integer of at most 64 bits, got 2.0"),
        ({"epochs": True}, "--epochs must be an integer of at most 64 bits, got True"),
        ({"epochs": None}, "--epochs must be an integer of at most 64 bits, got None"),
        ({"lr": "0.1"}, "--lr must be a number, got '0.1'"),
        ({"lr": False}, "--lr must be a number, got False"),
        ({"radius": [1.0]}, "--radius must be a number or none, got a list of 1"),
        ({"tta": 1}, "--tta must be true or false, got 1"),
        ({"data_dir": "a\0b"}, r"--data-dir must be a text without NUL, got 'a\x00b'"),
        ({"parent": 7}, "parent must be a text without NUL or none, got 7"),
        ({"limits": (100,)}, "--limits must be 2 integers or none, got a list of 1"),
        ({"limits": {"many": 1}}, "--limits must be 2 integers or none, got an object of 1"),
        ({"limits": (100, 2.5)}, "--limits must be 2 integers or none, got a list of 2"),
        ({"left_out": ("a", 1)}, "left_out must be a list of texts or none, got a list of 2"),
        ({"left_out": "a"}, "left_out must be a list of texts or none, got 'a'"),
        ({"arch": "vgg"}, "--arch must be one of resnet8, resnet20, resnet32, resnet32x4"),
        ({"arch": "v" * 100}, "linear, or torchvision:NAME or timm:NAME, got 'vvvvvvvvvv"),
        ({"arch": "timm:../a"}, "or torchvision:NAME or timm:NAME, got 'timm:../a'"),
        ({"mean": (0.5,)}, "mean must be 3 finite numbers, got a list of 1"),
        ({"mean": ("a",) * 3}, "mean must be a list of numbers or none, got a list of 3"),
        ({"std": (0.5, 0.0, 0.5)}, "std must be 3 finite numbers above 0, got a list of 3"),
        ({"mean": (math.nan,) * 3}, "mean must be 3 finite numbers, got a list of 3"),
        ({"crop_fraction": 0.0}, "crop_fraction must be a finite number above 0 and at most 1"),
        ({"interpolation": "area"}, "interpolation must be one of nearest, box, bilinear"),
        ({"freeze": "head"}, "--freeze must be one of backbone, got 'head'"),
        ({"optimizer": "adam"}, "--optimizer must be one of sgd, adamw, got 'adam'"),
        ({"loss": "mse"}, "--loss must be one of ce, cb, cb-bce, focal, cb-focal, got 'mse'"),
        ({"stage": "stage3"}, "stage must be one of stage1, stage2, normalize, got 'stage3'"),
        ({"recipe": "mine"}, "--recipe must be one of paper, released, published, finetune"),
        ({"precision": "auto"}, "--precision must be one of fp32, tf32, bf16, got 'auto'"),
        ({"project": "never"}, "--project must be one of step, epoch, got 'never'"),
        ({"cosine_end": "flat"}, "cosine_end must be one of from-lr, to-zero, got 'flat'"),
        ({"init": "xavier"}, "init must be one of he, conv-default, got 'xavier'"),
        ({"cache": "fp8"}, "--cache must be one of fp32, bf16, none, got 'fp8'"),
        ({"subset": "last"}, "--subset must be one of first, shuffled, got 'last'"),
        ({"imbalance_type": "log"}, "--imbalance-type must be one of exp, step, got 'log'"),
        ({"checkpoint": "best"}, "checkpoint must be one of last, best-on-test, got 'best'"),
        ({"frozen_batch_norm": ""}, "frozen_batch_norm must be one of eval, train, got ''"),
        ({"layers": 3}, "--layers must be one of 1, 2, 5, got 3"),
        ({"selected_on": "train"}, "selected_on must be one of val, test, got 'train'"),
        (
            {"stage": "normalize", "method": "tau"},
            "--tau is missing: a normalize run divides by norms to its power",
        ),
    ],
)
def test_values_of_another_type_and_unknown_words_are_refused(options, message):
    with pytest.raises(ValueError) as error:
        replace(stage1(), **options)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"maxnorm": 1.1}, "--maxnorm must be a finite number at least 0 and at most 1, got 1.1"),
        ({"views": 0}, "--views must be a finite number at least 1, got 0"),
        ({"maxnorm": -0.1}, "--maxnorm must be a finite number at least 0 and at most 1"),
        ({"maxnorm": 0.1, "radius": 1.0}, "--maxnorm and --radius exclude each other"),
        ({"maxnorm": 0.1, "unit_norm": True}, "--maxnorm and --unit-norm exclude each other"),
        ({"arch": "resnet32"}, "the stage-1 run has resnet34, which stage 2 cannot change"),
        ({"val_per_class": 5}, "--val-per-class 5: the stage-1 run has 0"),
    ],
)
def test_stage2_settings_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError) as error:
        stage2(**options)
    assert message in str(error.value)


def test_what_chose_the_settings_of_a_run_goes_down_to_its_children():
    assert stage1().selected_on is None
    parent = replace(stage1(), selected_on="test")
    assert stage2(parent).selected_on == "test"
    assert resolve_normalize(parent, "parent", {"tau": 1.0}).selected_on == "test"
    assert stage2(stage1(), selected_on="val").selected_on == "val"


def test_beta_is_that_of_the_paper_unless_given_and_is_not_inherited():
    assert stage1().beta == stage2().beta == 0.9999
    assert stage2(beta=0.0).beta == 0.0
    assert stage2(stage1(beta=0.9)).beta == 0.9999


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"maxnorm": 0.3, "wd": 0.25, "lr": 0.5, "momentum": 0.5, "loss": "ce", "beta": 0.9},
        {"maxnorm": "none", "views": 4, "epochs": 3, "batch_size": 7},
        {"radius": 2.0, "project": "epoch"},
        {"unit_norm": True, "layers": 2},
        {"seed": 3, "imbalance_factor": 10.0, "imbalance_type": "step", "deterministic": True},
        {"recipe": "released"},
    ],
    ids=str,
)
def test_the_options_of_a_stage2_make_it_again(options):
    settings = stage2(**options)
    assert stage2(**stage2_options(settings, {})) == settings


@pytest.mark.parametrize(
    ("given", "constraint"),
    [
        ({"maxnorm": 0.7}, {"maxnorm": 0.7}),
        ({"maxnorm": "none"}, {}),
        ({"radius": 3.0}, {"radius": 3.0}),
        ({"unit_norm": True}, {"unit_norm": True}),
    ],
)
@pytest.mark.parametrize("tuned", [{"maxnorm": 0.3}, {"radius": 2.0}, {"unit_norm": True}], ids=str)
def test_a_constraint_given_replaces_the_one_of_other_settings(tuned, given, constraint):
    options = stage2_options(stage2(**tuned), given) | given
    nothing = {"maxnorm": None, "radius": None, "unit_norm": False}
    assert stage2(**options) == replace(stage2(**tuned), **(nothing | constraint))


def test_the_data_may_change_in_stage2_only_without_validation_images():
    assert stage2(imbalance_factor=10.0).imbalance_factor == 10
    with pytest.raises(ValueError, match=r"--imbalance-factor 10\.0: the stage-1 run has 100"):
        stage2(stage1(val_per_class=2), imbalance_factor=10.0)


def test_normalize_keeps_the_parents_settings_and_checks_tau():
    parent = stage1(recipe="released")
    settings = resolve_normalize(parent, "parent", {"tau": 1.9})
    assert (settings.stage, settings.tau, settings.parent) == ("normalize", 1.9, "parent")
    assert (settings.arch, settings.checkpoint, settings.tta) == ("resnet34", "best-on-test", True)
    with pytest.raises(ValueError, match="--tau must be a finite number at least 0 and"):
        resolve_normalize(parent, "parent", {"tau": -1.0})


def test_cosine_by_hand():
    """Four epochs from 1: cos 0, π/4, π/2, 3π/4; `to-zero` starts at the second value."""
    values = [1, (1 + 2**-0.5) / 2, 0.5, (1 - 2**-0.5) / 2]
    from_lr = stage1(lr=1.0, epochs=4)
    assert [from_lr.lr_at(e) for e in range(4)] == pytest.approx(values)
    to_zero = replace(from_lr, cosine_end="to-zero")
    assert [to_zero.lr_at(e) for e in range(4)] == pytest.approx([*values[1:], 0])


@pytest.mark.parametrize(
    ("wanted", "device", "has_bf16", "recipe", "precision"),
    [
        ("auto", "cpu", False, "paper", "fp32"),
        ("auto", "cuda", True, "paper", "bf16"),
        ("auto", "cuda", True, "released", "fp32"),
        ("bf16", "cuda", True, "released", "bf16"),
        ("auto", "cuda", False, "paper", "fp32"),
        ("tf32", "cuda", True, "paper", "tf32"),
        ("bf16", "cpu", False, "paper", "bf16"),
    ],
)
def test_precision(wanted, device, has_bf16, recipe, precision):
    assert resolve_precision(wanted, device, has_bf16, recipe) == precision


@pytest.mark.parametrize(("recipe", "precision"), [("paper", "bf16"), ("released", "fp32")])
def test_what_follows_from_a_run_has_the_precision_of_its_recipe(
    wbcli, monkeypatch, recipe, precision
):
    """As on a GPU that has bf16, for which `cpu` stands here."""

    def resolve(precision, device, recipe=None):
        return resolve_precision(precision, "cuda", True, recipe)

    monkeypatch.setattr(devices, "resolve_precision", resolve)
    short = ("--epochs", 1, "--precision", "auto", "--name")
    assert wbcli("stage1", "digitslt", "--recipe", recipe, *short, "one").code == 0
    assert wbcli("stage2", "one", *short, "two").code == 0
    found = [json.loads(Path("runs", name, "config.json").read_text()) for name in ("one", "two")]
    assert [record["precision"] for record in found] == [precision, precision]
    seen = []
    monkeypatch.setattr(measured, "resolve_precision", lambda *given: seen.append(given) or "fp32")
    assert wbcli("eval", "two").code == 0
    assert seen == [("auto", torch.device("cpu"), recipe)]


@pytest.mark.parametrize(
    ("wanted", "device", "message"),
    [("tf32", "cpu", "needs a CUDA device"), ("bf16", "cuda", "this GPU does not have it")],
)
def test_a_precision_that_is_not_there_is_refused(wanted, device, message):
    with pytest.raises(ValueError, match=message):
        resolve_precision(wanted, device, False)


def test_a_config_survives_its_file():
    settings = stage2(maxnorm=0.2)
    assert from_dict(asdict(settings) | {"run": "name", "created": 1.0}) == settings


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda values: values.pop("arch"), "config.json lacks arch"),
        (lambda values: values.update(wd="much"), "holds a value of the wrong type"),
        (lambda values: values.update(wd=-1), "--wd must be"),
        (lambda values: values.update(wd=math.nan), "--wd must be a finite number at least 0"),
        (lambda values: values.update(wd=10**400), "wrong type: --wd must be a number, got one"),
        (lambda values: values.update(limits=[1, 2, 3]), "wrong type: --limits must be 2 integers"),
        (lambda values: values.update(stage="stage2"), "a stage2 run comes from another, parent"),
    ],
)
def test_a_damaged_config_is_refused(change, message):
    values = asdict(stage1())
    change(values)
    with pytest.raises(ValueError) as error:
        from_dict(values)
    assert message in str(error.value)


@pytest.mark.parametrize("content", [None, 3, "text", [], [1], {}])
def test_a_config_that_is_no_object_of_settings_is_refused(content):
    with pytest.raises(ValueError, match=r"^config\.json"):
        from_dict(content)


HOSTILE = [None, True, 0, -1, 3, 2**64, 10**400, 0.5, 1e308, math.nan, math.inf, "", "x", "\0"]
HOSTILE += ["\ud800", "x" * 10**6, [], [1], [1, 2], ["a"], [[]], {}, {"a": 1}]


@pytest.mark.parametrize("key", [field.name for field in fields(Config)])
def test_any_json_value_is_a_setting_or_a_sentence(key):
    """Every setting takes or refuses every kind of value; what it refuses, the sentence names."""
    for value in HOSTILE:
        try:
            from_dict(asdict(stage2()) | {key: value})
        except ValueError as error:
            assert key.replace("_", "-") in str(error).replace("_", "-")
            assert len(str(error)) < 300 and "\n" not in str(error)
