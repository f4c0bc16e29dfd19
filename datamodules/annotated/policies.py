"""What is done with a published annotation whose boxes leave the frame, or whose tube or segment leaves the clip.

Nothing here invents a box or a frame. Under ``refuse`` such an annotation is faulty, and an error names it. The other
policies keep the sentence, and count what they touch:

* A bad box has no area or leaves the frame. ``clip`` cuts it to the frame, and what has no area then stays without one.
  ``as_published`` keeps its numbers. ``skip_frame`` takes its frame out of the target.
* A short clip has fewer frames than its annotation speaks of. Only those that there are can be shown. ``as_published``
  keeps the tube as it is; ``clip`` and ``skip_frame``, which do the same here, end it with the clip.

A box without an area overlaps nothing, so its frame counts as missed. A frame that is taken out counts nowhere.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from datamodules.annotated.annotation import Annotation
from datamodules.annotated.fields import AnnotationError, shown

Policy = Literal["refuse", "clip", "as_published", "skip_frame"]
POLICIES: tuple[Policy, ...] = get_args(Policy)
_LEAVE_OUT = "leave out such sentences with --data.init_args.on_bad_video skip"


def advice(option: str) -> str:
    """How to go on where ``refuse`` has refused."""
    return f"choose --data.init_args.{option} {'|'.join(POLICIES[1:])}, see docs/data.md"


def bad_boxes(annotation: Annotation) -> NDArray[np.bool_]:
    """(stop - start,) whether each box has no area or leaves the frame; those that nobody has said are not bad."""
    assert annotation.boxes is not None
    if not annotation.has_tube:
        return np.zeros(len(annotation.boxes), dtype=bool)
    height, width = annotation.size
    x1, y1, x2, y2 = annotation.boxes.T
    return ~((x1 >= 0) & (y1 >= 0) & (x1 < x2) & (y1 < y2) & (x2 <= width) & (y2 <= height))


def lacking_frames(annotation: Annotation, frames_in_file: int | None = None) -> int:
    """Frames of its segment or its tube that the clip does not have.

    Args:
        frames_in_file: that the video has, ``None`` where only the annotation says how many.
    """
    stop = max(annotation.segment[1], annotation.stop) - _may_stop(annotation, frames_in_file)
    return max(stop, 0) + max(annotation.segment[0] - annotation.start, 0)


def fit_to_clip(annotation: Annotation, policy: Policy, frames_in_file: int | None = None) -> Annotation:
    """An annotation whose segment has only frames that there are, and whose tube is what the policy says.

    Raises:
        AnnotationError: it speaks of other frames and the policy refuses it; or none of its tube's can be shown.
    """
    if not lacking_frames(annotation, frames_in_file):
        return annotation
    may_stop = _may_stop(annotation, frames_in_file)
    segment = annotation.segment[0], min(annotation.segment[1], may_stop)
    place = annotation.span_at
    said = f"a segment of {_span(annotation.segment)} and a tube of {_span((annotation.start, annotation.stop))}"
    if policy == "refuse":
        expected = f"a segment and a tube within the clip's frames {_span((segment[0], may_stop))}"
        raise AnnotationError(place.file, place.item, place.field, expected, said, advice("on_short_clip"))
    start, stop = max(annotation.start, segment[0]), min(annotation.stop, may_stop)
    if start >= min(stop, segment[1]):
        expected = f"a tube of which something is in frames {_span(segment)}"
        raise AnnotationError(place.file, place.item, place.field, expected, said, _LEAVE_OUT)
    if policy == "as_published":
        return replace(annotation, segment=segment)
    boxes, boxes_at = annotation.boxes, annotation.boxes_at
    if boxes is not None and boxes_at is not None:
        boxes = boxes[start - annotation.start : stop - annotation.start]
        boxes_at = replace(boxes_at, first=boxes_at.first + start - annotation.start)
    return replace(annotation, segment=segment, start=start, stop=stop, boxes=boxes, boxes_at=boxes_at)


def fit_to_frame(annotation: Annotation, policy: Policy) -> Annotation:
    """An annotation with boxes, the bad ones treated as the policy says.

    Raises:
        AnnotationError: it has a bad box and the policy refuses it; or none of its boxes is left.
    """
    assert annotation.boxes is not None and annotation.boxes_at is not None
    bad = bad_boxes(annotation)
    if not bad.any() or policy == "as_published":
        return annotation
    height, width = annotation.size
    place, row = annotation.boxes_at, int(bad.argmax())
    if policy == "refuse":
        expected = f"a box with an area within the frame of {width} x {height} pixels (xyxy after conversion)"
        got = shown(annotation.boxes[row].tolist())
        raise AnnotationError(place.file, place.item, place.of_box(row), expected, got, advice("on_bad_box"))
    if policy == "skip_frame":
        if bad.all():
            expected = "at least one box with an area within the frame, for skip_frame to keep"
            way_out = f"choose --data.init_args.on_bad_box clip|as_published, or {_LEAVE_OUT}"
            raise AnnotationError(place.file, place.item, place.field, expected, "none", way_out)
        return replace(annotation, boxes=np.where(bad[:, None], np.float32(np.nan), annotation.boxes))
    x1, x2 = annotation.boxes[:, 0::2].clip(0, width).T
    y1, y2 = annotation.boxes[:, 1::2].clip(0, height).T
    return replace(annotation, boxes=np.stack([x1, y1, np.maximum(x1, x2), np.maximum(y1, y2)], axis=1))


def _may_stop(annotation: Annotation, frames_in_file: int | None) -> int:
    """One past the last frame that the clip has for a tube."""
    known = [frames for frames in (annotation.num_frames, frames_in_file) if frames is not None]
    there = min(known, default=annotation.may_stop)
    # The last frame of an HC-STVG clip may be missing: it is never shown.
    return annotation.may_stop if there >= annotation.segment[1] else there


def _span(span: tuple[int, int]) -> str:
    return f"[{span[0]}, {span[1]})"
