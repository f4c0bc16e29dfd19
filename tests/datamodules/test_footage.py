"""A person's own video: what it shows and when, of a file, an open file and an array."""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from datamodules.footage import Footage, open_footage
from datamodules.playable import write_playable
from datamodules.video import VideoDecodeError
from tests.datamodules.films import HEIGHT, NUM_FRAMES, WIDTH, encode, numbered_frames, numbers


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return encode(tmp_path_factory.mktemp("films") / "ein Film, größer.mp4", bf="3", g="250")


def read(footage: Footage, ids: tuple[int, ...]) -> tuple[int, ...]:
    return numbers(np.stack([*footage.frames(ids)]))


def test_a_file_an_open_file_and_an_array_say_the_same(film: Path) -> None:
    opened = open_footage(io.BytesIO(film.read_bytes()))
    for footage in (open_footage(film), open_footage(str(film)), opened, open_footage(numbered_frames(), fps=25)):
        assert (len(footage), footage.fps, footage.size) == (NUM_FRAMES, 25.0, (HEIGHT, WIDTH))
        assert footage.seconds == pytest.approx(NUM_FRAMES / 25) and footage.times[0] == 0
        assert read(footage, (0, 7, 40, 71)) == (0, 7, 40, 71)
        assert [*footage.frames(())] == []
    with film.open("rb") as file:
        assert open_footage(file).name == str(film)
    assert open_footage(film).name == str(film) and opened.name == "open file"


def test_what_is_no_binary_film_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("no film")
    with (tmp_path / "a.txt").open() as text, pytest.raises(ValueError, match="open it by mode 'rb'"):
        open_footage(text)  # type: ignore[arg-type]
    with pytest.raises(VideoDecodeError, match="it is a folder"):
        open_footage(tmp_path)


def test_a_view_of_an_array_is_read_in_its_own_order() -> None:
    footage = open_footage(numbered_frames()[::-1], fps=25)
    frames = [*footage.frames((0, 5))]
    assert numbers(np.stack(frames)) == (NUM_FRAMES - 1, NUM_FRAMES - 6)
    assert all(frame.flags.c_contiguous for frame in [*open_footage(numbered_frames()[:, ::-1], fps=25).frames((0,))])


def test_the_copy_of_an_open_file_goes_with_it(film: Path) -> None:
    footage = open_footage(io.BytesIO(film.read_bytes()))
    copy = footage.file
    assert copy is not None and copy.exists()
    del footage
    assert not copy.exists()


def test_a_part_is_told_by_the_nearest_frames(film: Path) -> None:
    footage = open_footage(film)
    assert footage.segment(None, None) == (0, NUM_FRAMES)
    # Of annotations in frames the seconds lead back to the same frames.
    for start, stop in ((0, 1), (5, 72), (17, 18), (71, 72)):
        assert footage.segment(start / 25, stop / 25) == (start, stop)
    assert footage.segment(0.45 / 25, 9.6 / 25) == (0, 10)
    assert footage.segment(0, 99) == (0, NUM_FRAMES), "a film ends where it ends"


@pytest.mark.parametrize(("start", "stop"), [(2, 1), (-1, 1), (3, None), (None, 0), (float("nan"), 1)])
def test_a_part_outside_is_refused(film: Path, start: float | None, stop: float | None) -> None:
    with pytest.raises(ValueError, match=r"expected 0 <= start < stop within the 2\.88 s of .*größer"):
        open_footage(film).segment(start, stop)


def test_a_part_without_a_frame_is_refused(film: Path) -> None:
    with pytest.raises(ValueError, match=r"no frame .* between 1 s and 1\.001 s; move them apart by at least 0\.04 s"):
        open_footage(film).segment(1, 1.001)


def write_at(path: Path, times: tuple[float, ...]) -> Path:
    """Numbered frames that are shown at these seconds."""
    with av.open(str(path), "w") as file:
        stream: Any = file.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for time, picture in zip(times, numbered_frames(len(times)), strict=True):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = round(1000 * time), Fraction(1, 1000)
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return path


def test_a_variable_rate_has_the_times_of_a_player(tmp_path: Path) -> None:
    times = (0.0, 0.04, 0.08, 0.5, 0.9, 1.0, 1.01, 1.02, 1.5)
    footage = open_footage(write_at(tmp_path / "variable.mkv", times))
    assert footage.times == pytest.approx(times)
    assert footage.segment(0.45, 1.0) == (3, 5)
    assert read(footage, (3, 4)) == (3, 4)
    assert footage.time_of(len(times)) == footage.seconds > 1.5


def test_a_clock_that_does_not_begin_at_zero_is_told_apart(tmp_path: Path) -> None:
    footage = open_footage(write_at(tmp_path / "late.mkv", tuple(3 + frame / 25 for frame in range(9))))
    assert footage.times[0] == 0 and footage.origin == pytest.approx(3)


def test_a_rate_may_be_given_in_place_of_the_files(film: Path) -> None:
    footage = open_footage(film, fps=10)
    assert footage.seconds == pytest.approx(NUM_FRAMES / 10)
    assert footage.segment(1, 2) == (10, 20)
    assert footage.origin is None, "the file's sound runs at another pace"


@pytest.mark.parametrize(
    ("video", "fps", "message"),
    [
        (np.zeros((4, 8, 8, 3), np.uint8), None, "has no rate of its own; give fps"),
        (np.zeros((4, 8, 8, 3), np.uint8), 0.0, "expected a positive number of frames per second, got 0"),
        (np.zeros((4, 8, 8, 3), np.float32), 8.0, r"must be \(T, H, W, 3\) uint8, RGB, got \(4, 8, 8, 3\) float32"),
        (np.zeros((4, 3, 8, 8), np.uint8), 8.0, r"got \(4, 3, 8, 8\) uint8"),
        (np.zeros((0, 8, 8, 3), np.uint8), 8.0, r"got \(0, 8, 8, 3\)"),
        ([1, 2], 8.0, "expected a video as a path, an open file or a NumPy array of frames, got list"),
    ],
)
def test_what_is_no_video_is_refused(video: Any, fps: float | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        open_footage(video, fps=fps)


def test_a_file_that_is_no_video_is_named(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("no film")
    for name, cause in (("text.mp4", "no video"), ("absent.mp4", "there is no such file")):
        with pytest.raises(VideoDecodeError, match=f"{name}.*{cause}"):
            open_footage(tmp_path / name)
    with pytest.raises(VideoDecodeError, match=r"cannot decode 'open file': it is truncated or no video"):
        open_footage(io.BytesIO(b"no film"))


def test_a_film_that_a_player_stretches_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    frames = numbered_frames(3)
    write_playable(tmp_path / "a.mp4", frames, (0.0, 0.1, 0.2), fps=10, pixel_aspect=Fraction(4, 3))
    assert len(open_footage(tmp_path / "a.mp4")) == 3
    (said,) = caplog.messages
    assert f"a.mp4' are not square (4:3): its boxes are in its {WIDTH} x {HEIGHT} pixels, before a player" in said
