"""Kill wbcli at random moments and continue it with the same command, until it is done.

    python tests/kills.py --kills 200

Each scenario is run once undisturbed, then again and again with SIGKILL, which no process can
answer. What comes out must be the same to the bit, and nobody may have to repair anything.
"""

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # a fork of a process with threads is not safe

import torch  # noqa: F401  imported once, so that what is killed is the work and not an import

from conftest import write_folder
from wbcli import cli
from wbcli.data import datasets  # noqa: F401
from wbcli.runs.run import Run
from wbcli.training import stages  # noqa: F401

CLOCKS = ("seconds", "images_per_second", "created", "path")
SHORT = ("--epochs", "4", "--save-every", "5")


def outcome_of_run(name: str) -> Callable[[Path], object]:
    """Weights and metrics of a finished run."""

    def outcome(folder: Path) -> object:
        run = Run(folder / name)
        files = sorted(os.listdir(run.path))
        best = run.load_state("best.pt")
        best["model"] = {key: value.tolist() for key, value in best["model"].items()}
        weights = (run.path / "model.safetensors").read_bytes()
        return files, weights, best, timeless(run.metrics()), timeless(run.record())

    return outcome


def outcome_of_study(pattern: str) -> Callable[[Path], object]:
    """What a search or a study found, and the weights of all its runs."""

    def outcome(folder: Path) -> object:
        (result,) = folder.glob(f"studies/{pattern}/result.json")
        weights = sorted(folder.glob("studies/*/model.safetensors"))
        parts = {path.parent.name: path.read_bytes() for path in weights}
        return timeless(json.loads(result.read_text())), parts

    return outcome


def timeless(content):
    """JSON without what differs between any two runs."""
    if isinstance(content, dict):
        return {key: timeless(value) for key, value in content.items() if key not in CLOCKS}
    return [timeless(value) for value in content] if isinstance(content, list) else content


SCENARIOS = {  # command line, and what must come out the same
    "stage1": (
        ["stage1", "digitslt", "--name", "it", "--resume", "--val-per-class", "2", *SHORT],
        outcome_of_run("it"),
    ),
    "stage2": (
        ["stage2", "parent", "--name", "it", "--resume", "--loss", "ce", *SHORT],
        outcome_of_run("it"),
    ),
    "pictures": (
        ["stage1", "{root}/pets", "--name", "it", "--resume", "--arch", "resnet8", "--image-size"]
        + ["16", "--batch-size", "4", "--workers", "2", "--epochs", "3", "--save-every", "3"],
        outcome_of_run("it"),
    ),
    "tune": (
        ["tune", "stage1", "digitslt", "--val-per-class", "2", "--trials", "4", "--epochs", "2"],
        outcome_of_study("tune-stage1-*"),
    ),
    "heads": (
        ["tune", "stage2", "parent", "--trials", "12", "--round", "4", "--epochs", "2"],
        outcome_of_study("tune-stage2-*"),
    ),
    "reproduce": (
        ["reproduce", "wd-sweep", "--epochs", "1", "--seeds", "1"],
        outcome_of_study("wd-sweep-*"),
    ),
}


def start(args: list[str], folder: Path) -> int:
    """A process that runs this command line on the runs of `folder`; returns its number."""
    pid = os.fork()
    if pid:
        return pid
    with (folder / "log").open("a") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    code = 1
    try:
        cli.main([*args, "--runs-dir", str(folder), "-q"])
    except SystemExit as end:
        code = end.code
    finally:
        os._exit(code)


def run(args: list[str], folder: Path, killed_after: float | None = None) -> bool:
    """Run it to its end, or kill it; returns whether it ended by itself."""
    pid = start(args, folder)
    if killed_after is not None:
        time.sleep(killed_after)
        os.kill(pid, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code not in (0, -signal.SIGKILL):
        raise SystemExit(f"{' '.join(args)} ended with {code}:\n{(folder / 'log').read_text()}")
    return code == 0


def disturb(name: str, kills: int, chance: random.Random, root: Path) -> tuple[int, int]:
    """Kill a scenario so many times; returns how many runs that took, and how many ended well."""
    args, outcome = SCENARIOS[name]
    args = [arg.format(root=root) for arg in args]
    parent = root / "parent"
    parent.mkdir()
    if name == "pictures":
        write_folder(root / "pets", {"cat": 20, "dog": 12, "eel": 5}, val=2)
    if "parent" in args:
        run([*SCENARIOS["stage1"][0], "--name", "parent"], parent)
    whole = root / "whole"
    shutil.copytree(parent, whole)
    began = time.perf_counter()
    run(args, whole)
    seconds = time.perf_counter() - began
    expected, count, same, done = outcome(whole), 0, 0, 0
    while done < kills:
        folder = root / f"killed-{count}"
        shutil.copytree(parent, folder)
        ended = False
        while not ended:
            late = chance.uniform(0, seconds) if done < kills else None
            ended = run(args, folder, late)
            done += not ended
        count, same = count + 1, same + (outcome(folder) == expected)
        shutil.rmtree(folder)
    return count, same


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200, help="over all scenarios")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scenario", choices=SCENARIOS, action="append")
    given = parser.parse_args()
    chance, failed = random.Random(given.seed), False
    names = given.scenario or ["stage1", "stage2"]
    if {"tune", "heads", "reproduce"} & set(names):
        from wbcli.study import variants  # noqa: F401
        from wbcli.tune import tune  # noqa: F401
    for i, name in enumerate(names):
        kills = given.kills // len(names) + (i < given.kills % len(names))
        with tempfile.TemporaryDirectory() as root:
            count, same = disturb(name, kills, chance, Path(root))
        print(f"{name}: {kills} kills, {same} of {count} runs ended with the same bits", flush=True)
        failed |= same < count
    sys.exit(failed)


if __name__ == "__main__":
    main()
