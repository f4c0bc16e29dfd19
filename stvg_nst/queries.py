"""What a text must be to be grounded, whatever the text encoder. Never imports torch."""

from __future__ import annotations

import re

# Those of Unicode but for tabs and the ends of lines, which are white space.
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")


def query_fault(query: str) -> str:
    """Why a text is no sentence, in words that follow "which"; empty for a sentence.

    >>> query_fault(" ?"), query_fault("a man\x07"), query_fault("who waves?")
    ('is a blank sentence: it has no letter and no digit', "holds the control character '\\x07'", '')
    """
    if not any(map(str.isalnum, query)):
        return "is a blank sentence: it has no letter and no digit"
    control = _CONTROL.search(query)
    return f"holds the control character {control[0]!a}" if control else ""
