"""The parts of studies: found again, continued, and never trained twice."""

from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from conftest import write_cifar100
from training.test_fit import equal
from wbcli.config.resolve import resolve_stage1
from wbcli.config.settings import Config
from wbcli.data import recorded
from wbcli.runs.find import create, fingerprint, part
from wbcli.runs.run import Run
from wbcli.training import features, lab, stages

CPU = torch.device("cpu")
STUDIES = Path("runs") / "studies"
RATES = {"lr": 0.02, "wd": 0.03}


class Journal:
    """Hears the labels of what is trained; with `stop`, interrupts after so many epochs."""

    def __init__(self, stop: int | None = None):
        self.labels, self.stop = [], stop

    @contextmanager
    def __call__(self, label, settings, images):
        self.labels.append(label)
        yield stages.Listener(on_epoch=self.on_epoch)

    def on_epoch(self, row):
        if self.stop is not None:
            self.stop -= 1
            if self.stop == 0:
                raise KeyboardInterrupt


def make_lab(studies: Path = STUDIES, listen=lab.silent, num_frozen=2, **options) -> lab.Lab:
    defaults = {"dataset": "digitslt", "data_dir": "data", "precision": "fp32"}
    short = {"epochs": 2, "batch_size": 64}
    return lab.Lab(studies, CPU, defaults | short | options, listen, num_frozen)


def same_epochs(first: Run, second: Run) -> bool:
    """Whether all metrics are equal, but for the time they took."""
    times = {"seconds", "images_per_second"}

    def timeless(run):
        return [{k: v for k, v in row.items() if k not in times} for row in run.metrics()]

    return timeless(first) == timeless(second)


def test_a_finished_part_is_found_and_not_trained_again():
    journal = Journal()
    first = make_lab(listen=journal).stage1(3, "one")
    files = {path: path.stat().st_mtime_ns for path in first.path.iterdir()}
    second = make_lab(listen=journal).stage1(3, "two")
    assert journal.labels == ["one"]
    assert second == first
    assert {path: path.stat().st_mtime_ns for path in first.path.iterdir()} == files
    make_lab(listen=journal).stage1(4, "another seed")
    assert journal.labels == ["one", "another seed"]


def test_stage2_and_normalize_are_found_again():
    journal = Journal()
    for label in ("first", "second"):
        here = make_lab(listen=journal)
        parent = here.stage1(0, f"{label} stage 1")
        head = here.stage2(parent, f"{label} stage 2", **RATES)
        normal = here.normalize(parent, f"{label} normalize", tau=1.9)
    assert journal.labels == ["first stage 1", "first stage 2", "first normalize"]
    assert (head.config().parent, normal.config().parent) == (parent.name, parent.name)
    assert (head.config().lr, head.config().wd, normal.config().tau) == (0.02, 0.03, 1.9)


def test_a_changed_option_trains_what_it_changes_and_no_more():
    make_lab().stage2(make_lab().stage1(0, ""), "", **RATES)
    journal = Journal()
    changed = make_lab(listen=journal, beta=0.9)  # of the class-balanced loss: stage 2 alone
    changed.stage2(changed.stage1(0, "stage 1"), "stage 2", **RATES)
    assert journal.labels == ["stage 2"]
    journal = Journal()
    changed = make_lab(listen=journal, project="epoch")  # of the constraint
    changed.stage2(changed.stage1(0, "stage 1"), "stage 2", **RATES)
    assert journal.labels == ["stage 2"]
    journal = Journal()
    changed = make_lab(listen=journal, lr=0.03)
    changed.stage2(changed.stage1(0, "stage 1"), "stage 2", **RATES)
    assert journal.labels == ["stage 1", "stage 2"]


def test_options_reach_the_stage_they_belong_to():
    here = make_lab(beta=0.9, project="epoch", epochs=1, batch_size=32, deterministic=True)
    first = here.stage1(0, "", wd=0.25).config()
    assert (first.epochs, first.batch_size, first.wd) == (1, 32, 0.25)
    assert (first.beta, first.project, first.deterministic) == (0.9999, "step", True)
    second = here.stage2_settings(here.stage1(0, "", wd=0.25), lr=0.5)
    assert (second.epochs, second.batch_size, second.lr) == (10, 64, 0.5)
    assert (second.beta, second.project, second.deterministic) == (0.9, "epoch", True)


def test_a_part_that_was_interrupted_ends_as_if_it_never_was():
    whole = make_lab(Path("whole"), epochs=3).stage1(0, "")
    with pytest.raises(KeyboardInterrupt):
        make_lab(listen=Journal(stop=2), epochs=3).stage1(0, "")
    journal = Journal()
    run = make_lab(listen=journal, epochs=3).stage1(0, "again")
    assert journal.labels == ["again"]
    assert run.name == whole.name
    assert equal(whole.load_weights(), run.load_weights())
    assert same_epochs(whole, run)


def test_a_stage2_that_was_interrupted_ends_as_if_it_never_was():
    """On cached features, with a radius that is placed once."""
    there = make_lab(Path("whole"))
    whole = there.stage2(there.stage1(0, ""), "", maxnorm=0.1, **RATES)
    parent = make_lab().stage1(0, "")
    with pytest.raises(KeyboardInterrupt):
        make_lab(listen=Journal(stop=4)).stage2(parent, "", maxnorm=0.1, **RATES)
    run = make_lab().stage2(parent, "", maxnorm=0.1, **RATES)
    assert run.name == whole.name
    assert equal(whole.load_weights(), run.load_weights())
    assert same_epochs(whole, run)


def test_a_normalisation_that_was_interrupted_is_made_again(monkeypatch):
    parent = make_lab().stage1(0, "")
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Run, "save_weights", _interrupt)
        make_lab().normalize(parent, "", tau=1.0)
    journal = Journal()
    run = make_lab(listen=journal).normalize(parent, "again", tau=1.0)
    assert journal.labels == ["again"]
    assert run.finished
    assert len(run.metrics()) == 1


def _interrupt(*args):
    raise KeyboardInterrupt


def test_a_finished_part_keeps_no_checkpoint():
    run = make_lab().stage1(0, "")
    assert run.finished
    assert not (run.path / "checkpoint.pt").exists()


def test_features_of_a_network_are_computed_once_and_change_nothing(monkeypatch):
    made = []
    compute = features.of_splits

    def counted(network, *args, **kwargs):
        made.append(network)
        return compute(network, *args, **kwargs)

    monkeypatch.setattr(features, "of_splits", counted)
    here = make_lab()
    parent = here.stage1(0, "")
    shared = [here.stage2(parent, "", lr=lr, wd=0.03) for lr in (0.02, 0.05)]
    assert len(made) == 1
    for run in shared:
        alone = create(Path("alone"), run.config(), run.name)
        stages.train(run.config(), alone, recorded.for_run(run.config()), CPU, STUDIES)
        assert equal(alone.load_weights(), run.load_weights())


@pytest.mark.parametrize("num_frozen", [1, 2])
def test_a_lab_keeps_so_many_networks_and_no_more(num_frozen):
    here = make_lab(num_frozen=num_frozen, epochs=1)
    parents = [here.stage1(seed, "") for seed in range(3)]
    networks = [here.frozen(parent, here.stage2_settings(parent))[0] for parent in parents]
    assert [network for network, _ in here._frozen.values()] == networks[-num_frozen:]
    again = here.frozen(parents[-1], here.stage2_settings(parents[-1]))[0]
    assert again is networks[-1]


def test_networks_whose_last_layers_train_are_not_frozen():
    """Two layers move together; nothing that they train on can be cached."""
    here = make_lab(epochs=1)
    here.stage2(here.stage1(0, ""), "", layers=2, **RATES)
    assert not here._frozen


def test_another_data_folder_trains_nothing_again_and_is_read_by_what_follows():
    write_cifar100(Path("before"), 3)
    common = {"dataset": "cifar100lt", "arch": "resnet8", "epochs": 1, "imbalance_factor": 3}
    make_lab(data_dir="before", **common).stage1(0, "")
    Path("before").rename("after")
    journal = Journal()
    here = make_lab(listen=journal, data_dir="after", **common)
    parent = here.stage1(0, "stage 1")
    head = here.stage2(parent, "stage 2", lr=0.02, wd=0.0)
    normal = here.normalize(parent, "normalize", tau=1.0)
    assert journal.labels == ["stage 2", "normalize"]
    assert (head.config().data_dir, normal.config().data_dir) == ("after", "after")


def test_a_data_set_is_read_once_for_each_subset(monkeypatch):
    read = []
    load = lab.for_run

    def counted(settings, *args, **options):
        read.append((settings.imbalance_factor, settings.val_per_class))
        return load(settings, *args, **options)

    monkeypatch.setattr(lab, "for_run", counted)
    here = make_lab(epochs=1)
    for options in ({}, {"wd": 0.0}, {"imbalance_factor": 10}, {"val_per_class": 2}):
        here.stage1(0, "", **options)
    assert read == [(50, 0), (10, 0), (50, 2)]


UNMEASURED = '{"epoch": 2, "seconds": 1, "accuracy": null, "row_norms": []}\n'


def test_both_stages_of_a_part_measure_as_often_as_the_study_says():
    here = make_lab(epochs=3, eval_every=2)
    parent = here.stage1(0, "")
    child = here.stage2(parent, "", epochs=3)
    for run in (parent, child):
        assert [row["epoch"] for row in run.metrics() if row["accuracy"]] == [2, 3]
        assert lab.last_epoch(run) == run.metrics()[-1]


@pytest.mark.parametrize(
    "damage", ["", '{"epoch": 1, "seconds": 1, "accuracy": {}}\n{"ep', UNMEASURED]
)
def test_a_part_whose_metrics_are_lost_is_named(damage):
    run = make_lab().stage1(0, "")
    assert lab.last_epoch(run)["epoch"] == 2
    (run.path / "metrics.jsonl").write_text(damage)
    with pytest.raises(ValueError, match=r"metrics.jsonl is missing or damaged: delete the folder"):
        lab.last_epoch(run)


def settings(**options) -> Config:
    defaults = {"dataset": "digitslt", "data_dir": "data"}
    return resolve_stage1(defaults | options)


def test_a_part_is_named_by_its_settings():
    """Every setting but the data folder; the factor of the command line is a float."""
    name = part(STUDIES, settings()).name
    prefix, _, mark = name.rpartition("-")
    assert prefix == "digitslt-stage1"
    assert len(mark) == 8
    for same in ({"data_dir": "elsewhere"}, {"imbalance_factor": 50.0}, {"loss": "ce"}):
        assert part(STUDIES, settings(**same)).name == name
    others = ({"seed": 1}, {"wd": 0.0}, {"val_per_class": 1}, {"radius": 1.0}, {"unit_norm": True})
    names = {part(STUDIES, settings(**other)).name for other in others}
    assert len(names - {name}) == len(others)


def test_a_fingerprint_does_not_depend_on_the_order_of_settings():
    assert fingerprint({"a": 1, "b": None}) == fingerprint({"b": None, "a": 1})
    assert fingerprint({"a": 1, "data_dir": "x"}) == fingerprint({"a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})


def test_a_part_that_is_finished_is_returned_as_it_is(monkeypatch):
    run = make_lab().stage1(0, "")
    monkeypatch.setattr(stages, "train", _interrupt)
    assert stages.train_part(run.config(), STUDIES, None, CPU) == run
