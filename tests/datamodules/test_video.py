from __future__ import annotations

import json
import multiprocessing
import pickle
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import numpy as np
import pytest
from torch.utils.data import DataLoader, Dataset

from datamodules.video import VideoDecodeError, iter_frames, probe, read_frames, write_video
from tests.datamodules.films import HEIGHT, NUM_FRAMES, WIDTH, encode, numbered_frames, numbers, remux
from tests.datamodules.own_process import OwnProcess


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("clips")
    return {
        "b_frames": encode(folder / "b_frames.mp4", bf="3"),
        "faststart": encode(folder / "faststart.mp4", container_options={"movflags": "faststart"}, bf="3"),
        "one_gop": encode(folder / "one_gop.mp4", g="250"),
        "open_gop": encode(folder / "open_gop.mp4", bf="3", **{"x264-params": "open-gop=1:keyint=24:min-keyint=12"}),
        "matroska": encode(folder / "matroska.mkv", bf="3"),
    }


KINDS = ["b_frames", "faststart", "one_gop", "open_gop", "matroska"]


@pytest.mark.parametrize("kind", KINDS)
def test_reads_the_frames_asked_for(clips: dict[str, Path], kind: str) -> None:
    rng = random.Random(0)
    assert numbers(read_frames(clips[kind], range(NUM_FRAMES))) == tuple(range(NUM_FRAMES))
    for _ in range(12):
        ids = tuple(sorted(rng.sample(range(NUM_FRAMES), rng.randint(1, 12))))
        frames = read_frames(clips[kind], ids, expected_size=(HEIGHT, WIDTH))
        assert numbers(frames) == ids
        assert (frames.dtype, frames.shape) == (np.uint8, (len(ids), HEIGHT, WIDTH, 3))


@pytest.mark.parametrize("kind", KINDS)
def test_probe_and_check_read_the_stream(clips: dict[str, Path], kind: str) -> None:
    info = probe(clips[kind])
    assert (info.num_frames, info.fps, info.size) == (NUM_FRAMES, 25.0, (HEIGHT, WIDTH))
    assert probe(clips[kind]) == info


def test_iterates_in_chunks(clips: dict[str, Path]) -> None:
    chunks = list(iter_frames(clips["open_gop"], chunk_size=20))
    assert [len(chunk) for chunk in chunks] == [20, 20, 20, 12]
    assert numbers(np.concatenate(chunks)) == tuple(range(NUM_FRAMES))


def test_iterates_over_chosen_frames(clips: dict[str, Path]) -> None:
    chunks = list(iter_frames(clips["b_frames"], range(30, 50), chunk_size=16))
    assert [numbers(chunk) for chunk in chunks] == [tuple(range(30, 46)), tuple(range(46, 50))]


@pytest.mark.parametrize("name", ["exact.mp4", "exact.mkv"])
def test_nothing_is_lost_unless_a_quality_is_given(tmp_path: Path, name: str) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (9, 35, 51, 3), dtype=np.uint8)  # odd sides, too
    write_video(tmp_path / name, frames, 25, crf=None)
    np.testing.assert_array_equal(read_frames(tmp_path / name, range(9)), frames)
    assert probe(tmp_path / name).num_frames == 9


def test_colours_come_back_as_rgb(tmp_path: Path) -> None:
    frames = np.zeros((3, 64, 64, 3), np.uint8)
    frames[0, :, :] = (220, 30, 30)
    frames[1, :, :] = (30, 200, 40)
    frames[2, :, :] = (30, 40, 210)
    write_video(tmp_path / "colours.mp4", frames, 10)
    read = read_frames(tmp_path / "colours.mp4", (0, 1, 2)).astype(int)
    assert np.abs(read - frames).max() <= 6


@pytest.mark.parametrize("ids", [(), (3, 3), (5, 2), (-1, 4)])
def test_refuses_ids_that_do_not_increase(clips: dict[str, Path], ids: tuple[int, ...]) -> None:
    for read in (read_frames, lambda path, ids: next(iter_frames(path, ids))):
        with pytest.raises(ValueError, match="strictly increasing") as caught:
            read(clips["b_frames"], ids)
        assert str(ids) in str(caught.value)


def test_refuses_frames_beyond_the_end(clips: dict[str, Path]) -> None:
    with pytest.raises(VideoDecodeError, match=rf"has only {NUM_FRAMES} frames; .*on_short_clip") as caught:
        read_frames(clips["b_frames"], (0, 5, NUM_FRAMES))
    assert caught.value.frame_ids == (0, 5, NUM_FRAMES)
    assert caught.value.path == clips["b_frames"]


def test_refuses_another_size_than_annotated(clips: dict[str, Path]) -> None:
    with pytest.raises(VideoDecodeError, match=r"\(48, 128\).*\(128, 48\)"):
        read_frames(clips["b_frames"], (0,), expected_size=(WIDTH, HEIGHT))


@pytest.mark.parametrize("read", [probe, lambda path: read_frames(path, (0,)), lambda p: list(iter_frames(p))])
def test_refuses_what_is_no_video(tmp_path: Path, read: Callable[[Path], object]) -> None:
    with pytest.raises(VideoDecodeError, match="no such file"):
        read(tmp_path / "missing.mp4")
    (tmp_path / "empty.mp4").touch()
    with pytest.raises(VideoDecodeError, match="the file is empty"):
        read(tmp_path / "empty.mp4")
    (tmp_path / "text.mp4").write_text("no video at all\n" * 100)
    with pytest.raises(VideoDecodeError, match="truncated or no video"):
        read(tmp_path / "text.mp4")


@pytest.mark.parametrize("pix_fmt", ["gbrp", "yuv420p", "yuv420p10le"])
def test_every_size_is_read_as_another_decoder_sees_it(tmp_path: Path, pix_fmt: str) -> None:
    noise = np.random.default_rng(0)
    for width in (*range(1, 18), 24, 31, 32, 33, 48, 53, 64, 95, 96, 97, 144):
        height = (1, 2, 7, 16)[width % 4]
        frames = noise.integers(0, 256, (3, height, width, 3), dtype=np.uint8)
        path = encode(tmp_path / "small.nut", frames, codec="rawvideo", pix_fmt=pix_fmt)
        with av.open(str(path)) as container:
            expected = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
        np.testing.assert_array_equal(read_frames(path, range(3), expected_size=(height, width)), expected)
        if pix_fmt == "gbrp":
            np.testing.assert_array_equal(expected, frames)


def test_an_edit_list_hides_frames_from_the_count(clips: dict[str, Path], tmp_path: Path) -> None:
    path = remux(clips["b_frames"], tmp_path / "edited.mp4", shift=10)
    assert probe(path).num_frames == NUM_FRAMES - 10
    shown = tuple(range(10, NUM_FRAMES))
    assert numbers(read_frames(path, range(NUM_FRAMES - 10))) == shown
    assert numbers(np.concatenate(list(iter_frames(path)))) == shown
    with pytest.raises(VideoDecodeError, match="it has only 62 frames"):
        read_frames(path, (0, NUM_FRAMES - 1))


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_a_cut_in_mid_gop_is_counted_from_its_first_key_frame(
    clips: dict[str, Path], tmp_path: Path, suffix: str
) -> None:
    path = remux(clips["b_frames"], tmp_path / f"cut.{suffix}", first=5)
    assert probe(path).num_frames == NUM_FRAMES - 24
    assert numbers(np.concatenate(list(iter_frames(path)))) == tuple(range(24, NUM_FRAMES))
    with pytest.raises(VideoDecodeError, match="it has only 48 frames"):
        read_frames(path, (0, 50))


def read_and_check(path: Path, reference: np.ndarray) -> tuple[str, str]:
    """What reading, and what the strict check, make of a file."""
    try:
        read = "whole" if np.array_equal(read_frames(path, range(len(reference))), reference) else "damaged"
    except VideoDecodeError:
        read = "refused"
    try:
        probe(path)
    except VideoDecodeError:
        return read, "refused"
    return read, "passed"


@pytest.fixture(scope="module")
def outcome() -> Iterator[OwnProcess]:
    process = OwnProcess(read_and_check)
    yield process
    process.stop()


def test_refuses_truncated_files_wherever_they_are_cut(
    clips: dict[str, Path], outcome: OwnProcess, tmp_path: Path
) -> None:
    reference, path = read_frames(clips["b_frames"], range(NUM_FRAMES)), tmp_path / "cut"
    for kind in ("b_frames", "faststart", "matroska"):
        data = clips[kind].read_bytes()
        for cut in (10, len(data) // 10, len(data) // 2, len(data) * 9 // 10, len(data) - 60, len(data) - 1):
            path.write_bytes(data[:cut])
            # The last bytes of a file with its index at the end are a comment, without which it is still whole.
            trifle = len(data) - cut <= 60 and kind == "b_frames"
            expected = ("whole", "passed") if trifle else ("refused", "refused")
            assert outcome(path, reference) == expected, (kind, cut)


def test_bits_flipped_frames_are_refused_by_all_or_by_none(
    clips: dict[str, Path], outcome: OwnProcess, tmp_path: Path
) -> None:
    reference, path = read_frames(clips["b_frames"], range(NUM_FRAMES)), tmp_path / "flipped.mp4"
    data, rng, outcomes = clips["b_frames"].read_bytes(), random.Random(0), []
    start, stop = data.index(b"mdat") + 8, data.index(b"moov") - 4
    for _ in range(24):
        broken = bytearray(data)
        for _ in range(3):
            broken[rng.randrange(start, stop)] ^= 1 << rng.randrange(8)
        path.write_bytes(broken)
        outcomes.append(outcome(path, reference))
    assert set(outcomes) <= {("whole", "passed"), ("refused", "refused")}, outcomes
    assert outcomes.count(("refused", "refused")) >= 20, outcomes


class Clips(Dataset[np.ndarray]):
    def __init__(self, path: Path) -> None:
        self.path = path

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> np.ndarray:
        return read_frames(self.path, (index, index + 30))


def test_reads_in_forked_workers(clips: dict[str, Path]) -> None:
    read_frames(clips["b_frames"], (0, 40))  # the parent's decoder must not be in the way of a forked one
    if "fork" not in multiprocessing.get_all_start_methods():
        pytest.skip("this system cannot fork")
    loader = DataLoader(
        Clips(clips["b_frames"]), batch_size=None, num_workers=2, multiprocessing_context="fork", timeout=60
    )
    assert [numbers(frames.numpy()) for frames in loader] == [(i, i + 30) for i in range(4)]


def test_the_error_survives_a_worker_process() -> None:
    error = VideoDecodeError("it is empty", Path("a.mp4"), (1, 2))
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), copy.path, copy.frame_ids) == (str(error), Path("a.mp4"), (1, 2))
    assert str(error) == "cannot decode 2 frames 1..2 of 'a.mp4': it is empty"
    # What a loader does in the main process: the type again, with the worker's traceback as the only argument.
    assert str(VideoDecodeError("Caught VideoDecodeError in a worker")) == "Caught VideoDecodeError in a worker"


def test_writes_all_frames_at_the_rate_asked_for(tmp_path: Path) -> None:
    frames = numbered_frames(20)
    write_video(tmp_path / "out.mp4", iter(frames), 30000 / 1001)
    info = probe(tmp_path / "out.mp4")
    assert (info.num_frames, info.size) == (20, (HEIGHT, WIDTH))
    assert info.fps == pytest.approx(29.97003, abs=1e-4)
    read = read_frames(tmp_path / "out.mp4", range(20))
    assert numbers(read) == tuple(range(20))
    assert np.abs(read.astype(int) - frames).mean() < 4


@pytest.mark.parametrize("fps", [1 / 3600, 12.5, 24000 / 1001, 1000])
def test_any_rate_is_kept(tmp_path: Path, fps: float) -> None:
    write_video(tmp_path / "out.mp4", numbered_frames(3), fps)
    assert probe(tmp_path / "out.mp4").fps == pytest.approx(fps, rel=1e-4)


def test_a_failed_write_leaves_what_was_there(tmp_path: Path) -> None:
    target = tmp_path / "out.mp4"
    target.write_bytes(b"before")

    def failing():
        yield numbered_frames(1)[0]
        raise KeyError("the source broke off")

    with pytest.raises(KeyError):
        write_video(target, failing(), 10)
    assert target.read_bytes() == b"before"
    assert [path.name for path in tmp_path.iterdir()] == ["out.mp4"]


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (np.zeros((2, 31, 64, 3), np.uint8), r"even sides, got \(31, 64\)"),
        (np.zeros((2, 32, 63, 3), np.uint8), r"even sides, got \(32, 63\)"),
        (np.zeros((2, 32, 64, 3), np.float32), "got float32"),
        (np.zeros((2, 32, 64), np.uint8), r"got uint8 \(32, 64\)"),
        (np.zeros((0, 32, 64, 3), np.uint8), "no frames"),
        ([np.zeros((32, 64, 3), np.uint8), np.zeros((64, 64, 3), np.uint8)], r"frame 1 .* \(64, 64\)"),
    ],
)
def test_refuses_frames_that_cannot_be_written(tmp_path: Path, frames: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        write_video(tmp_path / "out.mp4", frames, 10)
    assert list(tmp_path.iterdir()) == []


def test_real_clips_decode_as_another_decoder_sees_them(shared: Path) -> None:
    folder = shared / "real_clips" / "hc-stvg"
    if not folder.is_dir():
        pytest.skip("no real clips in the shared folder")
    annotations = json.loads((folder / "annos" / "hcstvg_v1" / "test.json").read_text())
    for path in sorted((folder / "v1_video").glob("*.mp4")):
        info = probe(path)
        with av.open(str(path)) as container:
            expected = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        assert info.num_frames == len(expected)
        ids = tuple(range(0, info.num_frames, 7))
        np.testing.assert_array_equal(read_frames(path, ids, expected_size=info.size), [expected[i] for i in ids])
        if path.name in annotations:
            record = annotations[path.name]
            assert (record["img_num"], record["height"], record["width"]) == (info.num_frames, *info.size)
