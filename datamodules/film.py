"""The one idea of a film that every reader shares: which stream of a file it is, and which of its frames are shown.

It is the players' idea: a cover picture is no film, and a frame that only helps to decode others, or that a cut has
hidden, is not shown. Damage of a shown frame is an error, damage of another is none.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import cast

import av
import numpy as np
from av.buffer import Buffer
from av.stream import Disposition
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from datamodules.matroska import missing_bytes

_NO_FILM = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image
# Matroska has no flag for covers: beside a film, a stream of one of these is a cover.
_PICTURE_CODECS = ("bmp", "jpeg2000", "jpegls", "jpegxl", "mjpeg", "png", "tiff", "webp")
# The rate that a stream announces holds unless the times of its frames differ from it by more than this share.
_RATE_TOLERANCE = 0.1


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
    """A video opens, and a frame of it that is shown does not decode; not necessarily one of those asked for."""


class Film:
    """The film of an open file; :func:`open_film` makes it.

    Args:
        container: the file, at its beginning.
        stream: that is the film.
        path: of the file.
    """

    def __init__(self, container: av.container.InputContainer, stream: VideoStream, path: Path) -> None:
        self._container, self._stream, self._path = container, stream, path
        self._stream.codec_context.options = {"err_detect": "explode"}
        self._stream.codec_context.thread_count = 1  # data are loaded by several processes already
        self._reformatter = VideoReformatter()

    def frames(self) -> Iterator[av.VideoFrame]:
        """Decodes the frames that are shown, once, from the first to the last in the order of presentation.

        Raises:
            DamagedFrameError: a shown frame is damaged.
            VideoDecodeError: the size changes.
        """
        size: tuple[int, int] | None = None
        for index, frame in enumerate(self._decode()):
            found = (frame.height, frame.width)
            size = size or found
            if frame.is_corrupt:
                raise DamagedFrameError(f"frame {index} is damaged; fetch or encode it again", self._path)
            if found != size:
                cause = f"the size changes from {size} (H, W) to {found} at frame {index}; encode it again"
                raise VideoDecodeError(cause, self._path)
            yield frame

    def rgb(self, frame: av.VideoFrame) -> np.ndarray:
        """A frame as uint8 (H, W, 3), turned as players show it."""
        picture = self._reformatter.reformat(frame, format="rgb24", threads=1).to_ndarray()
        try:
            matrix = _display_matrix(frame)
        except ValueError:
            return np.ascontiguousarray(np.rot90(picture, round(frame.rotation / 90)))
        return picture if matrix is None else _turned(picture, matrix)

    def pixel_aspect(self, frame: av.VideoFrame) -> Fraction:
        """Width over height of a pixel of :meth:`rgb`, by which players stretch a picture; 1 where the file does not
        say."""
        stored = Fraction(self._stream.sample_aspect_ratio or 1)
        try:
            matrix = _display_matrix(frame)
        except ValueError:
            is_on_its_side = round(frame.rotation / 90) % 2 == 1
        else:
            is_on_its_side = matrix is not None and abs(int(matrix[1])) > abs(int(matrix[0]))
        return 1 / stored if is_on_its_side else stored

    def rate(self, times: Sequence[float | None]) -> float:
        """Frames per second, 0 where nothing tells it.

        Args:
            times: of all frames in seconds, ``None`` where the file does not say.
        """
        announced = float(self._stream.average_rate or self._stream.guessed_rate or 0)
        known = [time for time in times if time is not None]
        if len(known) < max(2, len(times)) or any(b <= a for a, b in pairwise(known)):
            return announced
        measured = (len(known) - 1) / (known[-1] - known[0])
        return announced if abs(measured - announced) <= _RATE_TOLERANCE * announced else measured

    def _decode(self) -> Iterator[av.VideoFrame]:
        keys: list[int | None] = []
        is_cut = False
        complaints: dict[int, av.FFmpegError] = {}  # by the time of the frame, which is not shown yet
        for packet in self._packets():
            if packet.is_keyframe or (not keys and self._is_indexed_as_key(packet)):
                keys.append(packet.pts)
            is_hidden = _is_hidden(packet, keys)
            if packet.size:
                is_cut = packet.is_corrupt and not is_hidden
            try:
                frames = packet.decode()
            except av.FFmpegError as error:
                if is_hidden:
                    continue
                # H.264 that was cut without encoding names frames that were cut away. The decoder complains of a frame
                # that does, after it has decoded it: what counts is whether the frame is shown.
                if packet.pts is None or self._stream.codec_context.name != "h264":
                    raise self._damage(error) from error
                complaints[packet.pts] = error
                continue
            for frame in frames:
                if frame.pts is not None:
                    complaints.pop(frame.pts, None)
                    overdue = [complaint for time, complaint in complaints.items() if time < frame.pts]
                    if overdue:
                        raise self._damage(overdue[0])
                yield frame
        if complaints:
            raise self._damage(next(iter(complaints.values())))
        if is_cut:
            raise DamagedFrameError("the file ends within a frame; fetch it again", self._path)
        if self._ends_ahead_of_its_index():
            raise DamagedFrameError("the file ends before its last frame; fetch it again", self._path)

    def _packets(self) -> Iterator[av.Packet]:
        try:
            yield from self._container.demux(self._stream)
        except av.FFmpegError as error:
            raise self._damage(error) from error

    def _is_indexed_as_key(self, packet: av.Packet) -> bool:
        """Whether the file's index calls a packet a key frame; the packet, if damaged, may not say so itself."""
        time = packet.pts if packet.dts is None else packet.dts
        index = self._stream.index_entries
        place = -1 if time is None else index.search_timestamp(time)
        return place >= 0 and index[place].timestamp == time

    def _ends_ahead_of_its_index(self) -> bool:
        """Whether an MP4 lacks frames that are shown: its index names every packet, and FFmpeg stops at the first that
        is not there without a word."""
        if "mp4" not in self._container.format.name.split(","):
            return False
        ends = (entry.pos + entry.size for entry in self._stream.index_entries if not entry.is_discard)
        return max(ends, default=0) > self._path.stat().st_size

    def _damage(self, error: av.FFmpegError) -> DamagedFrameError:
        return DamagedFrameError(f"its stream is damaged ({error.strerror}); fetch or encode it again", self._path)


@contextmanager
def open_film(path: Path) -> Iterator[Film]:
    """Opens a video file for one reading of its film.

    Raises:
        VideoDecodeError: the file is missing, empty, truncated or no video.
        OSError: it may not be read.
    """
    if not path.is_file():
        raise VideoDecodeError("it is a folder" if path.is_dir() else "there is no such file", path)
    if path.stat().st_size == 0:
        raise VideoDecodeError("the file is empty", path)
    missing = missing_bytes(path)
    if missing:
        raise VideoDecodeError(f"it is truncated: {missing:,} bytes are missing at its end; fetch it again", path)
    try:
        # With its protocol, for a colon in a name would end that of another one. A title in another encoding than UTF-8
        # is no reason to refuse a film.
        container = av.open(f"file:{path}", metadata_errors="replace")
    except av.FFmpegError as error:
        raise VideoDecodeError(f"it is truncated or no video ({error.strerror})", path) from error
    with container:
        yield Film(container, _film_stream(container, path), path)


def _film_stream(container: av.container.InputContainer, path: Path) -> VideoStream:
    """The stream that players show: FFmpeg's choice, unless that is a cover picture."""
    films = [stream for stream in container.streams.video if not stream.disposition & _NO_FILM]
    if not films:
        what = "only a cover picture" if container.streams.video else "no video stream"
        raise VideoDecodeError(f"there is {what} in it", path)
    films = [stream for stream in films if stream.codec_context is not None]
    if not films:
        raise VideoDecodeError("nothing here decodes its codec; encode it again, as H.264 for instance", path)
    moving = [stream for stream in films if stream.codec_context.name not in _PICTURE_CODECS] or films
    best = container.streams.best("video")
    if best in moving:
        return best
    return max(moving, key=lambda stream: stream.disposition & Disposition.default)


def _is_hidden(packet: av.Packet, keys: Sequence[int | None]) -> bool:
    """Whether a packet's frame is not shown: an edit list hides it, or what it refers to was cut away.

    Args:
        keys: times of the key frames up to this packet.
    """
    if packet.is_keyframe:
        return False
    if not keys or packet.is_discard:
        return True
    # In decoding order it follows the key frame that the cut has left, in time it precedes it.
    return len(keys) == 1 and keys[0] is not None and (packet.pts is None or packet.pts < keys[0])


def _display_matrix(frame: av.VideoFrame) -> np.ndarray | None:
    """The nine int32 by which a player turns a frame, ``None`` where it does not.

    Raises:
        ValueError: there is side data of a kind that PyAV does not know, such as EXIF.
    """
    try:
        return np.frombuffer(bytes(cast(Mapping[str, Buffer], frame.side_data)["DISPLAYMATRIX"]), np.int32)
    except KeyError:
        return None


def _turned(picture: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Turns or mirrors a picture (H, W, 3) by a display matrix, to the nearest right angle.

    The matrix maps (x, y) to (a x + c y, b x + d y), in the order a, b, u, c, d.
    """
    a, b, _, c, d = matrix[:5].tolist()
    if abs(b) > abs(a):
        picture, a, d = picture.transpose(1, 0, 2), c, b
    return np.ascontiguousarray(picture[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1])
