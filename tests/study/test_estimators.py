"""The table of estimators: how its sets are divided, and that it prints what was measured."""

import numpy as np
import pytest

pytest.importorskip("sklearn")

from wbcli.study import estimators


def test_a_class_measures_with_half_of_its_rows_at_most_and_trains_with_so_many_of_the_rest():
    y = np.repeat([0, 1, 2], [200, 9, 40])
    rows = estimators.thinned("made", np.arange(249)[:, None], y, [100, 50, 5], seed=3)
    assert np.bincount(rows.test_y).tolist() == [70, 4, 20]
    assert np.bincount(rows.y).tolist() == [100, 5, 5]
    assert not set(rows.x[:, 0]) & set(rows.test_x[:, 0])
    assert all(y[rows.x[:, 0]] == rows.y)
    again = estimators.thinned("made", np.arange(249)[:, None], y, [100, 50, 5], seed=4)
    assert not np.array_equal(again.test_x, rows.test_x)


def test_the_sets_are_as_their_names_say():
    found = {rows.name: np.bincount(rows.y).tolist() for rows in estimators.sets(0)}
    assert found["digits, IF 50"] == [104, 67, 43, 28, 18, 11, 7, 4, 3, 2]
    assert found["breast cancer, 250 benign, 12 malignant"] == [250, 12]
    assert len(found) == 3


def test_every_seed_and_way_is_in_the_table(monkeypatch):
    monkeypatch.setattr(estimators, "SEEDS", range(2))
    rows = next(estimators.sets(0))
    monkeypatch.setattr(estimators, "sets", lambda seed: iter([rows]))
    found = estimators.measure([])
    assert [len(scores) for scores in found[rows.name].values()] == [2, 2, 2]
    plain, balanced, ours = (np.mean(scores) for scores in found[rows.name].values())
    assert plain < balanced and plain < ours


def test_the_table_has_means_and_standard_deviations():
    names = list(estimators.ways(0))
    found = {"made": {name: [50.0, 53.0, 56.0] for name in names}}
    lines = estimators.table(found).splitlines()
    assert lines[0].count("|") == lines[1].count("|") == lines[2].count("|") == 5
    assert lines[2] == "| made | 53.0 ± 3.0 | 53.0 ± 3.0 | 53.0 ± 3.0 |"
