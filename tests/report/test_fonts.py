"""Names in any script: drawn where an installed font has their characters, said where none has."""

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from matplotlib import font_manager
from PIL import Image

from report.test_figures import model
from wbcli.report import canvas, figures, fonts

NAMES = ["猫", "いぬ", "고양이"]


def write_font(path, family: str, characters: str) -> str:
    """A font in which each of the characters is a black square."""
    from fontTools.fontBuilder import FontBuilder
    from fontTools.pens.ttGlyphPen import TTGlyphPen

    pen = TTGlyphPen(None)
    pen.moveTo((100, 0))
    for point in ((100, 800), (900, 800), (900, 0)):
        pen.lineTo(point)
    pen.closePath()
    square = pen.glyph()
    names = [".notdef", *[f"u{ord(c):X}" for c in characters]]
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder(names)
    builder.setupCharacterMap({ord(c): f"u{ord(c):X}" for c in characters})
    builder.setupGlyf(dict.fromkeys(names, square))
    builder.setupHorizontalMetrics(dict.fromkeys(names, (1000, 100)))
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": family, "styleName": "Regular"})
    builder.setupOS2(sTypoAscender=800, usWinAscent=800, usWinDescent=200)
    builder.setupPost()
    builder.save(path)
    return str(path)


@pytest.fixture
def installed(monkeypatch, tmp_path):
    """`install(family, characters)`: a font that matplotlib's list does not have yet."""
    pytest.importorskip("fontTools")
    manager, paths = font_manager.fontManager, []
    own = [entry for entry in manager.ttflist if "DejaVu" in entry.name]
    monkeypatch.setattr(manager, "ttflist", own)
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: list(paths))
    fonts.fallbacks.cache_clear()

    def install(family: str, characters: str) -> None:
        paths.append(write_font(tmp_path / f"{family}.ttf", family, characters))
        fonts.fallbacks.cache_clear()

    yield install
    fonts.fallbacks.cache_clear()
    manager._findfont_cached.cache_clear()


def drawn(tmp_path, names: list[str]) -> tuple[str, np.ndarray, str]:
    """What `save` says of a figure with these class names, its pixels, and its SVG."""
    figure = figures.confusion(np.eye(3), names)
    absent = figures.save(figure, tmp_path, "names")
    with Image.open(tmp_path / "names.png") as image:
        return absent, np.asarray(image.convert("L")), (tmp_path / "names.svg").read_text()


def test_what_no_font_has_is_told(tmp_path, installed):
    absent, _, svg = drawn(tmp_path, NAMES)
    assert absent == "".join(sorted("猫いぬ고양이"))
    assert all(name in svg for name in NAMES), "text stays text: a browser has its own fonts"


def test_a_font_that_is_there_draws_the_names_also_one_installed_just_now(tmp_path, installed):
    _, boxes, _ = drawn(tmp_path, NAMES)
    installed("Test Gothic", "猫いぬ고양이")
    absent, squares, svg = drawn(tmp_path, NAMES)
    assert absent == ""
    assert "font-family: 'DejaVu Sans', 'Test Gothic'" in svg
    assert (squares < 50).sum() > (boxes < 50).sum() + 2000, "six black squares twice, not frames"


def test_as_few_families_as_have_all_characters_and_rather_one_without_serifs(installed):
    installed("A Small Sans", "猫")
    installed("B Serif", "猫いぬ")
    installed("C Sans", "猫いぬ")
    installed("D Hangul", "고양")
    assert fonts.fallbacks("abc猫いぬ") == (["C Sans"], "")
    assert fonts.fallbacks("abc猫いぬ고양이") == (["C Sans", "D Hangul"], "이")
    assert fonts.fallbacks("abcé−…\\n") == ([], "")


def test_a_damaged_font_file_is_passed_over(tmp_path, installed, monkeypatch):
    (tmp_path / "broken.ttf").write_bytes(b"no font")
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: [str(tmp_path / "broken.ttf")])
    assert fonts.fallbacks("猫") == ([], "猫")


def test_figures_whose_characters_the_house_has_keep_its_font_alone(tmp_path, installed):
    installed("Test Gothic", "猫a")
    figure = figures.row_norms([model()])
    assert canvas.save(figure, tmp_path, "plain") == ""
    assert "Test Gothic" not in (tmp_path / "plain.svg").read_text()
