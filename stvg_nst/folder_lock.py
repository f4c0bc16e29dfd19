"""A folder that one process at a time works in."""

from __future__ import annotations

import fcntl
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_log = logging.getLogger(__name__)


@contextmanager
def locked(folder: Path) -> Iterator[int]:
    """Holds a folder, which is made, for one process; yields the lock's descriptor.

    Processes that inherit the descriptor hold the lock too, until the last of them ends. Where a file system has no
    locks, as that of some clusters, it warns and goes on without.

    Raises:
        BlockingIOError: another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise
        except OSError as error:
            _log.warning(
                "the file system of '%s' has no locks (%s): nothing keeps a second command from working in it "
                "meanwhile; start none",
                folder,
                error.strerror,
            )
        yield lock.fileno()
