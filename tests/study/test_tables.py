"""The paper's tables: which row trains with what, its figures, and the runs behind them."""

import math
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("optuna")

import optuna
import torch
from torch import nn

from training.test_fit import equal
from training.test_lab import Journal, make_lab
from wbcli.data import recorded
from wbcli.files import storage
from wbcli.models.layers import last_layers
from wbcli.runs.run import Run
from wbcli.study import presets
from wbcli.study import tables as study_tables
from wbcli.study.presets import Budget
from wbcli.study.rows import Row
from wbcli.study.tables import mean_and_std

LAMBDA = 2e-3  # of stage 1 on the digits
LR, WD, T = 0.02, 0.03, 0.1
OFF, UNIT, MAX = (None, False), (None, True), (T, False)  # maxnorm, unit_norm

# name, layers, loss, λ and constraint of stage 2, and the paper's many, medium, few, all.
ABLATION = [
    ("naive", 0, None, (64.05, 35.80, 11.43, 38.38)),
    ("naive, then tau-norm", 0, None, (59.54, 38.23, 25.93, 42.00)),
    ("WD", 0, None, (76.94, 44.28, 12.17, 46.08)),
    ("WD, then tau-norm", 0, None, (73.11, 47.69, 30.10, 51.31)),
    ("WD, then L2-norm", 0, None, (76.09, 47.74, 20.87, 49.60)),
    ("WD, then CE + L2-norm", 1, ("ce", 0.0, UNIT), (76.37, 48.11, 21.00, 49.87)),
    ("WD, then CE + WD", 1, ("ce", WD, OFF), (76.97, 45.94, 14.00, 47.22)),
    ("WD, then CE + MaxNorm", 1, ("ce", 0.0, MAX), (76.80, 47.26, 15.10, 47.95)),
    ("WD, then CE + MaxNorm + default WD", 1, ("ce", LAMBDA, MAX), (76.89, 47.06, 13.90, 47.55)),
    ("WD, then CE + MaxNorm + WD", 1, ("ce", WD, MAX), (76.80, 47.51, 14.40, 47.83)),
    ("WD, then CB", 1, ("cb", 0.0, OFF), (77.00, 45.89, 13.60, 47.09)),
    ("WD, then CB + L2-norm", 1, ("cb", 0.0, UNIT), (76.43, 48.20, 21.60, 50.10)),
    ("WD, then CB + WD", 1, ("cb", WD, OFF), (72.77, 49.74, 31.80, 52.42)),
    ("WD, then CB + MaxNorm", 1, ("cb", 0.0, MAX), (76.49, 49.23, 20.67, 50.20)),
    ("WD, then CB + MaxNorm + default WD", 1, ("cb", LAMBDA, MAX), (76.20, 48.91, 21.50, 50.24)),
    ("WD, then CB + WD + MaxNorm", 1, ("cb", WD, MAX), (72.60, 51.86, 32.63, 53.35)),
    ("WD, then CE + WD + MaxNorm", 2, ("ce", WD, MAX), (76.34, 48.46, 21.17, 50.03)),
    ("WD, then CB + WD + MaxNorm", 2, ("cb", WD, MAX), (71.37, 51.17, 35.53, 53.55)),
    ("WD, then CE + WD + MaxNorm", 5, ("ce", WD, MAX), (76.03, 48.14, 20.87, 49.72)),
    ("WD, then CB + WD + MaxNorm", 5, ("cb", WD, MAX), (74.37, 49.80, 26.63, 51.45)),
]
IDS = [f"{name}, {layers} layers" for name, layers, *_ in ABLATION]
SEVEN = [  # the paper's figures over all classes at imbalance factors 100, 50 and 10
    ("naive", (38.38, 43.99, 57.31)),
    ("WD", (46.08, 52.71, 66.03)),
    ("WD, then L2-norm", (49.60, 56.33, 67.16)),
    ("WD, then tau-norm", (51.31, 57.65, 67.79)),
    ("WD, then CB + WD", (52.42, 57.47, 67.96)),
    ("WD, then CB + MaxNorm", (50.24, 56.06, 67.10)),
    ("WD, then CB + WD + MaxNorm", (53.35, 57.71, 68.67)),
]
SETTINGS = {  # what a search varies, by what a row names
    "tau-norm": ("tau",),
    "CB + L2-norm": ("lr",),
    "CE + MaxNorm + default WD": ("lr", "maxnorm"),
    "CB + WD": ("lr", "wd"),
    "CB + WD + MaxNorm": ("lr", "wd", "maxnorm"),
}


def values_of(row: Row) -> dict[str, float]:
    """Every value that a row could ask for, so that it has to choose."""
    return {"lr": LR, "wd": WD, "maxnorm": T, "tau": 1.9 if row.tuned else 1.2}


@pytest.fixture(scope="module")
def ablation(tmp_path_factory):
    """The ablation of one seed: its result, the runs of its rows, and the folder."""
    folder = tmp_path_factory.mktemp("studies")
    found, run_row = [], study_tables.run_row

    def kept(*args, **options):
        found.append(run_row(*args, **options))
        return found[-1]

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(study_tables, "run_row", kept)
        patched.setattr(presets, "values", lambda *args: (values_of, "by hand"))
        journal = Journal()
        result = study_tables.ablation(make_lab(folder, journal), [0], None)
    rows = [(row["name"], row["layers"]) for row in result["rows"]]
    by_row = dict(zip(rows, found, strict=True))
    return SimpleNamespace(result=result, runs=by_row, folder=folder, labels=journal.labels)


def test_the_rows_of_the_ablation_with_their_figures():
    rows = [
        (row.name, row.layers, tuple(paper[g] for g in ("many", "medium", "few", "all")))
        for row, paper in study_tables.ablation_rows()
    ]
    assert rows == [(name, layers, figures) for name, layers, _, figures in ABLATION]


@pytest.mark.parametrize(("name", "layers", "expected", "figures"), ABLATION, ids=IDS)
def test_what_a_row_trains_with(ablation, name, layers, expected, figures):
    """Read from the config.json of its run."""
    settings = ablation.runs[name, layers].config()
    if expected is None:
        stage, tau = {"tau-norm": ("normalize", 1.9), "L2-norm": ("normalize", 1.0)}.get(
            name.rpartition("then ")[2], ("stage1", None)
        )
        assert (settings.stage, settings.layers) == (stage, None)
        assert settings.tau == (1.2 if name == "naive, then tau-norm" else tau)
    else:
        found = (settings.loss, settings.wd, (settings.maxnorm, settings.unit_norm))
        assert found == expected
        assert (settings.stage, settings.layers, settings.lr) == ("stage2", layers, LR)
        assert settings.radius is None
    first = settings
    if settings.parent:
        first = Run(ablation.folder / settings.parent).config()
    assert (first.stage, first.wd) == ("stage1", 0.0 if name.startswith("naive") else LAMBDA)
    assert (first.loss, first.constraint()) == ("ce", None)


def test_every_row_with_a_seed_is_one_run(ablation):
    assert len(set(ablation.runs.values())) == 20
    assert ablation.labels[:3] == ["seed 0: naive", "seed 0: naive, then tau-norm", "seed 0: WD"]
    assert ablation.labels[-1] == "seed 0: WD, then CB + WD + MaxNorm, 5 layers"
    assert len(ablation.labels) == 20


def test_the_figures_of_a_row_are_those_of_its_last_epoch(ablation):
    for row in ablation.result["rows"]:
        last = ablation.runs[row["name"], row["layers"]].metrics()[-1]
        for group, value in last["accuracy"].items():
            assert row["ours"][group] == {"mean": value, "std": None}
        if "MaxNorm" in row["name"]:
            assert row["clipped"] == {"mean": 100 * last["clipped_fraction"], "std": None}
        else:
            assert row["clipped"] is None


def test_the_settings_of_a_row_are_those_it_trained_with(ablation):
    for row in ablation.result["rows"]:
        config = ablation.runs[row["name"], row["layers"]].config()
        assert row["settings"] == {key: getattr(config, key) for key in row["settings"]}
        named = row["name"].rpartition("then ")[2]
        if named in SETTINGS and row["layers"] < 2:
            assert tuple(row["settings"]) == SETTINGS[named]


@pytest.mark.parametrize(
    ("name", "tau"),
    [("naive, then tau-norm", 1.2), ("WD, then tau-norm", 1.9), ("WD, then L2-norm", 1.0)],
)
def test_normalised_rows_are_their_parent_s_over_a_power_of_their_norm(ablation, name, tau):
    run = ablation.runs[name, 0]
    before = Run(ablation.folder / run.config().parent).load_weights()
    after = run.load_weights()
    rows = before.pop("classifier.weight")
    expected = torch.stack([row / row.norm() ** tau for row in rows])
    torch.testing.assert_close(after.pop("classifier.weight"), expected)
    assert equal(before, after)


def test_rows_under_a_constraint_end_on_it(ablation):
    bound = 0
    for (name, layers), run in ablation.runs.items():
        last = run.metrics()[-1]
        norms = run.load_weights()["classifier.weight"].norm(dim=1)
        if "+ L2-norm" in name:
            torch.testing.assert_close(norms, torch.ones(10))
        if "MaxNorm" in name:
            parent = Run(ablation.folder / run.config().parent).load_weights()
            start = parent["classifier.weight"].norm(dim=1)
            radius = last["radius"] if layers == 1 else last["radius"][0]
            low, high = start.min().item(), start.max().item()
            assert radius == pytest.approx(low + T * (high - low), rel=1e-5)
            assert norms.max() <= radius * (1 + 1e-6)
            bound += last["clipped_fraction"] > 0
    assert bound >= 6, "MaxNorm has to bind in most of its 9 rows, or they show nothing"


@pytest.mark.parametrize(("name", "layers", "expected", "figures"), ABLATION[5:], ids=IDS[5:])
def test_rows_train_their_last_layers_and_nothing_else(ablation, name, layers, expected, figures):
    run = ablation.runs[name, layers]
    parent = Run(ablation.folder / run.config().parent)
    before, after = parent.load_weights(), run.load_weights()
    network = parent.network(recorded.for_run(parent.config()).class_names)
    last = [module for layer in last_layers(network, layers) for module in layer]
    assert sum(isinstance(module, nn.Conv2d | nn.Linear) for module in last) == layers
    trained = {name for name, module in network.named_modules() if module in last}
    for key, value in after.items():
        if "num_batches" not in key:
            changed = not torch.equal(value, before[key])
            assert changed == (key.rpartition(".")[0] in trained), key


def test_rows_with_the_same_settings_share_a_run(ablation):
    """λ of `WD` that happens to be the default one."""
    here = make_lab(ablation.folder, journal := Journal())
    same = {"lr": LR, "maxnorm": T, "wd": LAMBDA}
    run = study_tables.run_row(here, Row(True, "CB + WD + MaxNorm", 1), 0, same)
    assert run == ablation.runs["WD, then CB + MaxNorm + default WD", 1]
    assert not journal.labels


def test_a_second_time_nothing_trains_and_the_result_is_the_same(ablation, monkeypatch):
    monkeypatch.setattr(presets, "values", lambda *args: (values_of, "by hand"))
    journal = Journal()
    again = study_tables.ablation(make_lab(ablation.folder, journal), [0], None)
    assert not journal.labels
    assert again == ablation.result


def test_a_study_that_was_interrupted_ends_as_if_it_never_was(ablation, tmp_path, monkeypatch):
    """In stage 1 of WD, and in a stage 2: 2 epochs of naive and WD, then 10 of each head."""
    monkeypatch.setattr(presets, "values", lambda *args: (values_of, "by hand"))
    for stop in (3, 16):
        with pytest.raises(KeyboardInterrupt):
            study_tables.ablation(make_lab(tmp_path / "studies", Journal(stop)), [0], None)
    unfinished = [
        run
        for path in (tmp_path / "studies").glob("*/config.json")
        if not (run := Run(path.parent)).finished
    ]
    assert [run.config().loss for run in unfinished] == ["ce"]
    assert 0 < unfinished[0].epochs_done() < 10
    resumed = study_tables.ablation(make_lab(tmp_path / "studies"), [0], None)
    assert resumed == ablation.result
    for run in ablation.runs.values():
        other = Run(tmp_path / "studies" / run.name)
        assert equal(run.load_weights(), other.load_weights())


def test_mean_and_sample_deviation():
    """Of 2, 4 and 9: mean 5, squares 9 + 1 + 16 over 2, √13."""
    assert mean_and_std([2.0, 4.0, 9.0]) == {"mean": 5.0, "std": pytest.approx(13**0.5)}
    assert mean_and_std([7.5]) == {"mean": 7.5, "std": None}
    assert mean_and_std([None, 1.0, 3.0]) == {"mean": 2.0, "std": pytest.approx(2**0.5)}
    assert mean_and_std([4.0, 4.0]) == {"mean": 4.0, "std": 0.0}
    assert mean_and_std([None, None]) is None


def test_a_table_is_the_mean_over_its_seeds():
    rows = [(Row(False), {"all": 1.0}), (Row(True, "L2-norm"), None)]
    here = make_lab(imbalance_factor=10)  # the rarest class has 10 images: none is few
    naive, normal = study_tables.run_table(here, rows, [0, 2], values_of)
    first, second = (here.stage1(seed, "", wd=0.0).metrics()[-1] for seed in (0, 2))
    for group in ("many", "medium", "all"):
        a, b = first["accuracy"][group], second["accuracy"][group]
        assert naive["ours"][group]["mean"] == pytest.approx((a + b) / 2)
        assert naive["ours"][group]["std"] == pytest.approx(abs(a - b) / 2**0.5)
    assert naive["ours"]["few"] is None
    assert (naive["paper"], normal["paper"]) == ({"all": 1.0}, None)
    assert (normal["name"], normal["layers"], normal["settings"]) == ("WD, then L2-norm", 0, {})
    seeds = {Run(path.parent).config().seed for path in here.studies.glob("*/config.json")}
    assert seeds == {0, 2}


def test_the_rows_at_three_imbalance_factors(ablation, monkeypatch):
    monkeypatch.setattr(presets, "values", lambda *args: (values_of, "by hand"))
    journal = Journal()
    result = study_tables.imbalance(make_lab(ablation.folder, journal), [0], None)
    found = [(row["name"], row["imbalance_factor"], row["paper"]) for row in result["rows"]]
    assert found == [
        (name, factor, {"all": figures[index]})
        for index, factor in enumerate((100, 50, 10))
        for name, figures in SEVEN
    ]
    assert result["paper_dataset"] == "CIFAR-100-LT"
    # The digits have IF 50 unless told otherwise: those rows are the ablation's.
    assert Counter(journal.labels) == {f"seed 0: {name}": 2 for name, _ in SEVEN}
    middle = [row for row in result["rows"] if row["imbalance_factor"] == 50]
    by_name = {(row["name"], row["layers"]): row for row in ablation.result["rows"]}
    for row in middle:
        assert row["ours"] == by_name[row["name"], row["layers"]]["ours"]
    factors = Counter(
        Run(path.parent).config().imbalance_factor
        for path in ablation.folder.glob("digitslt-stage2-*/config.json")
    )
    assert (factors[100], factors[10]) == (3, 3)


def test_published_figures_stand_apart_and_have_no_ours(monkeypatch):
    monkeypatch.setattr(study_tables, "run_table", lambda *args, **options: [])
    monkeypatch.setattr(presets, "values", lambda *args: (values_of, "by hand"))
    published = study_tables.imbalance(make_lab(), [0], None)["published"]
    assert all(set(entry) == {"name", "imbalance_factor", "paper"} for entry in published)
    found = {(p["name"], p["imbalance_factor"]): p["paper"] for p in published}
    assert len(found) == 17 * 3
    assert found["CE", 100] == {"all": 38.32}
    assert found["PaCo", 50] == {"all": 56.0}
    assert found["DRO-LT", 10] == {"all": 63.41}
    assert found["RIDE (4 experts)", 100] == {"all": 49.1}
    assert found["RIDE (4 experts)", 10] == {"all": None}
    published = study_tables.large_scale(make_lab(dataset="inat18"), [0], None)["published"]
    assert all(set(entry) == {"name", "paper"} for entry in published)
    found = {entry["name"]: entry["paper"] for entry in published}
    assert found["PaCo"] == {"many": 69.5, "medium": 72.3, "few": 73.1, "all": 72.3}
    assert found["ACE"] == {"many": None, "medium": None, "few": None, "all": 72.9}


@pytest.mark.parametrize(
    ("dataset", "paper", "naive", "best"),
    [
        ("imagenetlt", "ImageNet-LT", (55.3, 31.4, 12.5, 38.0), (62.5, 50.4, 41.5, 53.9)),
        ("inat18", "iNaturalist 2018", (54.7, 46.0, 43.9, 46.1), (71.2, 70.4, 69.7, 70.2)),
        ("digitslt", "ImageNet-LT", (55.3, 31.4, 12.5, 38.0), (62.5, 50.4, 41.5, 53.9)),
    ],
)
def test_the_rows_of_large_scale_stand_beside_their_data_set(
    monkeypatch, dataset, paper, naive, best
):
    asked = []
    monkeypatch.setattr(study_tables, "run_table", lambda lab, rows, *rest: asked.extend(rows))
    monkeypatch.setattr(presets, "values", lambda *args: (values_of, "by hand"))
    assert study_tables.large_scale(make_lab(dataset=dataset), [0], None)["paper_dataset"] == paper
    assert [row.name for row, _ in asked] == [name for name, _ in SEVEN]
    assert [row.layers for row, _ in asked] == [0, 0, 0, 0, 1, 1, 1]
    assert tuple(asked[0][1].items()) == tuple(
        zip(("many", "medium", "few", "all"), naive, strict=True)
    )
    assert tuple(asked[6][1].values()) == best


def test_the_tables_are_packaged_with_their_source():
    tables = study_tables.paper_tables()
    assert "CVPR 2022" in tables["source"]
    assert "50.24" in tables["notes"][0]
    assert tables["large_scale"]["ours"]["WD, then L2-norm"][4] == 11.2  # iNaturalist, many


@pytest.mark.parametrize("dataset", ["digitslt", "fashionmnistlt", "cifar100lt"])
def test_every_row_that_needs_values_has_them(dataset):
    assert dataset in presets.PRESETS
    rows = [row for row, _ in study_tables.ablation_rows()]
    found, _ = presets.values(make_lab(dataset=dataset), rows, [0], None)
    for row in rows:
        assert set(found(row)) - {"loss"} == set(row.searched()), row.title


def test_a_row_without_values_is_named(monkeypatch):
    monkeypatch.setitem(presets.PRESETS, "digitslt", {})
    rows = [Row(True, "CE + WD", 5), Row(True)]
    found, _ = presets.values(make_lab(), rows, [0], None)
    assert found(rows[1]) == {}
    expected = r"digitslt: no values for WD, then CE \+ WD, 5 layers: find some with --search N"
    with pytest.raises(ValueError, match=expected):
        found(rows[0])


def test_other_data_sets_take_the_values_of_fashion_mnist_and_say_so(monkeypatch):
    row = Row(True, "CB + WD", 1)
    monkeypatch.setitem(presets.PRESETS, "fashionmnistlt", {(row.name, 1): {"lr": 5.0, "wd": 6.0}})
    found, origin = presets.values(make_lab(dataset="cifar10lt"), [row], [0], None)
    assert found(row) == {"lr": 5.0, "wd": 6.0}
    assert origin == "those of fashionmnistlt, not searched on this data set (--search N does it)"


def test_a_preset_may_have_a_loss_of_its_own_for_class_balanced_rows():
    values = values_of(Row(True)) | {"loss": "cb-bce"}
    assert Row(True, "CB + WD", 1).stage2_options(values, 0.0)["loss"] == "cb-bce"
    assert Row(True, "CE + WD", 1).stage2_options(values, 0.0)["loss"] == "ce"


SEARCHED = [row for row, _ in study_tables.ablation_rows()]


def search(rows: list[Row], seeds: list[int], budget: Budget, **options):
    here = make_lab(listen=(journal := Journal()), num_frozen=len(seeds), epochs=1, **options)
    values, origin = presets.values(here, rows, seeds, budget)
    return values, origin, journal.labels


def outcomes() -> dict[str, dict]:
    """result.json of every search, by the name of its folder but for the fingerprint."""
    paths = Path("runs/studies").glob("tune-*/result.json")
    return {path.parent.name.rpartition("-")[0]: storage.read_json(path) for path in paths}


def test_every_row_is_searched_with_the_same_budget(monkeypatch):
    """Rows of more layers than are searched take the values of one, whatever their order."""
    asked = {"tau": [], "trained": 0}
    monkeypatch.setattr(presets.heads, "evaluate_adjusted", count_taus(asked["tau"]))
    monkeypatch.setattr(presets, "_train_heads", lambda lab, row, parent, base, c: [1.0] * len(c))
    in_memory = optuna.create_study
    monkeypatch.setattr(
        "wbcli.tune.search.open_study", lambda *args: in_memory(direction="maximize")
    )
    values, origin, _ = search(SEARCHED, [0], Budget(3, 2, 1))
    assert asked["tau"] == [[0.0, 1.5, 3.0]] * 2
    found = outcomes()
    assert len(found) == 11  # rows of one layer
    assert {len(outcome["trials"]) for outcome in found.values()} == {3}
    assert {outcome["selected_on"] for outcome in found.values()} == {"val"}
    for row in SEARCHED:
        assert set(values(row)) == set(row.searched())
        if row.layers == 1:
            name = f"tune-stage2-digitslt-1-{row.after.replace(' ', '')}"
            assert values(row) == found[name]["best"]["params"]
    one = {row.name: values(row) for row in SEARCHED if row.layers == 1}
    for row in SEARCHED[16:]:
        same = row.name.replace("CE + WD + MaxNorm", "CE + MaxNorm + WD")
        assert values(row) == one[same]
    assert origin == "3 trials a row on validation images, one seed"


def count_taus(asked):
    def evaluate(name, classifier, class_counts, chosen_on, taus):
        assert name == "tau"
        asked.append(taus)
        return [1.0 for _ in taus]

    return evaluate


def test_a_search_takes_the_mean_over_the_seeds(monkeypatch):
    """Accuracies lr and 3·lr of two seeds: 2·lr, and the largest lr wins."""
    parents = []

    def evaluate(lab, row, parent, base, candidates):
        parents.append(parent.config())
        assert (base.wd, base.maxnorm, base.unit_norm) == (0.0, None, True)
        return [(1 + 2 * parent.config().seed) * c["lr"] for c in candidates]

    monkeypatch.setattr(presets, "_train_heads", evaluate)
    row = Row(True, "CB + L2-norm", 1)
    values, origin, _ = search([row], [0, 1], Budget(4, 2, 1))
    (found,) = outcomes().values()
    for trial in found["trials"]:
        assert trial["accuracy"] == pytest.approx(2 * trial["params"]["lr"])
    assert values(row) == {"lr": max(trial["params"]["lr"] for trial in found["trials"])}
    assert [(p.seed, p.val_per_class, p.wd) for p in parents] == [(0, 2, LAMBDA), (1, 2, LAMBDA)]
    assert origin == "4 trials a row on validation images, mean of 2 seeds"


def test_tau_is_the_best_mean_over_the_seeds(monkeypatch):
    """Means over two seeds of 0, 1.5 and 3: 2, 3.5 and 3."""
    by_seed = iter([[4.0, 3.0, 1.0], [0.0, 4.0, 5.0]])
    monkeypatch.setattr(presets.heads, "evaluate_adjusted", lambda *args: next(by_seed))
    row = Row(False, "tau-norm")
    values, _, labels = search([row], [0, 1], Budget(3, 2, 5))
    assert values(row) == {"tau": 1.5}
    assert labels == ["seed 0, for the search: naive", "seed 1, for the search: naive"]
    parents = [Run(path.parent) for path in Path("runs/studies").glob("*/config.json")]
    assert [(run.config().wd, run.config().val_per_class) for run in parents] == [(0.0, 2)] * 2


def test_a_search_is_found_again():
    rows = [Row(True, "CB + WD", 1), Row(True, "CB + WD + MaxNorm", 2)]
    first, _, labels = search(rows, [0], Budget(2, 2, 5))
    assert labels == [
        "seed 0, for the search: WD",
        "search: WD, then CB + WD + MaxNorm, 2 layers, 1 of 2",
        "search: WD, then CB + WD + MaxNorm, 2 layers, 2 of 2",
    ]
    second, _, labels = search(rows, [0], Budget(2, 2, 5))
    assert not labels
    assert [first(row) for row in rows] == [second(row) for row in rows]


def test_rows_train_without_the_validation_images_of_their_search():
    row = Row(True, "CB + WD", 1)
    values, _, _ = search([row], [0], Budget(1, 2, 1))
    run = study_tables.run_row(make_lab(), row, 0, values(row))
    assert run.config().val_per_class == 0
    assert "val_accuracy" not in run.metrics()[-1]


def test_the_search_under_project_epoch_trains_runs(monkeypatch):
    """Heads that train together are projected after every step."""
    row = Row(True, "CB + MaxNorm", 1)
    _, _, labels = search([row], [0], Budget(1, 2, 1), project="epoch")
    assert labels[-1] == "search: WD, then CB + MaxNorm, 1 of 1"
    paths = Path("runs/studies").glob("digitslt-stage2-*/config.json")
    assert [Run(path.parent).config().project for path in paths] == ["epoch"]


def test_a_candidate_that_diverges_loses(monkeypatch):
    stage2 = study_tables.Lab.stage2
    left = iter([True, False])

    def diverge(self, *args, **options):
        if next(left):
            raise ArithmeticError("the training loss became nan")
        return stage2(self, *args, **options)

    monkeypatch.setattr(study_tables.Lab, "stage2", diverge)
    search([Row(True, "CB + WD", 2)], [0], Budget(2, 2, 2))
    (found,) = outcomes().values()
    assert found["trials"][0]["accuracy"] == 0.0
    assert found["trials"][1]["accuracy"] > 0
    assert found["best"]["params"] == found["trials"][1]["params"]


def test_the_interval_of_paired_differences_by_hand():
    """1, 2, 3: mean 2, standard deviation 1, and 4.303 of it over √3 to either side."""
    found = study_tables.interval([1.0, 2.0, 3.0])
    half = 4.303 / math.sqrt(3)
    assert found == pytest.approx({"mean": 2, "low": 2 - half, "high": 2 + half})
    assert study_tables.interval([1.0]) is None
