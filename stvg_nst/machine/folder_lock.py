"""A folder that one process at a time works in."""

from __future__ import annotations

import fcntl
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

LOCK = ".lock"
"""The file in a folder that its lock is on."""

# Who only asks holds a lock for a moment, and must turn nobody away by it.
_TRIES = 3
_SECONDS_BETWEEN_TRIES = 0.05

_log = logging.getLogger(__name__)

_held: list[TextIO] = []


def _let_go() -> None:
    """In a forked process, such as a loader's worker: it must not hold a folder longer than who forked it."""
    while _held:
        _held.pop().close()


os.register_at_fork(after_in_child=_let_go)


@contextmanager
def locked(folder: Path, *, shared: bool = False) -> Iterator[int]:
    """Holds a folder, which is made, for one process; yields the lock's descriptor.

    Processes that are started with the descriptor (``pass_fds``) hold the lock too, until the last of them ends;
    forked ones do not. Where a file system has no locks, as that of some clusters, it warns and goes on without.

    Args:
        shared: hold it beside others that share it too; who wants it alone waits for all of them.

    Raises:
        BlockingIOError: another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # To read and write: NFS grants a shared lock only on what may be read, and one alone on what may be written.
    with (folder / LOCK).open("a+") as lock:
        try:
            _take(lock, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        except BlockingIOError:
            raise
        except OSError as error:
            _log.warning(
                "the file system of '%s' has no locks (%s): nothing keeps a second command from working in it "
                "meanwhile; start none",
                folder,
                error.strerror,
            )
        _held.append(lock)
        try:
            yield lock.fileno()
        finally:
            _held.remove(lock)


def is_held(folder: Path) -> bool:
    """Whether a process holds a folder alone; it is not known where the file system has no locks."""
    with suppress(FileNotFoundError), (folder / LOCK).open() as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
    return False


def _take(lock: TextIO, kind: int) -> None:
    for _ in range(_TRIES - 1):
        with suppress(BlockingIOError):
            return fcntl.flock(lock, kind | fcntl.LOCK_NB)
        time.sleep(_SECONDS_BETWEEN_TRIES)
    return fcntl.flock(lock, kind | fcntl.LOCK_NB)
