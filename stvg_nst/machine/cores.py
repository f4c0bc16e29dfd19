"""How many cores there are to work with."""

from __future__ import annotations

import os

from stvg_nst.machine.control_groups import core_limit


def granted_cores() -> int:
    """The cores that this process may use: in a container or under a batch system often fewer than the machine has."""
    # macOS pins no process.
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limit = core_limit()
    return there if limit is None else max(1, min(there, limit))


def limit_threads() -> None:
    """Has PyTorch start no more threads than the process has cores' time for; call it before torch is loaded.

    PyTorch counts the cores, and not the time on them that a container has. Threads without time only wait for each
    other. A number that is set by hand stays.
    """
    if core_limit() is not None:
        os.environ.setdefault("OMP_NUM_THREADS", str(granted_cores()))


def threads_by_hand() -> int | None:
    """What the environment says of a process's threads; ``None`` where it says nothing."""
    said = os.environ.get("OMP_NUM_THREADS", "")
    return int(said) if said.isdecimal() and int(said) else None
