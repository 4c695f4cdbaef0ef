"""Pictures on disk for a network of small images: decoded once, into memory."""

from functools import partial

import numpy as np
from torch.utils.data import Dataset

from wbcli.data.pictures import decoding
from wbcli.data.pictures.decoding import BrokenPicture, Pictures
from wbcli.data.pictures.workers import by_workers

CHUNK = 64  # pictures that a process decodes at a time


class Small(Dataset):
    """Slices of pictures as images of one size, uint8 [B, C, H, W].

    Each is the largest centred box of that shape: small images have no margin to cut off.
    """

    def __init__(self, pictures: Pictures, image: tuple[int, int, int]):
        self.pictures, self.image = pictures, image

    def __getitem__(self, part: range) -> np.ndarray:
        return np.stack([self.read(i).transpose(2, 0, 1) for i in part])

    def read(self, i: int) -> np.ndarray:
        channels, height, width = self.image
        crop = partial(decoding.centre_crop, aspect=width / height)
        try:
            content = decoding.read_bytes(self.pictures.path(i))
            return decoding.decode(content, (height, width), crop, "RGB" if channels == 3 else "L")
        except BrokenPicture as error:
            raise BrokenPicture(f"{self.pictures.describe(i)}: {error}; mend it") from error


def in_memory(pictures: Pictures, image: tuple[int, int, int]) -> np.ndarray:
    """All of them, uint8 [N, C, H, W].

    Raises:
        BrokenPicture: one is no whole picture.
    """
    count = len(pictures)
    parts = [range(start, min(start + CHUNK, count)) for start in range(0, count, CHUNK)]
    return np.concatenate(list(by_workers(Small(pictures, image), parts)))
