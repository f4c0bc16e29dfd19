"""Films of every make, whose frames carry their number as eight black or white blocks: a wrong one is seen."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from av.stream import Disposition

NUM_FRAMES, HEIGHT, WIDTH = 72, 48, 128


def numbered_frames(num_frames: int = NUM_FRAMES) -> np.ndarray:
    x = np.arange(WIDTH)
    frames = np.empty((num_frames, HEIGHT, WIDTH, 3), np.uint8)
    for index, frame in enumerate(frames):
        frame[:] = (120 + 50 * np.sin((x + index) / 9)[..., None] + np.array([20, 0, -20])).astype(np.uint8)
        for bit in range(8):
            frame[:24, 16 * bit : 16 * bit + 16] = 255 * (index >> bit & 1)
    return frames


def numbers(frames: np.ndarray) -> tuple[int, ...]:
    return tuple(sum((f[4:20, 16 * b + 3 : 16 * b + 13].mean() > 127) << b for b in range(8)) for f in frames)


def encode(
    path: Path,
    frames: np.ndarray | None = None,
    *,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    container: str | None = None,
    container_options: dict[str, str] | None = None,
    **options: str,
) -> Path:
    """A film of 25 frames per second with a key frame every 24, of numbered frames unless others are given."""
    frames = numbered_frames() if frames is None else frames
    if codec == "libx264":
        options = {"crf": "18", **options}
    with av.open(str(path), "w", format=container, options=container_options or {}) as file:
        stream: Any = file.add_stream(codec, rate=25, options=options)
        stream.height, stream.width, stream.pix_fmt, stream.gop_size = *frames.shape[1:3], pix_fmt, 24
        stream.codec_context.thread_count = 1
        for frame in frames:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        file.mux(stream.encode())
    return path


def remux(
    source: Path,
    target: Path,
    *,
    first: int = 0,
    shift: int = 0,
    content: Callable[[int, bytes], bytes] = lambda index, data: data,
) -> Path:
    """Copies without decoding.

    Args:
        first: so many packets are cut away.
        shift: so many frames are shown before time 0, which an edit list hides in mp4.
        content: of a packet, given its index and what it is in the source.
    """
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for index, packet in enumerate(p for p in old.demux(video=0) if p.size):
            if index < first:
                continue
            copy = av.Packet(content(index, bytes(packet)))
            time_base = packet.time_base
            offset = round(shift / 25 / time_base)
            copy.stream, copy.time_base, copy.is_keyframe = stream, time_base, packet.is_keyframe
            copy.pts = None if packet.pts is None else packet.pts - offset
            copy.dts = None if packet.dts is None else packet.dts - offset
            new.mux(copy)
    return target


def with_cover(path: Path, *, before: bool, cover: Disposition, film: Disposition) -> Path:
    """A film beside a JPEG cover of another size, as two streams in either order with these flags."""
    with av.open(str(path), "w") as file:
        streams: dict[str, Any] = {}
        for codec in ("mjpeg", "libx264") if before else ("libx264", "mjpeg"):
            streams[codec] = file.add_stream(codec, rate=25)
        picture, video = streams["mjpeg"], streams["libx264"]
        picture.width, picture.height, picture.pix_fmt, picture.disposition = 160, 90, "yuvj420p", cover
        video.width, video.height, video.pix_fmt, video.disposition = WIDTH, HEIGHT, "yuv420p", film
        file.start_encoding()
        packet = av.Packet(cv2.imencode(".jpg", np.full((90, 160, 3), 200, np.uint8))[1].tobytes())
        packet.stream, packet.pts, packet.dts, packet.time_base = picture, 0, 0, Fraction(1, 25)
        packet.is_keyframe = True
        file.mux(packet)
        for frame in numbered_frames():
            file.mux(video.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        file.mux(video.encode())
    return path
