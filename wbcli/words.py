"""Counts in sentences."""


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
