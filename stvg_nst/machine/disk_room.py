"""How much room something takes on a disk: said and checked before it is written."""

from __future__ import annotations

import shutil
from pathlib import Path

from rich.filesize import decimal

SHARED_MEMORY = Path("/dev/shm")
"""Where loader processes leave their batches; macOS has no such folder, nor a limit of its own on shared memory."""


def room_words(num_bytes: int, folder: Path) -> str:
    """Such as ``44.2 MB in 'data/frames', where 1.5 GB are free``; the folder need not exist yet."""
    return f"{decimal(num_bytes)} in '{folder}', where {decimal(free_bytes(folder))} are free"


def check_room(num_bytes: int, folder: Path) -> None:
    """Raises OSError where so much does not fit into a folder."""
    free = free_bytes(folder)
    if num_bytes > free:
        raise OSError(f"'{folder}' needs {decimal(num_bytes)}, but has {decimal(free)}; choose another disk")


def free_bytes(folder: Path) -> int:
    """Free bytes on the disk of a folder, which need not exist yet."""
    return shutil.disk_usage(nearest_folder(folder)).free


def nearest_folder(folder: Path) -> Path:
    """The folder itself, or the nearest one above it that exists."""
    while not folder.exists():
        folder = folder.absolute().parent
    return folder
