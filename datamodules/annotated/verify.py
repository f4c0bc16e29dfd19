"""Looks for everything in a data set's files that would spoil a run: once, before any run."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from datamodules.annotated.annotation import Annotation, without_tube
from datamodules.annotated.fields import AnnotationError
from datamodules.annotated.manifest import (
    SOUND,
    TOO_SHORT,
    VideoEntry,
    frames_in_files,
    read_manifest,
    write_manifest,
)
from datamodules.annotated.source import AnnotatedSource, OfficialSplit
from datamodules.annotated.touched import Survey, fit_annotations
from datamodules.isolation import Failure, IsolatedCalls
from datamodules.video import DamagedFrameError, VideoDecodeError, timeline
from stvg_nst.counting import counted

_SECONDS_BETWEEN_SAVES = 10.0


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that is wrong, or, as a note, only strange.

    Args:
        where: a file, and an item of it.
        what: the complaint.
        is_note: whether the data can be used in spite of it.
    """

    where: str
    what: str
    is_note: bool = False


@dataclass(frozen=True, slots=True)
class VideoTask:
    """A video and what the annotations need of it.

    Args:
        name: that annotations have for it.
        file: its file.
        path: the same, relative to the data set's folder.
        size: (H, W) of its frames, ``None`` where any will do.
        num_frames: frames that it must have.
        annotated_frames: frames that the annotations say it has, ``None`` where they do not say.
        with_times: whether the time of each frame must be known.
    """

    name: str
    file: Path
    path: str
    size: tuple[int, int] | None
    num_frames: int
    annotated_frames: int | None
    with_times: bool = False


@dataclass(frozen=True, slots=True)
class Verification:
    """Args:
    faults: all that is wrong or strange, annotations first.
    num_sentences, num_videos: what was looked at.
    num_checked: videos that were decoded now; the others are unchanged since they were found sound.
    notes: in words, how many sentences have no tube, and what each policy for bad boxes and short clips would touch.
    """

    faults: tuple[Fault, ...]
    num_sentences: int
    num_videos: int
    num_checked: int
    notes: tuple[str, ...] = ()

    @property
    def failed(self) -> bool:
        return any(not fault.is_note for fault in self.faults)


def verify(
    source: AnnotatedSource,
    splits: Sequence[OfficialSplit],
    manifest: Path,
    *,
    expect_official_counts: bool = True,
    workers: int = 2,
    time_limit: float = 600.0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Verification:
    """Reads all annotations of some splits, decodes all their videos, and writes a manifest of the latter.

    Videos that the manifest has as sound, and whose files are unchanged, are not decoded again: an interrupted
    verification goes on where it was. The manifest is saved every few seconds.

    Args:
        source: the data set.
        splits: its splits to look at.
        manifest: the file to write, and to go on from.
        expect_official_counts: a number of sentences other than the published one is a fault.
        workers: processes that decode.
        time_limit: seconds for one video.
        progress: called with the numbers of videos that are done, and of all.

    Raises:
        AnnotationError: the manifest is damaged or of another data set.
    """
    looked = _Look(source, manifest, workers, time_limit, progress)
    # Where the annotations say neither the length nor the size of a video, the videos come first.
    if videos := source.videos_to_know():
        looked.at([_any_video(source, video) for video in videos])
        source.learn(looked.entries)
    annotations, found = _read_annotations(source, splits, expect_official_counts)
    faults = [*dict.fromkeys(found)]  # splits of one file have its own faults in common
    tasks, contradictions = _video_tasks(source, annotations)
    faults += contradictions
    looked.at(tasks)
    # Where the annotations say the size, their boxes are of the stored pixels.
    faults += [note for video in videos for note in _stretched(looked.entries[video], source.video_file(video))]
    for task in tasks:
        faults += _video_faults(looked.entries[task.name], task)
    touched = Survey.of(annotations, frames_in_files(looked.entries)).lines()
    notes = (*without_tube(annotations), *touched)
    return Verification(tuple(faults), len(annotations), len(looked.videos), looked.num_checked, notes)


class _Look:
    """Looks at videos, and keeps the manifest of what it finds.

    Args:
        source, manifest, workers, time_limit, progress: as of :func:`verify`.

    Attributes:
        entries: of all videos that are known, by name.
        videos: that were asked for.
        num_checked: of these, how many were decoded.
    """

    def __init__(
        self,
        source: AnnotatedSource,
        manifest: Path,
        workers: int,
        time_limit: float,
        progress: Callable[[int, int], None],
    ) -> None:
        self._name, self._manifest, self._progress = source.name, manifest, progress
        self._calls = IsolatedCalls(check_file, workers=workers, time_limit=time_limit)
        self.entries = read_manifest(manifest, source.name) if manifest.is_file() else {}
        self._judged: dict[str, VideoEntry] = {}
        self.videos: set[str] = set()
        self.num_checked = 0

    def at(self, tasks: Sequence[VideoTask]) -> None:
        """Decodes those that are not known yet, or have changed, and judges all of them."""
        to_check = []
        for task in tasks:
            if self._is_known(task):
                self._note(task, _judged(self.entries[task.name], task))
            else:
                to_check.append(task)
        done, saved = len(tasks) - len(to_check), time.monotonic()
        self._progress(done, len(tasks))
        try:
            for index, outcome in self._calls(to_check):
                task = to_check[index]
                self._note(task, _failed(task, outcome) if isinstance(outcome, Failure) else outcome)
                done += 1
                self._progress(done, len(tasks))
                if time.monotonic() - saved > _SECONDS_BETWEEN_SAVES:
                    self._save()
                    saved = time.monotonic()
        finally:
            self._save()
        self.videos |= {task.name for task in tasks}
        self.num_checked += len(to_check)

    def _note(self, task: VideoTask, entry: VideoEntry) -> None:
        self.entries[task.name] = self._judged[task.name] = entry

    def _save(self) -> None:
        """Leaves what the manifest has of other videos: another process may look at another split meanwhile."""
        others = read_manifest(self._manifest, self._name) if self._manifest.is_file() else {}
        write_manifest(self._manifest, self._name, others | self._judged)

    def _is_known(self, task: VideoTask) -> bool:
        entry = self.entries.get(task.name)
        return (
            entry is not None
            and entry.num_frames is not None
            and entry.path == task.path
            and entry.is_of(task.file)
            and not (task.with_times and entry.times is None)
        )


def _any_video(source: AnnotatedSource, video: str) -> VideoTask:
    """To learn what a video is; nothing is asked of it but that it decodes."""
    file = source.video_file(video)
    return VideoTask(video, file, str(file.relative_to(source.root)), None, 0, None, with_times=True)


def check_file(task: VideoTask) -> VideoEntry:
    """Decodes a video whole and strictly, by the reader of all runs."""
    if not task.file.is_file():
        return VideoEntry(task.path, verdict="missing")
    stat = task.file.stat()
    entry = VideoEntry(task.path, stat.st_size, stat.st_mtime_ns)
    try:
        with open(task.file, "rb") as stream:
            entry = replace(entry, sha256=hashlib.file_digest(stream, "sha256").hexdigest())
        line = timeline(task.file)
    except DamagedFrameError as error:
        return replace(entry, verdict=f"damaged: {_cause(error)}")
    except (VideoDecodeError, OSError) as error:
        return replace(entry, verdict=f"unreadable: {_cause(error)}")
    info, times = line.info, tuple(round(t, 6) for t in line.times) if task.with_times else None
    aspect = None if info.pixel_aspect == 1 else (info.pixel_aspect.numerator, info.pixel_aspect.denominator)
    found = replace(entry, num_frames=info.num_frames, fps=info.fps, size=info.size, times=times, pixel_aspect=aspect)
    return _judged(found, task)


def _judged(entry: VideoEntry, task: VideoTask) -> VideoEntry:
    """An entry of a video that decodes, compared with what is needed of it."""
    assert entry.num_frames is not None
    if task.size is not None and entry.size != task.size:
        verdict = f"wrong size: {entry.size} (H, W), but the annotations were made for {task.size}"
    elif entry.num_frames < task.num_frames:
        verdict = f"{TOO_SHORT}: {counted(entry.num_frames, 'frame')}, but {task.num_frames} are needed"
    else:
        verdict = SOUND
    return replace(entry, verdict=verdict)


def _failed(task: VideoTask, failure: Failure) -> VideoEntry:
    if not task.file.is_file():
        return VideoEntry(task.path, verdict="missing")
    stat = task.file.stat()
    return VideoEntry(task.path, stat.st_size, stat.st_mtime_ns, verdict=f"unreadable: {failure.cause}")


def _cause(error: VideoDecodeError | OSError) -> str:
    return error.cause if isinstance(error, VideoDecodeError) else str(error)


def _read_annotations(
    source: AnnotatedSource, splits: Sequence[OfficialSplit], expect_official_counts: bool
) -> tuple[list[Annotation], list[Fault]]:
    annotations: list[Annotation] = []
    faults: list[Fault] = []
    for split in splits:
        try:
            reading = source.read(split)
        except FileNotFoundError:
            faults.append(Fault(str(source.annotation_file(split)), "missing"))
            continue
        except AnnotationError as error:
            faults.append(_annotation_fault(error))
            continue
        mismatch = source.count_mismatch(split) if expect_official_counts else ""
        if mismatch:
            faults.append(Fault(str(reading.file), f"{mismatch}; --subset allows it"))
        faults += [_annotation_fault(error) for error in reading.errors]
        for name, count in sorted(reading.unknown.items()):
            faults.append(Fault(str(reading.file), f"unknown field '{name}' in {counted(count, 'item')}", is_note=True))
        with_boxes, missing = source.with_boxes(reading.annotations)
        refused = fit_annotations(
            with_boxes, source.with_boxes, on_bad_box="refuse", on_short_clip="refuse", frames_in_file={}
        )
        faults += dict.fromkeys(_annotation_fault(error) for error in (*missing, *refused.errors))
        # Videos are checked even where boxes are missing.
        found = {annotation.item_id for annotation in with_boxes}
        annotations += with_boxes + [a for a in reading.annotations if a.item_id not in found]
    return annotations, faults


def _annotation_fault(error: AnnotationError) -> Fault:
    place = "".join([f", item '{error.item}'" * bool(error.item), f", field '{error.field}'" * bool(error.field)])
    return Fault(error.file + place, error.complaint)


def _video_tasks(source: AnnotatedSource, annotations: Sequence[Annotation]) -> tuple[list[VideoTask], list[Fault]]:
    """One task for each video, and what annotations of one video say differently."""
    by_video: dict[str, list[Annotation]] = {}
    for annotation in annotations:
        by_video.setdefault(annotation.video, []).append(annotation)
    tasks, faults = [], []
    for video, group in by_video.items():
        file = source.video_file(video)
        # What the annotation itself says that the video lacks is no fault of the video.
        needed = max(min(a.segment[1], a.num_frames or a.segment[1]) for a in group)
        said = sorted({(*annotation.size, annotation.num_frames or 0) for annotation in group})
        if len(said) > 1:
            faults.append(Fault(str(file), f"annotations contradict each other in (H, W, number of frames): {said}"))
        annotated = group[0].num_frames
        path = str(file.relative_to(source.root))
        tasks.append(VideoTask(video, file, path, group[0].size, needed, annotated))
    return tasks, faults


def _video_faults(entry: VideoEntry, task: VideoTask) -> list[Fault]:
    if entry.verdict != SOUND:
        return [Fault(str(task.file), entry.verdict)]
    assert entry.num_frames is not None
    if task.annotated_frames not in (None, entry.num_frames):
        what = f"has {counted(entry.num_frames, 'frame')}, the annotations say {task.annotated_frames}"
        return [Fault(str(task.file), what, is_note=True)]
    return []


def _stretched(entry: VideoEntry, file: Path) -> list[Fault]:
    """A note where a player stretches a film, for boxes that were drawn in a player are wrong there."""
    if entry.pixel_aspect is None or entry.size is None:
        return []
    (width, height), (rows, columns) = entry.pixel_aspect, entry.size
    what = (
        f"its pixels are not square ({width}:{height}): count boxes in its {columns} x {rows} pixels, before a player "
        "stretches them"
    )
    return [Fault(str(file), what, is_note=True)]
