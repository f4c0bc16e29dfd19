"""Words in pictures."""

from __future__ import annotations

import pytest

from stvg_nst.drawing import FONT, font_for


@pytest.mark.parametrize("letter", ["ß", "é", "ж", "λ"])
def test_letters_beyond_ascii_are_drawn_as_themselves(letter: str) -> None:
    def drawn(text: str) -> bytes:
        return bytes(font_for(letter).getmask(text))

    assert drawn(letter) != drawn("\uffff"), "the empty box of a letter that the font lacks"


def test_words_in_ascii_keep_the_font_of_all_pictures() -> None:
    assert font_for("the man waves").getlength("man") == FONT.getlength("man")
