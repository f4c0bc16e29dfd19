"""A person's own video: a file, an open file or an array, with its frames, their times and their size."""

from __future__ import annotations

import logging
import shutil
import tempfile
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from io import TextIOBase
from pathlib import Path
from typing import IO, Any

import numpy as np

from datamodules.video import VideoDecodeError, iter_frames, timeline

_log = logging.getLogger(__name__)

VideoSource = Path | str | IO[bytes] | np.ndarray
"""What :func:`open_footage` takes."""


@dataclass(frozen=True, slots=True, eq=False)
class Footage:
    """The frames of a video, in the order in which they are shown.

    Args:
        name: of the video, for messages and pictures.
        times: of each frame, in seconds after the first.
        fps: frames per second, on average.
        size: (H, W) as shown.
        file: the video file, ``None`` for an array.
        array: (T, H, W, 3) uint8, ``None`` for a file.
        origin: the first frame's time on the clock of the file's sound; ``None`` where there is none to go with it.
        held: what must live as long as the file is read, such as a temporary one.
    """

    name: str
    times: tuple[float, ...]
    fps: float
    size: tuple[int, int]
    file: Path | None = None
    array: np.ndarray | None = field(default=None, repr=False)
    origin: float | None = None
    held: Any = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.times)

    @property
    def seconds(self) -> float:
        """How long it lasts: the last frame is shown for as long as the average one."""
        return self.times[-1] + 1 / self.fps

    def time_of(self, frame: int) -> float:
        """When a frame begins, in seconds; that after the last is the end."""
        return self.seconds if frame == len(self) else self.times[frame]

    def frame_at(self, seconds: float) -> int:
        """The frame whose beginning is nearest; one past the last frame for the end."""
        right = bisect_left(self.times, seconds)
        around = range(max(0, right - 1), min(right + 1, len(self)) + 1)
        return min(around, key=lambda frame: abs(self.time_of(frame) - seconds))

    def segment(self, start: float | None, stop: float | None) -> tuple[int, int]:
        """The native frames between two times in seconds, half-open; ``None`` for the beginning and the end.

        Raises:
            ValueError: they lie outside, or there is no frame between them.
        """
        first, last = 0.0 if start is None else start, self.seconds if stop is None else stop
        if not 0 <= first < last or first >= self.seconds:
            raise ValueError(
                f"expected 0 <= start < stop within the {self.seconds:.6g} s of '{self.name}', got start {first:g} and "
                f"stop {last:g}"
            )
        segment = self.frame_at(first), self.frame_at(min(last, self.seconds))
        if segment[0] >= segment[1]:
            raise ValueError(
                f"there is no frame of '{self.name}' between {first:g} s and {last:g} s; move them apart by at least "
                f"{1 / self.fps:.3g} s"
            )
        return segment

    def frames(self, frame_ids: Sequence[int]) -> Iterator[np.ndarray]:
        """Chosen frames, strictly increasing, one after the other: uint8 (H, W, 3).

        Raises:
            VideoDecodeError: the file is gone, or has changed since it was opened.
        """
        if self.array is not None:
            yield from (np.ascontiguousarray(self.array[frame]) for frame in frame_ids)  # torch takes no flipped view
        elif frame_ids:
            assert self.file is not None
            for chunk in iter_frames(self.file, frame_ids, chunk_size=1):
                yield chunk[0]


def open_footage(video: VideoSource, *, fps: float | None = None) -> Footage:
    """Reads a whole video once, to know what it shows.

    Args:
        video: a file's path, an open binary file (copied to a temporary one), or an array (T, H, W, 3), uint8, RGB.
        fps: frames per second; needed of an array, and in place of a file's own times where given.

    Raises:
        VideoDecodeError: the file is missing, empty, truncated or no video, or a frame is damaged.
        OSError: it may not be read.
        ValueError: the array is none of frames, or the rate is missing or not positive.
    """
    if fps is not None and not 0 < fps < float("inf"):
        raise ValueError(f"expected a positive number of frames per second, got {fps}")
    if isinstance(video, (Path, str)):
        return _footage_of_file(Path(video), str(video), fps)
    if isinstance(video, np.ndarray):
        return _footage_of_array(video, fps)
    if not hasattr(video, "read"):
        raise ValueError(
            f"expected a video as a path, an open file or a NumPy array of frames, got {type(video).__name__}"
        )
    return _footage_of_open_file(video, fps)


def _footage_of_file(path: Path, name: str, fps: float | None, held: Any = None) -> Footage:
    line = timeline(path)
    if line.info.pixel_aspect != 1:
        (height, width), aspect = line.info.size, line.info.pixel_aspect
        _log.warning(
            "the pixels of '%s' are not square (%d:%d): its boxes are in its %d x %d pixels, before a player stretches "
            "them",
            name,
            aspect.numerator,
            aspect.denominator,
            width,
            height,
        )
    if fps is None:
        return Footage(name, line.times, line.info.fps, line.info.size, file=path, origin=line.origin, held=held)
    times = tuple(frame / fps for frame in range(line.info.num_frames))
    return Footage(name, times, fps, line.info.size, file=path, held=held)


def _footage_of_open_file(video: IO[bytes], fps: float | None) -> Footage:
    if isinstance(video, TextIOBase):
        raise ValueError("expected a video as a binary file, got one that is read as text; open it by mode 'rb'")
    name = getattr(video, "name", None)
    name = name if isinstance(name, str) else "open file"
    copy = tempfile.NamedTemporaryFile(prefix="stvg-", suffix=".video")  # noqa: SIM115 (lives as long as the footage)
    shutil.copyfileobj(video, copy)
    copy.flush()
    try:
        return _footage_of_file(Path(copy.name), name, fps, held=copy)
    except VideoDecodeError as error:
        raise type(error)(error.cause, name) from error  # the copy's name says nothing


def _footage_of_array(array: np.ndarray, fps: float | None) -> Footage:
    if array.ndim != 4 or array.shape[-1] != 3 or array.dtype != np.uint8 or not array.size:
        raise ValueError(f"an array of frames must be (T, H, W, 3) uint8, RGB, got {array.shape} {array.dtype}")
    if fps is None:
        raise ValueError("an array of frames has no rate of its own; give fps, its frames per second")
    times = tuple(frame / fps for frame in range(len(array)))
    height, width = array.shape[1:3]
    return Footage("array", times, fps, (height, width), array=array)
