"""What a run says of one's own pictures: the classes that it finds most probable.

Legend: B batch, K classes, C channels, H height, W width.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from wbcli.config.settings import Config
from wbcli.data import recorded, sources
from wbcli.data.batches.batch import Normalise
from wbcli.data.features import Unlabelled
from wbcli.data.pictures import decoding
from wbcli.data.pictures.decoding import EXTENSIONS, BrokenPicture
from wbcli.data.pictures.fitting import Fit
from wbcli.data.pictures.walk import LeftOut, pictures_below, sentences
from wbcli.data.pictures.workers import by_workers
from wbcli.device import autocast
from wbcli.evaluate import measured, metrics
from wbcli.models.networks import Network
from wbcli.runs.run import Run

BATCH = 32
NOT_THERE = "there is no such file or folder"


@dataclass(frozen=True)
class Model:
    """A run's network with what it takes to show it pictures and to name its classes."""

    config: Config
    network: Network
    class_names: list[str]
    checkpoint: str
    temperature: float | None
    missing: str = ""  # why there is no temperature

    @property
    def source(self) -> sources.Source:
        return sources.of_run(self.config)

    @property
    def fit(self) -> Fit | None:
        """How a picture becomes a square; None for small images, of which the centre is taken."""
        return Fit.of(self.source, self.config.fit) if self.config.image_size else None

    @property
    def image(self) -> tuple[int, ...]:
        """(C, H, W) of what the network takes; (D,) of features."""
        if self.config.num_features:
            return (self.config.num_features,)
        size = self.config.image_size
        return (3, size, size) if size else self.source.image


class Files(Dataset):
    """Pictures of a slice as the network takes them, uint8 [H, W, C], or why there is none."""

    def __init__(self, paths: list[Path], model: Model):
        self.paths, self.image = paths, model.image
        self.interpolation = model.source.interpolation
        if model.fit:
            self.crop, self.fill = model.fit.eval_box, model.fit.fill
        else:  # small images have no margin to cut off
            aspect = self.image[2] / self.image[1]
            self.crop, self.fill = partial(decoding.centre_crop, aspect=aspect), None

    def __getitem__(self, part: slice) -> list[np.ndarray | str]:
        return [self.read(path) for path in self.paths[part]]

    def read(self, path: Path) -> np.ndarray | str:
        channels, height, width = self.image
        try:
            if not path.exists():
                return "a link to nothing" if path.is_symlink() else NOT_THERE
            if not path.is_file():  # a pipe would be waited for
                return "not a regular file"
            content = decoding.read_bytes(path)
            mode = "RGB" if channels == 3 else "L"
            how = {"fill": self.fill, "interpolation": self.interpolation}
            return decoding.decode(content, (height, width), self.crop, mode, **how)
        except (BrokenPicture, OSError) as error:
            return getattr(error, "strerror", None) or str(error)


def load(run: Run, checkpoint: str | None = None) -> Model:
    """The model of a finished run; its data set is read only if the run has no class names.

    Args:
        checkpoint: `last` or `best`; None takes what the run's recipe says.
    """
    config = run.config()
    names = run.class_names() or recorded.for_run(config, run.data_record()).class_names
    checkpoint = checkpoint or measured.default_checkpoint(config)
    kept = run.temperature(checkpoint, config.tta)
    missing = ""
    if kept is None:
        missing = "it has no validation images (--val-per-class N at stage 1)"
        if (images := run.images()) and images.val:
            missing = f"none was fitted on its validation images (wbcli eval {run.name} does it)"
    elif kept["temperature"] is None:
        missing = "all its validation images are classified correctly, so that any would do"
    temperature = kept and kept["temperature"]
    network = run.network(names, checkpoint)
    return Model(config, network, names, checkpoint, temperature, missing)


def find_pictures(given: list[Path]) -> tuple[list[Path], list[str]]:
    """The files themselves, there or not, and the pictures below the folders, in sorted order.

    Returns:
        The pictures, and sentences about what is left out of the folders.

    Raises:
        ValueError: a folder without pictures.
    """
    found: list[Path] = []
    notes: list[str] = []
    for path in given:
        inside, left_out = [path], LeftOut()
        if path.is_dir():
            inside = [path / name for name in pictures_below(path, ".", left_out)]
        said = sentences(path, left_out)
        if not inside:
            expected = f"{path}: expected pictures ({', '.join(EXTENSIONS)}), found none"
            raise ValueError("; ".join([expected, *said]))
        found += inside
        notes += said
    return found, notes


@torch.no_grad()
def predict(
    model: Model, paths: list[Path], device: torch.device, precision: str, top: int
) -> Iterator[tuple[Path, list[dict[str, Any]] | str]]:
    """The `top` classes of each picture, best first, or the reason why it has none.

    A class is {"class", "name", "probability"}: softmax(logits/T) with the temperature fitted on
    validation images, or without one {"class", "name", "score"}: its logit.
    """
    network = model.network.to(device, memory_format=torch.channels_last).eval()
    for part, images, broken in read_pictures(model, paths, device):
        answers = iter(())
        if images is not None:
            with autocast(device, precision):
                logits = metrics.logits_of(network, images, model.config.tta)
            answers = iter(_best(model, logits, top))
        for path, reason in zip(part, broken, strict=True):
            yield path, reason or next(answers)


@torch.no_grad()
def predict_rows(
    model: Model, given: Unlabelled, device: torch.device, precision: str, top: int
) -> Iterator[list[dict[str, Any]]]:
    """The `top` classes of each row of features, as `predict` gives those of pictures."""
    network = model.network.to(device).eval()
    for rows in given.rows.chunks():
        with autocast(device, precision):
            logits = metrics.logits_of(network, torch.from_numpy(rows).to(device), False)
        yield from _best(model, logits, top)


def read_pictures(
    model: Model, paths: list[Path], device: torch.device
) -> Iterator[tuple[list[Path], torch.Tensor | None, list[str | None]]]:
    """Some of the paths at a time: the normalised images [≤ B, C, H, W] of those that are whole
    pictures (None: none is), and for each path the reason why it is none, or None.
    """
    normalise = Normalise(model.source, device)
    parts = [slice(start, start + BATCH) for start in range(0, len(paths), BATCH)]
    for part, batch in zip(parts, by_workers(Files(paths, model), parts), strict=True):
        whole = [image for image in batch if not isinstance(image, str)]
        images = normalise(torch.from_numpy(np.stack(whole)).to(device)) if whole else None
        yield paths[part], images, [image if isinstance(image, str) else None for image in batch]


def _best(model: Model, logits: torch.Tensor, top: int) -> list[list[dict[str, Any]]]:
    key, values = "score", logits
    if model.temperature is not None:
        key, values = "probability", torch.softmax(logits.double() / model.temperature, 1)
    values, classes = values.topk(min(top, len(model.class_names)), 1)
    return [
        [
            {"class": k, "name": model.class_names[k], key: value}
            for k, value in zip(*row, strict=True)
        ]
        for row in zip(classes.tolist(), values.tolist(), strict=True)
    ]
