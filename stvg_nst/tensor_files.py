"""Safetensors files as the other files are: written whole, as the umask allows, and unreadable is not absent."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from stvg_nst.machine.whole_files import whole_file


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Writes contiguous tensors of the CPU that share no memory, whole or not at all.

    Raises:
        OSError: the file cannot be written, because the disk is full for instance.
    """
    with whole_file(path) as partial:
        try:
            save_file(dict(tensors), partial, metadata=None if metadata is None else dict(metadata))
        except SafetensorError as error:
            # The library hands an error of the operating system on as words.
            if (number := re.search(r"\(os error (\d+)\)", str(error))) is None:
                raise
            code = int(number[1])
            raise OSError(code, os.strerror(code), str(path)) from error


@contextmanager
def open_tensors(path: Path) -> Iterator[Any]:
    """The open file of :func:`safetensors.safe_open`.

    Raises:
        OSError: the file cannot be read; the library itself would call every such file absent.
        SafetensorError: it is no safetensors file.
    """
    with path.open("rb"):
        pass
    with safe_open(path, framework="pt") as file:
        yield file


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors of a file, and its metadata; raises as :func:`open_tensors`."""
    with open_tensors(path) as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
