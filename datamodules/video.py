"""Video files in and out: every frame returned is the frame asked for, or there is an error.

Frames are numbered in the order of presentation. They are decoded one after another from the first, never by seeking:
after a seek, decord numbers the frames of an open group of pictures wrongly, and for frames spread over a whole clip
seeking saves next to nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import cast

import av
import numpy as np
from av.video.stream import VideoStream

from stvg_nst.whole_files import whole_file

# decord repeats the last good frame where it finds no further one, and by default says nothing. It raises when more
# than this share of the frames are such repeats; 0 would mean "never".
_TOLERATED_REPEATS = 1e-9


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """What a file's stream says of itself.

    Args:
        num_frames: frames that can be shown; an edit list or a cut in mid-GOP makes them fewer than the packets.
        fps: average frames per second.
        size: (H, W) as decoded.
    """

    num_frames: int
    fps: float
    size: tuple[int, int]


def video_sizes(videos: Iterable[Path]) -> dict[Path, int | None]:
    """Bytes of each file, ``None`` where it is gone; a file of which many clips are is asked for once."""
    return {video: video.stat().st_size if video.is_file() else None for video in dict.fromkeys(videos)}


class VideoDecodeError(RuntimeError):
    """A video file does not hold the frames asked for.

    Args:
        cause: what is wrong with the file.
        path: the file.
        frame_ids: the frames asked for, empty where the file as a whole is at fault.
    """

    # A loader process pickles the error, and PyTorch raises it anew from its text alone: both work with these defaults.
    def __init__(self, cause: str, path: Path | str = "", frame_ids: Sequence[int] = ()) -> None:
        super().__init__(cause)
        self.cause, self.path, self.frame_ids = cause, path, tuple(frame_ids)

    def __str__(self) -> str:
        if not self.path:
            return self.cause
        ids = f"{len(self.frame_ids)} frames {self.frame_ids[0]}..{self.frame_ids[-1]} of " if self.frame_ids else ""
        return f"cannot decode {ids}'{self.path}': {self.cause}"


class DamagedFrameError(VideoDecodeError):
    """A video opens, and a frame of it does not decode; not necessarily one of those asked for.

    decord decodes ahead in a thread of its own. How far it is when the first frame is handed out depends on how busy
    the machine is, and with it at which call the damage comes to light.
    """


def probe(path: Path | str) -> VideoInfo:
    """Counts the frames of a video and measures them, decoding only the first.

    Raises:
        VideoDecodeError: the file is missing, empty, truncated or no video.
    """
    path = Path(path)
    first = next(_decode(path, (0,)))
    with _open_strict(path) as container:
        num_frames = _count_frames(container)
        fps = container.streams.video[0].average_rate
    if num_frames == 0 or not fps:
        raise VideoDecodeError(f"its stream has {num_frames} frames to show at {fps} frames per second", path)
    return VideoInfo(num_frames, float(fps), (first.shape[0], first.shape[1]))


def check_video(path: Path | str) -> VideoInfo:
    """Decodes a whole video strictly: meant to be run once on every file of a data set.

    Where the bits of a frame are damaged, the decoder below :func:`read_frames` patches it from its neighbours and does
    not report that. Here the first such frame is an error.

    Raises:
        VideoDecodeError: as :func:`probe`, or a frame is damaged.
    """
    path = Path(path)
    info = probe(path)
    with _open_strict(path) as container:
        try:
            shown = sum(1 for _ in container.decode(video=0))
        except av.FFmpegError as error:
            raise VideoDecodeError(f"its stream is damaged ({error}); fetch or encode it again", path) from error
    if shown != info.num_frames:
        raise VideoDecodeError(f"it announces {info.num_frames} frames but decodes to {shown}", path)
    return info


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
        VideoDecodeError: the file is missing, empty, truncated, has fewer frames or another size.
    """
    path, ids = Path(path), tuple(int(i) for i in frame_ids)
    if not ids or ids[0] < 0 or any(b <= a for a, b in pairwise(ids)):
        raise ValueError(f"frame ids must be non-negative and strictly increasing, at least one, got {ids}")
    frames: np.ndarray | None = None
    for row, frame in enumerate(_decode(path, ids)):
        if frames is None:
            if expected_size is not None and frame.shape[:2] != tuple(expected_size):
                cause = (
                    f"frames are {frame.shape[:2]} (H, W) but the annotations were made for {tuple(expected_size)}; "
                    "use the original file"
                )
                raise VideoDecodeError(cause, path, ids)
            frames = np.empty((len(ids), *frame.shape), dtype=np.uint8)
        frames[row] = frame
    assert frames is not None
    return frames


def iter_frames(
    path: Path | str, frame_ids: Sequence[int] | None = None, *, chunk_size: int = 16
) -> Iterator[np.ndarray]:
    """Decodes a video in chunks of uint8 (<= chunk_size, H, W, 3), RGB.

    Args:
        frame_ids: native indices, strictly increasing; ``None`` for all, from the first to the last.

    Raises:
        VideoDecodeError: as :func:`read_frames`.
    """
    path, chunk = Path(path), []
    for frame in _decode(path, range(probe(path).num_frames) if frame_ids is None else frame_ids):
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
    stream = cast(VideoStream, container.add_stream(codec, Fraction(fps).limit_denominator(1001), options=options))
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


def _decode(path: Path, frame_ids: Sequence[int]) -> Iterator[np.ndarray]:
    """The chosen frames (H, W, 3), in order, without seeking."""
    if not path.is_file():
        raise VideoDecodeError("there is no such file", path, frame_ids)
    if path.stat().st_size == 0:
        raise VideoDecodeError("the file is empty", path, frame_ids)
    # Here, because decord puts its own FFmpeg into the process: what never decodes (cached features) does without.
    import decord

    try:
        # decord raises RuntimeError on what it cannot open and fails an assertion on a stream without frames.
        reader = decord.VideoReader(str(path), num_threads=1, fault_tol=_TOLERATED_REPEATS)
    except (decord.DECORDError, RuntimeError, AssertionError) as error:
        raise VideoDecodeError(f"it is truncated or no video ({_summary(error)})", path, frame_ids) from error
    if frame_ids[-1] >= len(reader):
        raise VideoDecodeError(f"it has only {len(reader)} frames", path, frame_ids)

    wanted = iter(frame_ids)
    next_wanted = next(wanted)
    size: tuple[int, ...] | None = None
    for index in range(frame_ids[-1] + 1):
        try:
            native = reader.next()
        except decord.DECORDLimitReachedError as error:
            cause = f"it announces {len(reader)} frames but no frame {index} can be decoded; encode it again"
            raise VideoDecodeError(cause, path, frame_ids) from error
        except (decord.DECORDError, StopIteration) as error:
            raise DamagedFrameError(f"frame {index} is damaged ({_summary(error)})", path, frame_ids) from error
        if index < next_wanted:
            continue
        frame = native.asnumpy()
        size = size or frame.shape
        if frame.shape[2] != 3:
            # decord takes the padding of a row for further channels where the padded width is a multiple of the width.
            cause = f"decord cannot read frames of this width (16, 24, 32, 48, 96 or 144), got {frame.shape}; pad them"
            raise VideoDecodeError(cause, path, frame_ids)
        if frame.shape != size:
            cause = f"the size changes from {size[:2]} (H, W) to {frame.shape[:2]} at frame {index}; encode it again"
            raise VideoDecodeError(cause, path, frame_ids)
        yield frame
        next_wanted = next(wanted, -1)


def _summary(error: BaseException) -> str:
    """The gist of a message that may quote C++ source and a stack trace."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:200]


def _open_strict(path: Path) -> av.container.InputContainer:
    """Opens a file so that damage is an error, not patched up."""
    try:
        # A title in another encoding than UTF-8 is no reason to refuse a film.
        container = av.open(str(path), metadata_errors="replace")
    except av.FFmpegError as error:
        raise VideoDecodeError(f"it is truncated or no video ({error})", path) from error
    if not container.streams.video:
        container.close()
        raise VideoDecodeError("it has no video stream", path)
    context = container.streams.video[0].codec_context
    context.options = {"err_detect": "explode"}
    context.thread_count = 1
    return container


def _count_frames(container: av.container.InputContainer) -> int:
    """Counts the packets whose frame is shown.

    Not shown are packets outside the edit list, and those that precede the first key frame in time: they refer to
    frames that were cut away.
    """
    first_key: float | None = None
    num_frames = 0
    for packet in container.demux(video=0):
        if packet.size == 0:
            continue
        # AVI has decoding times only; a packet without any time is shown in its turn.
        time = next((t for t in (packet.pts, packet.dts) if t is not None), math.inf)
        if first_key is None and packet.is_keyframe:
            first_key = time
        num_frames += first_key is not None and time >= first_key and not packet.is_discard
    return num_frames
