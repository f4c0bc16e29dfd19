"""What Linux grants the control groups that this process is in: a container, a job of a batch system."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from math import ceil
from pathlib import Path
from typing import Literal

MOUNT = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")


def memory_limit() -> int | None:
    """The bytes that the tightest of the groups may use, or None where none has a limit.

    Version 1 of the interface has a limit beyond every memory where there is none.
    """
    return _tightest(map(_memory_of, _groups("memory")))


def core_limit() -> int | None:
    """The cores whose time the tightest of the groups may use, rounded up, or None where none has a limit."""
    return _tightest(map(_cores_of, _groups("cpu")))


def _groups(controller: Literal["cpu", "memory"]) -> Iterator[Path]:
    """The folders of the process's groups with those around them, of both versions of the interface.

    In a container a group may be named as it is outside, and be mounted as the root. So a folder may be missing, and
    the root is always looked at.
    """
    for line in _text(MEMBERSHIP).splitlines():
        _, controllers, name = line.split(":", 2)
        if not controllers:
            root = MOUNT
        elif controller in controllers.split(","):
            root = next((folder for folder in (MOUNT / controllers, MOUNT / controller) if folder.is_dir()), MOUNT)
        else:
            continue
        group = root / name.strip("/")
        yield group
        for folder in group.parents:
            if folder == root.parent:
                break
            yield folder


def _tightest(limits: Iterable[int | None]) -> int | None:
    return min((limit for limit in limits if limit is not None), default=None)


def _memory_of(group: Path) -> int | None:
    texts = [_text(group / name) for name in ("memory.max", "memory.limit_in_bytes")]
    return next((int(text) for text in texts if text.isdigit()), None)


def _cores_of(group: Path) -> int | None:
    if quota := _text(group / "cpu.cfs_quota_us"):
        limit, period = quota, _text(group / "cpu.cfs_period_us")
    else:
        limit, _, period = _text(group / "cpu.max").partition(" ")
    # Without a limit the quota is -1, or the word max.
    return ceil(int(limit) / int(period)) if limit.isdigit() and period.isdigit() and int(period) else None


def _text(path: Path) -> str:
    try:
        return os.fsdecode(path.read_bytes()).strip()  # a group may be named by any bytes
    except OSError:
        return ""
