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


# Views and streams


@pytest.fixture
def wide() -> Batches:
    """40 images with labels 0 … 3, of which class 3 has four; 81 crops, and mirrors."""
    split, source = split_and_source(count=40, padding=4)
    return Batches(Split(split.images, np.repeat([0, 1, 2, 3], [16, 12, 8, 4])), source, 16, CPU)


def joined(batches, *drawn, **how) -> dict[str, list[torch.Tensor]]:
    """Views of the first and of the second stream over an epoch, and what the images are."""
    parts = list(batches.steps(*drawn, **how))

    def views(name):
        lists = [v if isinstance(v, list) else [v] for v in (getattr(b, name) for b in parts)]
        return [torch.cat(view) for view in zip(*lists, strict=True)]

    two = parts[0].other_images is not None
    return {
        "images": views("images"),
        "other": views("other_images") if two else [],
        "index": torch.cat([batch.index for batch in parts]),
    }


def test_the_first_view_of_the_first_stream_is_what_it_is_alone(wide):
    alone = joined(wide, 3, 1)
    for streams in [("instance",), ("instance", "reversed"), ("instance", "instance")]:
        for views in [("basic",), ("basic", "basic"), ("basic", "none")]:
            found = joined(wide, 3, 1, streams, views)
            assert torch.equal(found["index"], alone["index"])
            assert torch.equal(found["images"][0], alone["images"][0])


def test_a_view_is_a_function_of_seed_epoch_and_its_number(wide):
    """Whatever the other views are, however large the batches, wherever an epoch begins."""
    whole = joined(wide, 3, 1, views=("basic", "basic"))
    first, second = whole["images"]
    assert not torch.equal(first, second)
    assert torch.equal(joined(wide, 3, 1, views=("none", "basic"))["images"][1], second)
    assert torch.equal(joined(wide, 3, 1, views=("basic",) * 3)["images"][1], second)
    wide.batch_size = 5
    assert torch.equal(joined(wide, 3, 1, views=("basic", "basic"))["images"][1], second)
    left = joined(wide, 3, 1, views=("basic", "basic"), first=3)["images"][1]
    assert torch.equal(left, second[15:])
    for other in [(4, 1), (3, 2)]:
        found = joined(wide, *other, views=("basic", "basic"))
        for view in (0, 1):  # image by image: 162 crops, of which few are the same by chance
            one, two = (x["images"][view][x["index"].argsort()] for x in (found, whole))
            assert (one == two).flatten(1).all(1).sum() < 4


def test_two_streams_of_the_same_images_have_crops_of_their_own(wide):
    found = joined(wide, 0, 0, ("instance", "instance"), ("basic", "basic"))
    split = wide.steps(0, 0, ("instance", "instance"))
    other_index = torch.cat([batch.other_labels for batch in split])
    assert sorted(other_index.tolist()) == sorted(wide.labels.tolist())
    views = [*found["images"], *found["other"]]
    for i, one in enumerate(views):
        assert not any(torch.equal(one, two) for two in views[i + 1 :])


def test_each_augmentation_leaves_out_what_it_says(wide):
    """The middle crop, mirrored or not, is what evaluation sees."""
    plain = torch.cat([images for images, _ in wide.evaluate()])
    views = ("none", "flip", "crop", "basic")
    found = joined(wide, 0, 0, views=views)
    plain = plain[found["index"]]
    none, flip, crop, basic = found["images"]
    assert torch.equal(none, plain)
    straight = (flip == plain).flatten(1).all(1)
    mirrored = (flip == plain.flip(3)).flatten(1).all(1)
    assert (straight ^ mirrored).all() and straight.any() and mirrored.any()
    assert (crop != plain).flatten(1).any(1).float().mean() > 0.9
    for view, allowed in ((crop, (False,)), (basic, (False, True))):
        for image, index in zip(view, found["index"].tolist(), strict=True):
            assert crop_of(wide, index, image) in allowed
    assert {crop_of(wide, i, x) for i, x in zip(found["index"].tolist(), basic, strict=True)} == {
        False,
        True,
    }


def crop_of(batches: Batches, index: int, image: torch.Tensor) -> bool | None:
    """Whether this crop of the image is mirrored; None: it is none."""
    padded = batches.normalise(batches.images[index : index + 1])[0]
    crops = padded.unfold(1, 5, 1).unfold(2, 6, 1).permute(1, 2, 0, 3, 4)  # [9, 9, C, H, W]
    for mirrored in (False, True):
        wanted = image.flip(2) if mirrored else image
        if (crops == wanted).flatten(2).all(2).any():
            return mirrored
    return None


def test_an_image_that_comes_again_has_another_crop_each_time(wide):
    """Class 3 has four images of 40, and a quarter of what is drawn."""
    found = joined(wide, 0, 0, ("balanced",))
    rare = [i for i in range(36, 40) if (found["index"] == i).sum() > 1]
    assert len(rare) >= 2
    for i in rare:
        crops = found["images"][0][found["index"] == i]
        assert len({crop.numpy().tobytes() for crop in crops}) > 1


@pytest.mark.parametrize("epoch", [1, 4])
def test_under_the_crops_of_one_epoch_an_image_has_the_same_one_whenever_it_comes(wide, epoch):
    once = joined(wide, 0, 1)
    expected = once["images"][0][once["index"].argsort()]
    found = joined(wide, 0, epoch, ("balanced",), view_epoch=1)
    assert len(found["index"].unique()) < 40
    assert torch.equal(found["images"][0], expected[found["index"]])


def test_images_and_labels_of_both_streams_belong_together(wide):
    wide.padding, wide.flip = 0, False  # every pixel in its place
    wide.images = wide.images[:, 4:9, 4:10]
    plain = torch.cat([images for images, _ in wide.evaluate()])
    by_pixels = {image.numpy().tobytes(): i for i, image in enumerate(plain)}
    for batch in wide.steps(1, 0, ("reversed", "class-aware"), ("basic", "none")):
        for views, labels in [
            (batch.images, batch.labels),
            (batch.other_images, batch.other_labels),
        ]:
            first, second = ([by_pixels[x.numpy().tobytes()] for x in view] for view in views)
            assert first == second
            assert wide.labels[first].tolist() == labels.tolist()
