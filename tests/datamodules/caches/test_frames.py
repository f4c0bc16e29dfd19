from __future__ import annotations

import errno
import fcntl
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from datamodules.caches import frames as frames_module
from datamodules.caches.array_store import ArrayWriter, CacheError
from datamodules.caches.frames import FrameCache, FramesOfClip, write_frames
from datamodules.isolation import Failure
from datamodules.video import VideoDecodeError, read_frames
from tests.datamodules.published import SIZE, write_clip

PROVENANCE = {"dataset": "toy", "frames": "EvenFrames(num_frames=3)"}


@pytest.fixture
def clips(tmp_path: Path) -> list[FramesOfClip]:
    videos = [write_clip(tmp_path / f"{seed}.mp4", seed=seed) for seed in range(3)]
    return [FramesOfClip(f"clip {i}", video, (0, 7 + i, 19), SIZE) for i, video in enumerate(videos)]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Sequence[FramesOfClip]], Path]:
    """Writes a cache of shards of two clips each, in this process: another would be slow to start for each test."""

    class InThisProcess:
        def __init__(self, function: Callable[..., object], *, workers: int, time_limit: float) -> None:
            self.function = function

        def __call__(self, tasks: Sequence[object]) -> object:
            return enumerate(self.answer(task) for task in tasks)

        def answer(self, task: object) -> object:
            try:
                return pickle.loads(pickle.dumps(self.function(task)))
            except (OSError, CacheError) as error:  # what a process raises ends it
                return Failure(f"kills the process that reads it: {error!r}")

    monkeypatch.setattr(frames_module, "_SHARD_BYTES", 2 * 3 * 3 * SIZE[0] * SIZE[1])
    monkeypatch.setattr(frames_module, "IsolatedCalls", InThisProcess)

    def write(chosen: Sequence[FramesOfClip]) -> Path:
        write_frames(tmp_path / "cache", PROVENANCE, chosen, workers=1)
        return tmp_path / "cache"

    return write


def test_frames_come_back_to_the_byte(write: Callable[..., Path], clips: list[FramesOfClip]) -> None:
    folder = write(clips)
    assert [len(shard) for shard in FrameCache(folder, PROVENANCE).shards] == [2, 1]
    cache = pickle.loads(pickle.dumps(FrameCache(folder, PROVENANCE)))  # as a spawned loader process gets it
    cache.require(clips)
    for clip in clips:
        np.testing.assert_array_equal(cache.read(clip.clip_id, clip.frame_ids), read_frames(clip.video, clip.frame_ids))


def test_what_is_written_into_read_frames_stays_in_memory(
    write: Callable[..., Path], clips: list[FramesOfClip]
) -> None:
    cache = FrameCache(write(clips), PROVENANCE)
    cache.read("clip 0", (0, 7, 19))[:] = 0
    assert cache.read("clip 0", (0, 7, 19)).any()


def test_a_cut_of_a_clip_is_read_from_the_whole(write: Callable[..., Path], clips: list[FramesOfClip]) -> None:
    cache = FrameCache(write(clips), PROVENANCE)
    for cut in ((7, 19), (0,), (0, 19)):
        np.testing.assert_array_equal(cache.read("clip 0", cut), read_frames(clips[0].video, cut))
    with pytest.raises(CacheError, match=r"has no frame 8 of 'clip 0', which this run shows; set .*frames null"):
        cache.read("clip 0", (7, 8))


def test_writing_goes_on_behind_what_is_there(write: Callable[..., Path], clips: list[FramesOfClip]) -> None:
    folder = write(clips[:1])
    before = (folder / "00000" / "frames.bin").stat().st_mtime_ns
    (folder / ".00001.left").mkdir()  # by a process that was killed while it wrote
    missing = FrameCache(folder, PROVENANCE).missing(clips)
    assert missing == clips[1:]
    write(missing)
    FrameCache(folder, PROVENANCE).require(clips)
    assert (folder / "00000" / "frames.bin").stat().st_mtime_ns == before
    assert sorted(path.name for path in folder.iterdir()) == [".lock", "00000", "00001"]


def test_an_unfinished_cache_is_refused(write: Callable[..., Path], clips: list[FramesOfClip]) -> None:
    cache = FrameCache(write(clips[:1]), PROVENANCE)
    with pytest.raises(
        CacheError, match=r"2 clips are not in .* the first 'clip 1': .*python -m stvg_nst cache frames"
    ):
        cache.require(clips)
    with pytest.raises(CacheError, match="'clip 1' is not in the frame cache"):
        cache.read("clip 1", (0,))


def test_other_frames_and_other_videos_are_refused(write: Callable[..., Path], clips: list[FramesOfClip]) -> None:
    folder = write(clips)
    other = FramesOfClip("clip 0", clips[0].video, (0, 8, 19), SIZE)
    with pytest.raises(CacheError, match="has other frames of 'clip 0'; delete"):
        FrameCache(folder, PROVENANCE).require([other])
    with pytest.raises(CacheError, match=r"built with frames = 'EvenFrames\(num_frames=3\)', but this run has 'all'"):
        FrameCache(folder, {**PROVENANCE, "frames": "all"})
    write_clip(clips[0].video, seed=9)
    with pytest.raises(CacheError, match=r"has the frames of another '.*0\.mp4' of 'clip 0'"):
        FrameCache(folder, PROVENANCE).require(clips)
    clips[0].video.unlink()
    FrameCache(folder, PROVENANCE).require(clips)


def test_a_damaged_byte_is_noticed(write: Callable[..., Path], clips: list[FramesOfClip]) -> None:
    folder = write(clips)
    data = bytearray((folder / "00000" / "frames.bin").read_bytes())
    data[-1] ^= 1
    (folder / "00000" / "frames.bin").write_bytes(data)
    cache = FrameCache(folder, PROVENANCE)
    cache.read("clip 0", (0,))
    with pytest.raises(CacheError, match=r"'clip 1' in .*00000' are damaged; delete"):
        cache.read("clip 1", (0,))


def test_a_bad_video_stops_it_and_leaves_no_half_shard(write: Callable[..., Path], clips: list[FramesOfClip]) -> None:
    clips[1].video.write_bytes(b"no video")
    with pytest.raises(VideoDecodeError, match=r"1\.mp4"):
        write(clips)
    assert [path.name for path in (clips[0].video.parent / "cache").iterdir()] == [".lock"]


def test_one_process_writes_at_a_time(write: Callable[..., Path], clips: list[FramesOfClip], tmp_path: Path) -> None:
    working = tmp_path / "cache" / ".00000.working"
    working.mkdir(parents=True)
    with (tmp_path / "cache" / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(
            CacheError, match=r"another `python -m stvg_nst cache frames` is writing to '.*cache'; wait"
        ):
            write(clips)
        assert working.is_dir() and not (tmp_path / "cache" / "00000").exists()
    FrameCache(write(clips), PROVENANCE).require(clips)
    assert not working.exists()


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), CacheError("finished by another process")]
)
def test_what_stops_the_writing_is_not_blamed_on_a_video(
    write: Callable[..., Path], clips: list[FramesOfClip], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def add(*arguments: object, **note: object) -> None:
        raise error

    monkeypatch.setattr(ArrayWriter, "add", add)
    with pytest.raises(type(error)) as raised:
        write(clips)
    assert str(raised.value) == str(error) and not isinstance(raised.value, VideoDecodeError)


def test_what_was_left_behind_and_cannot_be_removed_is_not_blamed_on_a_video(
    write: Callable[..., Path], clips: list[FramesOfClip], tmp_path: Path
) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / ".00000.no_folder").touch()
    with pytest.raises(NotADirectoryError, match="no_folder"):
        write(clips)
