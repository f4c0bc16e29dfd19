"""What every annotation file of the real data sets is reduced to."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from datamodules.annotated.fields import AnnotationError
from stvg_nst.types import SentenceType


@dataclass(frozen=True, slots=True)
class Annotation:
    """A sentence about a part of a video, and when its answer is.

    Args:
        item_id: unique in the split.
        clip_id: the part of the video; sentences about the same part share it.
        video: name of the video as the annotation has it.
        query: the sentence.
        sentence_type: declarative or interrogative.
        start, stop: half-open span of the true tube, native frames of the video file.
        segment: half-open span of the frames that are shown.
        num_frames: frames that the annotation says the video has, ``None`` where it does not say.
        fps: frames per second that it says.
        size: (H, W) that it says.
        boxes: (stop - start, 4) float32, xyxy, native pixels; ``None`` where they stand in another file.
        target_id: number of the target in that file.
    """

    item_id: str
    clip_id: str
    video: str
    query: str
    sentence_type: SentenceType
    start: int
    stop: int
    segment: tuple[int, int]
    num_frames: int | None
    fps: float
    size: tuple[int, int]
    boxes: NDArray[np.float32] | None = None
    target_id: int | None = None


@dataclass(frozen=True)
class Reading:
    """All that an annotation file holds, faults included.

    Args:
        file: the file.
        annotations: sentences without fault, in the order of the file.
        errors: what is wrong with the others.
        lost: how many sentences those are.
        duplicates: keys that stand twice in one object.
        unknown: fields that the format does not know, and in how many items.
    """

    file: Path
    annotations: tuple[Annotation, ...]
    errors: tuple[AnnotationError, ...] = ()
    lost: int = 0
    duplicates: tuple[str, ...] = ()
    unknown: Counter[str] = field(default_factory=Counter)
