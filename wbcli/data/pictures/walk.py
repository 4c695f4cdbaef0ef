"""Walks through folders for pictures; what they pass over is kept, with the reason."""

import os
from pathlib import Path

from wbcli.data.pictures.decoding import EXTENSIONS
from wbcli.words import counted, printable

# What is passed over, and why.
NOT_A_PICTURE = ("file", "whose name is not a picture's")
HIDDEN_FILE = ("file", "whose name starts with a dot")
HIDDEN_FOLDER = ("folder", "whose name starts with a dot")
SEEN_BEFORE = ("folder", "that a link leads to once more")
DANGLING = ("link", "that leads to nothing")
LOOSE = ("picture", "outside the class folders")
BESIDE_FOLDER = ("folder", "beside train/, test/ and val/")
BESIDE_FILE = ("file", "beside train/, test/ and val/")

LeftOut = dict[tuple[str, str], list[str]]  # what and why → names below the root


def subfolders(root: Path, below: str, left_out: LeftOut) -> list[str]:
    """Names of the folders right in root/below, in order; the rest is left out."""
    folders = []
    for entry in sorted(os.scandir(root / below), key=lambda entry: entry.name):
        hidden = entry.name.startswith(".")
        if entry.is_dir() and not hidden:
            folders.append(entry.name)
            continue
        kind = HIDDEN_FOLDER if entry.is_dir() else _kind(entry.name) or LOOSE
        left_out.setdefault(kind, []).append(os.path.normpath(f"{below}/{entry.name}"))
    return folders


def pictures_below(root: Path, below: str, left_out: LeftOut) -> list[str]:
    """Names of the pictures in and below a folder, in order; the rest is left out."""
    found, seen = [], set()
    for folder, folders, files in os.walk(root / below, onerror=_fail, followlinks=True):
        relative = os.path.relpath(folder, root)
        real = os.path.realpath(folder)
        if real in seen:  # a link to a folder above it
            left_out.setdefault(SEEN_BEFORE, []).append(relative)
            folders.clear()
            continue
        seen.add(real)
        for name in sorted(name for name in folders if name.startswith(".")):
            folders.remove(name)
            hidden = os.path.normpath(f"{relative}/{name}")
            left_out.setdefault(HIDDEN_FOLDER, []).append(hidden)
        folders.sort()
        for name in sorted(files):
            kind = _kind(name)
            names = left_out.setdefault(kind, []) if kind else found
            names.append(os.path.normpath(f"{relative}/{name}"))
    return found


def sentences(root: Path, left_out: LeftOut) -> list[str]:
    """One for each reason: how many, why, and an example."""
    return [
        f"left out of {root}: {counted(len(names), what)} {why}, such as {printable(names[0])}"
        for (what, why), names in left_out.items()
    ]


def _kind(name: str) -> tuple[str, str] | None:
    """Why a file of that name is passed over; None for a picture."""
    if name.startswith("."):
        return HIDDEN_FILE
    return None if name.lower().endswith(EXTENSIONS) else NOT_A_PICTURE


def _fail(error: OSError) -> None:
    raise error
