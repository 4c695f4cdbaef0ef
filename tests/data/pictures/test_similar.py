"""Pictures that look alike: what a thumbnail is, which differ by little, and that not all pairs
are compared."""

import numpy as np
import pytest
from PIL import Image

from conftest import encoded, photo
from wbcli.data.pictures import similar


def rows_of(*files: bytes) -> np.ndarray:
    """What is compared of the pictures in these files, uint8 [N, 3, 64]."""
    return similar.brightness_and_colour(np.stack([similar.thumbnail(f) for f in files]))


def test_a_thumbnail_is_the_mean_brightness_and_colour_of_8_by_8_cells():
    image = np.zeros((64, 64, 3), dtype=np.uint8)
    image[:, 32:, 0] = 255  # the right half is red: Y 76, Cb 85, Cr 255
    brightness, blue, red = rows_of(encoded(Image.fromarray(image)))[0].reshape(3, 8, 8)
    for cells, right, left in ((brightness, 76, 0), (blue, 85, 128), (red, 255, 128)):
        assert (cells[:, 5:] == right).all() and (cells[:, :3] == left).all()
    grey = np.zeros((64, 64), dtype=np.uint8)
    grey[8:16, 16:24] = 200  # the cell in row 1, column 2
    brightness, *colours = rows_of(encoded(Image.fromarray(grey)))[0].reshape(3, 8, 8)
    assert brightness[1, 2] > 170 and brightness.astype(int).sum() == pytest.approx(200, abs=8)
    assert all((cells == 128).all() for cells in colours)


@pytest.mark.parametrize(
    ("kind", "options"),
    [("PNG", {}), ("JPEG", {"quality": 90}), ("JPEG", {"quality": 40}), ("WEBP", {"quality": 75})],
)
@pytest.mark.parametrize("scale", [0.4, 1, 1.7])
def test_a_picture_looks_like_itself_in_other_encodings_and_sizes(kind, options, scale):
    image = photo(200, 150, seed=3)
    again = image.resize((round(200 * scale), round(150 * scale)), Image.Resampling.LANCZOS)
    files = [encoded(image, "JPEG", quality=95), encoded(again, kind, **options)]
    assert similar.alike(rows_of(*files)).tolist() == [[0, 1]]


def test_what_differs_by_little_in_brightness_and_not_much_in_colour_looks_alike():
    """The mean of 64 cells may be 2.5, one cell 12, the mean of the 128 of colour 8."""
    base = np.random.default_rng(0).integers(40, 200, 3 * similar.CELLS).astype(np.uint8)
    steps = {
        "2.5 in the mean": (slice(0, 64), [2, 3] * 32),
        "2.52 in the mean": (slice(0, 64), [2, 3] * 31 + [3, 3]),
        "12 in a cell": (slice(5, 6), [12]),
        "13 in a cell": (slice(5, 6), [13]),
        "8 in colour": (slice(64, 192), [8] * 128),
        "8.01 in colour": (slice(64, 192), [8] * 127 + [9]),
    }
    alike = []
    for name, (cells, step) in steps.items():
        other = base.copy()
        other[cells] += np.array(step, dtype=np.uint8)
        if similar.alike(np.stack([base, other]).reshape(2, 3, 64)).tolist() == [[0, 1]]:
            alike.append(name)
    assert alike == ["2.5 in the mean", "12 in a cell", "8 in colour"]


def test_other_colours_and_mirror_images_are_other_pictures():
    image = photo(64, 64, seed=1)
    others = [image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), image.convert("L")]
    files = [encoded(other) for other in [image, *others]]
    assert similar.alike(rows_of(*files)).tolist() == []


def made_up(count: int) -> np.ndarray:
    """Thumbnails that are soft, as those of photographs are: uint8 [count, 3, 64]."""
    coarse = np.random.default_rng(0).integers(0, 256, (count, 3, 4, 4), dtype=np.uint8)
    return coarse.repeat(2, 2).repeat(2, 3).reshape(count, 3, 64)


def test_every_copy_is_found_among_thousands_and_few_pairs_are_compared(monkeypatch):
    count, compared, differ = 4000, [], similar._differ_little
    pictures = made_up(count)
    noise = np.random.default_rng(1).integers(-2, 3, pictures.shape)
    again = (pictures.astype(int) + noise).clip(0, 255).astype(np.uint8)
    monkeypatch.setattr(
        similar,
        "_differ_little",
        lambda rows, pairs: compared.append(len(pairs)) or differ(rows, pairs),
    )
    found = similar.alike(np.concatenate([pictures, again]))
    assert found.tolist() == [[i, count + i] for i in range(count)]
    assert sum(compared) < 100_000, "of 32 million pairs"


def test_of_many_that_are_equal_each_has_a_few_partners():
    found = similar.alike(np.zeros((500, 3, similar.CELLS), dtype=np.uint8))
    assert len(np.unique(found)) == 500
    assert len(found) <= 500 * similar.NEIGHBOURS


def test_no_picture_and_one_picture_are_no_pair():
    for count in (0, 1):
        assert similar.alike(np.zeros((count, 3, similar.CELLS), dtype=np.uint8)).tolist() == []
