"""Words in pictures."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import matplotlib.font_manager
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen

from stvg_nst import drawing
from stvg_nst.drawing import FONT, font_for, wrap


@pytest.fixture
def fonts(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Files of the machine's fonts: none yet."""
    found: list[str] = []
    monkeypatch.setattr(matplotlib.font_manager, "findSystemFonts", lambda: found)
    drawing._font_file.cache_clear()
    yield found
    drawing._font_file.cache_clear()


def font_with(letters: str, path: Path) -> str:
    """A font in which each of these letters is a square."""
    pen = TTGlyphPen(None)
    for move, *place in ((pen.moveTo, 0, 0), (pen.lineTo, 0, 500), (pen.lineTo, 500, 500), (pen.lineTo, 500, 0)):
        move(place)
    pen.closePath()
    names = [".notdef", *(f"uni{ord(letter):04X}" for letter in letters)]
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder(names)
    builder.setupCharacterMap({ord(letter): name for letter, name in zip(letters, names[1:], strict=True)})
    builder.setupGlyf(dict.fromkeys(names, pen.glyph()))
    builder.setupHorizontalMetrics(dict.fromkeys(names, (600, 0)))
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": "Squares", "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(path)
    return str(path)


@pytest.mark.parametrize("letter", ["ß", "é", "ж", "λ"])
def test_letters_beyond_ascii_are_drawn_as_themselves(letter: str) -> None:
    def drawn(text: str) -> bytes:
        return bytes(font_for(letter).getmask(text))

    assert drawn(letter) != drawn("\uffff"), "the empty box of a letter that the font lacks"


def test_words_in_ascii_keep_the_font_of_all_pictures() -> None:
    assert font_for("the man waves").getlength("man") == FONT.getlength("man")


def test_a_font_of_the_machine_draws_what_the_shipped_one_lacks(
    fonts: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "a.ttf").write_bytes(b"no font")
    fonts += [
        str(tmp_path / "a.ttf"),
        font_with("\u8c01", tmp_path / "b.ttf"),
        font_with("\u8c01?", tmp_path / "c.ttf"),
    ]
    font = font_for("\u8c01 ?")
    assert getattr(font, "path", None) == str(tmp_path / "c.ttf") and not caplog.messages


def test_letters_that_no_font_has_are_named_once(fonts: list[str], caplog: pytest.LogCaptureFixture) -> None:
    for size in (13, 20):
        font_for("who is \u8c01\uff1f", size)
    (said,) = caplog.messages
    assert "empty boxes for \u8c01\uff1f; install a font" in said


def test_a_sentence_without_spaces_is_wrapped() -> None:
    font = font_for("\u00e9")
    lines = wrap("\u00e9" * 100, 120, font)
    assert "".join(lines) == "\u00e9" * 100 and all(font.getlength(line) <= 120 for line in lines)
