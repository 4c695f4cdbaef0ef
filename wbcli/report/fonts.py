"""Fonts for names in any script: what the house's font lacks is drawn in another installed one.

Matplotlib draws each character in the first family of a list that has it, but does not look for
one that does.
"""

import logging
from contextlib import suppress
from functools import lru_cache

from matplotlib import font_manager
from matplotlib.figure import Figure
from matplotlib.text import Text

FAMILY = "DejaVu Sans"  # comes with matplotlib
logging.getLogger(font_manager.__name__).setLevel(logging.ERROR)  # a warning for each odd weight


def use_fallbacks(figure: Figure) -> str:
    """Let every text of a figure use the families that its characters need.

    Returns:
        The characters that no installed font has, in order; they are drawn as boxes.
    """
    for axes in figure.axes:
        axes.get_xticklabels(), axes.get_yticklabels()  # they have no text before they are asked
    texts = figure.findobj(Text)
    families, absent = fallbacks("".join(sorted(set("".join(t.get_text() for t in texts)))))
    if families:
        for text in texts:
            text.set_fontfamily([FAMILY, *families])
    return absent


@lru_cache
def fallbacks(characters: str) -> tuple[list[str], str]:
    """Installed families that together have what FAMILY lacks, and the characters that none has."""
    absent = {c for c in characters if c.isprintable()} - _covered(FAMILY, characters)
    found: list[str] = []
    for search in (_known, _installed_since):
        covered = {name: _covered(name, absent) for name in search()} if absent else {}
        while best := _best(covered, absent):
            found.append(best)
            absent -= covered[best]
    return found, "".join(sorted(absent))


def _best(covered: dict[str, set[str]], absent: set[str]) -> str | None:
    """The family that has most of these characters, of equals one without serifs."""
    having = [name for name in covered if covered[name] & absent]
    rank = {name: (-len(covered[name] & absent), "Sans" not in name, name) for name in having}
    return min(having, key=rank.__getitem__, default=None)


def _known() -> list[str]:
    """The families that matplotlib knows, but for those that have a box for every character."""
    names = {entry.name for entry in font_manager.fontManager.ttflist} - {FAMILY}
    return sorted(name for name in names if "lastresort" not in name.replace(" ", "").lower())


def _installed_since() -> list[str]:
    """The families with those that are younger than matplotlib's list of fonts, which it keeps."""
    manager = font_manager.fontManager
    for path in sorted({*font_manager.findSystemFonts()} - {e.fname for e in manager.ttflist}):
        with suppress(Exception):  # a damaged font, or of a kind that it cannot draw
            manager.addfont(path)
    return _known()


def _covered(family: str, characters) -> set[str]:
    """Those of the characters that the family has."""
    wanted = font_manager.FontProperties(family=[family])
    try:
        font = font_manager.get_font(font_manager.findfont(wanted, fallback_to_default=False))
    except (OSError, RuntimeError, ValueError):  # its file has gone, or is damaged
        return set()
    known = font.get_charmap()
    return {c for c in characters if ord(c) in known}
