"""Annotations of HC-STVG: version 1, and version 2 under its own field names."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from datamodules.annotated.annotation import Annotation, Convention, Place, Reading, read_one_per_item
from datamodules.annotated.fields import Fields, box_array, check_file_name, shown

# Every clip of the data set is a cut of this length, from which its frames per second follow.
CLIP_SECONDS = 20.0

_KNOWN = ("bbox", "st_frame", "img_num", "st_time", "ed_time", "width", "height", "caption", "img_size", "English")


def read_hcstvg(file: Path, convention: Convention = "annotated") -> Reading:
    """Reads an annotation file: an object whose keys are the names of the video files.

    Raises:
        FileNotFoundError: there is no such file.
        AnnotationError: it is no such object. Faults of single items are returned.
    """
    return read_one_per_item(file, "video", _KNOWN, partial(parse_hcstvg, convention=convention))


def parse_hcstvg(fields: Fields, convention: Convention) -> Annotation:
    """One item.

    The last frame of a clip is never shown, as in the published code: the annotation counts it, but not every file has
    it. A tube that ends on it keeps its last box.

    Args:
        fields: of the item, whose name is that of the video file: ``bbox``, a list of [x, y, w, h] in pixels, one for
            each frame of the tube; ``st_frame``, its first frame, counted from 1; ``img_num``, frames of the clip;
            ``width`` and ``height``, or ``img_size`` [h, w]; ``caption``, or ``English``.
        convention: TubeDETR counts ``st_frame`` from 0, so that its whole tube lies one frame late.

    Raises:
        AnnotationError: a field is missing or wrong, or the tube begins behind the clip.
    """
    name = check_file_name(fields.item, fields.file, shown(fields.item))
    num_frames = fields.integer("img_num", at_least=2)
    counted_from = 1 if convention == "annotated" else 0
    start = fields.integer("st_frame", at_least=1, at_most=num_frames - 2 + counted_from) - counted_from
    xywh = box_array(fields.sequence("bbox"), fields, "bbox")
    xywh[:, 2:] += xywh[:, :2]
    boxes_at = Place(fields.file, fields.item, "bbox")
    return Annotation(
        item_id=name,
        clip_id=name,
        video=name,
        query=_caption(fields),
        sentence_type="declarative",
        start=start,
        stop=start + len(xywh),
        segment=(0, num_frames - 1),
        num_frames=num_frames,
        fps=num_frames / CLIP_SECONDS,
        size=_size(fields),
        span_at=boxes_at,
        may_stop=num_frames + 1 - counted_from,
        boxes=xywh.astype(np.float32),
        boxes_at=boxes_at,
    )


def _size(fields: Fields) -> tuple[int, int]:
    if "img_size" not in fields:
        return fields.integer("height", at_least=1), fields.integer("width", at_least=1)
    size = fields.sequence("img_size")
    if len(size) != 2 or not all(type(side) is int and side > 0 for side in size):
        raise fields.error("img_size", "[height, width], two positive integers", shown(size))
    return size[0], size[1]


def _caption(fields: Fields) -> str:
    if "caption" not in fields and "English" not in fields:
        raise fields.error("caption", "the sentence, here or in 'English' (version 2)", "an item without either")
    return fields.sentence("caption" if "caption" in fields else "English")
