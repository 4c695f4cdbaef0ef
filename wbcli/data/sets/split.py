"""One folder of class folders, divided into lists of one's own: train.csv, val.csv and test.csv.

Nothing is moved or copied. Which picture comes into which list is a function of the seed, the
names of the classes and their pictures alone.
"""

import math
import os
import zlib
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np

from wbcli.data.pictures import decoding, duplicates
from wbcli.data.pictures.walk import DANGLING, LeftOut, pictures_below, sentences, subfolders
from wbcli.data.sets.own_lists import COLUMNS
from wbcli.files.storage import write_file
from wbcli.words import composed, printable, quoted

SHOWN = 5  # pictures under two labels
LISTS = ("train", "val", "test")
OTHER_NAMES = ("valid", "validation")  # of lists and folders of validation images
Picture = tuple[int, str]  # the number of its class, and its path below the folder


class Division(NamedTuple):
    """The pictures of each list that is not empty, in the order of classes and names."""

    class_names: list[str]
    lists: dict[str, list[Picture]]
    notes: list[str]

    def class_counts(self, name: str) -> list[int]:
        labels = [label for label, _ in self.lists[name]]
        return np.bincount(labels, minlength=len(self.class_names)).tolist()


def divide(folder: Path, shares: dict[str, float], seed: int) -> Division:
    """Divide the pictures of the class folders in `folder`.

    Of n pictures of a class, val and test get their share of n, rounded, but at least one trains.
    Copies of one picture (the same bytes) are in one list, so that a list may get less.

    Args:
        shares: of `val` and `test`, each from 0, together below 1.

    Raises:
        ValueError: no class folders, an empty one, or a list that would be empty.
    """
    left_out: LeftOut = {}
    names = class_folders(folder, left_out)
    pictures = []
    for label, name in enumerate(names):
        found = []
        for path in pictures_below(folder, name, left_out):
            there = (folder / path).exists()
            (found if there else left_out.setdefault(DANGLING, [])).append(path)
        if not found:
            raise ValueError(f"{folder / printable(name)} holds no picture: add some, or delete it")
        pictures += [(label, path) for path in found]
    counts = np.bincount([label for label, _ in pictures])
    room = {name: [0] * len(names) for name in shares}
    for label, count in enumerate(counts.tolist()):
        for name, places in places_of(count, shares).items():
            room[name][label] = places
    notes = sentences(folder, left_out)
    groups = _copies(folder, pictures, names, notes)
    lists: dict[str, list[Picture]] = {name: [] for name in LISTS}
    for group in _shuffled(groups, names, seed):
        lists[_take(group, room)] += group
    for name, share in shares.items():
        if share and not lists[name]:
            raise ValueError(
                f"{folder}: no class has enough pictures for --{name} {share:g} (the largest has "
                f"{max(counts)}): raise it, or leave it out with --{name} 0"
            )
    return Division(names, {name: sorted(of) for name, of in lists.items() if of}, notes)


def write(division: Division, folder: Path, output: Path) -> dict[str, Path]:
    """Write the lists into `output`, all or none; paths are relative to it.

    Raises:
        ValueError: `check` refuses, or a name is no text.
    """
    check(output)
    # The kernel follows links before it goes up from where they lead.
    below = os.path.relpath(os.path.realpath(folder), os.path.realpath(output))
    texts = {name: _text(division, name, below) for name in division.lists}
    is_new = not output.is_dir()
    output.mkdir(parents=True, exist_ok=True)
    written: dict[str, Path] = {}
    try:
        for name in reversed(texts):  # train.csv makes it a data set
            write_file(output / f"{name}.csv", texts[name])
            written[name] = output / f"{name}.csv"
    except BaseException:
        for path in written.values():
            path.unlink(missing_ok=True)
        if is_new:
            with suppress(OSError):
                output.rmdir()
        raise
    return {name: written[name] for name in texts}


def check(output: Path) -> None:
    """Raises ValueError where lists cannot be written, or would not be read."""
    if output.exists() and not output.is_dir():
        raise ValueError(f"--output {output}: expected a folder, this is a file")
    for name in (*LISTS, *OTHER_NAMES):
        path = output / f"{name}.csv"
        if os.path.lexists(path):
            raise ValueError(
                f"{path} exists: delete the lists that are there, or name another folder with "
                "--output"
            )
    for name in ("train", "test"):
        if (output / name).is_dir():
            raise ValueError(
                f"{output} holds {name}/, beside which {name}.csv cannot be told from it: name "
                "another folder with --output"
            )


def class_folders(folder: Path, left_out: LeftOut) -> list[str]:
    """Their names, in order.

    Raises:
        ValueError: there are none, or they are train/, test/ and the like, or two have one name.
    """
    names = subfolders(folder, ".", left_out)
    if "train" in names and set(names) <= {*LISTS, *OTHER_NAMES}:
        raise ValueError(
            f"{folder} is divided already, into {', '.join(f'{name}/' for name in names)}: use it "
            "as it is, or name a folder that holds a folder for each class"
        )
    if len(names) < 2:
        there = ", ".join(map(printable, names)) or "none"
        raise ValueError(f"{folder}: expected a folder for each class, at least two, found {there}")
    first: dict[str, str] = {}
    for name in names:
        label = composed(name).strip()
        if not label:
            raise ValueError(f"{folder}: {quoted(name)} cannot be a label, rename the folder")
        if (other := first.setdefault(label, name)) is not name:
            raise ValueError(
                f"{folder}: the folders {quoted(other)} and {quoted(name)} would have the same "
                "label: put their pictures into one of them"
            )
    return names


def places_of(count: int, shares: dict[str, float]) -> dict[str, int]:
    """How many of a class's pictures each share is, rounded; val gives way first."""
    places = {name: math.floor(count * share + 0.5) for name, share in shares.items()}
    for name in ("val", "test"):
        too_many = sum(places.values()) - (count - 1)
        places[name] -= min(places[name], max(0, too_many))
    return places


def _copies(
    folder: Path, pictures: list[Picture], names: list[str], notes: list[str]
) -> list[list[Picture]]:
    """The pictures, those with the same bytes together, in the order of the first of each.

    Only files of one size are read.
    """
    size_of = [os.stat(folder / path).st_size for _, path in pictures]
    sizes = Counter(size_of)
    groups: dict[object, list[Picture]] = {}
    for picture, size in zip(pictures, size_of, strict=True):
        key: object = picture
        if sizes[size] > 1:
            key = duplicates.digest(decoding.read_bytes(folder / picture[1])).tobytes()
        groups.setdefault(key, []).append(picture)
    twice = [
        f"the same picture as {printable(names[label])} and as {printable(names[other])}: "
        f"{printable(path)}; {printable(second)}"
        for (label, path), *others in groups.values()
        for other, second in others
        if other != label
    ]
    if twice[SHOWN:]:
        notes.append(f"{len(twice)} copies have another label than the first of them, such as:")
    notes += twice[:SHOWN]
    return list(groups.values())


def _shuffled(groups: list[list[Picture]], names: list[str], seed: int) -> list[list[Picture]]:
    """The groups class by class, in a random order that no other class has a say in."""
    of_class: list[list[list[Picture]]] = [[] for _ in names]
    for group in groups:
        of_class[group[0][0]].append(group)
    found = []
    for name, inside in zip(names, of_class, strict=True):
        key = zlib.crc32(os.fsencode(composed(name)))
        order = np.random.default_rng([seed, key]).permutation(len(inside))
        found += [inside[i] for i in order]
    return found


def _take(group: list[Picture], room: dict[str, list[int]]) -> str:
    """The list with room for all of a group, which is taken; train has room for everything."""
    needed = Counter(label for label, _ in group)
    for name in ("test", "val"):
        if all(room[name][label] >= count for label, count in needed.items()):
            for label, count in needed.items():
                room[name][label] -= count
            return name
    return "train"


def _text(division: Division, name: str, below: str) -> bytes:
    lines = [",".join(COLUMNS)]
    for label, path in division.lists[name]:
        cells = os.path.normpath(os.path.join(below, path)), division.class_names[label]
        lines.append(",".join(map(_cell, cells)))
        try:
            lines[-1].encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"{printable(lines[-1])}: a list is text in UTF-8, and this name is none: rename "
                "the file or folder"
            ) from error
    return "\n".join([*lines, ""]).encode()


def _cell(text: str) -> str:
    """Quoted where it must be. (The csv module leaves a carriage return as it is.)"""
    return '"{}"'.format(text.replace('"', '""')) if set(text) & set(',"\r\n') else text
