"""Annotations of own clips: JSON lines, each a sentence about a video, in seconds or in frames."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray

from datamodules.annotated.annotation import Annotation, Place
from datamodules.annotated.fields import AnnotationError, Fields, box_array, parse_json, read_text, shown
from datamodules.annotated.source import OfficialSplit
from datamodules.footage import Footage
from stvg_nst.types import SENTENCE_TYPES, SentenceType

Unit = Literal["seconds", "frames"]

Word = TypeVar("Word")

_PART = re.compile(r"#\d+-\d+$")
# Of Latin, Chinese and Japanese (full width, small, doubled or with an exclamation mark), Arabic, Greek, Armenian and
# Ethiopic script.
_QUESTION_MARKS = tuple("?\uff1f\ufe56\u203d\u2047\u2048\u2049\u061f\u037e\u055e\u1367")
# White space, exclamation marks, and what closes a quotation or a bracket.
_BEHIND_THE_MARK = " \t\r\n\u3000\u00a0!\uff01'\"\u2019\u201d\u00bb\u300d\u300f)]\uff09"
_TUBE = ("start", "stop", "boxes")
FIELDS = ("video", "sentence", *_TUBE, "unit", "part", "type", "split", "item_id")


@dataclass(frozen=True, slots=True)
class Line:
    """A sentence, before anything is known of its film.

    Args:
        fields: of the line.
        video: path below the folder of the annotations.
        item_id: the line's own, or the video and how many-th line about it this is.
        split: that the line says, ``None`` where it says none.
    """

    fields: Fields
    video: str
    item_id: str
    split: OfficialSplit | None

    @property
    def has_tube(self) -> bool:
        return any(name in self.fields for name in _TUBE)


@dataclass(frozen=True)
class Lines:
    """All lines of a file.

    Args:
        lines: that can be read, in the order of the file.
        errors: of the others, one each.
        duplicates: keys that one object gives twice.
        unknown: fields that the format does not know, and in how many lines.
    """

    lines: tuple[Line, ...]
    errors: tuple[AnnotationError, ...]
    duplicates: tuple[str, ...]
    unknown: Counter[str]


def read_lines(file: Path) -> Lines:
    """Reads a file of annotations as far as that needs no video.

    Raises:
        FileNotFoundError: there is no such file.
        AnnotationError: it is no UTF-8, is empty, or is one piece of JSON. Faults of single lines are returned.
    """
    lines, errors, duplicates, unknown = [], [], list[str](), Counter[str]()
    seen = Counter[str]()
    whole = read_text(file)
    for number, text in enumerate(whole.split("\n"), start=1):
        if not text.strip():
            continue
        item = f"line {number}"
        try:
            document = parse_json(text, file, item)
            fields = Fields.of(file, item, document.value)
            duplicates += document.duplicates
            unknown.update(fields.unknown(FIELDS))
            video, split = _video(fields), _split(fields)
            seen[video] += 1
            item_id = fields.text("item_id") if "item_id" in fields else f"{video}/{seen[video]}"
            lines.append(Line(fields, video, item_id, split))
        except AnnotationError as error:
            errors.append(error)
    got = _single_value(whole, file) if errors else "" if lines else "an empty file"
    if got:
        expected = "a JSON object in each line, one for each sentence, and no list around them"
        raise AnnotationError(file, "", "", expected, got)
    return Lines(tuple(lines), tuple(errors), tuple(duplicates), unknown)


def parse_line(line: Line, film: Footage) -> Annotation:
    """The annotation that a line gives of its film.

    Args:
        line: ``start`` and ``stop`` of the tube, half-open, and where the boxes are: ``unit`` ``seconds`` (the
            default) after the film's first frame, or ``frames``, counted from 0. ``boxes`` is a list of
            ``{"at": 2.5, "box": [x1, y1, x2, y2]}`` in the pixels that a player shows; between them a box moves in a
            straight line, and before the first and behind the last it rests. ``part`` ``[from, to]`` is what is
            shown of a longer film. A line without ``start``, ``stop`` and ``boxes`` says no tube.
        film: as it was measured; its frames are not read.

    Raises:
        AnnotationError: a field is missing or wrong, or the tube is not within the part.
    """
    fields = line.fields
    unit: Unit = _choice(fields, "unit", get_args(Unit)) if "unit" in fields else "seconds"
    first, last = _part(fields, film, unit)
    if line.has_tube:
        ends = fields.number("start"), fields.number("stop")
        start, stop = _frame(fields, "start", ends[0], film, unit), _frame(fields, "stop", ends[1], film, unit)
        if not first <= start < stop <= last:
            expected = f"a tube of at least one frame within frames [{first}, {last}) of '{line.video}'"
            got = f"from {ends[0]:g} to {ends[1]:g} {unit}, which is frames [{start}, {stop})"
            raise fields.error("stop", expected, got)
    else:
        start, stop = first, last
    nowhere = np.full((stop - start, 4), np.nan, dtype=np.float32)
    boxes = _boxes(fields, film, unit, start, stop) if line.has_tube else nowhere
    return Annotation(
        item_id=line.item_id,
        clip_id=line.video if "part" not in fields else f"{line.video}#{first}-{last}",
        video=line.video,
        query=fields.sentence("sentence"),
        sentence_type=_sentence_type(fields),
        start=start,
        stop=stop,
        segment=(first, last),
        num_frames=len(film),
        fps=film.fps,
        size=film.size,
        span_at=Place(fields.file, fields.item, "stop"),
        may_stop=len(film),
        boxes=boxes,
        boxes_at=Place(fields.file, fields.item, "box of frame", start),
        has_tube=line.has_tube,
    )


def _single_value(text: str, file: Path) -> str:
    """What a file is that is no lines: a list of all sentences, or an object over several lines; empty for lines."""
    try:
        value = parse_json(text, file).value
    except AnnotationError:
        return ""
    if isinstance(value, list):
        return f"a list of {len(value):,}"
    return "one object over several lines" if len(text.split("\n")) > 1 and isinstance(value, dict) else ""


def video_of(clip_id: str) -> str:
    """The video that a clip is a part of, or all of."""
    return _PART.sub("", clip_id)


def _part(fields: Fields, film: Footage, unit: Unit) -> tuple[int, int]:
    if "part" not in fields:
        return 0, len(film)
    ends = fields.sequence("part")
    if len(ends) != 2:
        raise fields.error("part", f"[from, to], two numbers of {unit}", shown(ends))
    within = Fields(fields.file, fields.item, {"part[0]": ends[0], "part[1]": ends[1]})
    first, last = (_frame(within, name, within.number(name), film, unit) for name in within.values)
    if first >= last:
        raise fields.error("part", "[from, to] with at least one frame between", shown(ends))
    return first, last


def _frame(fields: Fields, name: str, value: float, film: Footage, unit: Unit) -> int:
    """The frame that begins nearest to a time, or the frame of that number; one past the last for the end."""
    end = film.seconds if unit == "seconds" else len(film)
    slack = 0.5 / film.fps if unit == "seconds" else 0
    if not 0 <= value <= end + slack:
        raise fields.error(name, f"at most the {end:.6g} {unit} of '{film.name}'", f"{value:g}")
    if unit == "seconds":
        return film.frame_at(value)
    if value != int(value):
        raise fields.error(name, "a whole number of frames", f"{value:g}")
    return int(value)


def _boxes(fields: Fields, film: Footage, unit: Unit, start: int, stop: int) -> NDArray[np.float32]:
    """(stop - start, 4) a box for every frame of the tube."""
    given = fields.objects("boxes")
    corners = box_array([each.sequence("box") for each in given], fields, "boxes")
    times = []
    for each in given:
        at = each.number("at")
        frame = _frame(each, "at", at, film, unit)
        if not start <= frame <= (stop if unit == "seconds" else stop - 1):
            raise each.error("at", f"a box within the tube, frames [{start}, {stop})", f"{at:g} {unit}, frame {frame}")
        times.append(at if unit == "seconds" else film.times[frame])
        if times[-1] <= max(times[:-1], default=-1.0):
            raise each.error("at", "later boxes behind earlier ones", f"{at:g} {unit}")
    wanted = film.times[start:stop]
    return np.stack([np.interp(wanted, times, side) for side in corners.T], axis=1).astype(np.float32)


def _video(fields: Fields) -> str:
    name = fields.text("video")
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\0" in name or "\\" in name:
        raise fields.error("video", "a path below the folder of the annotations, with / between folders", shown(name))
    return str(path)


def _split(fields: Fields) -> OfficialSplit | None:
    return _choice(fields, "split", get_args(OfficialSplit)) if "split" in fields else None


def _sentence_type(fields: Fields) -> SentenceType:
    if "type" in fields:
        return _choice(fields, "type", SENTENCE_TYPES)
    words = fields.text("sentence").rstrip(_BEHIND_THE_MARK)
    return "interrogative" if words.endswith(_QUESTION_MARKS) else "declarative"


def _choice(fields: Fields, name: str, words: Sequence[Word]) -> Word:
    known = {str(word): word for word in words}
    if (value := fields.text(name)) not in known:
        raise fields.error(name, " or ".join(map(repr, known)), shown(value))
    return known[value]
