"""What a command says of MaxNorm and of the rows that it holds, or does not."""

from pathlib import Path

import pytest

from wbcli.cli.rows import not_held
from wbcli.config.resolve import resolve_stage1, resolve_stage2
from wbcli.runs.run import Run

SHORT = ("--epochs", "1", "--batch-size", "64")
STRONG = ("--wd", "10", "--lr", "0.05")  # shrinks every row within an epoch


@pytest.fixture
def warning(wbcli):
    """The warning of a stage 2 with these options, on a run of stage 1 with those."""

    def train(*options: object, first: tuple = ()) -> str:
        assert wbcli("stage1", "digitslt", *SHORT, *first).code == 0
        told = wbcli("stage2", *SHORT, "--name", "second", *options).err.splitlines()
        (line,) = (line for line in told if line.startswith("Warning: MaxNorm"))
        return line

    return train


def test_a_maxnorm_that_never_held_a_row_is_told_to_have_done_nothing(warning):
    line = warning(*STRONG, "--maxnorm", "1")
    row = Run(Path("runs/second")).metrics()[-1]
    shortest, longest = min(row["row_norms"]), max(row["row_norms"])
    assert (row["clipped_fraction"], row["started_above"]) == (0, 0)
    assert line == (
        "Warning: MaxNorm held no row in the last epoch: the loss cb with weight decay 10 leaves "
        f"classifier rows of {shortest:.4g} to {longest:.4g} inside the radius "
        f"{row['radius']:.4g}. None began above it: the loss and weight decay did the work here, "
        f"MaxNorm none of it; a --radius below {longest:.4g} binds"
    )


@pytest.mark.parametrize("options", [(), ("--method", "crt"), ("--layers", "2")])
def test_without_weight_decay_the_loss_alone_did_the_work(warning, options):
    line = warning("--wd", "0", "--radius", "100", *options)
    assert "weight decay" not in line
    assert ". None began above it: the loss did the work here, MaxNorm none of it; a" in line


def test_rows_that_began_above_the_radius_are_told(warning):
    """t = 0: all rows but the shortest are longer, and weight decay shrinks them further."""
    text = "90 % of the rows began above it, but none was held after an epoch: the loss and weight"
    assert text in warning(*STRONG, "--maxnorm", "0")


def test_so_are_those_of_the_layer_that_equals_a_cosine(warning):
    """Its rows have length 1, which the run of stage 1 does not record."""
    line = warning(*STRONG, "--radius", "0.9", first=("--head", "cosine"))
    assert "100 % of the rows began above it" in line


def test_filters_count_as_rows(warning):
    """Ten rows of the classifier are shorter than 1.2, the 64 filters before it longer."""
    line = warning(*STRONG, "--radius", "1.2", "--layers", "2")
    assert f"{100 * 64 / 74:.0f} % of the rows began above it" in line


def test_the_last_epoch_in_which_a_row_was_held_is_told():
    """Three epochs, of which the second still held a tenth of the rows."""
    rows = [
        {"epoch": n, "clipped_fraction": share, "row_norms": [0.5, 2.0], "radius": 2.5}
        for n, share in enumerate((0.2, 0.1, 0.0), start=1)
    ]
    settings = resolve_stage2(
        resolve_stage1({"dataset": "digitslt", "data_dir": "."}), "a", {"wd": 0.5}
    )
    assert not_held(settings, rows).endswith(
        "inside the radius 2.5. It held some until epoch 2 of 3, the loss and weight decay did the "
        "rest; a --radius below 2 binds"
    )
    for row in rows:
        row["clipped_fraction"] = 0.0
    text = "None was held after an epoch; a --radius"
    assert text in not_held(settings, rows), "an older run does not know how they began"
