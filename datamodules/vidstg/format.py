"""Annotations of VidSTG: the official sentences, the trajectories of VidOR, and both merged in one file."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.annotated.annotation import Annotation, Convention, Place, Reading, read_one_per_item
from datamodules.annotated.fields import AnnotationError, Fields, are_integers, box_array, read_json, shown
from stvg_nst.types import SentenceType

# Captions come before questions, in the numbers of the sentences too.
_LISTS: dict[str, SentenceType] = {"captions": "declarative", "questions": "interrogative"}
_TYPES: dict[str, SentenceType] = {"declar": "declarative", "inter": "interrogative"}
_ITEM_FIELDS = (
    *("vid", "frame_count", "fps", "width", "height", "subject/objects", "used_segment", "used_relation"),
    *("temporal_gt", "captions", "questions"),
)
_MERGED_FIELDS = (
    *("vid", "frame_count", "fps", "width", "height", "used_segment", "used_relation", "temp_gt", "ori_temp_gt"),
    *("id", "qtype", "sentence", "target_category", "target_bboxs"),
)
_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_TID_OF, _BOX_OF, _CORNERS_OF = itemgetter("tid"), itemgetter("bbox"), itemgetter(*_CORNERS)


@dataclass(frozen=True, slots=True)
class Trajectories:
    """VidOR's annotation of a video, each of whose frames is looked through once, whatever asks for its boxes.

    Args:
        file: where it comes from.
        value: its JSON: ``trajectories[frame]`` is a list of objects with ``tid`` and ``bbox`` (``xmin``, ``ymin``,
            ``xmax``, ``ymax``).
    """

    file: Path
    value: Any
    _boxes: dict[int, dict[object, Any]] = field(default_factory=dict, init=False)

    def corners(self, index: int, target_id: int | None) -> list[object] | None:
        """Corners of an object on a frame that there is; ``None`` where something in the frame needs a closer look."""
        if index not in self._boxes:
            self._boxes[index] = _boxes_by_object(self.value["trajectories"][index])
        try:
            return list(_CORNERS_OF(self._boxes[index][target_id]))
        except (TypeError, KeyError):
            return None


def read_sentences(file: Path, convention: Convention = "annotated") -> Reading:
    """Reads ``sent_annos``: a list of relations, each with captions and questions. Boxes are in other files.

    Sentences are numbered through the file, which is what the merged form calls their ``id``.

    Args:
        file: the file.
        convention: TubeDETR takes the end of a segment for one past it, so that its last frame is not shown, and leaves
            the sentences as they are written.

    Raises:
        FileNotFoundError: there is no such file.
        AnnotationError: it is no list. Faults of single items are returned.
    """
    document = read_json(file)
    if not isinstance(document.value, list):
        raise AnnotationError(file, "", "", "a list of items", shown(document.value))
    annotations, errors, unknown, lost = [], [], Counter[str](), 0
    numbers = count()
    for index, value in enumerate(document.value):
        try:
            fields = Fields.of(file, str(index), value)
            unknown.update(fields.unknown(_ITEM_FIELDS))
            annotations += parse_item(fields, numbers, convention)
        except AnnotationError as error:
            errors.append(error)
            lost += _num_sentences(value)
    return Reading(file, tuple(annotations), tuple(errors), lost, document.duplicates, unknown)


def read_merged(file: Path, convention: Convention = "annotated") -> Reading:
    """Reads ``vstg_annos``: an object of sentences by number, each with the boxes of its target.

    Args:
        file: the file.
        convention: as in :func:`read_sentences`.

    Raises:
        FileNotFoundError: there is no such file.
        AnnotationError: it is no such object. Faults of single items are returned.
    """
    return read_one_per_item(file, "sentence", _MERGED_FIELDS, partial(parse_merged, convention=convention))


def parse_item(fields: Fields, numbers: Iterator[int], convention: Convention) -> list[Annotation]:
    """The sentences of one relation.

    ``used_segment`` counts its last frame in. ``temporal_gt`` does not, as in VidOR, whose ids end one past: in the
    published files it ends at the number of frames wherever the relation lasts to the end of the video.

    Args:
        fields: of the item.
        numbers: numbers of the sentences; as many are taken as the item has sentences, faulty or not.
        convention: as in :func:`read_sentences`.

    Raises:
        AnnotationError: a field is missing or wrong, or the tube lies outside the segment or ends behind the video.
    """
    taken = {name: [next(numbers) for _ in _list_or_none(fields.values.get(name))] for name in _LISTS}
    num_frames = fields.integer("frame_count", at_least=1)
    segment = _segment(fields, convention)
    shown_part = _shown(segment, convention)
    start, stop = _span(fields, "temporal_gt", shown_part, num_frames)
    video, size, fps = fields.file_name("vid"), _size(fields), fields.positive("fps")
    known = {entry.integer("tid") for entry in fields.objects("subject/objects")}
    found = []
    for name, sentence_type in _LISTS.items():
        for number, sentence in zip(taken[name], fields.objects(name), strict=True):
            target_id = sentence.integer("target_id")
            if target_id not in known:
                raise sentence.error("target_id", f"one of subject/objects {sorted(known)}", str(target_id))
            found.append(
                Annotation(
                    item_id=f"{video}/{number}",
                    clip_id=_clip_id(video, segment),
                    video=video,
                    query=_query(sentence, convention),
                    sentence_type=sentence_type,
                    start=start,
                    stop=stop,
                    segment=shown_part,
                    num_frames=num_frames,
                    fps=fps,
                    size=size,
                    span_at=Place(fields.file, fields.item, "temporal_gt"),
                    may_stop=segment[1],
                    target_id=target_id,
                )
            )
    if not found:
        raise fields.error("captions", "a sentence, here or in 'questions'", "none in either")
    return found


def parse_merged(fields: Fields, convention: Convention) -> Annotation:
    """One sentence with its boxes.

    The file does not say how long the video is, only how long the segment.

    Raises:
        AnnotationError: a field is missing or wrong, the tube lies outside the segment, or boxes are missing.
    """
    segment = _segment(fields, convention)
    shown_part = _shown(segment, convention)
    fields.integer("frame_count", at_least=segment[1] - segment[0], at_most=segment[1] - segment[0])
    start, stop = _span(fields, "ori_temp_gt", shown_part)
    video = fields.file_name("vid")
    kind = fields.text("qtype")
    if kind not in _TYPES:
        raise fields.error("qtype", f"one of {', '.join(_TYPES)}", shown(kind))
    corners = [_corners(box) for box in fields.objects("target_bboxs")[: stop - start]]
    if len(corners) < stop - start:
        raise fields.error("target_bboxs", f"a box for each of frames [{start}, {stop})", f"{len(corners)} boxes")
    boxes = box_array(corners, fields, "target_bboxs")
    return Annotation(
        item_id=f"{video}/{fields.integer('id')}",
        clip_id=_clip_id(video, segment),
        video=video,
        query=_query(fields.fields("sentence"), convention),
        sentence_type=_TYPES[kind],
        start=start,
        stop=stop,
        segment=shown_part,
        num_frames=None,
        fps=fields.positive("fps"),
        size=_size(fields),
        span_at=Place(fields.file, fields.item, "ori_temp_gt"),
        may_stop=segment[1],
        boxes=boxes.astype(np.float32),
        boxes_at=Place(fields.file, fields.item, "target_bboxs"),
    )


def with_trajectory(annotation: Annotation, trajectories: Trajectories) -> Annotation:
    """An annotation of the official sentences with the boxes of its target.

    Args:
        trajectories: of its video.

    Raises:
        AnnotationError: they are of a video of another length or size, or lack a box on a frame of the tube.
    """
    fields = Fields.of(trajectories.file, annotation.item_id, trajectories.value)
    height, width = annotation.size
    num_frames = fields.integer("frame_count")
    expected_values = {"frame_count": annotation.num_frames or num_frames, "height": height, "width": width}
    for name, expected in expected_values.items():
        fields.integer(name, at_least=expected, at_most=expected)
    frames = fields.sequence("trajectories")
    if len(frames) != num_frames:
        raise fields.error("trajectories", f"{num_frames} frames", f"{len(frames)} frames")
    corners = [
        trajectories.corners(index, annotation.target_id)
        or _checked_corners(frames[index], annotation.target_id, fields, f"trajectories[{index}]")
        for index in range(annotation.start, annotation.stop)
    ]
    boxes = box_array(corners, fields, "trajectories", annotation.start).astype(np.float32)
    return replace(annotation, boxes=boxes, boxes_at=Place(fields.file, fields.item, "trajectories", annotation.start))


def clean_sentence(text: str) -> str:
    """Words of a sentence, lower-cased, single spaces between them; what has no ASCII letter falls out.

    The published code does so, and then corrects some misspelt words by a table, which is left out here: it changes
    about one sentence in a hundred.
    """
    return " ".join(word for word in re.split(r"\W+", text.strip().lower()) if re.search("[a-z]", word))


def _query(sentence: Fields, convention: Convention) -> str:
    text = sentence.sentence("description")
    if convention == "tubedetr":
        return text
    query = clean_sentence(text)
    if not query:
        raise sentence.error("description", "a sentence with a word in Latin letters", shown(text))
    return query


def _boxes_by_object(frame: Any) -> dict[object, Any]:
    """The boxes of a frame's objects, as they are written, if each has a box and a number of its own; else empty.

    From the plain JSON: to make :class:`Fields` of every object took most of the time of reading a split.
    """
    try:
        tids = list(map(_TID_OF, frame))
        boxes = dict(zip(tids, map(_BOX_OF, frame), strict=True))
    except (TypeError, KeyError):
        return {}
    return boxes if are_integers(tids) and len(boxes) == len(tids) else {}


def _checked_corners(frame: object, target_id: int | None, fields: Fields, place: str) -> list[object]:
    """As :meth:`Trajectories.corners`, with an error that says what is wrong with the frame."""
    objects = Fields(fields.file, fields.item, {place: frame}).objects(place)
    targets = [entry for entry in objects if entry.integer("tid") == target_id]
    if len(targets) != 1:
        raise fields.error(place, f"one box of object {target_id}", f"{len(targets)} boxes")
    return _corners(targets[0].fields("bbox"))


def _corners(box: Fields) -> list[object]:
    missing = [name for name in _CORNERS if name not in box]
    if missing:
        raise box.error(missing[0], "a box with " + ", ".join(_CORNERS), shown(box.values))
    return [box.values[name] for name in _CORNERS]


def _clip_id(video: str, segment: tuple[int, int]) -> str:
    return f"{video}/{segment[0]}-{segment[1]}"


def _size(fields: Fields) -> tuple[int, int]:
    return fields.integer("height", at_least=1), fields.integer("width", at_least=1)


def _segment(fields: Fields, convention: Convention) -> tuple[int, int]:
    """As annotated, its last frame counted in; at least one of its frames is shown."""
    segment = fields.fields("used_segment")
    begin = segment.integer("begin_fid")
    return begin, segment.integer("end_fid", at_least=begin + (convention == "tubedetr")) + 1


def _shown(segment: tuple[int, int], convention: Convention) -> tuple[int, int]:
    """Half-open span of the frames of a segment that are shown."""
    return segment if convention == "annotated" else (segment[0], segment[1] - 1)


def _span(fields: Fields, name: str, segment: tuple[int, int], num_frames: int | None = None) -> tuple[int, int]:
    """Of a tube that has a frame in its segment, and none behind the video, where there can be no box."""
    span = fields.fields(name)
    start = span.integer("begin_fid", at_most=segment[1] - 1)
    at_least = max(start, segment[0]) + 1
    if num_frames is None:
        return start, span.integer("end_fid", at_least=at_least)
    return start, span.integer("end_fid", at_least=at_least, at_most=num_frames)


def _list_or_none(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _num_sentences(item: object) -> int:
    """How many sentences a faulty item loses, at least one."""
    lists = [item.get(name) for name in _LISTS] if isinstance(item, dict) else []
    return max(1, sum(len(_list_or_none(value)) for value in lists))
