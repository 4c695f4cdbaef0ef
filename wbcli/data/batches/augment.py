"""Augmentations by name: what of a training image is drawn anew in every epoch."""

AUGMENTATIONS = {  # random crop, random mirror; None: as the data set has it
    "basic": (None, None),
    "crop": (True, False),
    "flip": (False, True),
    "none": (False, False),
}


def augmentation(name: str, crops: bool, flips: bool) -> tuple[bool, bool]:
    """Whether an augmentation crops and whether it mirrors, where the data set does so or not."""
    crop, flip = AUGMENTATIONS[name]
    return crops if crop is None else crop, flips if flip is None else flip
