"""Another labelled set, to measure a run on: CLASS/*, test/CLASS/* or test.csv.

Its classes are the run's, under the run's numbers, by their names in Unicode's composed form. It
need not have all of them.
"""

import os
import shlex
from pathlib import Path

import numpy as np

from wbcli.data.pictures.decoding import Pictures
from wbcli.data.pictures.walk import LeftOut, pictures_below, sentences, subfolders
from wbcli.data.sets import lists, own_lists
from wbcli.data.sets.class_names import numbers
from wbcli.files.readers import Arrays, Problem
from wbcli.words import composed, joined, printable, quoted, told_apart

OTHER_SPLITS = ("val", "valid", "validation")
LAYOUT = "CLASS/picture.jpg, test/CLASS/picture.jpg, or test.csv with the columns path,label"


def has_test(root: Path) -> bool:
    """Whether it has images that are called test images."""
    return (root / "test.csv").is_file() or bool(_folders(root / "test"))


def has_classes(root: Path, class_names: list[str]) -> bool:
    """Whether it holds a folder that is called as one of these classes."""
    index = numbers(class_names)
    return any(_key(name) in index for name in _folders(root))


def has_folders(root: Path) -> bool:
    return bool(_folders(root))


def read(root: Path, class_names: list[str], run: str) -> tuple[Arrays, list[str]]:
    """The pictures and their labels among the run's classes; and what is not used.

    Args:
        class_names: the run's.
        run: what it is called in a message.

    Raises:
        ValueError: a class that the run does not know, a mistake in the list, or no picture.
    """
    if (root / "test.csv").is_file():
        if _folders(root / "test"):
            raise ValueError(
                f"{root} has both test.csv and test/, and which of them is meant cannot be told: "
                "take one of them away"
            )
        return _read_list(root / "test.csv", class_names, run)
    return _read_folders(root, class_names, run)


def _read_list(path: Path, class_names: list[str], run: str) -> tuple[Arrays, list[str]]:
    problems: list[Problem] = []
    notes: list[str] = []
    rows = own_lists.read_rows(path, problems, notes)
    told_apart(dict.fromkeys(row.label for row in rows), str(path))
    rows = [row._replace(label=printable(row.label)) for row in rows]  # as a run keeps them
    index = numbers(class_names)
    known = [row for row in rows if _key(row.label) in index]
    pictures, labels = own_lists.arrays(path, known, class_names, f"run {run}", problems)
    problems += [*own_lists.twice(path.parent, {"test": rows}), *lists.missing(pictures)]
    lines = {row.label: row.line for row in reversed(rows)}
    wrong = [_unknown(path, lines, class_names, run)] if len(known) < len(rows) else []
    wrong += [problem.text for problem in problems]
    if wrong:
        raise ValueError(joined(wrong, "mistake"))
    return (pictures, labels), notes


def _read_folders(root: Path, class_names: list[str], run: str) -> tuple[Arrays, list[str]]:
    below = "test" if _folders(root / "test") else "."
    left_out: LeftOut = {}
    folders = subfolders(root, below, left_out)
    place = Path(os.path.normpath(root / below))
    index = numbers(class_names)
    unknown = [folder for folder in folders if _key(folder) not in index]
    if folders and len(unknown) == len(folders) and set(folders) <= set(OTHER_SPLITS):
        raise ValueError(
            f"{root}: expected {LAYOUT}, found {', '.join(f'{name}/' for name in folders)} only: "
            f"to measure on it, name that folder: --data-dir {shlex.quote(str(root / folders[-1]))}"
        )
    if unknown:
        raise ValueError(_unknown(place, dict.fromkeys(folders), class_names, run))
    told_apart(folders, str(place))
    names, labels = [], []
    for folder in folders:
        found = pictures_below(root, f"{below}/{folder}", left_out)
        names += found
        labels += [index[_key(folder)]] * len(found)
    notes = sentences(root, left_out)
    if not names:
        raise ValueError("; ".join([f"{root}: expected {LAYOUT}, found no picture", *notes]))
    return (Pictures.of(root, names), np.array(labels, dtype=np.int64)), notes


def _unknown(place: Path, labels: dict[str, int | None], class_names: list[str], run: str) -> str:
    """Names the classes that the run does not know, with the line of each in a list."""
    index = numbers(class_names)
    alike = {_key(name).strip().casefold(): name for name in class_names}
    found, renamed = [], False
    for label, line in sorted(labels.items()):
        if _key(label) in index:
            continue
        other = alike.get(_key(label).strip().casefold())
        where = [f"line {line}"] * bool(line)
        where += [f"the run has {quoted(other)}"] if other else []
        found.append(quoted(printable(label)) + (f" ({', '.join(where)})" if where else ""))
        renamed |= other is not None
    more = f" and {len(found) - 10} more" if len(found) > 10 else ""
    known = ", ".join(map(quoted, class_names[:10])) + (", …" if len(class_names) > 10 else "")
    one = len(found) == 1
    return (
        f"{place}: run {run} does not know the {'class' if one else 'classes'} "
        f"{', '.join(found[:10])}{more}: {'rename it or ' * renamed if one else ''}"
        f"take {'it' if one else 'them'} out of this set; it knows {known}"
    )


def _key(name: str) -> str:
    return composed(printable(name))


def _folders(place: Path) -> list[str]:
    if not place.is_dir():
        return []
    inside = os.scandir(place)
    return sorted(entry.name for entry in inside if entry.is_dir() and entry.name[0] != ".")
