"""The numbers of a split, and their distributions as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from datamodules.annotated.annotation import Annotation, without_tube
from datamodules.annotated.manifest import frames_in_files, manifest_file, read_manifest
from datamodules.annotated.policies import fit_to_frame
from datamodules.annotated.source import AnnotatedSource, OfficialSplit, sentence_counts
from datamodules.annotated.touched import Survey
from stvg_nst.machine.whole_files import whole_file

_PERCENTILES = (0, 25, 50, 75, 100)


@dataclass(frozen=True)
class Distribution:
    """Values of one kind, one of each clip, sentence or tube.

    Args:
        title: what they are.
        unit: of the values.
        values: (N,), not empty.
    """

    title: str
    unit: str
    values: NDArray[np.float64]

    def percentiles(self) -> list[float]:
        """Minimum, quartiles and maximum."""
        return np.percentile(self.values, _PERCENTILES).tolist()


@dataclass(frozen=True)
class SplitStatistics:
    """What a split holds.

    Args:
        split: its name.
        num_videos, num_clips: videos, and parts of them about which there are sentences.
        num_declarative, num_interrogative: sentences.
        distributions: of what is known of them.
        absent: what is not there, or faulty, and therefore not counted.
        touched: in words, what each policy for bad boxes and short clips would touch.
    """

    split: str
    num_videos: int
    num_clips: int
    num_declarative: int
    num_interrogative: int
    distributions: tuple[Distribution, ...]
    absent: tuple[str, ...]
    touched: tuple[str, ...]


def split_statistics(source: AnnotatedSource, split: OfficialSplit) -> SplitStatistics:
    """Counts a published split. Boxes and videos may be absent; the annotation file may not.

    How many frames a video has is looked up in the manifest of ``data verify``, where there is one.

    Raises:
        FileNotFoundError: there is no annotation file.
        AnnotationError: it is damaged as a whole.
        ValueError: not one of its sentences is without fault.
    """
    reading = source.read(split)
    annotations = reading.annotations
    if not annotations:
        raise ValueError(f"'{reading.file}' holds no sentence without fault; `data verify` says what is wrong")
    with_boxes, errors = source.with_boxes(annotations)
    videos = list(dict.fromkeys(annotation.video for annotation in annotations))
    absent = []
    if reading.lost:
        absent.append(f"{reading.lost:,} faulty sentences of '{reading.file}'; the first: {reading.errors[0]}")
    if errors:
        absent.append(f"boxes of {len(errors):,} of {len(annotations):,} sentences; the first: {errors[0]}")
    absent += without_tube(annotations)
    missing = [video for video in videos if not source.video_file(video).is_file()]
    if missing:
        absent.append(f"{len(missing):,} of {len(videos):,} video files; the first: '{source.video_file(missing[0])}'")
    manifest = manifest_file(source.root, source.name)
    frames = frames_in_files(read_manifest(manifest, source.name)) if manifest.is_file() else {}
    declarative, interrogative = sentence_counts(annotations)
    clips = {annotation.clip_id: annotation for annotation in annotations}
    return SplitStatistics(
        split=split,
        num_videos=len(videos),
        num_clips=len(clips),
        num_declarative=declarative,
        num_interrogative=interrogative,
        distributions=(
            *_of_sentences(list(clips.values()), annotations),
            *_of_tubes(annotations),
            *_of_boxes(with_boxes),
        ),
        absent=tuple(absent),
        touched=Survey.of(with_boxes, frames).lines(),
    )


def plot_statistics(statistics: SplitStatistics, title: str, target: Path) -> None:
    """Draws the distributions as histograms into a PNG file, whole or not at all.

    Raises:
        ValueError: the file is not named .png.
    """
    if target.suffix.lower() != ".png":
        raise ValueError(f"the picture is written as PNG and must be named so, got '{target}'")
    from matplotlib.figure import Figure  # here, because only a picture needs it

    columns = 3
    rows = -(-len(statistics.distributions) // columns)
    figure = Figure(figsize=(4 * columns, 3 * rows), layout="constrained")
    figure.suptitle(title)
    for index, distribution in enumerate(statistics.distributions):
        axes = figure.add_subplot(rows, columns, index + 1)
        axes.hist(distribution.values, bins=40, color="tab:blue")
        axes.axvline(float(np.median(distribution.values)), color="tab:red", linewidth=1)
        axes.set(title=distribution.title, xlabel=distribution.unit)
        axes.spines[["top", "right"]].set_visible(False)
    with whole_file(target) as partial:
        figure.savefig(partial, format="png", dpi=120)


def _of_sentences(clips: Sequence[Annotation], annotations: Sequence[Annotation]) -> list[Distribution]:
    def values(numbers: list[float]) -> NDArray[np.float64]:
        return np.array(numbers, dtype=np.float64)

    return [
        Distribution("clip length", "seconds", values([(c.segment[1] - c.segment[0]) / c.fps for c in clips])),
        Distribution("frame rate", "frames a second", values([c.fps for c in clips])),
        Distribution("short side", "pixels", values([min(c.size) for c in clips])),
        Distribution("sentence length", "words", values([len(a.query.split()) for a in annotations])),
    ]


def _of_tubes(annotations: Sequence[Annotation]) -> list[Distribution]:
    tubes = [annotation for annotation in annotations if annotation.has_tube]
    if not tubes:
        return []
    seconds = np.array([(annotation.stop - annotation.start) / annotation.fps for annotation in tubes])
    return [
        Distribution("tube length", "seconds", seconds),
        Distribution(
            "tube length", "share of the clip", np.array([_share_of_clip(annotation) for annotation in tubes])
        ),
    ]


def _share_of_clip(annotation: Annotation) -> float:
    first, last = annotation.segment
    return (min(annotation.stop, last) - max(annotation.start, first)) / (last - first)


def _of_boxes(annotations: Sequence[Annotation]) -> list[Distribution]:
    """Mean side and motion of each tube's boxes within the frame, in units of the frame."""
    sides, moves = [], []
    for annotation in annotations:
        if not annotation.has_tube:
            continue
        height, width = annotation.size
        within = fit_to_frame(annotation, "clip").boxes
        assert within is not None
        boxes = within / np.array([width, height, width, height])
        sides.append(np.sqrt((boxes[:, 2:] - boxes[:, :2]).prod(axis=1)).mean())
        centres = (boxes[:, 2:] + boxes[:, :2]) / 2
        moves.append(np.hypot(*(centres[-1] - centres[0])))
    if not sides:
        return []
    return [
        Distribution("box size", "root of the share of the frame", np.array(sides)),
        Distribution("way from first to last box", "frame sides", np.array(moves)),
    ]
