"""Counts and names in sentences."""

import re

CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")  # surrogates: undecodable bytes


def counted(count: int, noun: str) -> str:
    """1 file, 2 files, 1 class, 2 classes: `noun` in the number that fits."""
    if count == 1:
        return f"1 {noun}"
    return f"{count} {noun}" + ("es" if noun.endswith(("s", "x", "tch")) else "s")


def has(count: int) -> str:
    """The verb for so many: has, have."""
    return "has" if count == 1 else "have"


def are(count: int) -> str:
    """The verb for so many: is, are."""
    return "is" if count == 1 else "are"


def printable(name: str) -> str:
    """A name that any terminal can show, on one line."""
    return CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), name)
