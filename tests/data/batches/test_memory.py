"""Batches and augmentation against a plain loop over images."""

import dataclasses

import numpy as np
import pytest
import torch

from wbcli.data import sources
from wbcli.data.batches.batch import bounds
from wbcli.data.batches.memory import Batches, draw_epoch
from wbcli.data.datasets import Split

CPU = torch.device("cpu")


def split_and_source(count: int = 10, image=(2, 5, 6), padding: int = 2, flip: bool = True):
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (count, *image), dtype=np.uint8)
    source = dataclasses.replace(
        sources.find("digitslt"), padding=padding, flip=flip, mean=(0.25, 0.5), std=(0.5, 0.125)
    )
    return Split(images, np.arange(count)), source


def test_each_image_is_cropped_mirrored_and_normalised_on_its_own():
    split, source = split_and_source()
    batches = Batches(split, source, 4, CPU)
    order, tops, lefts, flips = draw_epoch(10, 2, True, seed=3, epoch=1).tolist()
    assert len(set(tops)) > 1 and len(set(lefts)) > 1 and set(flips) == {0, 1}
    mean, std = np.array([0.25, 0.5]), np.array([0.5, 0.125])
    seen = 0
    for batch in batches.steps(seed=3, epoch=1):
        for image, label in zip(batch.images, batch.labels, strict=True):
            assert label == order[seen]
            padded = np.pad(split.images[label], ((0, 0), (2, 2), (2, 2)))
            crop = padded[:, tops[seen] : tops[seen] + 5, lefts[seen] : lefts[seen] + 6]
            crop = crop[:, :, ::-1] if flips[seen] else crop
            expected = (crop / 255 - mean[:, None, None]) / std[:, None, None]
            np.testing.assert_allclose(image.numpy(), expected, rtol=1e-5, atol=1e-5)
            seen += 1
    assert seen == 10


def test_evaluation_sees_every_image_once_in_order_uncropped():
    split, source = split_and_source()
    pairs = list(Batches(split, source, 4, CPU).evaluate())
    labels = torch.cat([labels for _, labels in pairs])
    images = torch.cat([images for images, _ in pairs]).numpy()
    assert labels.tolist() == list(range(10))
    expected = (split.images / 255 - np.reshape([0.25, 0.5], (2, 1, 1))) / np.reshape(
        [0.5, 0.125], (2, 1, 1)
    )
    np.testing.assert_allclose(images, expected, rtol=1e-5, atol=1e-5)


def test_images_stay_uint8_on_the_device():
    split, source = split_and_source()
    assert Batches(split, source, 4, CPU).images.dtype == torch.uint8


def test_draws_depend_on_seed_and_epoch_only():
    draws = torch.from_numpy(draw_epoch(1000, 4, True, seed=1, epoch=2))
    for other, same in [((1, 2), True), ((1, 3), False), ((2, 2), False)]:
        drawn = torch.from_numpy(draw_epoch(1000, 4, True, *other))
        assert torch.equal(draws, drawn) == same
    order, tops, lefts, flips = draws
    assert order.sort().values.tolist() == list(range(1000))
    for offsets in (tops, lefts):
        assert offsets.unique().tolist() == list(range(9))  # 0 … 2p
    assert 400 < flips.sum() < 600


def test_sets_that_are_not_mirrored_draw_no_flips():
    assert draw_epoch(100, 1, False, seed=0, epoch=0)[3].sum() == 0


@pytest.mark.parametrize(
    ("size", "batch", "expected"),
    [
        (8, 4, [(0, 4), (4, 8)]),
        (10, 4, [(0, 4), (4, 8), (8, 10)]),
        (9, 4, [(0, 4), (4, 9)]),  # batch norm cannot train on one image of one pixel
        (1, 4, [(0, 1)]),
    ],
)
def test_a_last_image_on_its_own_joins_the_batch_before(size, batch, expected):
    assert bounds(size, batch) == expected
