"""Numbers of things in words that people read."""

from __future__ import annotations


def counted(number: int, noun: str) -> str:
    """A number with its noun, which takes an s unless there is one.

    >>> counted(1, "fault"), counted(0, "note"), counted(1200, "frame")
    ('1 fault', '0 notes', '1,200 frames')
    """
    return f"{number:,} {noun}{'s' * (number != 1)}"
