"""Runs, searches and studies that are killed at random moments end as if nothing had been."""

import subprocess
import sys
from pathlib import Path

import pytest

SCENARIOS = ["stage1", "stage2", "pictures", "tune", "heads", "reproduce"]
SCRIPT = Path(__file__).with_name("kills.py")


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_what_is_killed_and_continued_ends_with_the_same_bits(scenario):
    if scenario in ("tune", "heads", "reproduce"):
        pytest.importorskip("optuna")
        pytest.importorskip("matplotlib")
    command = [sys.executable, str(SCRIPT), "--kills", "2", "--scenario", scenario]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith(f"{scenario}: 2 kills, ")
    killed, whole = done.stdout.split()[3], done.stdout.split()[5]
    assert killed == whole
