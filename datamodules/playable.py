"""Films for people: H.264 in mp4 that browsers play, at the times of the source and with its sound."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import cast

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, VideoReformatter
from av.video.stream import VideoStream

from stvg_nst.machine.cores import granted_cores
from stvg_nst.machine.whole_files import whole_file

_CLOCK = 90_000  # ticks a second: fine enough for every rate of frames
# What every browser plays in mp4; any other sound is encoded anew.
_COPIED = ("aac", "mp3")
_SAMPLE_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Sound:
    """The sound that goes with a part of a film.

    Args:
        file: that has it; one without sound gives none.
        start, stop: of the part, in seconds on the clock of the file.
    """

    file: Path
    start: float
    stop: float


def write_playable(
    path: Path,
    frames: Iterable[np.ndarray],
    times: Iterable[float],
    *,
    fps: float,
    sound: Sound | None = None,
    pixel_aspect: Fraction = Fraction(1),
    crf: int = 20,
) -> None:
    """Writes a film, whole or not at all.

    Args:
        path: named .mp4.
        frames: uint8 (H, W, 3) each, RGB, all of one size; a side that is odd gets one more row or column.
        times: of each frame, in seconds, rising from 0.
        fps: frames per second, on average.
        sound: to go with it.
        pixel_aspect: width over height of a pixel.
        crf: quality of x264, 0 (lossless but for the colour format) to 51 (worst).

    Raises:
        ValueError: the file is not named .mp4, or there is no frame.
        OSError: it cannot be written.
    """
    if path.suffix.lower() != ".mp4":
        raise ValueError(f"a film is written as mp4 and must be named so, got '{path}'")
    pictures = iter(frames)
    first = next(pictures, None)
    if first is None:
        raise ValueError(f"no frames to write to '{path}'; give at least one")
    with whole_file(path) as partial, ExitStack() as opened:
        # The index ahead of the frames, so that a browser begins before it has all of the file.
        options = {"movflags": "faststart"}
        film = opened.enter_context(av.open(str(partial), "w", format="mp4", container_options=options))
        video = _video_stream(film, first, fps, crf)
        video.codec_context.sample_aspect_ratio = pixel_aspect
        heard = _sound_packets(film, sound, opened)
        waiting = next(heard, None)
        reformatter = VideoReformatter()
        for picture, time in zip(chain([first], pictures), times, strict=True):
            while waiting is not None and waiting[0] <= time:
                film.mux(waiting[1])
                waiting = next(heard, None)
            film.mux(video.encode(_encodable(picture, time, reformatter)))
        film.mux(video.encode())
        for _, packet in chain([waiting] if waiting else [], heard):
            film.mux(packet)


def _video_stream(film: av.container.OutputContainer, first: np.ndarray, fps: float, crf: int) -> VideoStream:
    options = {"crf": str(crf), "preset": "veryfast"}
    stream = film.add_stream("libx264", Fraction(fps).limit_denominator(100_000), options=options)
    stream.height, stream.width = (side + side % 2 for side in first.shape[:2])
    stream.pix_fmt = "yuv420p"  # browsers play no other
    codec = stream.codec_context
    codec.time_base, codec.thread_count = Fraction(1, _CLOCK), granted_cores()
    codec.colorspace, codec.color_range = Colorspace.ITU709, ColorRange.MPEG
    codec.color_primaries, codec.color_trc = ColorPrimaries.BT709, ColorTrc.BT709
    return stream


def _encodable(picture: np.ndarray, time: float, reformatter: VideoReformatter) -> av.VideoFrame:
    height, width = picture.shape[:2]
    even = np.pad(picture, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    frame = reformatter.reformat(
        av.VideoFrame.from_ndarray(np.ascontiguousarray(even), format="rgb24"),
        format="yuv420p",
        dst_colorspace=Colorspace.ITU709,
        dst_color_range=ColorRange.MPEG,
    )
    frame.pts, frame.time_base = round(time * _CLOCK), Fraction(1, _CLOCK)
    return frame


def _sound_packets(
    film: av.container.OutputContainer, sound: Sound | None, opened: ExitStack
) -> Iterator[tuple[float, av.Packet]]:
    """Packets of the film's stream of sound, which is added here, with their times in seconds after its start."""
    if sound is None:
        return iter(())
    source = opened.enter_context(av.open(f"file:{sound.file}", metadata_errors="replace"))
    stream = cast("AudioStream | None", source.streams.best("audio"))
    if stream is None or stream.codec_context is None:
        return iter(())
    if stream.codec_context.name in _COPIED:
        return _copied(source, stream, film.add_stream_from_template(stream), sound)
    return _encoded_anew(source, stream, film, sound)


def _copied(
    source: av.container.InputContainer, stream: AudioStream, target: AudioStream, sound: Sound
) -> Iterator[tuple[float, av.Packet]]:
    for packet in _packets(source, stream, sound):
        time = _time(packet)
        if time is None or time < sound.start:
            continue
        assert packet.pts is not None and packet.time_base is not None
        packet.pts -= round(sound.start / packet.time_base)
        packet.dts, packet.stream = packet.pts, target
        yield time - sound.start, packet


def _encoded_anew(
    source: av.container.InputContainer, stream: AudioStream, film: av.container.OutputContainer, sound: Sound
) -> Iterator[tuple[float, av.Packet]]:
    rate = stream.rate if stream.rate in _SAMPLE_RATES else 48_000
    target = film.add_stream("aac", rate=rate)
    target.layout = "mono" if stream.layout.nb_channels == 1 else "stereo"
    return _encode(source, stream, target, sound)


def _encode(
    source: av.container.InputContainer, stream: AudioStream, target: AudioStream, sound: Sound
) -> Iterator[tuple[float, av.Packet]]:
    resampler = AudioResampler(format="fltp", layout=target.layout, rate=target.rate)
    place: int | None = None  # in samples: where the next piece begins
    for packet in _packets(source, stream, sound):
        try:
            decoded = cast("list[AudioFrame]", packet.decode())
        except av.FFmpegError as error:
            _log.warning("a part of the sound of '%s' is damaged and left out: %s", sound.file, error.strerror)
            continue
        for frame in decoded:
            if frame.time is None or not sound.start <= frame.time < sound.stop:
                continue
            place = round((frame.time - sound.start) * target.rate) if place is None else place
            for piece in resampler.resample(frame):
                piece.pts, piece.time_base = place, Fraction(1, target.rate)
                place += piece.samples
                yield from _timed(target.encode(piece))
    if place is not None:
        yield from _timed(target.encode(None))


def _timed(packets: Iterable[av.Packet]) -> Iterator[tuple[float, av.Packet]]:
    for packet in packets:
        time = _time(packet)
        assert time is not None, "the encoder knows when its packets are heard"
        yield time, packet


def _time(packet: av.Packet) -> float | None:
    """In seconds, ``None`` where the file does not say."""
    if packet.pts is None or packet.time_base is None:
        return None
    return float(packet.pts * packet.time_base)


def _packets(source: av.container.InputContainer, stream: AudioStream, sound: Sound) -> Iterator[av.Packet]:
    """Up to the end of the part; a file that is damaged there gives what it has, with a warning."""
    try:
        for packet in source.demux(stream):
            if (time := _time(packet)) is not None and time >= sound.stop:
                return
            yield packet
    except av.FFmpegError as error:
        _log.warning("the sound of '%s' ends early: %s", sound.file, error.strerror)
