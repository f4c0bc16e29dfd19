"""Files that a reader finds whole or not at all, whatever stops their writer."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A path to write to, which takes the name ``path`` once the block has ended, in place of what had that name.

    If the block fails, on a full disk for instance, what it has written goes, and what had the name stays. Several
    processes, on several machines too, may write the same file at once: the last one stands. The folder is made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Beside the file, for a rename is atomic only within a file system. A process id would not be unique over machines.
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file at once, as :func:`whole_file` does."""
    with whole_file(path) as partial:
        partial.write_bytes(content)
