"""The pixels of a picture as RGB or grey of 8 bits, whatever its file holds.

Palettes and CMYK are converted, 16-bit grey is scaled. Transparency is laid on white: what lies
under it differs between programs that save the same visible picture, and must not matter.
"""

import io

import numpy as np

WHITE = 255
PNG_BITS = 24  # where a PNG file says how many bits a value has
GREY_STEPS = {2: 85, 4: 17}  # Pillow spreads grey of so many bits over 0 … 255


def load(image, mode: str, content: bytes):
    """The pixels of a picture that was opened from `content`, in the mode `RGB` or `L`.

    Raises:
        ValueError: pixels of floating point, which have no known range.
    """
    from PIL import Image

    image.load()
    key = image.info.get("transparency")  # of a PNG: the value that is transparent, as stored
    bits = content[PNG_BITS] if image.format == "PNG" else 8
    if image.mode == "F":
        raise ValueError("pixels of 32-bit floating point: save it with 8 or 16 bits")
    if image.mode.startswith("I"):  # 16 bits, or what Pillow widened to 32
        values = np.asarray(image)
        grey = np.rint((values / 257).clip(0, 255)).astype(np.uint8)
        if key is not None:
            grey[values == key] = WHITE
        image = Image.fromarray(grey)
    elif image.mode == "RGB" and key is not None and bits == 16:
        image = _without_key(image, key, content)
    elif image.has_transparency_data:
        if image.mode == "L" and bits in GREY_STEPS:
            image.info["transparency"] = key * GREY_STEPS[bits]
        image = _on_white(image)
    return image.convert(mode)


def _on_white(image):
    from PIL import Image

    if image.mode == "La":  # premultiplied grey, which Pillow converts to nothing else
        image = image.convert("LA")
    image = image.convert("RGBA")
    white = Image.new("RGB", image.size, (WHITE,) * 3)
    white.paste(image, mask=image)
    return white


def _without_key(image, key: tuple[int, int, int], content: bytes):
    """A PNG of 16-bit RGB, of which Pillow keeps the high bytes, with pixels of the key white.

    Colours that are near the key have the same high bytes, so the low ones are read, too.
    """
    from PIL import Image

    with Image.open(io.BytesIO(content), formats=["PNG"]) as low:
        low.tile = [(*low.tile[0][:3], "RGB;16L")]  # the other byte of each two
        is_key = (np.asarray(low) == [value & 255 for value in key]).all(2)
    pixels = np.array(image)
    is_key &= (pixels == [value >> 8 for value in key]).all(2)
    pixels[is_key] = WHITE
    return Image.fromarray(pixels)
