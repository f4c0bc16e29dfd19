"""The two files of an evaluation, ``stvg-predictions`` and ``stvg-ground-truth``; docs/evaluation.md is their manual.

Any model may write them, so nothing in them is believed: the first thing that is wrong is named by its place.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from stvg_nst.evaluation.bootstrap import clip_of
from stvg_nst.evaluation.reading import RepeatedFieldError, boxes_array, is_coordinate, read_document
from stvg_nst.evaluation.tubes import CLEAN, SENTENCE_TYPES, GroundTruth, Predictions, stack_tubes

VERSION = 1
PREDICTIONS = "stvg-predictions"
GROUND_TRUTH = "stvg-ground-truth"

BAD_BOXES = ("refuse", "clip", "as_published", "skip_frame")
"""What has been done with the bad boxes of a ground truth, as in ``datamodules.annotated.policies``."""

MAX_FRAME = 2**31
_CONDITION = re.compile(r"HQ|LQ|[a-z][a-z0-9_]*:[1-9][0-9]*")


class TubeFileError(ValueError):
    """A file that is no complete file of its kind; the message names the file and the place."""


def load_predictions(path: Path | str) -> Predictions:
    """Reads and checks a file of predictions.

    Raises:
        TubeFileError: see ``parse_predictions``; or the file cannot be read, or is no JSON.
    """
    return parse_predictions(_read(path), name=str(path))


def load_ground_truth(path: Path | str) -> GroundTruth:
    """Reads and checks a file of true tubes.

    Raises:
        TubeFileError: see ``parse_ground_truth``; or the file cannot be read, or is no JSON.
    """
    return parse_ground_truth(_read(path), name=str(path))


def parse_predictions(content: Any, *, name: str = "predictions") -> Predictions:
    """Checks the content of a file of predictions.

    Args:
        content: as ``json.load`` gives it.
        name: of the file, for error messages.

    Raises:
        TubeFileError: a field is missing, unknown or of another kind than the manual says, or a tube occurs twice.
    """
    document = _Object(name, "", content)
    document.header(PREDICTIONS)
    method = document.text("method")
    entries = document.entries("tubes")
    document.nothing_else()
    item_ids, conditions, spans, boxes = [], [], [], []
    verdicts: list[float | None] = []
    places: dict[tuple[str, str], str] = {}
    for entry in entries:
        item_ids.append(entry.text("item_id"))
        conditions.append(entry.condition(entry.take("condition", CLEAN), entry.at("condition")))
        spans.append(entry.span())
        boxes.append(entry.boxes(spans[-1], may_lack=True, may_swap=False))
        verdicts.append(entry.verdict())
        if (verdicts[-1] is None) != (verdicts[0] is None):
            entry.fail(entry.at("verdict"), "a verdict of every tube or of none")
        entry.nothing_else()
        before = places.setdefault((item_ids[-1], conditions[-1]), entry.place)
        if before != entry.place:
            entry.fail(
                entry.place,
                f"one tube for item '{item_ids[-1]}' in condition '{conditions[-1]}', and {before} is one already",
            )
    said = np.array([verdict for verdict in verdicts if verdict is not None])
    return Predictions(
        method, tuple(item_ids), tuple(conditions), stack_tubes(spans, boxes), said if len(said) else None
    )


def parse_ground_truth(content: Any, *, name: str = "ground truth") -> GroundTruth:
    """Checks the content of a file of true tubes; arguments and errors as in ``parse_predictions``."""
    document = _Object(name, "", content)
    document.header(GROUND_TRUTH)
    dataset, split, policy = document.text("dataset"), document.text("split"), document.bad_boxes()
    entries = document.entries("tubes")
    document.nothing_else()
    if not entries:
        document.fail("tubes", "at least one tube, got none")
    places: dict[str, str] = {}
    clips, sentence_types, conditions, sampled_frames, spans, boxes = [], [], [], [], [], []
    for entry in entries:
        item_id = entry.text("item_id")
        before = places.setdefault(item_id, entry.place)
        if before != entry.place:
            entry.fail(entry.at("item_id"), f"an id of its own, and '{item_id}' is that of {before} already")
        clips.append(entry.text("clip", clip_of(item_id)))
        sentence_types.append(entry.sentence_type())
        conditions.append(entry.conditions())
        sampled_frames.append(entry.sampled_frames())
        spans.append(entry.span())
        may_lack, may_swap = policy == "skip_frame", policy == "as_published"
        boxes.append(entry.boxes(spans[-1], may_lack=may_lack, may_swap=may_swap))
        if np.isnan(boxes[-1]).all():
            entry.fail(entry.at("boxes"), "a box on at least one frame, got none")
        entry.nothing_else()
    return GroundTruth(
        dataset,
        split,
        tuple(places),
        tuple(clips),
        tuple(sentence_types),
        tuple(conditions),
        tuple(sampled_frames),
        stack_tubes(spans, boxes),
    )


def render_predictions(method: str, tubes: Iterable[Mapping[str, Any]]) -> str:
    """The text of a file of predictions: its header, and the entries of ``tubes`` one on a line."""
    return _render({"format": PREDICTIONS, "version": VERSION, "method": method}, tubes)


def render_ground_truth(
    dataset: str, split: str, tubes: Iterable[Mapping[str, Any]], *, bad_boxes: str = "refuse"
) -> str:
    """The text of a file of true tubes: its header, and the entries of ``tubes`` one on a line."""
    header = {"format": GROUND_TRUTH, "version": VERSION, "dataset": dataset, "split": split}
    return _render(header if bad_boxes == "refuse" else {**header, "bad_boxes": bad_boxes}, tubes)


def _render(header: Mapping[str, Any], tubes: Iterable[Mapping[str, Any]]) -> str:
    lines = ",\n".join(json.dumps(tube, allow_nan=False) for tube in tubes)
    return f'{json.dumps(header)[:-1]}, "tubes": [\n{lines}\n]}}\n'


def _read(path: Path | str) -> Any:
    try:
        return read_document(path)
    except OSError as error:
        raise TubeFileError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise TubeFileError(f"{path}: is not UTF-8 text") from error
    except json.JSONDecodeError as error:
        raise TubeFileError(f"{path}: is not JSON ({error}); was it cut off?") from error
    except RepeatedFieldError as error:
        raise TubeFileError(f"{path}: {error}") from error
    except RecursionError as error:
        raise TubeFileError(f"{path}: expected JSON of a few levels, got hundreds of them") from error
    except ValueError as error:  # Python's only other complaint
        raise TubeFileError(f"{path}: expected numbers of a few digits, got an integer of thousands") from error


class _Object:
    """A JSON object whose fields are taken out one by one; what is left at the end is unknown.

    Args:
        file: for error messages.
        place: of the object within the file, such as ``tubes[17]``; empty for the whole document.
        content: what is there.
    """

    def __init__(self, file: str, place: str, content: Any) -> None:
        self.file, self.place = file, place
        if type(content) is not dict:
            self.fail(place or "document", f"an object, got {_shown(content)}")
        self._left = dict(content)

    def fail(self, place: str, expectation: str) -> NoReturn:
        raise TubeFileError(f"{self.file}: {place}: expected {expectation}")

    def at(self, field: str) -> str:
        return f"{self.place}.{field}" if self.place else field

    def take(self, field: str, *default: Any) -> Any:
        """The field's value, or ``default`` where it is absent; without one the field must be there."""
        if field not in self._left and not default:
            found = ", ".join(self._left) or "none"
            self.fail(self.place or "document", f"a field '{field}', got only {found}")
        return self._left.pop(field, *default)

    def nothing_else(self) -> None:
        for field in self._left:
            self.fail(self.at(field), "no field of this name; leave it out or correct its spelling")

    def header(self, kind: str) -> None:
        for field, value in (("format", kind), ("version", VERSION)):
            found = self.take(field)
            if type(found) is not type(value) or found != value:
                self.fail(field, f"{value!r}, got {_shown(found)}; is this the file that was meant?")

    def bad_boxes(self) -> str:
        value = self.take("bad_boxes", "refuse")
        if value not in BAD_BOXES:
            self.fail("bad_boxes", f"one of {', '.join(BAD_BOXES)}, got {_shown(value)}")
        return str(value)

    def text(self, field: str, *default: str) -> str:
        value = self.take(field, *default)
        if type(value) is not str or not value:
            self.fail(self.at(field), f"a text that is not empty, got {_shown(value)}")
        return value

    def entries(self, field: str) -> list[_Object]:
        value = self.take(field)
        if type(value) is not list:
            self.fail(field, f"a list, got {_shown(value)}")
        return [_Object(self.file, f"{field}[{index}]", entry) for index, entry in enumerate(value)]

    def condition(self, value: Any, place: str) -> str:
        if type(value) is not str or not _CONDITION.fullmatch(value):
            self.fail(place, f"'HQ', 'LQ' or 'kind:severity' such as 'defocus:3', got {_shown(value)}")
        return value

    def conditions(self) -> tuple[str, ...]:
        value = self.take("conditions", [CLEAN])
        if type(value) is not list or not value:
            self.fail(self.at("conditions"), f"a list that is not empty, got {_shown(value)}")
        found = tuple(self.condition(name, f"{self.at('conditions')}[{i}]") for i, name in enumerate(value))
        if len(set(found)) < len(found):
            self.fail(self.at("conditions"), f"each condition once, got {_shown(value)}")
        return found

    def sentence_type(self) -> str | None:
        value = self.take("sentence_type", None)
        if value is not None and value not in SENTENCE_TYPES:
            self.fail(self.at("sentence_type"), f"{' or '.join(map(repr, SENTENCE_TYPES))}, got {_shown(value)}")
        return value

    def verdict(self) -> float | None:
        value = self.take("verdict", None)
        if value is not None and (type(value) not in (int, float) or not 0 <= value <= 1):
            self.fail(self.at("verdict"), f"a number in [0, 1], got {_shown(value)}")
        return value

    def sampled_frames(self) -> np.ndarray | None:
        value = self.take("sampled_frames", None)
        if value is None:
            return None
        place = self.at("sampled_frames")
        if type(value) is not list:
            self.fail(place, f"a list, got {_shown(value)}")
        for index, frame in enumerate(value):
            low = value[index - 1] + 1 if index else 0
            self._frame(frame, f"{place}[{index}]", low)
        return np.array(value, dtype=np.int64)

    def span(self) -> tuple[int, int]:
        start = self._frame(self.take("start"), self.at("start"), 0)
        return start, self._frame(self.take("stop"), self.at("stop"), start + 1)

    def _frame(self, value: Any, place: str, low: int) -> int:
        if type(value) is not int or not low <= value < MAX_FRAME:
            self.fail(place, f"a whole number of at least {low} and below 2 ** 31, got {_shown(value)}")
        return value

    def boxes(self, span: tuple[int, int], *, may_lack: bool, may_swap: bool) -> np.ndarray:
        """(stop - start, 4) float64.

        Args:
            may_lack: a box may be null, and is a row of NaN.
            may_swap: x1 may be larger than x2, and y1 than y2.
        """
        value, place = self.take("boxes"), self.at("boxes")
        if not isinstance(value, list | np.ndarray):
            self.fail(place, f"a list, got {_shown(value)}")
        if len(value) != span[1] - span[0]:
            one_each = f"{span[1] - span[0]} boxes, one for each frame of [{span[0]}, {span[1]})"
            self.fail(place, f"{one_each}, got {len(value)}")
        boxes = boxes_array(value) if isinstance(value, list) else value
        if boxes is None:
            for index, box in enumerate(value):
                self._check_box(box, f"{place}[{index}]")
            raise AssertionError(f"{place}: refused as a whole, and accepted box by box")
        lacking = np.flatnonzero(np.isnan(boxes[:, 0]))
        if len(lacking) and not may_lack:
            self.fail(f"{place}[{lacking[0]}]", "four numbers [x1, y1, x2, y2], got null")
        swapped = np.flatnonzero((boxes[:, :2] > boxes[:, 2:]).any(axis=1))
        if len(swapped) and not may_swap:
            found = ", ".join(f"{value:.15g}" for value in boxes[swapped[0]])
            self.fail(f"{place}[{swapped[0]}]", f"x1 <= x2 and y1 <= y2, got [{found}]")
        return boxes

    def _check_box(self, box: Any, place: str) -> None:
        if box is None:
            return
        if type(box) is not list or len(box) != 4:
            self.fail(place, f"four numbers [x1, y1, x2, y2], got {_shown(box)}")
        for index, value in enumerate(box):
            if not is_coordinate(value):
                self.fail(f"{place}[{index}]", f"a finite number, got {_shown(value)}")


def _shown(value: Any) -> str:
    text = json.dumps(value, default=np.ndarray.tolist)
    return text if len(text) <= 60 else f"{text[:57]}..."
