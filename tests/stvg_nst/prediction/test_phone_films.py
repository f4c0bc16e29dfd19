"""Films as phones and browsers make them: answered, and drawn in the pixels that a player shows."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from datamodules.footage import open_footage
from datamodules.video import probe, read_frames
from stvg_nst.prediction import VideoGrounder
from tests.datamodules.films import encode
from tests.stvg_nst.prediction.adapters import SENTENCE

RED = (200, 30, 30)


def frames(height: int, width: int, count: int = 24) -> np.ndarray:
    """Grey, with a red patch at the top left."""
    film = np.full((count, height, width, 3), 120, np.uint8)
    film[:, : height // 4, : width // 4] = RED
    return film


def is_red(picture: np.ndarray) -> np.bool_:
    return (np.abs(picture.astype(int) - RED) < 40).all()


def rotated(path: Path) -> Path:
    """Upright on a phone: stored lying on its side."""
    plain = encode(path.with_name("plain.mp4"), np.rot90(frames(96, 64), -1, axes=(1, 2)))
    with av.open(str(plain)) as old, av.open(str(path), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        stream.set_display_rotation(90)
        for packet in old.demux(video=0):
            if packet.size:
                packet.stream = stream
                new.mux(packet)
    return path


def variable(path: Path) -> Path:
    with av.open(str(path), "w") as file:
        stream: Any = file.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = 96, 64, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 600)
        for index, picture in enumerate(frames(96, 64)):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = 20 * index + 7 * (index % 3), Fraction(1, 600)
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return path


FILMS = {
    "rotated.mov": rotated,
    "variable rate.mp4": variable,
    "odd size.mkv": lambda path: encode(path, frames(95, 63), pix_fmt="yuv444p"),
    "10 bit.mp4": lambda path: encode(path, frames(96, 64), pix_fmt="yuv420p10le"),
    "one group.mp4": lambda path: encode(path, frames(96, 64), g="600", bf="3"),
    "größer, 影片 (1): 100%.mp4": lambda path: encode(path, frames(96, 64)),
    "browser.webm": lambda path: encode(path, frames(96, 64), codec="libvpx"),
}


@pytest.mark.parametrize("name", FILMS)
def test_a_phones_film_is_drawn_as_a_player_shows_it(mini: VideoGrounder, tmp_path: Path, name: str) -> None:
    film = FILMS[name](tmp_path / name)
    height, width = (95, 63) if "odd" in name else (96, 64)
    answer = mini.ground(film, SENTENCE)
    assert answer.footage.size == (height, width) and answer.boxes.min() >= 0
    assert answer.boxes[:, [0, 2]].max() <= width and answer.boxes[:, [1, 3]].max() <= height
    out = tmp_path / "out.mp4"
    answer.draw(out)
    drawn, info = read_frames(out, range(24)), probe(out)
    assert info.num_frames == 24 and open_footage(out).times == pytest.approx(answer.footage.times, abs=2e-3)
    # Four times as large, in the middle of the least width.
    left = (info.size[1] - 4 * width) // 2
    assert is_red(drawn[0, 20:40, left + 20 : left + 40]) and not is_red(drawn[0, 200:240, left + 20 : left + 40])
