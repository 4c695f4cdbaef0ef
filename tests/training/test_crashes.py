"""Disks that fill up, writers that fail, signals, two processes on one run: nothing is lost."""

import errno
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from conftest import write_folder
from wbcli.config.resolve import resolve_stage1
from wbcli.runs import locks
from wbcli.runs.find import create
from wbcli.runs.run import Run
from wbcli.training import session

RUNS = Path("runs")
TRAIN = ("stage1", "digitslt", "--epochs", "3", "--name", "it")


def settings(**options):
    return resolve_stage1({"dataset": "digitslt", "data_dir": "data"} | options)


def start(*args: str, **options) -> subprocess.Popen:
    command = [sys.executable, "-m", "wbcli", *args]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, **pipes, **options)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.fixture
def stopped(wbcli, monkeypatch) -> Path:
    """A run of three epochs that was stopped after the first."""

    def interrupt(self):
        save(self)
        raise KeyboardInterrupt

    save = session.Training._note_saved
    with monkeypatch.context() as patch:
        patch.setattr(session.Training, "_note_saved", interrupt)
        assert wbcli(*TRAIN).code == 130
    return RUNS / "it"


def fail_after(monkeypatch, size: int) -> None:
    """Have the disk be full after so many bytes of any file."""

    def write_bytes(path, content):
        with path.open("wb") as file:
            file.write(bytes(content)[:size])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", write_bytes)


WRITERS = {
    "config.json": lambda run: run.write_record(settings(), {}),
    "metrics.jsonl": lambda run: run.write_metrics([{"epoch": 1}]),
    "result.json": lambda run: run.write_result("test", {"nll": 1.0}),
    "temperature.json": lambda run: run.write_temperature("last", False, 1.5),
    "best.pt": lambda run: run.save_state("best.pt", {"epoch": 1}),
    "model.safetensors": lambda run: run.save_weights({"w": torch.ones(9)}),
}


@pytest.mark.parametrize("size", [0, 1, 40])
@pytest.mark.parametrize("name", WRITERS)
def test_a_file_of_a_run_is_whole_wherever_the_disk_is_full(monkeypatch, name, size):
    run = create(RUNS, settings(), "it")
    WRITERS[name](run)
    before = files(run.path)
    fail_after(monkeypatch, size)
    with pytest.raises(OSError) as error:
        WRITERS[name](run)
    assert error.value.errno == errno.ENOSPC
    assert f"No space left on device, while writing runs/it/{name}" in str(error.value)
    assert files(run.path) == before


def test_a_line_of_metrics_that_does_not_fit_is_taken_back(monkeypatch):
    run = create(RUNS, settings(), "it")
    row = {"epoch": 1, "seconds": 1.0, "accuracy": None, "row_norms": []}
    run.append_metrics(row)
    before = files(run.path)
    size = len(before["metrics.jsonl"])
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 7, limits[1]))
    try:
        with pytest.raises(OSError, match=r"File too large, while writing runs/it/metrics.jsonl"):
            run.append_metrics(row | {"epoch": 2})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert files(run.path) == before


def test_an_object_that_fails_while_it_is_saved_leaves_the_checkpoint_before(monkeypatch):
    run = create(RUNS, settings(), "it")
    run.save_state("best.pt", {"epoch": 1, "model": {}, "accuracy": 1.0})
    before = files(run.path)

    class Fails:
        def __reduce__(self):
            raise RuntimeError("cannot be saved")

    with pytest.raises(RuntimeError, match="cannot be saved"):
        run.save_state("best.pt", {"epoch": 2, "model": Fails(), "accuracy": 2.0})
    assert files(run.path) == before


def test_a_training_whose_disk_is_full_says_so_and_keeps_its_last_epoch(
    wbcli, stopped, monkeypatch
):
    before = (stopped / "checkpoint.pt").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(session.Training, "begin", lambda self: fail_after(patch, 1000))
        result = wbcli(*TRAIN, "--resume")
    assert (result.code, result.out) == (1, "")
    assert result.err.splitlines()[-1] == (
        "Error: No space left on device, while writing runs/it/checkpoint.pt; 1 of 3 epochs are "
        "saved; continue with the same command and --name it --resume"
    )
    assert (stopped / "checkpoint.pt").read_bytes() == before
    assert not list(stopped.glob(".*"))
    assert wbcli(*TRAIN, "--resume").code == 0


def test_a_disk_that_is_full_from_the_start_leaves_nothing_behind():
    def small():
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))

    process = start(*TRAIN, preexec_fn=small)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (1, "")
    assert err.splitlines()[-1] == (
        "Error: File too large, while writing runs/it/checkpoint.pt; nothing was trained yet"
    )
    assert list(RUNS.iterdir()) == []


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 2 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("there is no mount")
    if done.returncode:
        pytest.skip(f"cannot mount a small disk: {done.stderr.strip()}")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_real_disk_that_fills_up_and_has_room_again(wbcli, small_disk):
    command = (*TRAIN, "--runs-dir", str(small_disk))
    (small_disk / "ballast").write_bytes(bytes(1_000_000))
    result = wbcli(*command)
    assert result.code == 1
    assert "No space left on device, while writing" in result.err
    (small_disk / "ballast").unlink()
    result = wbcli(*command, "--resume")
    assert result.code == 0, result.err
    assert Run(small_disk / "it").finished


def train_pets(**options) -> subprocess.Popen:
    """A long training on pictures, with two processes that decode them, after its first epoch."""
    write_folder(Path("pets"), {"cat": 200, "dog": 100}, test=200)
    small = ("--arch", "resnet8", "--image-size", "32", "--epochs", "500", "--workers", "2")
    process = start("stage1", "pets", "--name", "it", *small, **options)
    for line in process.stderr:
        if line.startswith("epoch 1/"):
            break
    return process


def test_a_process_that_decodes_and_is_killed_ends_the_training_in_a_sentence():
    if not Path("/proc/self/task").is_dir():
        pytest.skip("needs Linux's /proc")
    process = train_pets()
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(children[0]), signal.SIGKILL)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1, err
    last = err.splitlines()[-1]
    assert last.startswith("Error: a process that decodes pictures was killed, perhaps for want of")
    assert last.endswith(" are saved; continue with the same command and --name it --resume")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_to_all_processes_of_a_job_is_one_to_the_training(number, code):
    """As a batch system sends it, or a terminal that is closed."""

    def alone():
        os.setsid()
        signal.signal(signal.SIGHUP, signal.SIG_DFL)

    process = train_pets(preexec_fn=alone)
    os.killpg(process.pid, number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert "continue with the same command and --name it --resume" in err
    assert Run(RUNS / "it").load_state("checkpoint.pt")["epoch"] >= 1


def test_two_processes_on_one_run(wbcli):
    owner = start("stage1", "digitslt", "--epochs", "500", "--name", "it")
    try:
        for line in owner.stderr:
            if line.startswith("epoch 1/"):
                break
        since = time.strftime("%Y-%m-%d")
        for more in ([], ["--resume"]):
            second = wbcli("stage1", "digitslt", "--epochs", "500", "--name", "it", *more)
            assert (second.code, second.out) == (1, "")
            sentence = second.err.splitlines()[-1]
            assert sentence.startswith(f"Error: run it is in use by process {owner.pid} on ")
            assert f" on {os.uname().nodename} since {since}" in sentence
            assert sentence.endswith(": wait until it has ended, or stop it")
    finally:
        owner.kill()
        owner.communicate()
    before = Run(RUNS / "it").epochs_done()
    assert (RUNS / "it" / locks.NAME).exists(), "a killed process leaves its file"
    again = start("stage1", "digitslt", "--epochs", "500", "--name", "it", "--resume")
    for line in again.stderr:  # the file locks nothing
        if line.startswith("epoch "):
            assert int(line.split()[1].split("/")[0]) in (before, before + 1)
            break
    again.send_signal(signal.SIGTERM)
    again.communicate(timeout=60)
    assert again.returncode == 143
    assert not (RUNS / "it" / locks.NAME).exists()


@pytest.mark.parametrize("kept", ["checkpoint.pt", "model.safetensors"])
@pytest.mark.parametrize(
    ("command", "remedy"),
    [
        (("stage1", "digitslt"), "continue it with --resume, or choose another --name"),
        (("normalize", "whole"), "choose another --name"),
    ],
)
def test_a_run_without_its_config_is_not_overwritten(wbcli, kept, command, remedy):
    assert wbcli("stage1", "digitslt", "--epochs", "1", "--name", "whole").code == 0
    (RUNS / "it").mkdir()
    shutil.copy(RUNS / "whole" / kept, RUNS / "it")
    before = files(RUNS / "it")
    result = wbcli(*command, "--name", "it")
    assert (result.code, result.out) == (2, "")
    assert f"run 'it' exists in runs: {remedy} (see" in result.err
    assert files(RUNS / "it") == before


def test_a_run_that_lost_its_config_goes_on(wbcli, stopped):
    (stopped / "config.json").unlink()
    result = wbcli(*TRAIN, "--resume")
    assert result.code == 0, result.err
    assert Run(stopped).config().epochs == 3


@pytest.mark.parametrize("theirs", [("best.pt", "metrics.jsonl"), (".mine.partial",)])
@pytest.mark.parametrize("more", [(), ("--resume",)])
def test_a_folder_of_other_things_is_left_alone(wbcli, theirs, more):
    (RUNS / "it").mkdir(parents=True)
    for name in theirs:
        (RUNS / "it" / name).write_text("mine")
    result = wbcli(*TRAIN, *more)
    assert (result.code, result.out) == (2, "")
    assert "runs/it is no run, it holds " in result.err
    assert files(RUNS / "it") == dict.fromkeys(theirs, b"mine")


@pytest.mark.parametrize("name", [locks.NAME, f".checkpoint.pt.{os.getpid()}.partial"])
def test_a_link_in_a_run_of_somebody_else_destroys_nothing(wbcli, stopped, name):
    Path("precious").write_text("mine")
    (stopped / name).symlink_to(Path("precious").resolve())
    result = wbcli(*TRAIN, "--resume")
    assert result.code == (1 if name == locks.NAME else 0)
    assert name != locks.NAME or "runs/it/.lock" in result.err
    assert Path("precious").read_text() == "mine"


def test_a_disk_without_any_room_names_the_file_and_keeps_the_name_free(wbcli, small_disk):
    with pytest.raises(OSError, match="No space left"):
        (small_disk / "ballast").write_bytes(bytes(3_000_000))
    result = wbcli(*TRAIN, "--runs-dir", str(small_disk))
    assert (result.code, result.out) == (1, "")
    assert f"No space left on device, while writing {small_disk}/it/.lock" in result.err
    assert os.listdir(small_disk) == ["ballast"]


def test_numbers_that_cannot_be_kept_are_printed_all_the_same(wbcli, monkeypatch):
    assert wbcli("stage1", "digitslt", "--epochs", "1", "--name", "it").code == 0
    fail_after(monkeypatch, 0)
    result = wbcli("eval", "it", "--json")
    assert result.code == 0
    assert result.json["run"] == "it"
    assert result.err == (
        "Warning: the numbers of it are not kept: No space left on device, while writing "
        "runs/it/result.json\n"
    )


def test_what_a_killed_process_had_half_written_is_deleted():
    run = create(RUNS, settings(), "it")
    for name in (".checkpoint.pt.1.partial", ".features.1.0", locks.NAME):
        (run.path / name).write_bytes(b"half")
    for name in ("notes.txt", ".mine.partial", ".features.csv"):
        (run.path / name).write_text("mine")
    with run.locked():
        owner = json.loads((run.path / locks.NAME).read_text())
        assert owner["process"] == os.getpid()
    assert sorted(os.listdir(run.path)) == [".features.csv", ".mine.partial", "notes.txt"]


SIGNALLED = """
import os, signal, sys
from wbcli.training import signals

signals.install()
with signals.whole():
    for name in sys.argv[1:]:
        os.kill(os.getpid(), getattr(signal, name))
        print("still here", flush=True)
print("too far")
"""


@pytest.mark.parametrize(
    ("names", "said", "code"),
    [
        (["SIGTERM"], 1, 143),
        (["SIGHUP"], 1, 129),
        (["SIGTERM", "SIGTERM"], 1, 143),
        (["SIGINT", "SIGINT"], 1, 130),
        (["SIGTERM", "SIGINT"], 1, 130),
    ],
)
def test_the_first_signal_waits_for_the_step_and_the_second_does_not(names, said, code):
    def foreground():  # a shell's background jobs are started to ignore SIGINT, nohup's SIGHUP
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)

    command = [sys.executable, "-c", SIGNALLED, *names]
    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=foreground)
    assert done.returncode == code
    assert done.stdout == "still here\n" * said


def test_the_first_signal_is_raised_where_the_block_ends():
    code = (
        "import os, signal\nfrom wbcli.training import signals\nsignals.install()\n"
        "try:\n"
        "    with signals.whole(), signals.whole():\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "        print('in')\n"
        "    print('after')\n"
        "except SystemExit as error:\n"
        "    print(error.code)\n"
        "with signals.whole():\n"
        "    print('once')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "in\n143\nonce\n"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB."), "2 GiB"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 9 bytes"), "9 bytes"),
        (MemoryError(), "out of memory: lower"),
    ],
)
def test_out_of_memory_says_what_to_lower(wbcli, monkeypatch, error, said):
    def fail(*args, **options):
        raise error

    monkeypatch.setattr(session, "fit", fail)
    result = wbcli(*TRAIN)
    assert result.code == 1
    sentence = result.err.splitlines()[-1]
    assert sentence.startswith("Error: out of memory") and said in sentence
    assert (
        "lower --batch-size, or --image-size for pictures on disk, raise --accumulate" in sentence
    )
    assert list(RUNS.iterdir()) == [], "the name is free again"
