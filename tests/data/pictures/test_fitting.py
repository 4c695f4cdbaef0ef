"""How a picture that is not square becomes a square: what is seen of it, and where."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import encoded, photo, write_folder
from wbcli.data import recorded
from wbcli.data.batches.disk import IN_ORDER, Decoder
from wbcli.data.batches.splits import batches_of
from wbcli.data.datasets import Split
from wbcli.data.pictures import decoding
from wbcli.data.pictures.decoding import Pictures
from wbcli.data.pictures.fitting import Fit
from wbcli.deploy import predict
from wbcli.evaluate.metrics import logits_of
from wbcli.runs.run import Run

MEAN = (0.485, 0.456, 0.406)
FILL = [124, 116, 104]  # of 255
FITS = ("crop", "pad", "squash")


def halves(width: int, height: int) -> Image.Image:
    """The left half black, the right half white."""
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    pixels[:, width // 2 :] = 255
    return Image.fromarray(pixels)


def evaluated(content: bytes, how: str, size: int = 8) -> np.ndarray:
    fit = Fit(how, MEAN)
    return decoding.decode(content, (size, size), fit.eval_box, fill=fit.fill).astype(int)


def test_pad_shows_the_whole_picture_in_the_middle_of_the_mean_colour():
    wide = evaluated(encoded(halves(40, 20)), "pad")  # 8×4 within 8×8
    assert (wide[[0, 1, 6, 7]] == FILL).all()
    assert (wide[2:6, :4] < 40).all() and (wide[2:6, 4:] > 215).all(), "blurred at their border"
    assert (wide[2:6, 0] == 0).all() and (wide[2:6, 7] == 255).all()
    tall = evaluated(encoded(halves(20, 40)), "pad")
    assert (tall[:, [0, 1, 6, 7]] == FILL).all()
    assert (tall[:, 2:4] < 60).all() and (tall[:, 4:6] > 195).all()
    assert (
        evaluated(encoded(halves(40, 40)), "pad") == evaluated(encoded(halves(40, 40)), "squash")
    ).all()


def test_squash_shows_the_whole_picture_and_nothing_else():
    for size in ((40, 20), (20, 40), (16, 16)):
        image = evaluated(encoded(halves(*size)), "squash")
        assert (image[:, :4] < 40).all() and (image[:, 4:] > 215).all()
        assert (image[:, 0] == 0).all() and (image[:, 7] == 255).all()


def test_crop_loses_the_ends_of_the_longer_side():
    ends = np.zeros((20, 60, 3), dtype=np.uint8)
    ends[:, 15:45] = 255  # only its middle third is white, and a little more
    assert (evaluated(encoded(Image.fromarray(ends)), "crop") == 255).all()
    assert (evaluated(encoded(Image.fromarray(ends)), "squash")[:, 0] == 0).all()


def test_a_picture_of_one_line_is_padded_too():
    line = encoded(Image.new("RGB", (900, 1), (255, 255, 255)))
    image = evaluated(line, "pad")
    assert (image == 255).all(2).any(1).sum() == 1 and (image == FILL).all(2).all(1).sum() == 7


def test_a_turned_jpeg_is_padded_upright():
    exif = Image.Exif()
    exif[decoding.ORIENTATION] = 6  # stored on its side
    content = encoded(photo(400, 100), "JPEG", exif=exif)
    image = evaluated(content, "pad", 16)
    assert (image[:, [0, 5, 10, 15]] == FILL).all() and (image[:, 6:10] != FILL).any(2).all()


def decoder_of(image: Image.Image, how: str | None) -> Decoder:
    Path("it.png").write_bytes(encoded(image))
    split = Split(Pictures.of(Path(), ["it.png"]), np.zeros(1, dtype=np.int64))
    return Decoder(split, 8, *([Fit(how, MEAN)] if how else []))


def test_crop_draws_what_it_has_always_drawn():
    """From (seed, epoch, index) a coin for the mirror, then the random resized crop."""
    image = photo(60, 40)
    content = encoded(image)
    for decoder in (decoder_of(image, "crop"), decoder_of(image, None)):
        for epoch in range(20):
            generator = np.random.default_rng([7, epoch, 0])
            mirrored = generator.integers(2)
            expected = decoding.decode(
                content, (8, 8), lambda w, h, g=generator: decoding.random_crop(w, h, g)
            )
            expected = expected[:, ::-1] if mirrored else expected
            assert (decoder.decode(7, epoch, 0) == expected).all()
        centre = decoding.decode(content, (8, 8), decoding.eval_crop)
        assert (decoder.decode(7, IN_ORDER, 0) == centre).all()


@pytest.mark.parametrize("how", ["pad", "squash"])
@pytest.mark.parametrize(("width", "height"), [(600, 200), (200, 600), (400, 400)])
def test_training_cuts_out_8_to_100_per_cent_of_nearly_the_pictures_own_shape(how, width, height):
    """Within rounding; over 2,000 draws the area is spread evenly, and the place everywhere."""
    generator, fit = np.random.default_rng(0), Fit(how, MEAN)
    boxes = np.array([fit.random_box(width, height, generator) for _ in range(2000)])
    left, top, right, bottom = boxes.T
    assert (left >= 0).all() and (top >= 0).all()
    assert (right <= width).all() and (bottom <= height).all()
    shape = (right - left) / (bottom - top) / (width / height)
    assert 0.73 < shape.min() < 0.78 and 1.28 < shape.max() < 1.37
    area = (right - left) * (bottom - top) / (width * height)
    assert 0.07 < area.min() < 0.1 and 0.9 < area.max() <= 1
    assert 0.4 < area.mean() < 0.6
    for middle, side in (((left + right) / 2, width), ((top + bottom) / 2, height)):
        assert middle.min() < 0.3 * side and middle.max() > 0.7 * side


def test_square_pictures_are_cut_as_ever():
    for how in ("pad", "squash"):
        ours, theirs = np.random.default_rng(3), np.random.default_rng(3)
        for _ in range(50):
            box = Fit(how, MEAN).random_box(300, 300, ours)
            assert box == decoding.random_crop(300, 300, theirs)


def test_a_training_picture_is_padded_and_mirrored():
    decoder = decoder_of(halves(80, 20), "pad")
    images = [decoder.decode(0, epoch, 0).astype(int) for epoch in range(60)]
    assert all((image[[0, 7]] == FILL).all() for image in images), "4:1, at most 16:3 or 3:1"
    rows = [image[4].mean(1) for image in images]
    darker_left = sum(row[0] < row[-1] for row in rows)
    brighter_left = sum(row[0] > row[-1] for row in rows)
    assert darker_left > 10 and brighter_left > 10
    assert len({tuple(row) for row in rows}) > 20


SHORT = ("--image-size", 16, "--arch", "resnet8", "--epochs", 1)


@pytest.fixture
def mine(wbcli):
    """A folder `mine` of pictures that are not square."""
    write_folder(Path("mine"), {"a": 3, "b": 2})
    for i, path in enumerate(sorted(Path("mine").rglob("*.jpg"))):
        size = (48, 20) if i % 2 else (18, 40)
        path.write_bytes(encoded(photo(*size, seed=i), "JPEG"))


@pytest.mark.parametrize("how", FITS)
def test_the_fit_is_recorded_and_inherited_and_predict_and_export_use_it(wbcli, mine, how):
    assert wbcli("stage1", "mine", *SHORT, "--fit", how, "--name", "first").code == 0
    for command in ("stage2", "normalize"):
        assert wbcli(command, "first", "--name", command).code == 0
    for name in ("first", "stage2", "normalize"):
        assert json.loads(Path(f"runs/{name}/config.json").read_text())["fit"] == how
        run = Run(Path(f"runs/{name}"))
        dataset = recorded.for_run(run.config(), run.data_record())
        ((images, _),) = batches_of(dataset, "test", torch.device("cpu")).evaluate()
        for i in range(len(images)):
            content = dataset.test.images.path(i).read_bytes()
            shown = evaluated(content, how, 16).transpose(2, 0, 1) / 255
            expected = (shown - np.array(MEAN)[:, None, None]) / np.array(
                [[[0.229]], [[0.224]], [[0.225]]]
            )
            np.testing.assert_allclose(images[i].numpy(), expected, atol=1e-5)
        with torch.no_grad():
            logits = logits_of(run.network(dataset.class_names).eval(), images, tta=False)
        found = wbcli("predict", name, "mine/test", "--json", "--top", 2).json["images"]
        scores = [{row["class"]: row["score"] for row in image["top"]} for image in found]
        for score, row in zip(scores, logits.tolist(), strict=True):
            assert [score[0], score[1]] == pytest.approx(row, abs=1e-4)
    assert wbcli("export", "stage2", "--format", "safetensors", "--output", "it.st").code == 0
    about = predict_metadata("it.st")
    assert (about["fit"], about["fill"]) == (how, FILL if how == "pad" else None)
    assert (
        about["crop"]
        == {
            "crop": "centre square of 224/256 of the shorter side, resized to 16×16 (bilinear)",
            "pad": "none: the whole picture, resized (bilinear) to 16 on its longer side, in the "
            "middle of 16×16 of the colour fill",
            "squash": "none: the whole picture, resized to 16×16 (bilinear)",
        }[how]
    )


def predict_metadata(path: str) -> dict:
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        return json.loads(file.metadata()["wbcli"])


def test_a_run_of_before_is_cropped_and_another_fit_is_no_resume(wbcli, mine):
    assert wbcli("stage1", "mine", *SHORT, "--name", "first").code == 0
    path = Path("runs/first/config.json")
    record = json.loads(path.read_text())
    assert record.pop("fit") == "crop"
    path.write_text(json.dumps(record))
    assert predict.load(Run(path.parent)).fit == Fit("crop", MEAN)
    again = wbcli("stage1", "mine", *SHORT, "--fit", "pad", "--name", "first", "--resume")
    assert again.code == 2
    assert "run first has other settings (fit crop → pad)" in again.err
