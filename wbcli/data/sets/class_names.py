"""Names of classes: compared in Unicode's composed form (NFC), since file systems, archives and
editors change the form, and shown as they were written.
"""

from wbcli.words import composed, printable, quoted


def numbers(classes: list[str]) -> dict[str, int]:
    """The number of each class, by the composed form of its name."""
    return {composed(name): k for k, name in enumerate(classes)}


def unknown(name: str, classes: list[str], where: str) -> str:
    """Says that `where` has no class of that name, and what it has."""
    for other in classes:
        if composed(other).strip() == composed(name).strip():
            return f"{where} has no class {quoted(name)}, but {quoted(other)}: rename one of them"
    shown = ", ".join(map(printable, classes[:5])) + (", …" if len(classes) > 5 else "")
    return f"{where} has no class of that name; its classes are {shown}"
