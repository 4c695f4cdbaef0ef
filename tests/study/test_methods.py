"""Methods compared under one harness: paired differences, and what follows what."""

import pytest

from training.test_lab import make_lab
from wbcli.config.methods import METHODS
from wbcli.study import methods


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
