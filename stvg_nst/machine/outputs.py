"""What a command is asked to write, checked before it works."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from stvg_nst.machine.whole_files import is_stream


class OutputError(ValueError):
    """An output that would replace something that must stay, or that cannot be a file."""


def check_outputs(
    outputs: Mapping[str, Path | None],
    *,
    inputs: Iterable[Path | str | None] = (),
    replace: bool = True,
) -> None:
    """Refuses files that could not be written, or that should not be.

    Args:
        outputs: the files to write, by the options that name them, such as ``--json``; ``None`` for those not wanted.
        inputs: files that the command reads. None of them is replaced, not even through another name or a link.
        replace: whether an existing file may be replaced.

    Raises:
        OutputError: an output is a folder, or an input, or two outputs are the same file.
        FileExistsError: the file exists, and must not be replaced.
        OSError: its folder cannot be written, or the existing file may not be.
    """
    wanted = {name: Path(path) for name, path in outputs.items() if path is not None}
    read = [Path(path) for path in inputs if path is not None]
    places: dict[str, str] = {}
    for name, path in wanted.items():
        if path.is_dir():
            raise OutputError(f"{name} '{path}' is a folder; give the name of a file")
        if same := next((other for other in read if _is_same(path, other)), None):
            raise OutputError(f"{name} '{path}' is an input of this command ('{same}'); write to another file")
        if is_stream(path):
            continue
        if (other := places.setdefault(os.path.realpath(path), name)) != name:
            raise OutputError(f"{other} and {name} are the same file '{path}'; give each its own")
        if path.exists() and not replace:
            raise FileExistsError(f"'{path}' exists already; choose another name, or give --overwrite")
        if path.exists() and not os.access(path, os.W_OK):
            raise PermissionError(errno.EACCES, "exists, but may not be written", str(path))
        check_folder_is_writable(Path(os.path.realpath(path)).parent)


def check_folder_is_writable(folder: Path) -> None:
    """Tries to make a file in a folder, or in the nearest one above it that exists.

    Raises:
        OSError: a file is in the way, or the folder cannot be written.
    """
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if not folder.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, "is a file, and a folder is needed there", str(folder))
    try:
        with tempfile.TemporaryFile(dir=folder):  # permissions do not tell: the file system may be read-only
            pass
    except OSError as error:
        raise OSError(error.errno, f"no file can be made there ({error.strerror})", str(folder)) from error


def _is_same(path: Path, other: Path) -> bool:
    if path.exists() and other.exists():
        return path.samefile(other)  # through links and hard links
    return os.path.realpath(path) == os.path.realpath(other)
