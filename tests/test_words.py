"""Counts and names in sentences."""

import pytest
import torch

from wbcli import device
from wbcli.words import are, counted, has, quoted, told_apart


@pytest.mark.parametrize(
    ("count", "noun", "said"),
    [
        (0, "file", "0 files"),
        (1, "file", "1 file"),
        (2, "file", "2 files"),
        (1, "class", "1 class"),
        (3, "class", "3 classes"),
        (2, "batch", "2 batches"),
        (1_000, "image", "1000 images"),
    ],
)
def test_a_noun_is_in_the_number_that_fits(count, noun, said):
    assert counted(count, noun) == said


def test_names_that_a_terminal_shows_alike_are_refused():
    """A line feed is shown as a backslash and an n, which is a name of its own."""
    assert told_apart(["a\nb", "c"], "here") == ["a\\nb", "c"]
    for names in (["a\nb", "c", "a\\nb"], ["a", "a"]):
        with pytest.raises(ValueError, match=r"here: two classes are called a.*: rename one"):
            told_apart(names, "here")


def test_a_verb_is_in_the_number_that_fits():
    assert [has(0), has(1), has(2)] == ["have", "has", "have"]
    assert [are(0), are(1), are(2)] == ["are", "is", "are"]


@pytest.mark.parametrize(
    ("count", "said"),
    [
        (0, "0 GPUs are visible to torch"),
        (1, "1 GPU is visible to torch"),
        (2, "2 GPUs are visible to torch"),
    ],
)
def test_gpus_that_are_visible_are_counted(monkeypatch, count, said):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    with pytest.raises(ValueError, match=f"--device cuda:2: {said}"):
        device.resolve("cuda:2")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cat", "'cat'"),
        ("my cat", "'my cat'"),
        ("cat\r", r"'cat\r' (white space: carriage return at its end)"),
        (
            "\u3000cat ",
            r"'\u3000cat ' (white space: ideographic space at its start, space at its end)",
        ),
        (" ", "' ' (white space: space at its start, space at its end)"),
        ("", "''"),
    ],
)
def test_white_space_around_a_name_is_called_by_its_name(name, expected):
    assert quoted(name) == expected
