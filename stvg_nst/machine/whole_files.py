"""Files that a reader finds whole or not at all, whatever stops their writer."""

from __future__ import annotations

import errno
import os
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_PARTIAL = ".partial"
_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A path to write to. When the block has ended, it takes the name ``path``.

    If the block fails, on a full disk for instance, what it has written is deleted, and an older file stays. Several
    processes, even on several machines, may write the same file at once: the last one wins. The folder is made.

    The file gets the permissions that ``open(path, "w")`` would give it, whatever its writer chose. A link stays a
    link: the file that it leads to is replaced. A device or a pipe is written to directly.

    Raises:
        OSError: the file cannot be written; it names ``path``.
    """
    stream = is_stream(path)
    path = path if stream else Path(os.path.realpath(path))
    # Beside the file, for a rename is atomic only within a file system. A process id would not be unique over machines.
    partial = path if stream else path.with_name(f".{uuid.uuid4().hex}{_PARTIAL}")
    try:
        if stream:
            yield path
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.touch()
        mode = _mode(path) if path.exists() else _mode(partial)
        yield partial
        if _mode(partial) != mode:  # some file systems have one mode for all, and refuse to set it
            partial.chmod(mode)
        os.replace(partial, path)
    except OSError as error:
        if error.errno in _DISK or error.filename == str(partial):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    finally:
        if not stream:
            partial.unlink(missing_ok=True)


def write_whole(path: Path, content: bytes | str) -> None:
    """Writes a file at once, as :func:`whole_file` does; a text as UTF-8.

    What UTF-8 cannot hold, such as the name of a file that is not UTF-8 itself, is written as an escape.
    """
    with whole_file(path) as partial:
        partial.write_bytes(content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content)


def remove_partials(folder: Path) -> None:
    """Deletes what writers that were killed have left at any depth below a folder; nobody else may be writing there."""
    for partial in folder.rglob(f".{'[0-9a-f]' * 32}{_PARTIAL}"):
        partial.unlink()


def is_stream(path: Path) -> bool:
    """Whether a path leads to a device or a pipe, which cannot be replaced by renaming."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)
