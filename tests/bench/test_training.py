"""bench train and eval: every way does the work that its name says, and the figures are its own."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import write_folder
from training.test_fit import CPU, stage1
from wbcli.bench import training
from wbcli.bench.ways import Ours, PlainTensors, PublishedStyle
from wbcli.data import recorded
from wbcli.data.pictures import decoding

KEYS = {"name", "median_us", "spread", "ratio_to", "ratio"}


@pytest.fixture(scope="module")
def digits():
    return recorded.for_run(stage1())


@pytest.mark.parametrize("way", [Ours, PlainTensors, PublishedStyle])
def test_every_way_learns(digits, way, monkeypatch):
    monkeypatch.setattr(decoding, "workers", 0)
    settings = dataclasses.replace(stage1(), epochs=30)
    trainer = way(digits.train, digits, settings, CPU)
    before = training._accuracy(trainer.network, digits, CPU)
    for epoch in range(10):
        trainer.epoch(epoch)
    assert training._accuracy(trainer.network, digits, CPU) > before + 30


def test_plain_crops_are_windows_of_the_padded_image(digits):
    plain = PlainTensors(digits.train, digits, stage1(), CPU)
    index = torch.arange(40)
    crops = plain.augmented(index)
    for i, crop in zip(index.tolist(), crops, strict=True):
        windows = plain.images[i].unfold(1, 8, 1).unfold(2, 8, 1)  # [C, 3, 3, 8, 8]
        assert (windows == crop[:, None, None]).all((0, 3, 4)).any()


def test_flops_of_a_step_are_those_of_its_products(digits):
    """A linear layer of a batch: B·D·K multiply-adds forward, and as many for its weight."""

    class Line:
        source = dataclasses.replace(digits.source, image=(1, 1, 4))
        num_classes = 3

    settings = dataclasses.replace(stage1(), batch_size=5)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training.networks, "for_run", lambda *_: network)
        assert training.flops_per_step(settings, Line) == 2 * 2 * 5 * 4 * 3


def test_bench_train_prints_every_way(wbcli):
    given = ("--data", "digitslt", "--arch", "resnet8", "--batch-size", 16)
    result = wbcli("bench", "train", *given, "--steps", 2, "--rounds", 2, "--json")
    assert result.code == 0, result.err
    found = result.json
    assert (found["bench"], found["shapes"], found["arch"]) == ("train", ["digitslt"], "resnet8")
    assert [r["name"] for r in found["results"]] == ["wbcli", "plain tensors", "published style"]
    for r in found["results"]:
        assert r.keys() > KEYS
        assert r["images_per_second"] == pytest.approx(16e6 / r["median_us"])
        assert r["epochs_per_minute"] == pytest.approx(60 * r["images_per_second"] / 287)
        assert r["peak_mb"] > 50
    assert found["results"][0]["ratio"] == 1


def test_time_to_an_accuracy(wbcli):
    given = ("--data", "digitslt", "--arch", "resnet8", "--json")
    for row in wbcli("bench", "train", *given, "--accuracy", 12).json["results"]:
        assert row["accuracy"] >= 12
        assert row["seconds"] > 0 and row["epochs"] >= 1


def test_loading_is_compared_with_the_decoder(wbcli):
    write_folder(Path("mine"), {"a": 20, "b": 12})
    given = ("--image-size", 16, "--batch-size", 8, "--rounds", 2, "--workers", 2, "--json")
    found = wbcli("bench", "train", "--data", "mine", *given).json["results"]
    rows = {row["name"]: row for row in found}
    assert list(rows) == ["wbcli loader", "its decoding", "decoder alone", "torchvision loader"]
    alone = rows["decoder alone"]
    assert (alone["processes"], alone["per_process"]) == (1, 1)
    for row in found[:2]:
        expected = row["images_per_second"] / 2 / alone["images_per_second"]
        assert row["per_process"] == pytest.approx(expected)


def test_the_memory_of_kept_logits_is_seen_to_grow(wbcli):
    given = ("--shape", "2000x16", "--images", 16384, "--json")
    found = wbcli("bench", "eval", *given).json["results"]
    rows = {(row["name"], row["images"]): row for row in found}
    kept = 16384 * 2000 * 4 / 2**20
    grown = rows["all logits kept", 16384]["growth_mb"]
    assert grown == pytest.approx(0.75 * kept, rel=0.3)
    assert abs(rows["evaluate.measure", 16384]["growth_mb"]) < 0.25 * grown
    assert np.isfinite([row["seconds"] for row in found]).all()
