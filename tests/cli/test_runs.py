"""runs: trainings that differ are shown as different."""

import pytest

from wbcli.cli.runs import settings_of
from wbcli.config.resolve import resolve_normalize, resolve_stage1, resolve_stage2

DIGITS = {"dataset": "digitslt", "precision": "fp32", "data_dir": "data"}
STAGE1 = [
    ({}, "ce wd 0.002"),
    ({"loss": "cb"}, "cb wd 0.002"),
    ({"loss": "cb", "beta": 0.99}, "cb beta 0.99 wd 0.002"),
    ({"method": "ldam"}, "ldam wd 0.002"),
    ({"method": "ldam", "scale": 20.0}, "ldam scale 20 wd 0.002"),
    ({"method": "ldam-drw", "defer_from": 0.5}, "ldam-drw defer-from 0.5 wd 0.002"),
    ({"method": "balanced-softmax"}, "balanced-softmax wd 0.002"),
    ({"defer": "drs"}, "ce defer drs wd 0.002"),
    ({"head": "cosine"}, "ce head cosine wd 0.002"),
    ({"head": "cosine", "scale": 16.0}, "ce head cosine scale 16 wd 0.002"),
    ({"sampling": "sqrt"}, "ce sampling sqrt wd 0.002"),
    ({"aug": "none", "wd": 0.0}, "ce aug none wd 0"),
    ({"unit_norm": True}, "ce wd 0.002 unit-norm"),
    ({"method": "deconfound"}, "deconfound wd 0.002"),
    ({"method": "wd-fr-etf"}, "wd-fr-etf wd 0.002"),
]
STAGE2 = [
    ({}, "cb wd 0.0005 maxnorm 0.1"),
    ({"method": "crt"}, "crt wd 0.0005"),
    ({"method": "crt", "classifier": "kept"}, "crt classifier kept wd 0.0005"),
    ({"method": "crt", "sampling": "sqrt"}, "crt sampling sqrt wd 0.0005"),
    ({"method": "disalign", "rho": 0.5}, "disalign rho 0.5 wd 0.0005"),
    ({"layers": 2}, "cb layers 2 wd 0.0005 maxnorm 0.1"),
    ({"loss": "logit-adjustment", "tau": 2.0}, "logit-adjustment tau 2 wd 0.0005 maxnorm 0.1"),
]


@pytest.mark.parametrize(("options", "shown"), STAGE1)
def test_what_differs_from_the_defaults_is_shown(options, shown):
    assert settings_of(resolve_stage1(DIGITS | options)) == shown


@pytest.mark.parametrize(("options", "shown"), STAGE2)
def test_of_a_second_stage_too(options, shown):
    parent = resolve_stage1(dict(DIGITS))
    options = {"precision": "fp32"} | options
    assert settings_of(resolve_stage2(parent, "it", options)) == shown


def test_what_is_inherited_is_shown_and_an_adjustment_by_its_numbers():
    parent = resolve_stage1(DIGITS | {"aug": "crop"})
    options = {"precision": "fp32", "maxnorm": "none"}
    assert settings_of(resolve_stage2(parent, "it", options)) == "cb aug crop wd 0.0005"
    assert settings_of(resolve_normalize(parent, "it", {"tau": 1.5})) == "tau 1.5"
    assert settings_of(resolve_normalize(parent, "it", {"method": "l2"})) == "l2"


def test_json_has_all_of_them(wbcli):
    given = ("--head", "cosine", "--sampling", "sqrt", "--aug", "crop", "--defer", "drw")
    assert wbcli("stage1", "digitslt", *given, "--epochs", 1, "--name", "it").code == 0
    (row,) = wbcli("runs", "--json").json
    assert {key: row[key] for key in ("sampling", "aug", "fit", "classifier", "defer")} == {
        "sampling": "sqrt",
        "aug": "crop",
        "fit": "crop",
        "classifier": None,
        "defer": "drw",
    }
    assert row["heads"] == [["cosine", {"scale": 30.0}]]
    assert "ce defer drw head cosine sampling sqrt aug crop wd 0.002" in wbcli("runs").out
