"""The study of MaxNorm: what each row trains with, what it is paired with, what is searched."""

import pytest
import torch

pytest.importorskip("matplotlib")
pytest.importorskip("optuna")

from training.test_lab import make_lab
from wbcli.runs.run import Run
from wbcli.study import maxnorm, presets
from wbcli.study.presets import Budget, Known
from wbcli.study.rows import STILL, Row

VALUES = {"lr": 0.02, "wd": 0.03, "maxnorm": 0.2, "tau": 0.7}
TRAINED = {  # row → loss, λ and t of stage 2
    "CE": ("ce", 0.0, None),
    "CE + WD": ("ce", 0.03, None),
    "CE + MaxNorm": ("ce", 0.0, 0.2),
    "CE + WD + MaxNorm": ("ce", 0.03, 0.2),
    "CB": ("cb", 0.0, None),
    "CB + WD": ("cb", 0.03, None),
    "CB + MaxNorm": ("cb", 0.0, 0.2),
    "CB + WD + MaxNorm": ("cb", 0.03, 0.2),
    "LA": ("logit-adjustment", 0.0, None),
    "LA + WD": ("logit-adjustment", 0.03, None),
    "LA + MaxNorm": ("logit-adjustment", 0.0, 0.2),
    "LA + WD + MaxNorm": ("logit-adjustment", 0.03, 0.2),
}


@pytest.fixture
def known(monkeypatch):
    """The same values for every row, and two epochs of stage 2."""
    rows = [*maxnorm.UNTRAINED, *[Row(True, after, 1) for after in TRAINED]]
    table = {(row.name, row.layers): VALUES for row in rows}
    monkeypatch.setitem(maxnorm.VALUES, "digitslt", Known(table, "made up"))
    monkeypatch.setitem(maxnorm.EPOCHS, "digitslt", 2)


def test_every_row_trains_with_its_own_parts(known):
    lab = make_lab(epochs=1)
    result = maxnorm.compare(lab, [0], None)
    assert result["values"] == "made up; stage 2 trains 2 epochs"
    names = ["tau-norm", "MaxNorm post hoc", "LA post hoc", *TRAINED]
    assert [row["name"] for row in result["rows"]] == ["WD", *[f"WD, then {n}" for n in names]]
    runs = [Run(path.parent) for path in lab.studies.glob("*/config.json")]
    found = [run.config() for run in runs if run.config().stage == "stage2"]
    assert {(c.loss, c.wd, c.maxnorm) for c in found} == set(TRAINED.values())
    assert {(c.lr, c.epochs) for c in found} == {(0.02, 2), (STILL, 1)}
    adjusted = [run.config() for run in runs if run.config().stage == "normalize"]
    assert {(c.method, c.tau) for c in adjusted} == {("tau", 0.7), ("logit-adjustment", 0.7)}
    for row in result["rows"]:
        assert (row["clipped"] is not None) == ("MaxNorm" in row["name"])


def test_maxnorm_post_hoc_cuts_the_rows_of_stage_1_and_moves_nothing_else(known):
    lab = make_lab(epochs=1)
    maxnorm.compare(lab, [0], None)
    runs = [Run(path.parent) for path in lab.studies.glob("*/config.json")]
    (first,) = [run for run in runs if run.config().stage == "stage1"]
    (cut,) = [run for run in runs if run.config().lr == STILL]
    before, after = first.load_weights(), cut.load_weights()
    weight = before["classifier.weight"]
    norms = weight.norm(dim=1, keepdim=True)
    radius = norms.min() + 0.2 * (norms.max() - norms.min())
    expected = before | {"classifier.weight": weight * (radius / norms).clamp(max=1)}
    for key, value in after.items():
        torch.testing.assert_close(value, expected[key], rtol=1e-6, atol=0)


def test_every_row_is_paired_with_four_seed_by_seed(known):
    rows = {row["name"]: row for row in maxnorm.compare(make_lab(epochs=1), [0, 1], None)["rows"]}
    mean = {name: row["ours"]["all"]["mean"] for name, row in rows.items()}
    assert len(set(mean.values())) > 3, "the rows differ"
    for name, row in rows.items():
        assert list(row["against"]) == list(maxnorm.AGAINST)
        for other, interval in row["against"].items():
            assert interval["mean"] == pytest.approx(mean[name] - mean[other])
            assert (interval["low"] == interval["high"] == 0) == (mean[name] == mean[other])


@pytest.mark.parametrize("dataset", maxnorm.VALUES)
def test_every_row_has_the_values_that_it_searches_and_no_others(dataset):
    rows = [row for row in maxnorm.rows_of(dataset) if row.searched()]
    found = {place: set(values) for place, values in maxnorm.VALUES[dataset].table.items()}
    assert found == {(row.name, row.layers): set(row.searched()) for row in rows}


def test_a_set_without_values_asks_for_a_search():
    lab = make_lab(dataset="fashionmnistlt", epochs=1)
    with pytest.raises(ValueError, match=r"fashionmnistlt: maxnorm has values for .*--search N"):
        maxnorm.compare(lab, [0], None)
    assert not list(lab.studies.glob("*")), "nothing was trained in vain"


def test_the_search_finds_the_tau_of_logit_adjustment_among_those_of_its_grid(monkeypatch):
    """Accuracies that rise with τ: the largest wins, and the adjustment is the one of LA."""
    asked = []

    def evaluate(name, classifier, class_counts, chosen_on, taus):
        asked.append((name, class_counts))
        return list(taus)

    monkeypatch.setattr(presets.heads, "evaluate_adjusted", evaluate)
    lab, row = make_lab(epochs=1), Row(True, "LA post hoc")
    values, _ = presets.values(lab, [row], [0], Budget(4, 2, 1))
    assert values(row) == {"tau": 3.0}
    assert asked == [("logit-adjustment", lab.dataset(lab.stage1(0, "").config()).class_counts)]
