"""How numbers are written: each of them in the same way in every table."""

from __future__ import annotations


def signed(points: float, digits: int = 2) -> str:
    """A difference, like ``+0.88``."""
    return f"{round(points, digits) + 0.0:+.{digits}f}"  # adding zero turns -0.00 into +0.00


def level(points: float | None) -> str:
    """A number of percent points, ``-`` where there is none."""
    return "-" if points is None else f"{points:.2f}"


def parameter_count(count: int | None) -> str:
    """A number of parameters, like ``1.77 M``; ``-`` where it is not known."""
    if count is None:
        return "-"
    for unit, size in (("M", 10**6), ("k", 10**3)):
        if count >= size:
            return f"{count / size:.2f} {unit}"
    return str(count)
