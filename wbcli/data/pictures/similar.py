"""The same picture saved twice, in other encodings or sizes, told by thumbnails of 8×8 cells.

Two pictures look alike where the mean brightness of their cells differs by little, and the mean
colour by not much: encoders keep less of it. A photograph saved again (JPEG down to quality 30,
WebP, GIF, a quarter to twice its size) differs from itself by at most 1.3 of 255 in brightness.
Among 58,828 pictures of Tiny ImageNet at 32×32 eight pairs look alike: each is one picture, saved
twice. Crops, mirror images and other colours are not found.

Pairs are not compared all with all. Projections of the thumbnails on random directions are cut
into cells; pictures that fall into the same cells, in one of a few tables, are compared with their
neighbours there. So N pictures cost TABLES sorts of N keys, and 192 bytes each.

Legend: N pictures of all splits, one after another.
"""

import numpy as np

from wbcli.data.pictures import decoding
from wbcli.data.pictures.duplicates import Place, both, place_at
from wbcli.files.readers import Content
from wbcli.words import counted

SIDE = 8
CELLS = SIDE * SIDE
DECODED = 32  # pixels of the side of which they are made: a mean over them forgets the encoder
YCBCR = np.array(  # rows: brightness, and two differences of colour, as JPEG has them
    [[0.299, 0.587, 0.114], [-0.1687, -0.3313, 0.5], [0.5, -0.4187, -0.0813]], dtype=np.float32
)
MEAN, MOST = 2.5, 12  # of 255: how much the brightness of two differs, over all cells and in one
COLOUR = 8  # and how much their colour, over all cells
TABLES, PROJECTIONS = 8, 6
WIDTH = 32  # of a cell of a projection, which what an encoder changes moves by about 1
NEIGHBOURS = 8  # with which each picture is compared in a table
PART = 1 << 16  # pairs that are compared at a time


def whole(width: int, height: int) -> decoding.Box:
    return 0, 0, width, height


def thumbnail(content: bytes) -> np.ndarray:
    """uint8 [64, 3], the mean red, green and blue of the cells of the picture in a file.

    Raises:
        BrokenPicture: it cannot be read as a whole.
    """
    image = decoding.decode(content, (DECODED, DECODED), whole)
    size = DECODED // SIDE
    rows = image.reshape(SIDE, size, -1).sum(1, dtype=np.uint16)
    sums = rows.reshape(SIDE, SIDE, size, 3).sum(2, dtype=np.uint16)
    return (sums // size**2).astype(np.uint8).reshape(CELLS, 3)


def brightness_and_colour(thumbnails: np.ndarray) -> np.ndarray:
    """uint8 [N, 3, 64] of [N, 64, 3]: brightness, and two differences of colour around 128."""
    found = np.empty((len(thumbnails), 3, CELLS), dtype=np.uint8)
    for start in range(0, len(thumbnails), PART):
        part = YCBCR @ thumbnails[start : start + PART].transpose(0, 2, 1).astype(np.float32)
        part[:, 1:] += 128
        found[start : start + PART] = np.rint(part).clip(0, 255)
    return found


def find(
    content: Content, digests: dict[str, np.ndarray], thumbnails: dict[str, np.ndarray]
) -> tuple[list[tuple[Place, Place]], list[str]]:
    """Pairs of pictures that look alike and are not the same file, and warnings about them.

    Args:
        digests: uint64 [N, 2] of each split, zero for what could not be read.
        thumbnails: uint8 [N, 64, 3] of each split.
    """
    sizes = {split: len(found) for split, found in thumbnails.items()}
    if not sizes:
        return [], []
    all_digests = np.concatenate([digests[split] for split in sizes])
    _, first = np.unique(all_digests, axis=0, return_index=True)
    first = np.sort(first[all_digests[first].any(1)])  # one of each that is there, and was read
    all_thumbnails = np.concatenate([thumbnails[split] for split in sizes])[first]
    pairs = alike(brightness_and_colour(all_thumbnails))
    pairs = [tuple(place_at(int(first[i]), sizes) for i in pair) for pair in pairs]
    kinds: dict[str, list[tuple[Place, Place]]] = {}
    for pair in pairs:
        kinds.setdefault(_kind(content, *pair), []).append(pair)
    return pairs, [
        f"looks like the same picture {kind}: {counted(len(found), 'pair')}, such as "
        + both(content, *found[0])
        for kind, found in kinds.items()
    ]


def _kind(content: Content, a: Place, b: Place) -> str:
    """What makes a pair worth knowing."""
    if a.split != b.split:
        return f"in {a.split} and in {b.split}"
    labels = getattr(content, a.split)[1]
    where = "within a class" if labels[a.index] == labels[b.index] else "under two labels"
    return f"{where} in {a.split}"


def alike(thumbnails: np.ndarray) -> np.ndarray:
    """Pairs of rows of uint8 [N, 3, 64] that look alike, int64 [pairs, 2], in order.

    Of many that all look alike each is paired with its neighbours, not with all.
    """
    generator = np.random.default_rng(0)
    found = [np.empty((0, 2), dtype=np.int64)]
    for _ in range(TABLES):
        directions = generator.normal(size=(CELLS, PROJECTIONS + 1)).astype(np.float32)
        directions /= np.linalg.norm(directions, axis=0)
        projected = thumbnails[:, 0].astype(np.float32) @ directions  # [N, PROJECTIONS + 1]
        cells = np.floor(projected[:, 1:] / WIDTH + generator.random(PROJECTIONS)).astype(np.int64)
        keys = cells @ (1 << 10 * np.arange(PROJECTIONS))  # |cell| < 2^9, as thumbnails are bytes
        order = np.lexsort((projected[:, 0], keys))
        for step in range(1, NEIGHBOURS + 1):
            same = np.flatnonzero(keys[order[step:]] == keys[order[:-step]])
            pairs = np.stack([order[same], order[same + step]], 1)
            found += [part[_differ_little(thumbnails, part)] for part in _parts(pairs)]
    return np.unique(np.sort(np.concatenate(found), 1), axis=0)


def _parts(pairs: np.ndarray) -> list[np.ndarray]:
    return [pairs[start : start + PART] for start in range(0, len(pairs), PART)]


def _differ_little(thumbnails: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """A mask of the pairs that look alike."""
    a, b = (thumbnails[pairs[:, side]].astype(np.int16) for side in (0, 1))
    difference = np.abs(a - b)
    brightness, colour = difference[:, 0], difference[:, 1:]
    alike = (brightness.mean(1) <= MEAN) & (brightness.max(1) <= MOST)
    return alike & (colour.mean((1, 2)) <= COLOUR)
