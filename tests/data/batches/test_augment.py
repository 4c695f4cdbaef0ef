"""Augmentations by name."""

import pytest

from wbcli.data.batches.augment import augmentation


@pytest.mark.parametrize("own", [(True, True), (True, False), (False, False)])
@pytest.mark.parametrize(
    ("name", "expected"),
    [("basic", None), ("crop", (True, False)), ("flip", (False, True)), ("none", (False, False))],
)
def test_basic_is_what_the_data_set_has_and_the_others_what_they_say(name, own, expected):
    assert augmentation(name, *own) == (expected or own)
