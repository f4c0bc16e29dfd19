"""Films for people: what browsers play, with the times and the sound of the source."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from datamodules.footage import open_footage
from datamodules.playable import Sound, write_playable
from datamodules.video import probe, read_frames
from tests.datamodules.films import numbered_frames, numbers

RATE = 44_100


def with_sound(path: Path, codec: str, *, seconds: float = 3.0, clicks: tuple[float, ...] = (1.0, 2.0)) -> Path:
    """A numbered film of 25 frames a second; it is silent but for clicks of a tenth of a second."""
    rate = 48_000 if codec == "libopus" else 8_000 if codec == "pcm_s16le" else RATE
    with av.open(str(path), "w") as file:
        video: Any = file.add_stream("libvpx" if path.suffix == ".webm" else "libx264", rate=25)
        picture = numbered_frames(int(25 * seconds))
        video.height, video.width, video.pix_fmt = *picture.shape[1:3], "yuv420p"
        audio: Any = file.add_stream(codec, rate=rate)
        audio.layout = "mono"
        wave = np.zeros(int(seconds * rate), np.float32)
        for click in clicks:
            place = int(click * rate)
            wave[place : place + rate // 10] = np.sin(np.arange(rate // 10) * 2 * np.pi * 440 / rate)
        resampler = av.AudioResampler(format=audio.codec_context.format, layout="mono", rate=rate)
        for frame in picture:
            file.mux(video.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        file.mux(video.encode())
        sound = av.AudioFrame.from_ndarray(wave[None], format="fltp", layout="mono")
        sound.rate, sound.pts, sound.time_base = rate, 0, Fraction(1, rate)
        for piece in [*resampler.resample(sound), *resampler.resample(None)]:
            file.mux(audio.encode(piece))
        file.mux(audio.encode())
    return path


def heard(path: Path) -> list[float]:
    """When a click begins, in seconds."""
    with av.open(str(path)) as file:
        loud = [
            (frame.time or 0) + index / frame.rate
            for frame in file.decode(audio=0)
            for index in np.flatnonzero(np.abs(frame.to_ndarray()).max(0) > 0.3 * _full(frame))
        ]
    return [time for before, time in zip([-1.0, *loud], loud, strict=False) if time - before > 0.3]


def _full(frame: av.AudioFrame) -> float:
    return 1.0 if "flt" in frame.format.name else 2.0**15


@pytest.mark.parametrize(("name", "codec"), [("a.mp4", "aac"), ("a.mov", "pcm_s16le"), ("a.webm", "libopus")])
def test_the_sound_goes_with_the_pictures(tmp_path: Path, name: str, codec: str) -> None:
    source = with_sound(tmp_path / name, codec)
    footage = open_footage(source)
    start, stop = footage.segment(0.6, 2.6)
    begin, end = footage.time_of(start), footage.time_of(stop)
    assert footage.origin is not None
    times = [footage.time_of(frame) - begin for frame in range(start, stop)]
    sound = Sound(source, footage.origin + begin, footage.origin + end)
    target = tmp_path / "out.mp4"
    write_playable(target, footage.frames(range(start, stop)), times, fps=25, sound=sound)
    assert numbers(read_frames(target, range(stop - start))) == tuple(range(start, stop))
    assert heard(target) == pytest.approx([0.4, 1.4], abs=0.05)
    with av.open(str(target)) as file:
        video, audio = file.streams.video[0], file.streams.audio[0]
        assert (video.codec_context.name, video.pix_fmt, audio.codec_context.name) == ("h264", "yuv420p", "aac")
        assert float(file.duration or 0) / av.time_base == pytest.approx(end - begin, abs=0.1)
    content = target.read_bytes()
    assert 0 < content.index(b"moov") < content.index(b"mdat"), "a browser begins before it has all of it"


def test_a_film_without_sound_gets_none(tmp_path: Path) -> None:
    write_playable(tmp_path / "mute.mp4", numbered_frames(5), (n / 25 for n in range(5)), fps=25)
    sound = Sound(tmp_path / "mute.mp4", 0, 1)
    write_playable(tmp_path / "out.mp4", numbered_frames(5), (n / 25 for n in range(5)), fps=25, sound=sound)
    with av.open(str(tmp_path / "out.mp4")) as file:
        assert not file.streams.audio


def test_frames_are_shown_at_their_times(tmp_path: Path) -> None:
    times = (0.0, 0.04, 0.5, 1.25, 1.3)
    write_playable(tmp_path / "out.mp4", numbered_frames(5), times, fps=25)
    assert open_footage(tmp_path / "out.mp4").times == pytest.approx(times, abs=1e-4)


def test_odd_sides_are_made_even_and_colours_stay(tmp_path: Path) -> None:
    frames = np.zeros((3, 61, 45, 3), np.uint8)
    frames[0], frames[1], frames[2] = (220, 30, 30), (30, 200, 40), (30, 40, 210)
    write_playable(tmp_path / "out.mp4", frames, (0, 1, 2), fps=1)
    assert probe(tmp_path / "out.mp4").size == (62, 46)
    read = read_frames(tmp_path / "out.mp4", range(3))[:, :61, :45].astype(int)
    assert np.abs(read - frames).max() <= 6


def test_a_wrong_name_and_no_frames_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must be named so, got .*out\.webm"):
        write_playable(tmp_path / "out.webm", numbered_frames(2), (0, 1), fps=1)
    with pytest.raises(ValueError, match="no frames to write"):
        write_playable(tmp_path / "out.mp4", [], [], fps=1)
    assert not [*tmp_path.iterdir()]
