"""How a picture that is not square becomes the square that a network sees.

`crop` loses the ends of its longer side, `pad` none of it and `squash` its aspect ratio. A training
picture is under each a random part of the whole, so that scale and place vary: 8 to 100 % of its
area, with an aspect ratio from 3/4 to 4/3 of what evaluation shows. That is a square under `crop`,
and the picture's own shape under the others: what training cuts out is padded or squashed as
evaluation does it with the whole picture. Mirrored or not, as everywhere.
"""

from dataclasses import dataclass

import numpy as np

from wbcli.data.pictures import decoding
from wbcli.data.pictures.decoding import Box


@dataclass(frozen=True)
class Fit:
    """How, and by what.

    how: `crop`, `pad` or `squash`.
    mean: of the data set's pixels in [0, 1].
    crop_fraction: what of the shorter side evaluation shows under `crop`.
    interpolation: one of Pillow's filters, by its name.
    """

    how: str
    mean: tuple[float, ...] = ()
    crop_fraction: float = decoding.EVAL_FRACTION
    interpolation: str = "bilinear"

    @classmethod
    def of(cls, source, how: str) -> "Fit":
        """With what holds for a data set, or for the network that it is for."""
        return cls(how, source.mean, source.crop_fraction, source.interpolation)

    @property
    def fill(self) -> tuple[int, ...] | None:
        """The colour of padded edges: the mean one, which is 0 for the network; None: no edges."""
        return tuple(round(255 * value) for value in self.mean) if self.how == "pad" else None

    def eval_box(self, width: int, height: int) -> Box:
        """What evaluation shows: the centre 224/256 of the shorter side, or the whole picture."""
        if self.how == "crop":
            return decoding.eval_crop(width, height, self.crop_fraction)
        return 0, 0, width, height

    def random_box(self, width: int, height: int, generator: np.random.Generator) -> Box:
        """What an epoch shows."""
        shape = 1.0 if self.how == "crop" else width / height
        return decoding.random_crop(width, height, generator, shape)

    def describe(self, size: int) -> str:
        """What evaluation does, for other programs."""
        square, how = f"{size}×{size}", self.interpolation
        usual = self.crop_fraction == decoding.EVAL_FRACTION
        fraction = "224/256" if usual else f"{self.crop_fraction:.4g}"
        return {
            "crop": f"centre square of {fraction} of the shorter side, resized to {square} ({how})",
            "pad": f"none: the whole picture, resized ({how}) to {size} on its longer side, in "
            f"the middle of {square} of the colour fill",
            "squash": f"none: the whole picture, resized to {square} ({how})",
        }[self.how]


CROP = Fit("crop")
