"""The LQ counterpart of a data set as files: every clip degraded as the benchmark's test shows it."""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from datamodules.annotated.annotation import Annotation
from datamodules.annotated.source import AnnotatedSource, OfficialSplit
from datamodules.caches.array_store import CacheError
from datamodules.caches.one_writer import one_writer
from datamodules.degradation.files import LOSSLESS, DegradedClip, DegradedManifest, read_manifest, write_manifest
from datamodules.degradation.golden_pixels import pixel_hashes
from datamodules.degradation.kinds import version_name
from datamodules.degradation.severities import degrade
from datamodules.isolation import Failure, IsolatedCalls
from datamodules.quality import MixedQualityPlan
from datamodules.video import VideoDecodeError, iter_frames, probe, write_video
from stvg_nst.counting import counted
from stvg_nst.machine.whole_files import remove_partials
from stvg_nst.types import Degradation, Kernels

_COMMAND = "python -m stvg_nst degrade dataset"
_SECONDS_BETWEEN_SAVES = 10.0
# What the estimate looks at.
_SAMPLED_CLIPS, _SAMPLED_FRAMES = 4, 32


@dataclass(frozen=True, slots=True)
class ClipToDegrade:
    """One clip, and the file that it becomes.

    Args:
        clip_id: of the clip.
        video: the source.
        segment: half-open span of its frames, the stop ``None`` for all that the file has.
        num_frames: how many that are by the annotation.
        size: (H, W) that they must have.
        degradation: the benchmark's, for this clip.
        crf: quality of the file, ``None`` for a lossless one.
        folder, path: where it goes, and its place there.
    """

    clip_id: str
    video: Path
    segment: tuple[int, int | None]
    num_frames: int
    size: tuple[int, int]
    degradation: Degradation
    crf: int | None
    folder: Path
    path: str

    @property
    def num_pixels(self) -> int:
        return self.num_frames * self.size[0] * self.size[1]


class DegradedCopy:
    """A degraded copy of some splits, which is written where it is missing.

    Clips that are there, made by the same and from the same, are kept: an interrupted copy goes on where it was.

    Args:
        source: the data set.
        splits: of it.
        folder: where the copy goes.
        benchmark_seed: of the benchmark whose LQ clips are wanted.
        kernels: whether kernels scale with the frame.
        crf: quality of x264; ``None`` keeps every pixel.

    Raises:
        AnnotationError: an annotation file is damaged as a whole. Faulty annotations are left out.
        CacheError: the folder has a copy of something else.
        ValueError: the copy would take the place of the videos that it is made from.
    """

    def __init__(
        self,
        source: AnnotatedSource,
        splits: Sequence[OfficialSplit],
        folder: Path,
        *,
        benchmark_seed: int = 0,
        kernels: Kernels = "relative",
        crf: int | None = None,
    ) -> None:
        self.folder = folder
        encoding = LOSSLESS if crf is None else f"H.264 at crf {crf}"
        self._manifest = DegradedManifest(source.name, version_name(kernels), benchmark_seed, encoding, pixel_hashes())
        # By its place, for the folder of the videos may be given as `.`; as it is spelt, for it may be a link.
        self._subfolder = os.path.basename(os.path.abspath(source.video_folder))
        if os.path.realpath(folder / self._subfolder) == os.path.realpath(source.video_folder):
            raise ValueError(
                f"a copy in '{folder}' would replace the videos in '{source.video_folder}' that it is made from; "
                "choose another folder"
            )
        plan = MixedQualityPlan(benchmark_seed, kernels=kernels)
        clips = {a.clip_id: a for split in splits for a in source.read(split).annotations}
        self.clips = tuple(self._clip(annotation, source, plan, crf) for annotation in clips.values())
        self.missing = self._find_missing()

    def estimate(self) -> int:
        """Bytes that the missing clips will take, from parts of a few of them.

        Raises:
            VideoDecodeError: none of those can be read.
        """
        if not self.missing:
            return 0
        chosen = [self.missing[i] for i in np.unique(np.linspace(0, len(self.missing) - 1, _SAMPLED_CLIPS).astype(int))]
        num_bytes = num_pixels = 0
        unreadable: VideoDecodeError | None = None
        with tempfile.TemporaryDirectory() as folder:
            for clip in chosen:
                file, (start, _) = Path(folder) / "clip.mkv", clip.segment
                stop = start + min(_SAMPLED_FRAMES, clip.num_frames)
                try:
                    write_video(file, _degraded(clip, range(start, stop)), 25, crf=clip.crf)
                except VideoDecodeError as error:  # told of this clip when it is to be written
                    unreadable = error
                    continue
                num_bytes += file.stat().st_size
                num_pixels += (stop - start) * clip.size[0] * clip.size[1]
        if unreadable is not None and not num_pixels:
            raise unreadable
        return round(num_bytes / num_pixels * sum(clip.num_pixels for clip in self.missing))

    def write(
        self, *, workers: int, time_limit: float, progress: Callable[[int, int], None] = lambda done, total: None
    ) -> dict[str, str]:
        """Writes the missing clips in parallel, and the manifest at first and every few seconds.

        Args:
            workers: processes.
            time_limit: seconds for one clip.
            progress: called with the numbers of clips that are done, and of all.

        Returns:
            What is wrong, by the ids of the clips that could not be written.

        Raises:
            CacheError: another process writes to the folder.
        """
        with one_writer(self.folder, _COMMAND):
            remove_partials(self.folder)  # of processes that were killed
            self.missing = self._find_missing()  # another process may have written some of it meanwhile
            write_manifest(self.folder, self._manifest, self._written)  # says whose files these are, whenever it ends
            return self._write_missing(workers, time_limit, progress)

    def _write_missing(self, workers: int, time_limit: float, progress: Callable[[int, int], None]) -> dict[str, str]:
        done, saved = len(self.clips) - len(self.missing), time.monotonic()
        failures = {}
        progress(done, len(self.clips))
        try:
            for index, outcome in IsolatedCalls(write_degraded, workers=workers, time_limit=time_limit)(self.missing):
                clip = self.missing[index]
                if isinstance(outcome, Failure):
                    failures[clip.clip_id] = outcome.cause
                else:
                    self._written[clip.clip_id] = outcome
                done += 1
                progress(done, len(self.clips))
                if time.monotonic() - saved > _SECONDS_BETWEEN_SAVES:
                    write_manifest(self.folder, self._manifest, self._written)
                    saved = time.monotonic()
        finally:
            write_manifest(self.folder, self._manifest, self._written)
        return failures

    def _find_missing(self) -> tuple[ClipToDegrade, ...]:
        self._written = self._go_on()
        return tuple(clip for clip in self.clips if not self._is_written(clip))

    def _go_on(self) -> dict[str, DegradedClip]:
        # A process that was killed ahead of its first manifest leaves a lock, and perhaps a part of that manifest.
        if not self.folder.exists() or all(path.name.startswith(".") for path in self.folder.iterdir()):
            return {}
        found, written = read_manifest(self.folder)
        for name in ("dataset", "degradations", "benchmark_seed", "encoding", "pixels"):
            if getattr(found, name) != getattr(self._manifest, name):
                raise CacheError(
                    f"'{self.folder}' holds clips with {name} = {getattr(found, name)!r}, but "
                    f"{getattr(self._manifest, name)!r} is asked for; choose another folder"
                )
        return written

    def _clip(
        self, annotation: Annotation, source: AnnotatedSource, plan: MixedQualityPlan, crf: int | None
    ) -> ClipToDegrade:
        start, stop = annotation.segment
        # Where clips are whole videos the last frame belongs to the file, though it is not shown.
        whole = annotation.clip_id == annotation.video
        video = source.video_file(annotation.video)
        name = annotation.clip_id
        if Path(name).suffix.lower() not in (".mp4", ".mkv"):
            name += ".mkv"
        return ClipToDegrade(
            clip_id=annotation.clip_id,
            video=video,
            segment=(start, None if whole else stop),
            num_frames=annotation.num_frames or stop if whole else stop - start,
            size=annotation.size,
            degradation=plan.evaluation_degradation(annotation.clip_id),
            crf=crf,
            folder=self.folder,
            path=Path(self._subfolder, name).as_posix(),
        )

    def _is_written(self, clip: ClipToDegrade) -> bool:
        entry, file = self._written.get(clip.clip_id), self.folder / clip.path
        return (
            entry is not None
            and file.is_file()
            and file.stat().st_size == entry.num_bytes
            and (not clip.video.is_file() or clip.video.stat().st_size == entry.source_bytes)
        )


def write_degraded(clip: ClipToDegrade) -> DegradedClip | Failure:
    """Writes one degraded clip, which appears whole or not at all; a few frames are in memory at a time."""
    cv2.setNumThreads(0)  # the processes are parallel already
    target = clip.folder / clip.path
    try:
        info = probe(clip.video)
        start, stop = clip.segment
        if start >= info.num_frames:
            raise VideoDecodeError(
                f"it has only {counted(info.num_frames, 'frame')}, and the clip begins at {start}", clip.video
            )
        # Of a video that is too short, what there is, as a run may show it (`on_short_clip`).
        frame_ids = range(start, info.num_frames if stop is None else min(stop, info.num_frames))
        target.parent.mkdir(parents=True, exist_ok=True)
        write_video(target, _degraded(clip, frame_ids), info.fps, crf=clip.crf)
    except (VideoDecodeError, ValueError, OSError) as error:
        return Failure(str(error))
    with open(target, "rb") as stream:
        sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
    return DegradedClip(
        path=clip.path,
        kind=clip.degradation.kind,
        severity=clip.degradation.severity,
        seed=clip.degradation.seed,
        first_frame=start,
        num_frames=len(frame_ids),
        fps=info.fps,
        size=clip.size,
        num_bytes=target.stat().st_size,
        sha256=sha256,
        source_bytes=clip.video.stat().st_size,
    )


def _degraded(clip: ClipToDegrade, frame_ids: Sequence[int]) -> Iterator[np.ndarray]:
    for chunk in iter_frames(clip.video, frame_ids, expected_size=clip.size):
        yield from degrade(chunk, clip.degradation)
