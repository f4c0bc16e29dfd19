"""How many cores there are to work with."""

from __future__ import annotations

import os


def granted_cores() -> int:
    """The cores that this process may use: under a batch system often fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1  # macOS pins no process
