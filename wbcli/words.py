"""Counts and names in sentences."""

import re
import unicodedata
from collections.abc import Iterable

CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")  # surrogates: undecodable bytes

SPACES = {"\t": "tab", "\n": "line feed", "\r": "carriage return"}  # that Unicode leaves nameless


def counted(count: int, noun: str) -> str:
    """1 file, 2 files, 1 class, 2 classes: `noun` in the number that fits."""
    if count == 1:
        return f"1 {noun}"
    return f"{count} {noun}" + ("es" if noun.endswith(("s", "x", "tch")) else "s")


def joined(sentences: list[str], noun: str, most: int = 50) -> str:
    """The first of them, and how many there are more."""
    more = [f"and {counted(len(sentences) - most, f'more {noun}')}"] * (len(sentences) > most)
    return "; ".join([*sentences[:most], *more])


def has(count: int) -> str:
    """The verb for so many: has, have."""
    return "has" if count == 1 else "have"


def are(count: int) -> str:
    """The verb for so many: is, are."""
    return "is" if count == 1 else "are"


def printable(name: str) -> str:
    """A name that any terminal can show, on one line."""
    return CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), name)


def told_apart(names: Iterable[str], what: str) -> list[str]:
    """The names as any terminal can show them.

    Raises:
        ValueError: two names are one so, which `what` calls.
    """
    shown: dict[str, str] = {}
    for name in names:
        if printable(name) in shown:
            raise ValueError(
                f"{what}: two classes are called {printable(name)}: rename one of them"
            )
        shown[printable(name)] = name
    return list(shown)


def composed(name: str) -> str:
    """The name in Unicode's composed form (NFC), in which é is one character however it came."""
    return unicodedata.normalize("NFC", name)


def quoted(name: str) -> str:
    """The name in quotes; white space around it, which nobody sees, is called by its name."""
    spaces = [
        f"{SPACES.get(end) or unicodedata.name(end, ascii(end)).lower()} at its {which}"
        for which, end in (("start", name[:1]), ("end", name[-1:]))
        if end.isspace()
    ]
    return repr(name) + (f" (white space: {', '.join(spaces)})" if spaces else "")
