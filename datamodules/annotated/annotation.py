"""What every annotation file of the real data sets is reduced to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from datamodules.annotated.fields import AnnotationError, Fields, read_json, shown
from stvg_nst.types import SentenceType

Convention = Literal["annotated", "tubedetr"]
"""Whose idea of an annotation file's numbers and sentences: its authors', or that of TubeDETR's published code."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a file has the boxes or the span of an annotation, for errors that come after reading.

    Args:
        file, item: as in :class:`AnnotationError`.
        field: of the boxes, or of the span's end.
        first: number that the first of the boxes has there.
    """

    file: Path
    item: str
    field: str
    first: int = 0

    def of_box(self, row: int) -> str:
        return f"{self.field}[{self.first + row}]"


@dataclass(frozen=True, slots=True)
class Annotation:
    """A sentence about a part of a video, and the span of its answer, as the file has them.

    The tube lies at least in part within the segment. It may leave it, and its boxes may be any finite numbers:
    :mod:`datamodules.annotated.policies` says what becomes of those.

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
        span_at: where the file has the tube's end.
        may_stop: one past the last frame on which a tube of this segment may have a box.
        boxes: (stop - start, 4) float32, xyxy, native pixels; ``None`` where another file has them. A row of NaN
            is a frame that a policy has taken out.
        boxes_at: where the file has them.
        target_id: number of the target in that file.
        has_tube: whether the file says when and where. Where it does not, the span is the segment, each row of the
            boxes is NaN, and only a training without annotations takes it.
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
    span_at: Place
    may_stop: int
    boxes: NDArray[np.float32] | None = None
    boxes_at: Place | None = None
    target_id: int | None = None
    has_tube: bool = True


def without_tube(annotations: Sequence[Annotation]) -> tuple[str, ...]:
    """How many sentences have no tube, in a line; none where all have one."""
    number = sum(not annotation.has_tube for annotation in annotations)
    said = f"{number:,} of {len(annotations):,} sentences have no tube: only --model.annotated false tunes by them"
    return (said,) * bool(number)


@dataclass(frozen=True)
class Reading:
    """All that an annotation file holds, faults included.

    Args:
        file: the file.
        annotations: sentences without fault, in the order of the file.
        errors: what is wrong with the others.
        lost: how many sentences those are.
        duplicates: keys that one object gives twice.
        unknown: fields that the format does not know, and in how many items.
    """

    file: Path
    annotations: tuple[Annotation, ...]
    errors: tuple[AnnotationError, ...] = ()
    lost: int = 0
    duplicates: tuple[str, ...] = ()
    unknown: Counter[str] = field(default_factory=Counter)


def read_one_per_item(file: Path, item: str, known: Iterable[str], parse: Callable[[Fields], Annotation]) -> Reading:
    """Reads a file that is one JSON object, each of whose items is a sentence.

    Args:
        file: the file.
        item: what an item is called in errors.
        known: the fields of an item that the format has.
        parse: makes the annotation of an item, or raises an :class:`AnnotationError`.

    Raises:
        FileNotFoundError: there is no such file.
        AnnotationError: it is no such object. Faults of single items are returned.
    """
    document = read_json(file)
    if not isinstance(document.value, dict):
        raise AnnotationError(file, "", "", f"an object with one item for each {item}", shown(document.value))
    annotations, errors, unknown = [], [], Counter[str]()
    for name, value in document.value.items():
        try:
            fields = Fields.of(file, name, value)
            unknown.update(fields.unknown(known))
            annotations.append(parse(fields))
        except AnnotationError as error:
            errors.append(error)
    return Reading(file, tuple(annotations), tuple(errors), len(errors), document.duplicates, unknown)
