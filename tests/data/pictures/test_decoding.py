"""Pictures of known colours in every format, and the boxes that are cropped from them."""

import os
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from conftest import encoded, photo
from wbcli.data.pictures import decoding
from wbcli.data.pictures.decoding import BrokenPicture, centre_crop, decode, eval_crop, random_crop
from wbcli.words import printable

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)
ORIENTATION = 0x0112


def whole(width: int, height: int) -> decoding.Box:
    return 0, 0, width, height


def decoded(content: bytes, size: tuple[int, int], crop=whole, mode: str = "RGB") -> np.ndarray:
    return decode(content, size, crop, mode).astype(int)


def four_colours(size: int = 16) -> Image.Image:
    """Red and green above blue and white, twice as wide as high."""
    corners = np.array([[RED, GREEN], [BLUE, WHITE]], np.uint8)
    return Image.fromarray(corners.repeat(size, 0).repeat(2 * size, 1))


def corners(content: bytes) -> np.ndarray:
    return decoded(content, (8, 8))[::7, ::7]


def stored_turned(orientation: int, kind: str) -> bytes:
    """The four colours as a camera stores them that was held otherwise."""
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # PIL.Image.Transpose
    image = four_colours()
    image = image.transpose(undo[orientation]) if orientation in undo else image
    if kind == "TIFF":
        return encoded(image, kind, tiffinfo={ORIENTATION: orientation})
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    options = {"JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"lossless": True}}
    return encoded(image, kind, exif=exif, **options.get(kind, {}))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_upright_whatever_their_orientation(orientation, kind):
    content = stored_turned(orientation, kind)
    np.testing.assert_allclose(
        corners(content), [[RED, GREEN], [BLUE, WHITE]], atol=3 if kind == "JPEG" else 0
    )


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_crop_is_of_the_upright_picture(orientation):
    seen = []

    def lower_right(width, height):
        seen.append((width, height))
        return 0.75 * width, 0.75 * height, width, height

    content = stored_turned(orientation, "PNG")
    assert decoded(content, (1, 1), lower_right).tolist() == [[[255, 255, 255]]]
    assert seen == [(64, 32)]


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_does_not_exist_turns_nothing(orientation):
    found = corners(stored_turned(orientation, "PNG"))
    assert found.tolist() == [[[*RED], [*GREEN]], [[*BLUE], [*WHITE]]]


def test_a_whole_picture_with_a_damaged_exif_block_is_read():
    content = encoded(four_colours(), "JPEG", quality=95, exif=b"Exif\0\0no such thing")
    assert abs(corners(content)[0, 0] - RED).max() <= 3


def colour(image: Image.Image, kind: str = "PNG", mode: str = "RGB", **options) -> list[int]:
    """What a picture of one colour becomes."""
    return decoded(encoded(image, kind, **options), (3, 5), mode=mode)[1, 1].tolist()


def paletted(kind: str = "PNG", **options) -> bytes:
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 0, 10, 200, 30])
    return encoded(image, kind, **options)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (encoded(Image.new("RGB", (4, 4), (10, 200, 30))), [10, 200, 30]),
        (encoded(Image.new("L", (4, 4), 77)), [77] * 3),
        (encoded(Image.new("1", (4, 4), 1)), [255] * 3),
        (encoded(Image.new("LA", (4, 4), (77, 255))), [77] * 3),
        (encoded(Image.new("RGBA", (4, 4), (10, 200, 30, 255))), [10, 200, 30]),
        (paletted(), [10, 200, 30]),
        (paletted(transparency=0), [10, 200, 30]),
        (paletted(transparency=b"\x40\xff"), [10, 200, 30]),
        (encoded(Image.new("RGB", (4, 4), (10, 200, 30)), transparency=(1, 2, 3)), [10, 200, 30]),
        (encoded(Image.new("CMYK", (4, 4), (245, 55, 225, 0)), "TIFF"), [10, 200, 30]),
        (encoded(Image.new("RGB", (4, 4), (10, 200, 30)), "BMP"), [10, 200, 30]),
        (encoded(Image.new("RGB", (4, 4), (10, 200, 30)), "PPM"), [10, 200, 30]),
    ],
    ids=["rgb", "grey", "bit", "grey+alpha", "rgba", "palette", "palette+key", "palette+alpha"]
    + ["rgb+key", "cmyk", "bmp", "ppm"],
)
def test_every_kind_of_pixel_becomes_rgb(content, expected):
    assert decoded(content, (3, 5))[1, 1].tolist() == expected


def test_a_cmyk_jpeg_becomes_rgb():
    found = colour(Image.new("CMYK", (16, 16), (245, 55, 225, 0)), "JPEG", quality=95)
    np.testing.assert_allclose(found, [10, 200, 30], atol=3)


def test_grey_has_one_channel():
    content = encoded(Image.new("RGB", (4, 4), (255, 0, 0)))
    assert decode(content, (3, 5), whole, "L").shape == (3, 5, 1)
    assert decoded(content, (3, 5), mode="L")[0, 0].tolist() == [76]  # 0.299 · 255


@pytest.mark.parametrize(("stored", "expected"), [(0, 0), (257 * 130, 130), (65535, 255)])
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_16_bits_of_grey_are_scaled_to_8(kind, stored, expected):
    image = Image.fromarray(np.full((4, 4), stored, np.uint16))
    assert colour(image, kind) == [expected] * 3


def png(colour_type: int, bits: int, width: int, height: int, rows: bytes, *extra) -> bytes:
    """A PNG file made by hand; `rows` are its scan lines, each after its filter byte.

    extra: chunks before them, (name, body) each.
    """

    def chunk(name: bytes, body: bytes) -> bytes:
        body = name + body
        return struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    parts = [(b"IHDR", header), *extra, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def test_16_bits_of_rgb_are_scaled_to_8():
    pixel = struct.pack(">HHH", 257 * 10, 257 * 200, 65535)
    content = png(2, 16, 2, 2, (b"\0" + pixel * 2) * 2)
    assert decoded(content, (2, 2))[0, 0].tolist() == [10, 200, 255]


def tiff(samples: np.ndarray, photometric: int, extra: int) -> bytes:
    """A TIFF file made by hand of 8-bit samples [H, W, bands], the last of which is alpha.

    extra: 1 if the others are premultiplied with it, else 2.
    """
    height, width, bands = samples.shape
    bits = struct.pack(f"<{bands}H", *[8] * bands).ljust(8, b"\0")
    place = 8 + len(bits)
    tags = [(256, 3, width), (257, 3, height), (259, 3, 1), (262, 3, photometric)]
    tags += [(273, 4, place), (277, 3, bands), (278, 3, height), (279, 4, samples.size)]
    entries = [(tag, kind, 1, value) for tag, kind, value in tags] + [(338, 3, 1, extra)]
    where = struct.unpack("<I", bits[:4])[0] if bands == 2 else 8  # two fit into the entry
    entries = sorted([*entries, (258, 3, bands, where)])
    directory = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    end = place + samples.size
    head = b"II*\0" + struct.pack("<I", end) + bits + samples.tobytes()
    return head + struct.pack("<H", len(entries)) + directory + bytes(4)


def palette_and_alpha(alpha: int) -> bytes:
    image = Image.new("PA", (4, 4), (1, alpha))
    image.putpalette([0, 0, 0, 10, 200, 30])
    return encoded(image, "TIFF")


def filled(*values: int) -> np.ndarray:
    return np.full((4, 4, len(values)), values, np.uint8)


def key(*values: int) -> tuple[bytes, bytes]:
    """PNG's chunk that names the transparent value."""
    return b"tRNS", struct.pack(f">{len(values)}H", *values)


def rows(pixel: bytes, width: int = 2) -> bytes:
    """Two scan lines."""
    return (b"\0" + pixel * width) * 2


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize(
    "content",
    [
        encoded(Image.new("LA", (4, 4), (77, 0))),
        encoded(Image.new("RGBA", (4, 4), (10, 200, 30, 0))),
        encoded(Image.new("RGBA", (4, 4), (10, 200, 30, 0)), "WEBP", lossless=True, exact=True),
        encoded(Image.new("RGBA", (4, 4), (10, 200, 30, 0)), "TIFF"),
        paletted(transparency=1),
        paletted(transparency=b"\xff\0"),
        paletted(kind="GIF", transparency=1),
        palette_and_alpha(0),
        tiff(filled(10, 200, 30, 0), 2, 1),
        tiff(filled(77, 0), 1, 1),
        png(4, 16, 2, 2, rows(struct.pack(">HH", 257 * 77, 0))),
        png(6, 16, 2, 2, rows(struct.pack(">HHHH", 2570, 51400, 7710, 0))),
        png(0, 1, 8, 2, rows(b"\0", 1), key(0)),
        png(0, 2, 4, 2, rows(b"\x55", 1), key(1)),
        png(0, 4, 2, 2, rows(b"\x55", 1), key(5)),
        png(0, 8, 2, 2, rows(b"\x55"), key(0x55)),
        png(0, 16, 2, 2, rows(b"\x12\x34"), key(0x1234)),
        png(2, 8, 2, 2, rows(b"\x01\x02\x03"), key(1, 2, 3)),
        png(2, 16, 2, 2, rows(b"\x01\x02\x03\x04\x05\x06"), key(0x102, 0x304, 0x506)),
    ],
    ids=["grey+alpha", "rgba", "webp", "tiff", "palette+key", "palette+alpha", "gif", "pa"]
    + ["premultiplied-rgb", "premultiplied-grey", "grey+alpha-16", "rgba-16", "bit+key"]
    + ["2-bit+key", "4-bit+key", "grey+key", "grey-16+key", "rgb+key", "rgb-16+key"],
)
def test_full_transparency_is_white(content, mode):
    assert (decoded(content, (2, 2), mode=mode) == 255).all()


@pytest.mark.parametrize(
    ("content", "expected"),
    [  # (c·a + 255·(255 − a))/255 with a = 64
        (encoded(Image.new("LA", (4, 4), (77, 64))), [210] * 3),
        (encoded(Image.new("RGBA", (4, 4), (10, 200, 30, 64))), [194, 241, 199]),
        (paletted(transparency=b"\xff\x40"), [194, 241, 199]),
        (palette_and_alpha(64), [194, 241, 199]),
        (tiff(filled(10, 200, 30, 64), 2, 2), [194, 241, 199]),
        (tiff(filled(3, 50, 8, 64), 2, 1), [194, 241, 199]),  # premultiplied, so c = 255·3/64 …
        (tiff(filled(19, 64), 1, 1), [210] * 3),
        (png(4, 16, 2, 2, rows(struct.pack(">HH", 257 * 77, 257 * 64))), [210] * 3),
        (png(0, 16, 2, 2, rows(b"\x12\x34"), key(0x1235)), [18] * 3),
        (png(0, 2, 4, 2, rows(b"\x55", 1), key(85)), [85] * 3),
        (png(2, 16, 2, 2, rows(b"\x01\x02\x03\x04\x05\x06"), key(0x102, 0x304, 0x507)), [1, 3, 5]),
    ],
    ids=["grey+alpha", "rgba", "palette+alpha", "pa", "tiff", "premultiplied-rgb"]
    + ["premultiplied-grey", "grey+alpha-16", "near-the-grey-key", "no-2-bit-key", "near-the-key"],
)
def test_transparency_is_laid_on_white(content, expected):
    assert decoded(content, (2, 2))[1, 1].tolist() == expected


def half_hidden(colour: tuple, mode: str) -> Image.Image:
    """The left half visible, the right half of that colour under full transparency."""
    image = Image.new(mode, (40, 30), (*[120] * (len(mode) - 1), 255))
    image.paste((*colour, 0), (20, 0, 40, 30))
    return image


@pytest.mark.parametrize("target", ["RGB", "L"])
@pytest.mark.parametrize(
    ("mode", "colours"), [("RGBA", [(255, 0, 0), (0, 0, 0), (9, 250, 77)]), ("LA", [(0,), (200,)])]
)
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_what_lies_under_full_transparency_changes_nothing(kind, mode, colours, target):
    """To the bit, through crops and sizes that mix the visible with the hidden."""
    exact = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    for crop in (eval_crop, lambda w, h: (3.3, 1.7, 33.9, 22.2)):
        first, *others = (
            decoded(encoded(half_hidden(c, mode), kind, **exact), (7, 9), crop, target)
            for c in colours
        )
        assert 120 < first[3, 4, 0] < 255, "an edge between the visible and white"
        for other in others:
            np.testing.assert_array_equal(first, other)


def test_a_limit_that_was_raised_holds_beyond_that_of_pillow():
    content = png(0, 1, 20_000, 20_000, (b"\0" + bytes(2500)) * 20_000)
    with pytest.raises(BrokenPicture, match="--max-pixels 400000000"):
        decode(content, (8, 8), eval_crop)
    decoding.max_pixels = 400_000_000
    limit = Image.MAX_IMAGE_PIXELS
    assert decode(content, (8, 8), eval_crop).max() == 0
    assert limit == Image.MAX_IMAGE_PIXELS, "that of others in this process stays"
    decoding.max_pixels -= 1
    with pytest.raises(BrokenPicture, match="20000×20000 = 400,000,000 pixels, more than the lim"):
        decode(content, (8, 8), eval_crop)


def test_an_animation_shows_its_first_frame():
    frames = [Image.new("RGB", (8, 8), c) for c in (RED, BLUE)]
    content = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert decoded(content, (2, 2))[0, 0].tolist() == [*RED]


def torn(kind: str) -> bytes:
    content = encoded(photo(300, 200), kind)
    return content[: len(content) // 2]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty"),
        (b"not a picture", "not a picture that Pillow can read"),
        (torn("JPEG"), "image file is truncated"),
        (torn("PNG"), "image file is truncated"),
        (encoded(photo(), "JPEG")[:25], "Truncated File Read"),
        (
            encoded(Image.new("F", (4, 4), 0.5), "TIFF"),
            "pixels of 32-bit floating point: save it with 8 or 16 bits",
        ),
        (
            png(0, 8, 20_000, 6_000, b"\0"),
            "20000×6000 = 120,000,000 pixels, more than the limit of 100,000,000: make it "
            "smaller, or raise the limit with --max-pixels 120000000",
        ),
        (
            png(0, 8, 2**20, 2**20, b"\0"),
            "1,099,511,627,776 pixels, more than the limit of 100,000,000",
        ),
    ],
    ids=["empty", "text", "jpeg", "png", "head", "float", "bomb", "huge-bomb"],
)
def test_what_is_no_whole_picture_is_refused_with_the_reason(content, reason):
    with pytest.raises(BrokenPicture) as error:
        decode(content, (8, 8), eval_crop)
    assert reason in str(error.value)
    assert len(str(error.value).splitlines()) == 1


BOMB = zlib.compress(bytes(50_000_000))


def gif_of_a_frame(width: int, height: int) -> bytes:
    """Its screen has one pixel, its frame says that it has more."""
    content = bytearray(encoded(Image.new("P", (1, 1)), "GIF"))
    place = content.index(b",") + 5
    content[place : place + 4] = struct.pack("<HH", width, height)
    return bytes(content)


def jpeg_of_scans(count: int) -> bytes:
    """A progressive JPEG that repeats one of its scans."""
    content = encoded(photo(), "JPEG", progressive=True)
    start = content.rindex(b"\xff\xda")
    return content[:start] + content[start:-2] * count + content[-2:]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (png(0, 8, 1, 1, b"\0\0", (b"iCCP", b"x\0\0" + BOMB)), "Decompressed data too large"),
        (png(0, 8, 1, 1, b"\0\0", (b"zTXt", b"x\0\0" + BOMB)), "Decompressed data too large"),
        (gif_of_a_frame(65535, 65535), "4,294,836,225 pixels, more than the limit"),
        (gif_of_a_frame(12_000, 9_000), "12000×9000 = 108,000,000 pixels, more than the limit"),
        (jpeg_of_scans(200), "a JPEG of more than 100 scans"),
        (encoded(photo(), "EPS"), "not a picture that Pillow can read"),
        (encoded(photo(), "ICNS"), "not a picture that Pillow can read"),
    ],
    ids=["iccp", "ztxt", "gif", "gif-of-120-million", "scans", "eps", "container"],
)
def test_hostile_pictures_are_refused_before_they_take_memory_or_time(monkeypatch, content, reason):
    monkeypatch.setattr(Image.Image, "load", lambda image: pytest.fail("its pixels were decoded"))
    with pytest.raises(BrokenPicture, match=reason):
        decode(content, (8, 8), eval_crop)


def test_a_film_behind_a_progressive_jpeg_is_no_scan_of_it():
    """As phones save a motion photo: its bytes hold some 120 markers by chance."""
    film = np.random.default_rng(0).integers(0, 256, 8 << 20, dtype=np.uint8).tobytes()
    assert film.count(b"\xff\xda") > 100
    assert decoded(jpeg_of_scans(20) + film, (8, 8)).mean() > 0


def test_a_progressive_jpeg_of_usual_scans_is_read():
    assert decoded(jpeg_of_scans(20), (8, 8)).mean() > 0


@pytest.mark.parametrize(
    "kind", [MemoryError("no"), SyntaxError("no"), struct.error("no"), OverflowError("no")]
)
def test_whatever_pillow_raises_the_picture_is_broken(monkeypatch, kind):
    def load(image):
        raise kind

    monkeypatch.setattr(Image.Image, "load", load)
    with pytest.raises(BrokenPicture, match=r"^no$"):
        decode(png(0, 8, 1, 1, b"\0\0"), (8, 8), eval_crop)


def test_decoding_warns_of_nothing(recwarn):
    warnings.simplefilter("always")
    decode(encoded(photo(), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\x05\0"), (8, 8), whole)
    decode(paletted(transparency=b"\xff\x40"), (8, 8), whole)
    assert len(recwarn) == 0


@pytest.mark.parametrize("crop", [eval_crop, lambda w, h: (w / 3, h / 3, w / 2, h / 2)])
def test_a_jpeg_decoded_at_a_smaller_scale_has_nearly_the_same_pixels(crop, monkeypatch):
    """Mean difference measured: 0.41 of 255, worst 2; allowed: 1 and 8."""
    image = photo(1201, 901)
    small = decoded(encoded(image, "JPEG", quality=95), (32, 32), crop)
    monkeypatch.setattr(Image.Image, "draft", lambda *args: None)
    full = decoded(encoded(image, "PNG"), (32, 32), crop)
    assert abs(small - full).mean() < 1
    assert abs(small - full).max() < 8


@pytest.mark.parametrize(("width", "height"), [(500, 375), (301, 640), (256, 256)])
def test_eval_crop_is_resize_256_and_centre_crop_224(width, height):
    """Mean difference measured: 0.72 of 255, worst 4; allowed: 1 and 8."""
    image = photo(width, height)
    transform = v2.Compose([v2.Resize(256), v2.CenterCrop(224)])
    expected = np.asarray(transform(image)).astype(int)
    found = decoded(encoded(image), (224, 224), eval_crop)
    assert abs(found - expected).mean() < 1
    assert abs(found - expected).max() < 8


def test_eval_crop_by_hand():
    assert eval_crop(512, 256) == (144, 16, 368, 240)


def test_random_crops_are_those_of_torchvision():
    """Means over 20,000 crops of 400×300: side lengths, area and place, to three errors."""
    width, height, count = 400, 300, 20_000
    generator = np.random.default_rng(0)
    boxes = np.array([random_crop(width, height, generator) for _ in range(count)])
    torch.manual_seed(0)
    get = v2.RandomResizedCrop(224).make_params
    image = torch.empty(3, height, width)
    params = [get([image]) for _ in range(count // 4)]
    theirs = np.array(
        [(p["left"], p["top"], p["left"] + p["width"], p["top"] + p["height"]) for p in params]
    )
    for ours, others in zip(boxes.T, theirs.T, strict=True):
        error = np.hypot(ours.std() / len(ours) ** 0.5, others.std() / len(others) ** 0.5)
        assert abs(ours.mean() - others.mean()) < 3 * error + 0.01
        assert ours.std() == pytest.approx(others.std(), rel=0.05)


@pytest.mark.parametrize(
    ("width", "height"), [(1, 500), (500, 1), (1, 1), (2, 3), (7, 500), (333, 250), (49, 48)]
)
def test_random_crops_stay_inside_and_in_shape(width, height):
    generator = np.random.default_rng(1)
    for _ in range(300):
        left, top, right, bottom = random_crop(width, height, generator)
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height
        if min(width, height) > 200:
            area = (right - left) * (bottom - top) / (width * height)
            assert 0.07 < area <= 1
            assert 0.74 < (right - left) / (bottom - top) < 1.35


@pytest.mark.parametrize(
    ("width", "height", "expected"),
    [
        (1, 500, (0, 500 / 2 - 2 / 3, 1, 500 / 2 + 2 / 3)),
        (500, 1, (250 - 2 / 3, 0, 250 + 2 / 3, 1)),
    ],
)
def test_where_no_crop_fits_it_is_the_centre_at_the_nearest_shape(width, height, expected):
    found = random_crop(width, height, np.random.default_rng(0))
    assert found == pytest.approx(expected)


@pytest.mark.parametrize("shape", [(1, 500), (500, 1), (1, 1)])
def test_pictures_of_extreme_shapes_are_decoded(shape):
    content = encoded(Image.new("RGB", shape, (10, 200, 30)))
    generator = np.random.default_rng(0)
    for crop in (eval_crop, lambda width, height: random_crop(width, height, generator)):
        assert (decoded(content, (8, 8), crop) == [10, 200, 30]).all()


def test_a_centred_box_never_leaves_the_picture_by_rounding():
    for width in range(1, 80):
        for height in range(1, 80):
            left, top, right, bottom = centre_crop(width, height, aspect=width / height)
            assert left >= 0 and top >= 0 and right <= width and bottom <= height


def test_names_are_printed_on_one_line_that_any_terminal_can_show():
    name = b"a \xff\n\x1b[2J\xc3\xa9.jpg".decode("utf-8", "surrogateescape")
    assert printable(name) == r"a \udcff\n\x1b[2Jé.jpg"


def test_a_disk_that_fails_at_first_is_asked_again(tmp_path, monkeypatch):
    errors = [OSError(5, "Input/output error"), OSError(116, "Stale file handle")]

    def read_bytes(path, limit):
        if errors:
            raise errors.pop()
        return b"content"

    monkeypatch.setattr(decoding.readers, "read_bytes", read_bytes)
    monkeypatch.setattr(decoding.time, "sleep", lambda seconds: None)
    assert decoding.read_bytes(tmp_path / "x") == b"content"
    errors += [OSError(5, "Input/output error")] * 3
    with pytest.raises(OSError, match="Input/output error"):
        decoding.read_bytes(tmp_path / "x")


@pytest.mark.parametrize("what", ["pipe", "folder", "device", "link"])
def test_only_regular_files_are_read(tmp_path, what):
    path = tmp_path / "a.jpg"
    if what == "pipe":
        os.mkfifo(path)
    elif what == "folder":
        path.mkdir()
    elif what == "device":
        path = Path("/dev/zero")
    else:
        path.symlink_to("/dev/zero")
    with pytest.raises(BrokenPicture, match="expected a regular file, got a folder, pipe, socket"):
        decoding.read_bytes(path)


def test_a_file_that_is_too_large_is_not_read(tmp_path):
    with (tmp_path / "a.jpg").open("wb") as file:
        file.truncate(800_000_001)
    with pytest.raises(BrokenPicture) as error:
        decoding.read_bytes(tmp_path / "a.jpg")
    assert str(error.value) == (
        "expected at most 800,000,000 bytes, got more (8 for each pixel of --max-pixels, "
        "which raises it)"
    )


def test_the_bound_of_a_file_is_never_below_the_usual_one_and_rises_with_the_pixels(
    tmp_path, monkeypatch
):
    bounds = []
    monkeypatch.setattr(decoding.readers, "read_bytes", lambda path, limit: bounds.append(limit))
    for decoding.max_pixels in (1, 100_000_000, 200_000_000):
        decoding.read_bytes(tmp_path / "a.jpg")
    assert bounds == [800_000_000, 800_000_000, 1_600_000_000]
