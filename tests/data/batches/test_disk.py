"""Batches of pictures on disk against pictures decoded one by one."""

import dataclasses
import gc
import multiprocessing
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import encoded, photo, write_folder, write_pictures
from wbcli.data import datasets, sources
from wbcli.data.batches.disk import IN_ORDER, Decoder, PictureBatches
from wbcli.data.batches.sampling import epoch_order
from wbcli.data.batches.splits import batches_of
from wbcli.data.datasets import Split
from wbcli.data.pictures import decoding
from wbcli.data.pictures import workers as processes
from wbcli.data.pictures.decoding import BrokenPicture, Pictures

CPU = torch.device("cpu")
SOURCE = dataclasses.replace(sources.find("mine"), mean=(0.25, 0.5, 0.75), std=(0.5, 0.25, 0.125))
SIZE = 16


def split_of(count: int, lines: bool = False) -> Split:
    names = [f"{i:03d}.jpg" for i in range(count)]
    write_pictures(Path(), names, size=20)
    origin = {"listed_in": "train.txt", "lines": np.arange(1, count + 1)} if lines else {}
    return Split(Pictures.of(Path(), names, **origin), np.arange(count) % 3)


def batches_over(split: Split, batch_size: int = 4) -> PictureBatches:
    return PictureBatches(split, SOURCE, SIZE, batch_size, CPU)


def normalised(image: np.ndarray) -> np.ndarray:
    return ((image / 255 - SOURCE.mean) / SOURCE.std).transpose(2, 0, 1)


def test_an_epoch_is_in_its_order_with_the_crops_of_each_picture():
    split = split_of(10)
    batches, decoder = batches_over(split), Decoder(split, SIZE)
    order = torch.from_numpy(epoch_order("instance", split.labels, seed=3, epoch=1))
    assert order.sort().values.tolist() == list(range(10))
    pairs = [(batch.images, batch.labels) for batch in batches.steps(seed=3, epoch=1)]
    assert [len(labels) for _, labels in pairs] == [4, 4, 2]
    images = torch.cat([images for images, _ in pairs]).numpy()
    for i, image in zip(order.tolist(), images, strict=True):
        expected = normalised(decoder.decode(3, 1, i))
        np.testing.assert_allclose(image, expected, rtol=1e-5, atol=1e-5)
    assert torch.cat([labels for _, labels in pairs]).tolist() == (order % 3).tolist()


def test_evaluation_sees_the_centre_of_every_picture_once_in_order():
    split = split_of(10)
    pairs = list(batches_over(split).evaluate())
    assert torch.cat([labels for _, labels in pairs]).tolist() == split.labels.tolist()
    images = torch.cat([images for images, _ in pairs]).numpy()
    for i, image in enumerate(images):
        content = split.images.path(i).read_bytes()
        expected = normalised(decoding.decode(content, (SIZE, SIZE), decoding.eval_crop))
        np.testing.assert_allclose(image, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("workers", [1, 3])
def test_the_number_of_workers_changes_nothing(workers, monkeypatch):
    monkeypatch.setattr(processes, "PIECE", 3)  # a batch of 8 comes from three pieces
    split = split_of(17)

    def seen() -> list[torch.Tensor]:
        batches = batches_over(split, batch_size=8)
        trained = [batch for epoch in (0, 1) for batch in batches.steps(1, epoch)]
        pairs = [(batch.images, batch.labels) for batch in trained]
        return [tensor for pair in [*pairs, *batches.evaluate()] for tensor in pair]

    monkeypatch.setattr(decoding, "workers", 0)
    expected = seen()
    monkeypatch.setattr(decoding, "workers", workers)
    found = seen()
    assert [len(tensor) for tensor in found[::2]] == [8, 9, 8, 9, 8, 8, 1]
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_draws_depend_on_seed_epoch_and_picture_only():
    decoder = Decoder(split_of(2), SIZE)
    first = decoder.decode(0, 0, 0)
    assert (decoder.decode(0, 0, 0) == first).all()
    for other in [(1, 0, 0), (0, 1, 0)]:
        assert (decoder.decode(*other) != first).any()


def test_half_of_the_pictures_are_mirrored():
    """A ramp from dark to bright stays one in every crop, or falls."""
    ramp = np.arange(40, dtype=np.uint8)[None, :, None].repeat(40, 0).repeat(3, 2) * 6
    Path("ramp.png").write_bytes(encoded(Image.fromarray(ramp)))
    decoder = Decoder(Split(Pictures.of(Path(), ["ramp.png"]), np.zeros(1, int)), SIZE)
    rising = []
    for epoch in range(400):
        image = decoder.decode(0, epoch, 0).astype(int)
        rising.append(image[:, 0].sum() < image[:, -1].sum())
    assert 160 < sum(rising) < 240  # half, give or take four errors
    image = decoder.decode(0, IN_ORDER, 0).astype(int)
    assert image[:, 0].sum() < image[:, -1].sum(), "evaluation mirrors nothing"


def test_a_view_has_its_crops_in_the_order_of_the_epoch():
    split = split_of(10)
    batches, decoder = batches_over(split), Decoder(split, SIZE)
    images = torch.cat([batch.images for batch in batches.steps(2, 5, view_epoch=1)]).numpy()
    for i, image in zip(epoch_order("instance", split.labels, 2, 5).tolist(), images, strict=True):
        np.testing.assert_allclose(image, normalised(decoder.decode(2, 1, i)), atol=1e-5)


def views_of(batches, *drawn, **how) -> tuple[list, torch.Tensor]:
    """The views of both streams over an epoch, and which pictures those of the first are."""
    parts = list(batches.steps(*drawn, **how))
    views = zip(*([*batch.images, *batch.other_images] for batch in parts), strict=True)
    return [torch.cat(view) for view in views], torch.cat([batch.index for batch in parts])


TWO = ("instance", "reversed"), ("basic", "basic")


def test_the_first_view_of_the_first_stream_is_what_it_is_alone():
    batches = batches_over(split_of(10))
    alone = torch.cat([batch.images for batch in batches.steps(2, 1)])
    for streams, views in [TWO, (("instance", "balanced"), ("basic", "none"))]:
        found, index = views_of(batches, 2, 1, streams, views)
        assert torch.equal(found[0], alone)
        assert index.tolist() == epoch_order("instance", batches.split_labels, 2, 1).tolist()


@pytest.mark.parametrize("workers", [0, 2])
def test_a_view_is_a_function_of_seed_epoch_picture_and_its_number(workers, monkeypatch):
    """Whatever the size of the batches, and wherever an epoch begins; no two are the same."""
    monkeypatch.setattr(decoding, "workers", workers)
    split = split_of(10)
    views, index = views_of(batches_over(split), 2, 1, *TWO)
    assert all(
        len({x.numpy().tobytes() for x in pair}) == 2 for pair in zip(*views[:2], strict=True)
    )
    for found in (
        views_of(batches_over(split, batch_size=3), 2, 1, *TWO)[0],
        views_of(batches_over(split), 2, 1, *TWO)[0],
    ):
        assert all(torch.equal(a, b) for a, b in zip(found, views, strict=True))
    left, _ = views_of(batches_over(split), 2, 1, *TWO, first=2)
    assert all(torch.equal(a, b[8:]) for a, b in zip(left, views, strict=True))
    for key in [(3, 1), (2, 0)]:
        other, order = views_of(batches_over(split), *key, *TWO)
        for view in (0, 1):  # picture by picture
            pairs = zip(other[view][order.argsort()], views[view][index.argsort()], strict=True)
            assert not any(torch.equal(one, two) for one, two in pairs)


def test_each_augmentation_leaves_out_what_it_says_on_disk():
    """`none` is the centre, which evaluation sees; `flip` that or its mirror image."""
    batches = batches_over(split_of(10))
    plain = torch.cat([images for images, _ in batches.evaluate()])
    (none, flip, crop, *_), index = views_of(
        batches, 0, 0, ("instance", "instance"), ("none", "flip", "crop")
    )
    plain = plain[index]
    assert torch.equal(none, plain)
    straight = (flip == plain).flatten(1).all(1)
    assert (straight | (flip == plain.flip(3)).flatten(1).all(1)).all()
    assert straight.any() and not straight.all()
    assert not any(torch.equal(a, b) for a, b in zip(crop, plain, strict=True))


def test_a_picture_that_comes_again_has_another_crop_each_time():
    """But for the crops of one epoch, which cached features show."""
    split = split_of(9)
    split = Split(split.images, np.array([0] * 8 + [1]))
    batches = batches_over(split)
    (batch, *more) = batches.steps(0, 0, ("balanced",))
    images = torch.cat([b.images for b in (batch, *more)])
    index = torch.cat([b.index for b in (batch, *more)])
    own = images[index == 8]
    assert len(own) > 2
    assert len({image.numpy().tobytes() for image in own}) == len(own)
    again = list(batches.steps(0, 0, ("balanced",), view_epoch=0))
    images = torch.cat([b.images for b in again])
    expected = normalised(Decoder(split, SIZE).decode(0, 0, 8))
    for image in images[index == 8]:
        np.testing.assert_allclose(image, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    ("lines", "where"), [(False, "007.jpg"), (True, "train.txt, line 8: 007.jpg")]
)
def test_a_broken_picture_stops_with_its_name(workers, lines, where, monkeypatch):
    split = split_of(10, lines)
    content = encoded(photo(200, 200), "JPEG")
    Path("007.jpg").write_bytes(content[: len(content) // 2])
    monkeypatch.setattr(decoding, "workers", workers)
    for epoch in (batches_over(split).steps(0, 0), batches_over(split).evaluate()):
        with pytest.raises(BrokenPicture) as error:
            list(epoch)
        assert str(error.value).startswith(f"{where}: image file is truncated")
        assert str(error.value).endswith("leave such files out from the start with --skip-broken")


@pytest.mark.parametrize("workers", [0, 2])
def test_a_picture_that_is_gone_stops_with_its_name(workers, monkeypatch):
    split = split_of(5)
    Path("003.jpg").unlink()
    monkeypatch.setattr(decoding, "workers", workers)
    with pytest.raises(OSError, match=r"^003.jpg: No such file or directory$"):
        list(batches_over(split).steps(0, 0))


def test_names_of_any_bytes_are_opened_by_workers(monkeypatch):
    names = ["a b.jpg", "é.jpg", "\udcff.jpg"]
    write_pictures(Path(), names)
    monkeypatch.setattr(decoding, "workers", 2)
    split = Split(Pictures.of(Path(), names), np.arange(3))
    (images, labels), *rest = batches_over(split).evaluate()
    assert (len(images), labels.tolist(), rest) == (3, [0, 1, 2], [])


def test_pictures_on_disk_and_arrays_are_told_apart():
    write_folder(Path("mine"), {"a": 2, "b": 1})
    dataset = datasets.load("mine", Path(), imbalance_factor=None, image_size=SIZE)
    batches = batches_of(dataset, "train", CPU, 2)
    assert isinstance(batches, PictureBatches)
    (batch,) = batches.steps(0, 0)  # the third joins the first two
    assert batch.images.shape == (3, 3, SIZE, SIZE)
    assert sorted(batch.labels.tolist()) == [0, 0, 1]


def test_a_killed_worker_is_an_error_that_says_what_to_lower(monkeypatch):
    monkeypatch.setattr(decoding, "workers", 2)
    batches = batches_over(split_of(40))
    epoch = batches.steps(0, 0)
    next(epoch)
    os.kill(batches.workers.processes[0].pid, signal.SIGKILL)
    with pytest.raises(RuntimeError, match="was killed, perhaps for want of memory: lower --work"):
        list(epoch)
    assert len(list(batches.steps(0, 1))) == 10, "the next epoch has new ones"


class Squares:
    def __getitem__(self, key):
        if key == "broken":
            raise BrokenPicture("a reason")
        if key == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        return key**2


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("count", [0, 1, 2, 20])
def test_answers_of_workers_stand_in_the_order_of_their_keys(monkeypatch, workers, count):
    monkeypatch.setattr(decoding, "workers", workers)
    keys = list(range(count))
    assert list(processes.by_workers(Squares(), keys)) == [key**2 for key in keys]
    assert multiprocessing.active_children() == []


def test_an_error_of_a_worker_is_raised_in_its_turn(monkeypatch):
    monkeypatch.setattr(decoding, "workers", 2)
    answers = processes.by_workers(Squares(), [3, 4, "broken", 5])
    assert [next(answers), next(answers)] == [9, 16]
    with pytest.raises(BrokenPicture, match=r"^a reason$"):
        next(answers)
    assert multiprocessing.active_children() == []


def test_a_killed_worker_of_a_check_is_an_error_that_says_what_to_lower(monkeypatch):
    monkeypatch.setattr(decoding, "workers", 2)
    answers = processes.by_workers(Squares(), [3, "killed", 5])
    assert next(answers) == 9
    with pytest.raises(RuntimeError) as caught:
        next(answers)
    assert str(caught.value) == (
        "a process that decodes pictures was killed, perhaps for want of memory: "
        "lower --workers, --batch-size or --image-size"
    )
    assert multiprocessing.active_children() == []


def test_workers_end_with_an_epoch_that_nobody_finishes_and_with_their_owner(monkeypatch):
    monkeypatch.setattr(decoding, "workers", 2)
    batches = batches_over(split_of(40))
    epoch = batches.steps(0, 0)
    next(epoch)
    first = list(batches.workers.processes)
    epoch.close()
    assert not any(process.is_alive() for process in first)
    list(batches.steps(0, 1))
    second = list(batches.workers.processes)
    assert all(process.is_alive() for process in second), "they stay for the next epoch"
    del batches, epoch
    gc.collect()
    assert not any(process.is_alive() for process in second)
