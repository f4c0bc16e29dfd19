"""How a training that diverged says so, to who called it and to the study that started it; needs no torch."""

from __future__ import annotations

DIVERGED = 3
"""Exit status of a fit whose loss is no number any more; the same fit would diverge again."""


class DivergedError(RuntimeError):
    """A training whose loss is no number any more."""

    exit_status = DIVERGED
