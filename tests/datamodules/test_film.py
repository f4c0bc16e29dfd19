"""Films that players show whole are read whole by every reader, and damage of what they show is seen by every one."""

from __future__ import annotations

import struct
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from av.stream import Disposition

from datamodules.annotated.verify import VideoTask, check_file
from datamodules.degradation.dataset import ClipToDegrade, write_degraded
from datamodules.degradation.files import DegradedClip
from datamodules.degradation.video import degrade_video
from datamodules.film import DamagedFrameError, VideoDecodeError
from datamodules.video import iter_frames, probe, read_frames, timeline
from stvg_nst.types import Degradation
from tests.datamodules.films import HEIGHT, NUM_FRAMES, WIDTH, encode, numbered_frames, numbers, remux, with_cover

OPEN_GROUPS = {"x264-params": "open-gop=1:keyint=12:min-keyint=6:scenecut=0:bframes=3"}
DEFAULT, COVER, PLAIN = Disposition.default, Disposition.attached_pic, Disposition(0)


def shown(path: Path) -> tuple[int, ...]:
    """The numbers of the frames that are read; the count must be the same."""
    found = numbers(np.concatenate(list(iter_frames(path))))
    assert len(found) == probe(path).num_frames
    return found


def with_two_streams(path: Path, *, default: int) -> Path:
    """Two films of different sizes, one of them by default: white frames, and the numbered ones."""
    with av.open(str(path), "w") as file:
        streams: list[Any] = [file.add_stream("libx264", rate=25) for _ in range(2)]
        for index, (stream, size) in enumerate(zip(streams, ((64, 64), (HEIGHT, WIDTH)), strict=True)):
            stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
            stream.disposition = DEFAULT if index == default else PLAIN
        file.start_encoding()
        for numbered in numbered_frames():
            for stream, frame in zip(streams, (np.full((64, 64, 3), 255, np.uint8), numbered), strict=True):
                file.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        for stream in streams:
            file.mux(stream.encode())
    return path


@pytest.mark.parametrize(
    ("name", "before", "cover", "film"),
    [
        ("plain.mkv", True, PLAIN, PLAIN),
        ("plain-default.mkv", True, DEFAULT, PLAIN),
        ("flagged.mkv", True, COVER, DEFAULT),
        ("after.mkv", False, PLAIN, PLAIN),
        ("flagged.mp4", True, COVER, DEFAULT),
        ("plain-default.mp4", True, DEFAULT, PLAIN),
    ],
)
def test_a_cover_picture_is_no_film(
    tmp_path: Path, name: str, before: bool, cover: Disposition, film: Disposition
) -> None:
    path = with_cover(tmp_path / name, before=before, cover=cover, film=film)
    assert shown(path) == tuple(range(NUM_FRAMES)) and probe(path).size == (HEIGHT, WIDTH)


def test_a_picture_alone_is_a_film_of_one_frame(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(cv2.imencode(".png", np.full((30, 40, 3), 9, np.uint8))[1].tobytes())
    assert (read_frames(tmp_path / "a.png", (0,)) == 9).all() and probe(tmp_path / "a.png").num_frames == 1


@pytest.mark.parametrize(("default", "size"), [(0, (64, 64)), (1, (HEIGHT, WIDTH))])
def test_of_two_films_the_default_one_is_read(tmp_path: Path, default: int, size: tuple[int, int]) -> None:
    assert probe(with_two_streams(tmp_path / "two.mkv", default=default)).size == size


MAKES: dict[str, tuple[str, dict[str, Any]]] = {
    "a browser's recording": ("a.webm", {"codec": "libvpx", "container_options": {"live": "1"}}),
    "a raw stream": ("a.h264", {"bf": "3"}),
    "a transport stream": ("a.ts", {"bf": "3"}),
    "a programme stream": ("a.mpg", {"codec": "mpeg2video"}),
    "fragments": ("a.mp4", {"bf": "3", "container_options": {"movflags": "frag_keyframe+empty_moov"}}),
    "AVI": ("a.avi", {"codec": "mpeg4", "bf": "2"}),
    "GIF": ("a.gif", {"codec": "gif", "pix_fmt": "rgb8"}),
    "VP9": ("a.webm", {"codec": "libvpx-vp9", "auto-alt-ref": "1", "lag-in-frames": "12"}),
    "one large group": ("a.mp4", {"g": "1000"}),
    "ten bits": ("a.mkv", {"pix_fmt": "yuv420p10le"}),
}


@pytest.mark.parametrize("make", MAKES)
def test_a_film_of_any_make_is_read(tmp_path: Path, make: str) -> None:
    name, options = MAKES[make]
    path = encode(tmp_path / name, **options)
    assert shown(path) == tuple(range(NUM_FRAMES)) and probe(path).fps == pytest.approx(25)


def test_films_one_after_another_are_one(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.ts", bf="3")
    path.write_bytes(2 * path.read_bytes())
    assert shown(path) == 2 * tuple(range(NUM_FRAMES)) and probe(path).fps == 25


@pytest.mark.parametrize("name", ["a.mp4", "a.webm", "a.gif"])
def test_a_film_of_one_frame_is_read(tmp_path: Path, name: str) -> None:
    codec, pix_fmt = {"a.mp4": ("libx264", "yuv420p"), "a.webm": ("libvpx", "yuv420p"), "a.gif": ("gif", "rgb8")}[name]
    path = encode(tmp_path / name, numbered_frames(1), codec=codec, pix_fmt=pix_fmt)
    assert shown(path) == (0,) and probe(path).fps > 0


def test_a_colon_in_a_name_is_no_protocol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    encode(tmp_path / "a.mp4").rename("12:30.mp4")
    assert probe("12:30.mp4").num_frames == NUM_FRAMES


def with_hidden_frames(path: Path) -> Path:
    """VP8 in which every tenth frame only helps to decode others, by the bit of its header that says so."""

    def content(index: int, data: bytes) -> bytes:
        return bytes([data[0] & ~0x10]) + data[1:] if index % 10 == 5 else data

    return remux(encode(path.with_name("all.webm"), codec="libvpx"), path, content=content)


def test_hidden_reference_frames_are_not_counted(tmp_path: Path) -> None:
    assert shown(with_hidden_frames(tmp_path / "a.webm")) == tuple(i for i in range(NUM_FRAMES) if i % 10 != 5)


@pytest.mark.parametrize("codec", ["libx264", "libx265"])
@pytest.mark.parametrize("suffix", ["mkv", "mp4"])
def test_a_cut_without_encoding_is_read_from_any_place(tmp_path: Path, codec: str, suffix: str) -> None:
    options = OPEN_GROUPS if codec == "libx264" else {"x265-params": "log-level=none:" + OPEN_GROUPS["x264-params"]}
    source = encode(tmp_path / f"a.{suffix}", codec=codec, **options)
    for first in range(0, 36, 3):
        for shift in {0, first}:
            path = remux(source, tmp_path / f"cut.{suffix}", first=first, shift=shift)
            found = shown(path)
            assert found == tuple(range(found[0], NUM_FRAMES)) and found[0] <= first + 16, (first, shift)


def test_h264_that_names_frames_that_were_cut_away_is_sound(tmp_path: Path) -> None:
    """Of these the strict decoder complains, if of nothing that is shown wrongly."""
    source, path, complaints = encode(tmp_path / "a.mp4", **OPEN_GROUPS), tmp_path / "cut.mp4", 0
    for first in range(36):
        remux(source, path, first=first)
        with av.open(str(path)) as container:
            context = container.streams.video[0].codec_context
            context.options, context.thread_count = {"err_detect": "explode"}, 1
            try:
                for _ in container.decode(video=0):
                    pass
            except av.FFmpegError:
                complaints += 1
        found = shown(path)
        assert found == tuple(range(found[0], NUM_FRAMES)), first
    assert complaints > 3


def overwritten(index: int) -> Callable[[int, bytes], bytes]:
    """Zeros in a packet, behind its header."""

    def content(i: int, data: bytes) -> bytes:
        return data[: len(data) // 4] + bytes(len(data) // 2) + data[-(len(data) // 4) :] if i == index else data

    return content


@pytest.mark.parametrize(("codec", "suffix"), [("libx264", "mp4"), ("libx264", "mkv"), ("mpeg4", "avi")])
@pytest.mark.parametrize("index", [0, 1, 7, 30, NUM_FRAMES - 1])
def test_damage_of_a_shown_frame_is_an_error_for_every_reader(
    tmp_path: Path, codec: str, suffix: str, index: int
) -> None:
    source = encode(tmp_path / f"a.{suffix}", codec=codec, bf="0", **({"g": "24"} if codec == "mpeg4" else {}))
    path = remux(source, tmp_path / f"damaged.{suffix}", content=overwritten(index))
    for read in (
        probe,
        lambda path: list(iter_frames(path)),
        lambda path: read_frames(path, (min(index + 4, NUM_FRAMES - 1),)),
    ):
        with pytest.raises(DamagedFrameError):
            read(path)
    with pytest.raises(VideoDecodeError):
        degrade_video(path, tmp_path / "copy.mp4", kind="low_light", severity=1)
    assert not (tmp_path / "copy.mp4").exists()


def test_the_first_frame_is_missed_where_only_the_index_knows_it(tmp_path: Path) -> None:
    source = encode(tmp_path / "a.mp4")
    path = remux(source, tmp_path / "b.mp4", content=lambda i, data: data[: len(data) // 2] if i == 0 else data)
    with av.open(str(path)) as container:
        assert not next(container.demux(video=0)).is_keyframe
    with pytest.raises(DamagedFrameError):
        probe(path)


def test_a_file_that_ends_within_a_frame_is_damaged(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.avi", codec="libvpx")  # whose decoder does not miss a few bytes
    with av.open(str(path)) as container:
        packet = [packet for packet in container.demux(video=0) if packet.size][40]
    for cut in (1, 2, 3, 40):
        (tmp_path / "cut.avi").write_bytes(path.read_bytes()[: packet.pos + packet.size - cut])
        with pytest.raises(DamagedFrameError):
            probe(tmp_path / "cut.avi")


@pytest.mark.parametrize("flags", ["faststart", "frag_keyframe+empty_moov"])
def test_an_mp4_that_ends_between_two_frames_is_damaged(tmp_path: Path, flags: str) -> None:
    """As one does that is cut within its sound. What is there of it can be read."""
    path = encode(tmp_path / "a.mp4", container_options={"movflags": flags})
    with av.open(str(path)) as container:
        packet = [packet for packet in container.demux(video=0) if packet.size][40]
    path.write_bytes(path.read_bytes()[: packet.pos])
    assert numbers(read_frames(path, (30,))) == (30,)
    with pytest.raises(DamagedFrameError, match="the file ends before its last frame"):
        probe(path)


def test_damage_of_a_hidden_frame_is_none(tmp_path: Path) -> None:
    # The last frames of the group lie outside the edit list, and nothing that is shown refers to them.
    source = encode(tmp_path / "a.mp4", bf="0")
    path = remux(source, tmp_path / "b.mp4", shift=24, content=overwritten(20))
    assert shown(path) == tuple(range(24, NUM_FRAMES))


def test_a_codec_that_nothing_decodes_is_an_error(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.mp4")
    path.write_bytes(path.read_bytes().replace(b"avc1", b"evc1").replace(b"avcC", b"evcC"))
    with pytest.raises(VideoDecodeError, match="nothing here decodes its codec"):
        probe(path)


def test_a_changing_size_is_an_error(tmp_path: Path) -> None:
    small = encode(tmp_path / "small.ts", numbered_frames()[:, :32])
    path = encode(tmp_path / "a.ts")
    path.write_bytes(path.read_bytes() + small.read_bytes())
    with pytest.raises(VideoDecodeError, match=r"size changes from \(48, 128\) \(H, W\) to \(32, 128\) at frame 72"):
        probe(path)


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
@pytest.mark.parametrize("mirrored", [False, True])
def test_films_are_turned_as_players_turn_them(tmp_path: Path, degrees: int, mirrored: bool) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8)
    with av.open(str(tmp_path / "a.mp4"), "w") as file:
        stream: Any = file.add_stream("libx264rgb", rate=10, options={"qp": "0"})
        stream.height, stream.width, stream.pix_fmt = 24, 40, "rgb24"
        stream.set_display_rotation(degrees, hflip=mirrored)
        file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        file.mux(stream.encode())
    turned = np.rot90(picture, degrees // 90)
    turned = turned[:, ::-1] if mirrored else turned
    np.testing.assert_array_equal(read_frames(tmp_path / "a.mp4", (0,))[0], turned)
    assert probe(tmp_path / "a.mp4").size == turned.shape[:2]


@pytest.mark.parametrize(
    ("degrees", "aspect"), [(0, Fraction(16, 11)), (90, Fraction(11, 16)), (180, Fraction(16, 11))]
)
def test_the_shape_of_a_pixel_is_that_of_the_turned_film(tmp_path: Path, degrees: int, aspect: Fraction) -> None:
    with av.open(str(tmp_path / "a.mp4"), "w") as file:
        stream: Any = file.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.codec_context.sample_aspect_ratio = 32, 48, Fraction(16, 11)
        stream.set_display_rotation(degrees)
        file.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((32, 48, 3), np.uint8), format="rgb24")))
        file.mux(stream.encode())
    assert probe(tmp_path / "a.mp4").pixel_aspect == aspect
    assert probe(encode(tmp_path / "b.mp4")).pixel_aspect == 1, "where the file does not say"


def test_a_camera_s_note_of_how_it_was_held_turns_the_film(tmp_path: Path) -> None:
    picture = np.zeros((32, 64, 3), np.uint8)
    picture[:16, :32] = 250
    tiff = b"MM\0*" + struct.pack(">IHHHIHHI", 8, 1, 0x112, 3, 1, 6, 0, 0)  # EXIF: orientation 6, a quarter turn
    note = b"\xff\xe1" + struct.pack(">H", len(tiff) + 8) + b"Exif\0\0" + tiff
    jpeg = cv2.imencode(".jpg", picture)[1].tobytes()
    with av.open(str(tmp_path / "a.avi"), "w") as file:
        stream: Any = file.add_stream("mjpeg", rate=10)
        stream.height, stream.width, stream.pix_fmt = 32, 64, "yuvj420p"
        packet = av.Packet(jpeg[:2] + note + jpeg[2:])
        packet.stream, packet.pts, packet.dts, packet.time_base = stream, 0, 0, Fraction(1, 10)
        packet.is_keyframe = True
        file.mux(packet)
    (turned,) = read_frames(tmp_path / "a.avi", (0,))
    assert np.abs(turned - np.rot90(picture, -1).astype(int)).max() < 10


@pytest.mark.parametrize(
    ("times", "rate"),
    [
        (range(20), 25),
        (range(50, 70), 25),
        ([i + i // 2 for i in range(20)], 16.96),
        ([0, 500], 0.05),
    ],
)
def test_the_rate_is_that_of_the_frames_that_are_shown(tmp_path: Path, times: Any, rate: float) -> None:
    with av.open(str(tmp_path / "a.mkv"), "w") as file:
        stream: Any = file.add_stream("libx264", rate=25, options={"bf": "0"})
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 25)
        for time, numbered in zip(times, numbered_frames(len(times)), strict=True):
            frame = av.VideoFrame.from_ndarray(numbered, format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 25)
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    assert probe(tmp_path / "a.mkv").fps == pytest.approx(rate, rel=0.01)


@pytest.fixture(params=["cover", "hidden references", "cut", "recording"])
def odd_film(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    match request.param:
        case "cover":
            return with_cover(tmp_path / "a.mkv", before=True, cover=DEFAULT, film=PLAIN)
        case "hidden references":
            return with_hidden_frames(tmp_path / "a.webm")
        case "cut":
            return remux(encode(tmp_path / "whole.mp4", **OPEN_GROUPS), tmp_path / "a.mp4", first=14, shift=14)
        case _:
            return encode(tmp_path / "a.webm", codec="libvpx", container_options={"live": "1"})


def test_verification_and_both_copies_have_all_frames_that_are_shown(odd_film: Path, tmp_path: Path) -> None:
    frames = shown(odd_film)
    size = (HEIGHT, WIDTH)
    entry = check_file(VideoTask("a", odd_film, odd_film.name, size, len(frames), len(frames)))
    assert (entry.verdict, entry.num_frames, entry.size) == ("sound", len(frames), size)
    degrade_video(odd_film, tmp_path / "copy.mp4", kind="resolution", severity=1)
    assert shown(tmp_path / "copy.mp4") == frames
    assert timeline(tmp_path / "copy.mp4").times == pytest.approx(timeline(odd_film).times, abs=1e-3)
    degradation = Degradation("resolution", 1, 0)
    clip = ClipToDegrade("a", odd_film, (0, None), len(frames), size, degradation, None, tmp_path, "lossless.mkv")
    copy = write_degraded(clip)
    assert isinstance(copy, DegradedClip) and copy.num_frames == len(frames)
    assert shown(tmp_path / "lossless.mkv") == frames
