"""Run directories: names, finding, and files that are whole or not there."""

import json
import os
from pathlib import Path

import pytest
import torch

from wbcli.config.resolve import resolve_stage1
from wbcli.files import storage
from wbcli.runs.find import all_runs, create, find, newest
from wbcli.runs.run import Run

RUNS = Path("runs")


def settings(**options):
    return resolve_stage1({"dataset": "digitslt", "data_dir": "data"} | options)


def made(name: str | None = None, finished: bool = True, created: float | None = None, **options):
    run = create(RUNS, settings(**options), name)
    run.write_record(settings(**options), {"device": "cpu"})
    if created is not None:
        storage.write_json(run.path / "config.json", run.record() | {"created": created})
    if finished:
        run.save_weights({"w": torch.ones(2)})
    return run


def test_new_runs_take_the_next_free_number():
    names = [made().name for _ in range(3)]
    assert names == [f"digitslt-stage1-00{n}" for n in (1, 2, 3)]
    (RUNS / "digitslt-stage1-041").mkdir()
    (RUNS / "digitslt-stage1-mine").mkdir()
    assert made().name == "digitslt-stage1-042"


def test_a_name_that_exists_is_refused_and_nothing_is_lost():
    made("mine")
    before = (RUNS / "mine" / "config.json").read_bytes()
    with pytest.raises(ValueError, match="run 'mine' exists in runs: continue it with --resume"):
        create(RUNS, settings(), "mine")
    assert (RUNS / "mine" / "config.json").read_bytes() == before


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden", "-x", "x" * 101])
def test_names_that_are_not_plain_file_names_are_refused(name):
    with pytest.raises(ValueError, match="cannot name a run"):
        create(RUNS, settings(), name)


def test_the_newest_run_is_the_last_created_that_is_finished():
    made("b", created=1)
    made("a", created=2)
    made("c", created=3, finished=False)
    assert newest(RUNS, ("stage1",)).name == "a"
    assert [run.name for run in all_runs(RUNS)] == ["b", "a", "c"]
    with pytest.raises(ValueError, match="no finished stage2 run in runs: train one"):
        newest(RUNS, ("stage2",))


def test_runs_of_studies_are_never_the_newest():
    made("mine")
    study = Run(RUNS / "studies" / "trial")
    study.path.mkdir(parents=True)
    study.write_record(settings(), {})
    assert [run.name for run in all_runs(RUNS)] == ["mine"]


def test_a_run_is_found_by_name_and_by_path():
    path = made("mine").path.resolve()
    assert find(RUNS, "mine").path.resolve() == path
    assert find(Path("elsewhere"), str(path)).path == path
    with pytest.raises(ValueError, match=r"no run 'other' in runs \(newest there: mine\)"):
        find(RUNS, "other")
    made("half", finished=False, epochs=7)
    with pytest.raises(ValueError, match=r"half is not finished \(0 of 7 epochs\)"):
        find(RUNS, "half")


def test_a_damaged_run_does_not_hide_the_others():
    made("mine")
    for name, text in [("torn", "{"), ("list", "[]"), ("empty", "{}")]:
        (RUNS / name).mkdir()
        (RUNS / name / "config.json").write_text(text)
    told = []
    assert [run.name for run in all_runs(RUNS, told.append)] == ["mine"]
    assert len(told) == 3
    with pytest.raises(ValueError, match=r"run torn: .*config\.json is not valid JSON"):
        Run(RUNS / "torn").config()


def test_a_resumed_run_stays_as_old_as_it_is():
    run = made("mine", created=5.0)
    run.write_record(settings(), {})
    assert run.record()["created"] == 5.0


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(OSError, match="disk full"), storage.replacing(path) as partial:
        partial.write_text("half of the n")
        raise OSError("disk full")
    assert path.read_text() == "old"
    with storage.replacing(path) as partial:
        partial.write_text("new")
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["file"]


def test_a_torn_last_line_of_metrics_is_left_out():
    run = made("mine")
    row = {"seconds": 1.0, "accuracy": {}, "row_norms": [1.0]}
    rows = [{"epoch": epoch} | row for epoch in (1, 2)]
    for row in rows:
        run.append_metrics(row)
    with (run.path / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 3, "lr"')
    assert run.epochs_done() == 2
    assert run.metrics() == rows
    for damage in ("null\n", "{}\n", '{"epoch": 3, "seconds": 1, "accuracy": {}}\n'):
        (run.path / "metrics.jsonl").write_text(damage)
        assert run.metrics() == []


def test_results_of_other_splits_are_kept():
    run = made("mine")
    run.write_result("test", {"nll": 1})
    run.write_result("val", {"nll": 2})
    run.write_result("test", {"nll": 3})
    assert json.loads((run.path / "result.json").read_text()) == {
        "test": {"nll": 3},
        "val": {"nll": 2},
    }


def test_a_damaged_result_is_replaced():
    run = made("mine")
    (run.path / "result.json").write_text("[")
    run.write_result("test", {"nll": 3})
    assert json.loads((run.path / "result.json").read_text()) == {"test": {"nll": 3}}


class Hostile:
    def __reduce__(self):
        return os.mkdir, ("owned",)


def test_checkpoints_hold_tensors_and_containers_only():
    run = made("mine")
    state = {"epoch": 3, "model": {"w": torch.ones(2)}, "accuracy": 5.0}
    run.save_state("best.pt", state)
    assert run.load_state("best.pt")["epoch"] == 3
    run.save_state("checkpoint.pt", state | {"epoch": "3"})
    with pytest.raises(ValueError, match=r"checkpoint.pt lacks best, epoch, .*: it is of another"):
        run.load_state("checkpoint.pt")
    run.save_state("checkpoint.pt", [state])
    with pytest.raises(ValueError, match=r"cannot be read: it holds a list instead of names"):
        run.load_state("checkpoint.pt")
    torch.save(Hostile(), run.path / "checkpoint.pt")
    with pytest.raises(ValueError, match=r"checkpoint.pt cannot be read"):
        run.load_state("checkpoint.pt")
    assert not Path("owned").exists(), "the checkpoint ran code"
    (run.path / "checkpoint.pt").write_bytes(b"torn")
    with pytest.raises(ValueError, match=r"checkpoint.pt cannot be read"):
        run.load_state("checkpoint.pt")


def test_damaged_weights_are_refused():
    run = made("mine")
    (run.path / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(ValueError, match=r"model.safetensors cannot be read"):
        run.load_weights()
