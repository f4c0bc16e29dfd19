"""A cache of decoded frames on disk: the sampled frames of each clip, clean and at native size, as raw bytes.

The frames are stored as they are before degradation: decoding is what costs most, and degradations are drawn anew in
every epoch, at native size. A sample is the same to the byte with and without the cache.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.caches.array_store import ArrayStore, ArrayWriter, CacheError, CacheKind
from datamodules.caches.one_writer import one_writer
from datamodules.isolation import Failure, IsolatedCalls
from datamodules.video import VideoDecodeError, read_frames, video_sizes

_FRAMES = CacheKind("frame cache", "frames.bin", "u1", "python -m stvg_nst cache frames", "frames")
# Large enough that a data set makes hundreds of files and not thousands, small enough to be written again after a kill.
_SHARD_BYTES = 2**29
# For one clip; a video that hangs its decoder must not hang the others.
_SECONDS_A_CLIP = 600.0


@dataclass(frozen=True, slots=True)
class FramesOfClip:
    """The frames that are shown of a clip.

    Args:
        clip_id: of the clip.
        video: its file.
        frame_ids: of the T frames, in the video.
        size: (H, W) that they must have.
    """

    clip_id: str
    video: Path
    frame_ids: tuple[int, ...]
    size: tuple[int, int]

    @property
    def num_bytes(self) -> int:
        return 3 * len(self.frame_ids) * math.prod(self.size)

    def unlike(self, note: Mapping[str, Any], video_bytes: int | None) -> str | None:
        """What a cache holds of the clip instead of these frames, in words; ``None`` where it holds them.

        Args:
            note: ``frame_ids``, ``size`` and ``video_bytes`` of what was cached.
            video_bytes: of the video now; ``None``, it may be gone, as long as it is not another one.
        """
        if [list(self.frame_ids), list(self.size)] != [note["frame_ids"], note["size"]]:
            return "other frames"
        if video_bytes not in (None, note["video_bytes"]):
            return f"the frames of another '{self.video}'"
        return None


class FrameCache:
    """Reads the frames of clips, whichever shard they are in.

    Args:
        folder: written by :func:`write_frames`.
        provenance: what the caller expects the frames to depend on.

    Raises:
        CacheError: a shard is damaged or has another provenance.
    """

    def __init__(self, folder: Path, provenance: Mapping[str, Any]) -> None:
        self._folder = folder
        self.shards = [ArrayStore(_FRAMES, shard, provenance) for shard in _shard_folders(folder)]
        self._shard_of = {clip_id: shard for shard in self.shards for clip_id in shard.rows}

    def missing(self, clips: Iterable[FramesOfClip]) -> list[FramesOfClip]:
        """The clips that are not there yet.

        Raises:
            CacheError: a clip is there, but with other frames, or its video has changed since.
        """
        clips = list(clips)
        sizes = video_sizes(clip.video for clip in clips if clip.clip_id in self._shard_of)
        return [clip for clip in clips if clip.clip_id not in self._shard_of or not self._holds(clip, sizes)]

    def require(self, clips: Iterable[FramesOfClip]) -> None:
        """Raises CacheError unless all the clips are there."""
        missing = self.missing(clips)
        if missing:
            raise CacheError(
                f"{len(missing):,} clips are not in the {_FRAMES.name} '{self._folder}', the first "
                f"'{missing[0].clip_id}': build it, or finish building it, with `{_FRAMES.command}`"
            )

    def read(self, clip_id: str, frame_ids: Sequence[int]) -> np.ndarray:
        """Frames of a clip, uint8 (T, H, W, 3).

        Args:
            frame_ids: T of those that are stored, in their order.

        Raises:
            CacheError: the clip or one of the frames is absent, or the bytes do not match their checksum.
        """
        if clip_id not in self._shard_of:
            raise CacheError(f"'{clip_id}' is not in the {_FRAMES.name} '{self._folder}'; run `{_FRAMES.command}`")
        shard = self._shard_of[clip_id]
        row_of = {frame_id: row for row, frame_id in enumerate(shard.rows[clip_id]["frame_ids"])}
        absent = [frame_id for frame_id in frame_ids if frame_id not in row_of]
        if absent:
            raise CacheError(
                f"the {_FRAMES.name} '{self._folder}' has no frame {absent[0]} of '{clip_id}', which this run shows; "
                f"set --data.init_args.{_FRAMES.option} null to do without"
            )
        (frames,) = shard.read(clip_id)
        rows = [row_of[frame_id] for frame_id in frame_ids]
        return frames if len(rows) == len(frames) else frames[rows]

    def video_bytes(self, clip_id: str) -> int:
        """Size of the video that the frames of a clip, which must be there, were decoded from."""
        num_bytes: int = self._shard_of[clip_id].rows[clip_id]["video_bytes"]
        return num_bytes

    def _holds(self, clip: FramesOfClip, sizes: Mapping[Path, int | None]) -> bool:
        what = clip.unlike(self._shard_of[clip.clip_id].rows[clip.clip_id], sizes[clip.video])
        if what is not None:
            raise CacheError(
                f"the {_FRAMES.name} '{self._folder}' has {what} of '{clip.clip_id}'; {_FRAMES.remedy(self._folder)}"
            )
        return True


def write_frames(
    folder: Path,
    provenance: Mapping[str, Any],
    clips: Sequence[FramesOfClip],
    *,
    workers: int,
    progress: Callable[[int], None] = lambda done: None,
) -> None:
    """Decodes clips in parallel into new shards beside those that are there; what is finished outlives an interruption.

    Args:
        clips: without those that are there.
        workers: processes that decode.
        progress: called with the number of clips that are written.

    Raises:
        VideoDecodeError: a video cannot be read.
        CacheError: another process writes to the folder.
        OSError: the disk is full, for instance.
    """
    with one_writer(folder, _FRAMES.command):
        first = 1 + max((int(shard.name) for shard in _shard_folders(folder)), default=-1)
        tasks = [
            _Shard(folder / f"{first + index:05d}", dict(provenance), shard)
            for index, shard in enumerate(_in_shards(clips, _SHARD_BYTES))
        ]
        longest = max((len(task.clips) for task in tasks), default=1)
        done = 0
        for index, outcome in IsolatedCalls(_write_shard, workers=workers, time_limit=longest * _SECONDS_A_CLIP)(tasks):
            if isinstance(outcome, Failure):
                raise VideoDecodeError(f"one of its videos {outcome.cause}", tasks[index].folder)
            if outcome is not None:
                raise outcome
            done += len(tasks[index].clips)
            progress(done)


@dataclass(frozen=True, slots=True)
class _Shard:
    folder: Path
    provenance: dict[str, Any]
    clips: tuple[FramesOfClip, ...]


def _write_shard(shard: _Shard) -> VideoDecodeError | CacheError | OSError | None:
    try:
        for left_behind in shard.folder.parent.glob(f".{shard.folder.name}.*"):  # by a process that was killed
            shutil.rmtree(left_behind)
        with ArrayWriter(_FRAMES, shard.folder, shard.provenance) as writer:
            for clip in shard.clips:
                frames = read_frames(clip.video, clip.frame_ids, expected_size=clip.size)
                note = {"frame_ids": clip.frame_ids, "size": clip.size, "video_bytes": clip.video.stat().st_size}
                writer.add(clip.clip_id, [frames], **note)
    except (VideoDecodeError, CacheError, OSError) as error:  # raised here, it would end the process as a crash does
        return error
    return None


def _in_shards(clips: Sequence[FramesOfClip], limit: int) -> list[tuple[FramesOfClip, ...]]:
    """Cuts a list where the next clip would make a shard larger than ``limit`` bytes."""
    shards: list[list[FramesOfClip]] = []
    room = 0
    for clip in clips:
        if not shards or clip.num_bytes > room:
            shards.append([])
            room = limit
        shards[-1].append(clip)
        room -= clip.num_bytes
    return [tuple(shard) for shard in shards]


def _shard_folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("[0-9]*") if path.name.isdecimal())
