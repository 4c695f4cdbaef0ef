"""Counts in sentences."""

import pytest

from wbcli.words import counted


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
