"""Files of ``torch.save``: whether one is whole enough to be read, and all that reading a damaged one raises."""

from __future__ import annotations

import struct
import zipfile
import zlib
from pathlib import Path

DAMAGED = (
    *(zipfile.BadZipFile, zlib.error),
    *(RuntimeError, EOFError, ValueError, TypeError, LookupError, AttributeError, ImportError),
    *(AssertionError, ArithmeticError, MemoryError, struct.error),
)
"""What torch.load and zipfile raise for a damaged file, or for a pickle of something else."""


def is_archive(path: Path) -> bool:
    """Whether a file is a whole zip archive, as PyTorch has written them since 1.6.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        try:
            return zipfile.is_zipfile(file)
        except zipfile.BadZipFile:  # for some damage Python raises what it should answer
            return False
