"""The JSON of a tube file, its boxes as arrays: millions of numbers, and none of them ever an object for long."""

from __future__ import annotations

import json
from collections import Counter
from itertools import chain
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

_LARGEST = 1e150  # coordinates whose areas are still finite
_NO_BOX = (float("nan"),) * 4

# Raw leaves a value as the bytes it is written in, so that one tube at a time becomes Python's numbers.
_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])
_OBJECTS = msgspec.json.Decoder(list[dict[str, msgspec.Raw]])
_BOXES = msgspec.json.Decoder(list[tuple[float, float, float, float] | None])


class RepeatedFieldError(ValueError):
    """An object of the file gives a field twice, of which JSON readers keep the last without a word."""


class _Doubtful(ValueError):
    """A value that only the slower, careful reader can judge."""


def read_document(path: Path | str) -> Any:
    """The content of a file as ``json.load`` gives it, but with an array in the place of a tube's sound boxes.

    Raises:
        OSError: the file cannot be read.
        UnicodeDecodeError, json.JSONDecodeError, RecursionError: it is no JSON.
        RepeatedFieldError: an object gives a field twice.
    """
    text = Path(path).read_bytes()
    try:
        return _quickly(text)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        # For twice the time, this keeps whatever is wrong as it was written, for the error that names it.
        return json.loads(text, object_pairs_hook=_compact)


def is_coordinate(value: Any) -> bool:
    """Whether a value of a JSON file is a number whose square is finite."""
    # An integer beyond every float compares well, and cannot be converted.
    return type(value) in (int, float) and -_LARGEST < value < _LARGEST


def boxes_array(boxes: list[Any]) -> np.ndarray | None:
    """All boxes of a tube at once, (N, 4) float64, null as a row of NaN; ``None`` if one is wrong, which is rare."""
    present = [box for box in boxes if box is not None]
    if not set(map(type, present)) <= {list} or not set(map(len, present)) <= {4}:
        return None
    if not set(map(type, chain.from_iterable(present))) <= {int, float}:
        return None
    try:
        return _stacked(boxes)
    except (OverflowError, _Doubtful):
        return None


def _stacked(boxes: list[Any]) -> np.ndarray:
    """Boxes of four numbers, or null, as an array.

    Raises:
        OverflowError: a number is beyond the range of a float.
        _Doubtful: one is not finite.
    """
    lacking = [index for index, box in enumerate(boxes) if box is None] if None in boxes else []
    numbers = chain.from_iterable([_NO_BOX if box is None else box for box in boxes] if lacking else boxes)
    array = np.fromiter(numbers, dtype=np.float64, count=4 * len(boxes)).reshape(-1, 4)
    present = np.delete(array, lacking, axis=0) if lacking else array
    if not (np.abs(present) < _LARGEST).all():
        raise _Doubtful
    return array


def _quickly(text: bytes) -> dict[str, Any]:
    document: dict[str, Any] = {}
    for name, value in _OBJECT.decode(text).items():
        document[name] = [_tube(entry) for entry in _OBJECTS.decode(value)] if name == "tubes" else _plain(value)
    fields = Counter(chain(document, *document.get("tubes", ())))
    # More than there are fields: one is given twice, or some value is a field's name.
    if any(text.count(f'"{name}"'.encode()) > number for name, number in fields.items()):
        raise _Doubtful
    return document


def _tube(entry: dict[str, msgspec.Raw]) -> dict[str, Any]:
    return {name: _stacked(_BOXES.decode(raw)) if name == "boxes" else _plain(raw) for name, raw in entry.items()}


def _plain(raw: msgspec.Raw) -> Any:
    return msgspec.json.decode(raw)


def _compact(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object, with an array in the place of a tube's boxes as soon as these are read.

    Millions of lists at once would take eight times the memory, and Python's collector would walk them over and over.
    """
    entry = dict(pairs)
    if len(entry) < len(pairs):
        name, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise RepeatedFieldError(f"an object gives the field '{name}' twice; leave one of them out")
    boxes = entry.get("boxes")
    if type(boxes) is list and (array := boxes_array(boxes)) is not None:
        entry["boxes"] = array
    return entry
