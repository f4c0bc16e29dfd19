"""Whether a Matroska or WebM file is as long as it says: FFmpeg takes the end of the file for the end of the film."""

from __future__ import annotations

from pathlib import Path

_HEADER_ID, _SEGMENT_ID = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"
_BYTES_READ = 4096


def missing_bytes(path: Path) -> int:
    """Bytes that the file announces and lacks; 0 for a live recording, which announces none, and for other containers.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        start = file.read(_BYTES_READ)
    if not start.startswith(_HEADER_ID):
        return 0
    segment = sum(_size(start, len(_HEADER_ID)))
    if start[segment : segment + len(_SEGMENT_ID)] != _SEGMENT_ID:
        return 0
    content, size = _size(start, segment + len(_SEGMENT_ID))
    return max(0, content + size - path.stat().st_size)


def _size(data: bytes, place: int) -> tuple[int, int]:
    """Where the content of an element begins whose size stands at ``place``, and that size, 0 where it is unknown.

    The zeros ahead of the first one in the first byte are the number of bytes that follow it.
    """
    length = 9 - int.from_bytes(data[place : place + 1]).bit_length()
    all_ones = (1 << 7 * length) - 1
    size = int.from_bytes(data[place : place + length]) & all_ones
    return place + length, 0 if size == all_ones else size
