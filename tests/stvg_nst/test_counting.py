"""Numbers of things in words."""

from __future__ import annotations

import pytest

from stvg_nst.counting import counted


@pytest.mark.parametrize(
    ("number", "words"), [(0, "0 faults"), (1, "1 fault"), (2, "2 faults"), (1200, "1,200 faults")]
)
def test_one_is_no_plural(number: int, words: str) -> None:
    assert counted(number, "fault") == words
