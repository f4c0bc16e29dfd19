"""Video files in and out: every frame returned is the frame asked for, or there is an error.

Frames are numbered in the order of presentation, among those that players show. They are decoded one after another from
the first, never by seeking: for frames spread over a whole clip seeking saves next to nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import count, pairwise
from pathlib import Path
from typing import cast

import av
import numpy as np
from av.video.stream import VideoStream

from datamodules.film import DamagedFrameError, VideoDecodeError, open_film
from stvg_nst.counting import counted
from stvg_nst.machine.whole_files import whole_file

__all__ = [
    "DamagedFrameError",
    "Timeline",
    "VideoDecodeError",
    "VideoInfo",
    "iter_frames",
    "probe",
    "read_frames",
    "timeline",
    "video_sizes",
    "write_video",
]


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """What a video shows.

    Args:
        num_frames: that are shown; a file may have more, which only help to decode others or which a cut has hidden.
        fps: average frames per second.
        size: (H, W), turned as players show it.
        pixel_aspect: width over height of a pixel; players stretch a film whose pixels are not square.
    """

    num_frames: int
    fps: float
    size: tuple[int, int]
    pixel_aspect: Fraction = Fraction(1)


@dataclass(frozen=True, slots=True)
class Timeline:
    """What a video shows, and when.

    Args:
        info: what it shows.
        times: of each frame, in seconds after the first; by the rate where the file does not say, or says times that do
            not rise.
        origin: the first frame's time on the clock of the file, which its sound shares.
    """

    info: VideoInfo
    times: tuple[float, ...]
    origin: float


def video_sizes(videos: Iterable[Path]) -> dict[Path, int | None]:
    """Bytes of each file, ``None`` where it is gone. A file is looked up once, however many clips it has."""
    return {video: video.stat().st_size if video.is_file() else None for video in dict.fromkeys(videos)}


def probe(path: Path | str) -> VideoInfo:
    """Measures a video and counts its frames, for which all are decoded.

    Raises:
        VideoDecodeError: the file is missing, empty, truncated or no video, or a frame is damaged.
        OSError: the file may not be read.
    """
    return timeline(path).info


def timeline(path: Path | str) -> Timeline:
    """What a video shows, and when it shows each frame; raises as :func:`probe`, for which all frames are decoded."""
    path = Path(path)
    times: list[float | None] = []
    height = width = 0
    aspect = Fraction(1)
    with open_film(path) as film:
        for frame in film.frames():
            if not times:
                height, width = film.rgb(frame).shape[:2]
                aspect = film.pixel_aspect(frame)
            times.append(frame.time)
        fps = film.rate(times)
    if not times or not fps:
        raise VideoDecodeError(f"it has {counted(len(times), 'frame')} to show, at {fps:g} frames per second", path)
    info, origin = VideoInfo(len(times), fps, (height, width), aspect), times[0] or 0.0
    known = [time for time in times if time is not None]
    if len(known) < len(times) or any(b <= a for a, b in pairwise(known)):
        return Timeline(info, tuple(index / fps for index in range(len(times))), origin)
    return Timeline(info, tuple(time - origin for time in known), origin)


def read_frames(
    path: Path | str, frame_ids: Sequence[int], *, expected_size: tuple[int, int] | None = None
) -> np.ndarray:
    """Decodes chosen frames of a video.

    The stream is decoded up to the last frame asked for; only the chosen frames are kept in memory. The file is opened
    and closed within the call, so that it is safe in forked and in spawned loader processes.

    Args:
        frame_ids: T native indices, strictly increasing.
        expected_size: (H, W) that the frames must have, as the annotations understand them.

    Returns:
        uint8 (T, H, W, 3), RGB.

    Raises:
        ValueError: the ids are empty, negative or not strictly increasing.
        VideoDecodeError: the file is missing, empty, truncated, damaged, has fewer frames or another size.
        OSError: the file may not be read.
    """
    path, ids = Path(path), _checked_ids(frame_ids)
    frames: np.ndarray | None = None
    for row, frame in enumerate(_chosen(path, ids)):
        if frames is None:
            _check_size(frame, expected_size, path)
            frames = np.empty((len(ids), *frame.shape), dtype=np.uint8)
        frames[row] = frame
    assert frames is not None
    return frames


def iter_frames(
    path: Path | str,
    frame_ids: Sequence[int] | None = None,
    *,
    chunk_size: int = 16,
    expected_size: tuple[int, int] | None = None,
) -> Iterator[np.ndarray]:
    """Decodes a video in chunks of uint8 (<= chunk_size, H, W, 3), RGB.

    Args:
        frame_ids: native indices, strictly increasing; ``None`` for all, from the first to the last.
        expected_size: as of :func:`read_frames`.

    Raises:
        ValueError, VideoDecodeError, OSError: as :func:`read_frames`.
    """
    path, chunk = Path(path), []
    for frame in _chosen(path, None if frame_ids is None else _checked_ids(frame_ids)):
        _check_size(frame, expected_size, path)
        chunk.append(frame)
        if len(chunk) == chunk_size:
            yield np.stack(chunk)
            chunk = []
    if chunk:
        yield np.stack(chunk)


def write_video(path: Path | str, frames: Iterable[np.ndarray], fps: float, *, crf: int | None = 18) -> None:
    """Encodes frames as H.264, in a Matroska file where the name ends in .mkv and else in mp4; whole or not at all.

    Args:
        frames: uint8 (H, W, 3) each, RGB, all of one size; an array (T, H, W, 3) is an iterable of them.
        fps: frames per second.
        crf: quality of x264, 0 (lossless but for the colour format) to 51 (worst); 18 is visually lossless. ``None``
            keeps every pixel as it is, in a file many times as large that fewer players open.

    Raises:
        ValueError: there is no frame, or a frame is not uint8 RGB, differs in size, or has an odd side and a ``crf``.
    """
    path = Path(path)
    container_format = "matroska" if path.suffix.lower() == ".mkv" else "mp4"
    with whole_file(path) as partial, av.open(str(partial), "w", format=container_format) as container:
        _encode(container, frames, fps, crf, path)


def _encode(
    container: av.container.OutputContainer, frames: Iterable[np.ndarray], fps: float, crf: int | None, path: Path
) -> None:
    # Where nothing may be lost, the fastest preset is coded and decoded four times as fast, in files a sixth larger.
    lossless = {"qp": "0", "preset": "ultrafast"}
    codec, options = ("libx264rgb", lossless) if crf is None else ("libx264", {"crf": str(crf)})
    stream = cast(VideoStream, container.add_stream(codec, Fraction(fps).limit_denominator(100_000), options=options))
    stream.pix_fmt = "rgb24" if crf is None else "yuv420p"
    stream.codec_context.thread_count = 1
    size: tuple[int, ...] | None = None
    for index, frame in enumerate(frames):
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
            raise ValueError(f"frame {index} for '{path}' must be uint8 (H, W, 3), got {frame.dtype} {frame.shape}")
        if size is None:
            size = frame.shape
            stream.height, stream.width = size[:2]
            if crf is not None and (size[0] % 2 or size[1] % 2):
                raise ValueError(
                    f"H.264 halves the colour resolution and needs even sides, got {size[:2]} (H, W) for '{path}'; "
                    "crop or pad the frames by a pixel"
                )
        elif frame.shape != size:
            raise ValueError(f"frame {index} for '{path}' is {frame.shape[:2]} (H, W), the first was {size[:2]}")
        container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
    if size is None:
        raise ValueError(f"no frames to write to '{path}'; give at least one")
    container.mux(stream.encode())


def _checked_ids(frame_ids: Sequence[int]) -> tuple[int, ...]:
    ids = tuple(int(i) for i in frame_ids)
    if not ids or ids[0] < 0 or any(b <= a for a, b in pairwise(ids)):
        raise ValueError(f"frame ids must be non-negative and strictly increasing, at least one, got {ids}")
    return ids


def _check_size(frame: np.ndarray, expected: tuple[int, int] | None, path: Path) -> None:
    if expected is not None and frame.shape[:2] != tuple(expected):
        cause = f"frames are {frame.shape[:2]} (H, W) but the annotations were made for {tuple(expected)}"
        raise VideoDecodeError(f"{cause}; use the original file", path)


def _chosen(path: Path, frame_ids: Sequence[int] | None) -> Iterator[np.ndarray]:
    """The chosen frames (H, W, 3), in order; ``None``, all of them."""
    wanted = iter(count() if frame_ids is None else frame_ids)
    next_wanted = next(wanted)
    num_frames = 0
    with open_film(path) as film:
        for frame in film.frames():
            num_frames += 1
            if num_frames <= next_wanted:
                continue
            yield film.rgb(frame)
            try:
                next_wanted = next(wanted)
            except StopIteration:
                return
    if frame_ids is not None:
        cause = (
            f"it has only {counted(num_frames, 'frame')}; `python -m stvg_nst data verify` lists all such films of a "
            "data set, and --data.init_args.on_short_clip says what to do with them"
        )
        raise VideoDecodeError(cause, path, frame_ids)
