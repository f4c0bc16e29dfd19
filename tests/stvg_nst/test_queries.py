from __future__ import annotations

import pytest

from stvg_nst.queries import query_fault


@pytest.mark.parametrize(
    "query", ["who waves?", "a man\twith\na hat", "\u4ed6\u6325\u624b", "7", "it's the caf\u00e9 man\u2019s"]
)
def test_sentences_in_any_script(query: str) -> None:
    assert query_fault(query) == ""


@pytest.mark.parametrize("query", ["", " \t\n", "?!", "\u00a0", "\u200b\ufeff", "\x00", "..."])
def test_a_text_without_a_word_is_blank(query: str) -> None:
    assert query_fault(query).startswith("is a blank sentence")


@pytest.mark.parametrize("character", ["\x00", "\x07", "\x0b", "\x1b", "\x7f", "\x92"])
def test_control_characters_are_named(character: str) -> None:
    assert query_fault(f"a man{character} waves") == f"holds the control character {character!a}"
