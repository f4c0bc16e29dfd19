"""A folder that one command at a time adds to; readers need not ask."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from datamodules.caches.array_store import CacheError
from stvg_nst.machine.folder_lock import locked


@contextmanager
def one_writer(folder: Path, command: str) -> Iterator[None]:
    """Holds a folder, which is made, for one process that writes.

    Args:
        command: that writes, for the error.

    Raises:
        CacheError: another process holds it.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(folder))
        except BlockingIOError as error:
            raise CacheError(
                f"another `{command}` is writing to '{folder}'; wait until it ends, and run this one again for what is "
                "then missing"
            ) from error
        yield
