"""Whether a weights file still holds what a run was made with."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path

_PIECE = 2**20


def file_sum(path: Path) -> str:
    """SHA-256 of a file, as `sha256sum` writes it."""
    return _sums(path)[0]


def is_same(path: Path, recorded: str) -> bool:
    """Whether a file has the recorded sum, or had it before it said of itself which network its tensors are of."""
    return recorded in _sums(path)


def _sums(path: Path) -> tuple[str, str]:
    state = path.stat()
    return _sums_of_state(path, state.st_mtime_ns, state.st_size)


@cache
def _sums_of_state(path: Path, modified: int, size: int) -> tuple[str, str]:
    """Of the file as it is, and without its metadata; once per state of the file, for all runs of a study share it."""
    whole, bare = hashlib.sha256(), hashlib.sha256()
    with path.open("rb") as file:
        length = file.read(8)
        header = file.read(int.from_bytes(length, "little")) if _is_header(length, size) else b""
        whole.update(length + header)
        bare.update(_without_metadata(length, header))
        while piece := file.read(_PIECE):
            whole.update(piece)
            bare.update(piece)
    return whole.hexdigest(), bare.hexdigest()


def _is_header(length: bytes, size: int) -> bool:
    return len(length) == 8 and int.from_bytes(length, "little") <= size - 8


def _without_metadata(length: bytes, header: bytes) -> bytes:
    """The head of a safetensors file as its library writes it for the same tensors; any other file's stays as it is."""
    try:
        entries = json.loads(header)
    except ValueError:
        return length + header
    if not isinstance(entries, dict) or "__metadata__" not in entries:
        return length + header
    del entries["__metadata__"]
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
