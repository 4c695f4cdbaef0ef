"""Methods compared under one harness: paired differences, and what follows what."""

import math

import pytest

from training.test_lab import make_lab
from wbcli.config.methods import METHODS
from wbcli.study import methods


def test_the_interval_of_paired_differences_by_hand():
    """1, 2, 3: mean 2, standard deviation 1, and 4.303 of it over √3 to either side."""
    found = methods.interval([1.0, 2.0, 3.0])
    half = 4.303 / math.sqrt(3)
    assert found == pytest.approx({"mean": 2, "low": 2 - half, "high": 2 + half})
    assert methods.interval([1.0]) is None


def test_every_method_is_paired_with_ce_and_with_its_stage2(monkeypatch):
    chosen = {1: ("ce", "cb"), 2: ("wb", "lws"), 0: ("tau",)}
    few = {stage: {name: METHODS[stage][name] for name in names} for stage, names in chosen.items()}
    monkeypatch.setattr(methods, "METHODS", few)
    rows = methods.compare(make_lab(epochs=1), [0, 1])["rows"]
    assert [row["name"] for row in rows] == [
        "ce",
        "ce, then wb",
        "cb",
        "cb, then wb",
        "ce, then lws",
        "ce, then tau",
    ]
    mean = {row["name"]: row["ours"]["all"]["mean"] for row in rows}
    for row in rows:
        for other in ("ce", "ce, then wb"):
            difference = mean[row["name"]] - mean[other]
            assert row["against"][other]["mean"] == pytest.approx(difference)
    assert len(set(mean.values())) > 3, "the methods differ"


def test_all_methods_but_those_without_classes_are_compared():
    assert set(methods.ON_OTHERS) <= set(METHODS[0])
    assert set(methods.ON_OTHERS.values()) <= set(METHODS[1])
    assert {name for name, e in METHODS[1].items() if not e.classifies} == set(
        methods.NO_CLASSIFIER
    )
