"""Pictures on disk: where they are, and how one becomes a uint8 array of the size asked for.

The formats in `FORMATS`, upright by their EXIF orientation, as RGB or grey (`pixels`).

Legend: N pictures, S side of the square that a network sees, C channels.
"""

import errno
import io
import os
import re
import signal
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wbcli.data.pictures import pixels
from wbcli.files import readers
from wbcli.words import printable

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm")
EXTENSIONS += (".jp2", ".avif", ".jfif", ".jpe", ".mpo", ".pbm", ".pnm")
# Pillow has more: for EPS it starts Ghostscript, whatever the file is called.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "PPM", "WEBP", "TIFF", "JPEG2000", "AVIF")
ORIENTATION = 0x0112  # the EXIF tag
UPRIGHT = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}  # orientation → PIL.Image.Transpose
MAX_PIXELS = 100_000_000  # a larger picture is taken for a decompression bomb
MAX_PIXEL_BYTES = 8  # of a file, for each pixel: 16-bit RGB with alpha, not compressed
MARKER = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])")  # of a JPEG, but for those within its scans
START_OF_IMAGE, END_OF_IMAGE, START_OF_SCAN = b"\xd8", b"\xd9", b"\xda"
MAX_SCANS = 100  # of a progressive JPEG: each passes over all its pixels; ten are usual
EVAL_FRACTION = 224 / 256  # resize 256, centre crop 224
MAX_PADDING = 1 << 25  # bytes to which names are padded, beyond a multiple of their own
READ_ATTEMPTS = 3
TRANSIENT = (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EINTR, errno.EAGAIN)

workers: int | None = None  # processes that decode; None: one for each CPU
max_pixels = MAX_PIXELS  # of a picture, from --max-pixels; the processes inherit it

Box = tuple[float, float, float, float]  # left, top, right, bottom


class BrokenPicture(ValueError):
    """A file that is not a whole picture, with the reason."""


@dataclass(frozen=True)
class Pictures:
    """N files in the place of an array of images: names below `root`, and who named them.

    names: bytes [N]; lines: their lines in the file `listed_in`, or nothing.
    """

    root: Path
    names: np.ndarray
    listed_in: str | None = None
    lines: np.ndarray | None = None

    @classmethod
    def of(cls, root: Path, names: list[str], **origin) -> "Pictures":
        """Raises ValueError where one name is so long that the array would be far larger."""
        encoded = [os.fsencode(name) for name in names]
        longest = max(encoded, key=len, default=b"")
        if len(longest) * len(encoded) > 8 * sum(map(len, encoded)) + MAX_PADDING:
            raise ValueError(
                f"a name of {len(longest):,} bytes among {len(encoded):,} short ones, "
                f"{printable(os.fsdecode(longest[:80]))}…: shorten it"
            )
        return cls(root, np.array(encoded, dtype=bytes), **origin)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: np.ndarray) -> "Pictures":
        lines = None if self.lines is None else self.lines[index]
        return Pictures(self.root, self.names[index], self.listed_in, lines)

    def name(self, i: int) -> str:
        return os.fsdecode(self.names[i])

    def path(self, i: int) -> Path:
        return self.root / self.name(i)

    def describe(self, i: int) -> str:
        """For a message: the list and its line where there is one, and the file."""
        where = "" if self.lines is None else f"{self.listed_in}, line {self.lines[i]}: "
        return where + printable(self.name(i))


def workers_to_use() -> int:
    return len(os.sched_getaffinity(0)) if workers is None else workers


def leave_signals_to_the_parent(*worker) -> None:
    """A terminal's signals reach every process of it: the parent alone says what they mean."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def read_bytes(path: Path) -> bytes:
    """The whole file; what a network disk fails to give at once is asked for again.

    Raises:
        BrokenPicture: it is no regular file, or too large.
        OSError: it cannot be read.
    """
    limit = MAX_PIXEL_BYTES * max(max_pixels, MAX_PIXELS)
    for attempt in range(1, READ_ATTEMPTS + 1):
        try:
            return readers.read_bytes(path, limit)
        except readers.TooLong as error:
            why = f"{MAX_PIXEL_BYTES} for each pixel of --max-pixels, which raises it"
            raise BrokenPicture(f"{error} ({why})") from error
        except ValueError as error:
            raise BrokenPicture(str(error)) from error
        except OSError as error:
            if error.errno not in TRANSIENT or attempt == READ_ATTEMPTS:
                raise
            time.sleep(attempt)
    raise AssertionError


def decode(
    content: bytes,
    size: tuple[int, int],
    crop: Callable[[int, int], Box],
    mode: str = "RGB",
    fill: tuple[int, ...] | None = None,
    interpolation: str = "bilinear",
) -> np.ndarray:
    """A crop of the picture, resized: uint8 [H, W, 3], or [H, W, 1] for the mode `L`.

    A JPEG is decoded at the smallest of its scales 1, 1/2, 1/4 and 1/8 at which the crop still
    has the pixels asked for.

    Args:
        content: the bytes of the file.
        size: (H, W).
        crop: (width, height) of the upright picture → the box to take.
        fill: where it is given, the crop keeps its shape, in the middle of this colour.
        interpolation: one of Pillow's filters, by its name.

    Raises:
        BrokenPicture: it cannot be read as a whole.
    """
    from PIL import Image

    height, width = size
    Image.init()
    formats = [name for name in FORMATS if name in Image.OPEN]
    try:
        with (
            warnings.catch_warnings(action="ignore"),  # of what Pillow reads nevertheless
            pillow_limit(),
            Image.open(io.BytesIO(content), formats=formats) as image,
        ):
            full = image.size
            _check_size(image, content)
            orientation = _orientation(image)
            turned = orientation >= 5  # on its side
            upright = full[::-1] if turned else full
            box = crop(*upright)
            inside = (width, height) if fill is None else _inside(box, width, height)
            wanted = (inside[0] / (box[2] - box[0]), inside[1] / (box[3] - box[1]))
            if turned:
                wanted = wanted[::-1]
            drafted = image.draft(None, (int(full[0] * wanted[0]), int(full[1] * wanted[1])))
            scale = drafted[1][2] / full[0] if drafted else 1
            loaded = pixels.load(image, mode, content)
            if orientation != 1:
                loaded = loaded.transpose(UPRIGHT[orientation])
            scaled = tuple(side * scale for side in box)
            resample = Image.Resampling[interpolation.upper()]
            resized = loaded.resize(inside, resample, scaled)
            if fill is not None:
                ground = Image.new(mode, (width, height), fill)
                ground.paste(resized, ((width - inside[0]) // 2, (height - inside[1]) // 2))
                resized = ground
    except Exception as error:  # a damaged or hostile file can raise anything
        raise BrokenPicture(_reason(error, content)) from error
    return np.asarray(resized).reshape(height, width, -1)


def _inside(box: Box, width: int, height: int) -> tuple[int, int]:
    """The largest width and height of the shape of the box that are within these."""
    sides = box[2] - box[0], box[3] - box[1]
    scale = min(width / sides[0], height / sides[1])
    return max(1, round(sides[0] * scale)), max(1, round(sides[1] * scale))


def _check_size(image, content: bytes) -> None:
    width, height = image.size
    if width * height > max_pixels:
        raise ValueError(_too_large(width * height, f"{width}×{height} = "))
    if "progressive" in image.info and _num_scans(content) > MAX_SCANS:
        raise ValueError(f"a JPEG of more than {MAX_SCANS} scans")


def _too_large(count: int, sides: str = "") -> str:
    return (
        f"{sides}{count:,} pixels, more than the limit of {max_pixels:,}: make it smaller, "
        f"or raise the limit with --max-pixels {count}"
    )


@contextmanager
def pillow_limit() -> Iterator[None]:
    """Within it Pillow refuses at twice our limit what has to be refused before a file is open,
    such as the frame of a GIF.
    """
    from PIL import Image

    before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, max_pixels
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


def _num_scans(content: bytes) -> int:
    """Scans of a JPEG up to its end, behind which a film may follow; a little more than MAX_SCANS
    are enough.
    """
    at = scans = 0
    while scans <= MAX_SCANS and (marker := MARKER.search(content, at)):
        at, code = marker.end(), marker[1]
        if code == END_OF_IMAGE:
            break
        scans += code == START_OF_SCAN
        if code != START_OF_IMAGE:
            at += int.from_bytes(content[at : at + 2])  # the segment, whatever is in it
    return scans


def _orientation(image) -> int:
    """EXIF orientation, 1 … 8; 1 where there is none, where it is damaged, and of a TIFF file,
    which Pillow turns itself.
    """
    try:
        found = image.getexif().get(ORIENTATION)
        return found if found in UPRIGHT and image.format != "TIFF" else 1
    except Exception:  # the picture can be whole where its EXIF block is not
        return 1


def _reason(error: Exception, content: bytes) -> str:
    from PIL import Image, UnidentifiedImageError

    if not content:
        return "the file is empty"
    if isinstance(error, UnidentifiedImageError):
        return "not a picture that Pillow can read"
    if isinstance(error, Image.DecompressionBombError) and (count := re.search(r"\d+", str(error))):
        return _too_large(int(count[0]))
    return printable(" ".join(str(error).split())[:200]) or type(error).__name__


def centre_crop(width: int, height: int, fraction: float = 1.0, aspect: float = 1.0) -> Box:
    """The largest centred box of that width over height, shrunk to `fraction` of its sides."""
    box_width = min(width, height * aspect) * fraction
    box_height = min(box_width / aspect, height)  # by rounding it could be a bit more
    left, top = (width - box_width) / 2, (height - box_height) / 2
    return left, top, left + box_width, top + box_height


def eval_crop(width: int, height: int, fraction: float = EVAL_FRACTION) -> Box:
    """What is left of the picture after resize 256 and centre crop 224 (at any size)."""
    return centre_crop(width, height, fraction)


def random_crop(width: int, height: int, generator: np.random.Generator, shape: float = 1.0) -> Box:
    """The field's random resized crop: 8 to 100 % of the area, aspect from 3/4 to 4/3 of `shape`.

    Drawn up to ten times until it fits, else the centre, with the aspect brought into range.
    Source: Szegedy et al., Going Deeper with Convolutions, CVPR 2015; torchvision's rule.
    """
    for _ in range(10):
        area = width * height * generator.uniform(0.08, 1.0)
        aspect = np.exp(generator.uniform(np.log(3 / 4), np.log(4 / 3))) * shape
        w, h = round(np.sqrt(area * aspect)), round(np.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            left = int(generator.integers(0, width - w + 1))
            top = int(generator.integers(0, height - h + 1))
            return left, top, left + w, top + h
    aspect = min(max(width / height, 3 / 4 * shape), 4 / 3 * shape)
    return centre_crop(width, height, aspect=aspect)
