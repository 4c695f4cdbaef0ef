"""Reading every file of a data set, to find what is broken before a training does.

Pictures are decoded in parallel; the same bytes, or pixels in memory, are the same picture,
under whatever names. Files that look alike are told, too.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch.utils.data import Dataset

from wbcli.data.pictures import decoding, duplicates, similar
from wbcli.data.pictures.decoding import BrokenPicture, Pictures
from wbcli.data.pictures.duplicates import SPLITS, WORDS
from wbcli.data.pictures.workers import by_workers
from wbcli.files.readers import Content, Problem
from wbcli.words import has

CHUNK = 16  # files that a process reads at a time


def num_files(content: Content) -> int:
    """Pictures on disk in all splits of a data set; 0 for one that lives in memory."""
    splits = [getattr(content, split) for split in SPLITS]
    return sum(len(s[1]) for s in splits if s and isinstance(s[0], Pictures))


class Findings(NamedTuple):
    """Images of each split and training images of each class, what is wrong, and what may be
    so on purpose; pairs of files that look like the same picture.
    """

    images: dict[str, int]
    class_counts: list[int]
    problems: list[Problem]
    warnings: list[str]
    similar: list[list[str]]


def examine(content: Content, on_file: Callable[[int], None] = lambda count: None) -> Findings:
    """Mistakes in lists, missing and broken files, and pictures that stand twice.

    Args:
        content: what the `read` of a source found.
        on_file: told the number of files that have just been read.
    """
    problems, images_of = list(content.problems), {}
    absent = {problem.file for problem in problems}
    digests: dict[str, np.ndarray] = {}  # uint64 [N, 2]
    thumbnails: dict[str, np.ndarray] = {}  # uint8 [N, 64, 3], of files
    for split in SPLITS:
        images, _ = getattr(content, split) or (None, None)
        if images is None:
            continue
        images_of[split] = len(images)
        found = digests[split] = np.zeros((len(images), WORDS), dtype=np.uint64)
        if not isinstance(images, Pictures):
            for i, image in enumerate(images):
                found[i] = duplicates.digest(image.tobytes())
            continue
        thumbnails[split] = np.zeros((len(images), similar.CELLS, 3), dtype=np.uint8)
        for i, digest, thumbnail, reason in _read_all(images, absent, on_file):
            if reason:
                problems.append(Problem(f"{images.describe(i)}: {reason}", images.name(i)))
            else:
                found[i], thumbnails[split][i] = digest, thumbnail
    pairs, lookalikes = similar.find(content, digests, thumbnails)
    twice, copies = duplicates.find(content, digests)
    counts = [
        split and np.bincount(split[1], minlength=len(content.class_names)).tolist()
        for split in (content.train, content.test)
    ]
    warnings = [*content.notes, *empty_classes(content.class_names, *counts), *copies]
    alike = [[duplicates.describe(content, place) for place in pair] for pair in pairs]
    return Findings(images_of, counts[0], problems + twice, warnings + lookalikes, alike)


def broken(images: Pictures) -> list[tuple[int, str]]:
    """The pictures that cannot be read, each with the reason."""
    return [(i, reason) for i, _, _, reason in _read_all(images, set()) if reason]


def empty_classes(
    names: list[str],
    train: list[int],
    test: list[int] | None,
    val: list[int] | None = None,
) -> list[str]:
    """Sentences about classes without training, test or validation images (None: no such set)."""
    found = []
    for what, counts in [("training", train), ("test", test), ("validation", val)]:
        absent = [name for name, count in zip(names, counts or (), strict=False) if count == 0]
        if absent:
            found.append(
                f"{len(absent)} of {len(names)} classes {has(len(absent))} no {what} images: "
                + ", ".join(absent[:5])
                + (", …" if len(absent) > 5 else "")
            )
    return found


def _read_all(
    images: Pictures,
    absent: set[str | None],
    on_file: Callable[[int], None] = lambda count: None,
) -> Iterator[tuple[int, np.ndarray | None, np.ndarray | None, str | None]]:
    """(index, digest, thumbnail, reason if broken) of every picture that is there, in order."""
    index = [i for i in range(len(images)) if images.name(i) not in absent]
    chunks = [index[start : start + CHUNK] for start in range(0, len(index), CHUNK)]
    for chunk, read in zip(chunks, by_workers(_Files(images), chunks), strict=True):
        on_file(len(chunk))
        for i, found in zip(chunk, read, strict=True):
            yield i, *found


class _Files(Dataset):
    """Reads chunks: [index, …] → [(digest, thumbnail, reason if it is broken), …]."""

    def __init__(self, images: Pictures):
        self.images = images

    def __getitem__(self, chunk: list[int]) -> list[tuple]:
        return [_read(self.images.path(i)) for i in chunk]


def _read(path: Path) -> tuple[np.ndarray | None, np.ndarray | None, str | None]:
    try:
        content = decoding.read_bytes(path)
        thumbnail = similar.thumbnail(content)
    except BrokenPicture as error:
        return None, None, str(error)
    except OSError as error:
        return None, None, error.strerror or str(error)
    return duplicates.digest(content), thumbnail, None
