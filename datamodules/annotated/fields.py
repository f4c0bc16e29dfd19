"""Strict reading of annotation files: every error names the file, the item and the field."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from stvg_nst.queries import query_fault

# Larger frame numbers and sizes than any video has; below it, integers survive every conversion that follows.
_LARGEST = 2**31 - 1


class AnnotationError(ValueError):
    """An annotation does not say what its format promises.

    Args:
        file: the annotation file.
        item: which of its items, empty where the file as a whole is at fault.
        field: which field of the item, e.g. ``bbox[3]``, or empty.
        expected: what should be there.
        got: what is there; a value is shown by :func:`shown`.
        advice: what to do, where that is not plain.
    """

    def __init__(self, file: Path | str, item: str, field: str, expected: str, got: str, advice: str = "") -> None:
        super().__init__(file, item, field, expected, got, advice)
        self.file, self.item, self.field = str(file), item, field
        self.expected, self.got, self.advice = expected, got, advice

    def __str__(self) -> str:
        place = "".join([f", item '{self.item}'" * bool(self.item), f", field '{self.field}'" * bool(self.field)])
        return f"'{self.file}'{place}: {self.complaint}" + f"; {self.advice}" * bool(self.advice)

    @property
    def complaint(self) -> str:
        """What is wrong, without the place and the advice."""
        return f"expected {self.expected}, got {self.got}"


@dataclass(frozen=True, slots=True)
class Document:
    """A JSON file.

    Args:
        value: its content.
        duplicates: keys that one object gives twice; JSON readers keep the last without a word.
    """

    value: Any
    duplicates: tuple[str, ...]


def read_json(path: Path) -> Document:
    """Reads a file of standard JSON: NaN and infinities, which Python would accept, are no numbers of it.

    It may begin with a byte order mark, as some editors and spreadsheets write it.

    Raises:
        FileNotFoundError: there is no such file.
        OSError: it cannot be read.
        AnnotationError: it is no UTF-8 or no JSON.
    """
    return parse_json(read_text(path), path)


def read_text(path: Path) -> str:
    """A file of UTF-8; raises as :func:`read_json`."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"there is no annotation file '{path}'; docs/data.md says what belongs there"
        ) from error
    except UnicodeDecodeError as error:
        raise AnnotationError(path, "", "", "UTF-8 text", f"byte {error.object[error.start]:#x}") from error


def parse_json(text: str, path: Path, item: str = "") -> Document:
    """The JSON of a file, or of an item of it.

    Raises:
        AnnotationError: it is no JSON.
    """
    duplicates: list[str] = []

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        value = dict(pairs)
        if len(value) < len(pairs):
            counts = Counter(key for key, _ in pairs)
            duplicates.extend(sorted(key for key, count in counts.items() if count > 1))
        return value

    def refuse(constant: str) -> NoReturn:
        raise AnnotationError(path, item, "", "standard JSON with finite numbers", constant)

    try:
        value = json.loads(text, object_pairs_hook=unique, parse_constant=refuse)
    except json.JSONDecodeError as error:
        line = f"line {error.lineno}, " * (not item)  # an item is a line
        place = f"{error.msg} in {line}column {error.colno}"
        raise AnnotationError(path, item, "", "JSON; a cut download ends so", place) from error
    except RecursionError as error:
        raise AnnotationError(path, item, "", "JSON of a few levels", "hundreds of levels") from error
    except AnnotationError:
        raise
    except ValueError as error:  # Python's only other complaint
        raise AnnotationError(path, item, "", "numbers of a few digits", "an integer of thousands") from error
    return Document(value, tuple(duplicates))


@dataclass(frozen=True, slots=True)
class Fields:
    """The fields of one item, each read with its type and its range.

    Args:
        file, item: the place that errors name.
        values: the item as JSON has it.
        prefix: names of the objects around it, each with its dot.

    Every reader raises an :class:`AnnotationError` where the field is missing, or of another type, or out of range.
    """

    file: Path
    item: str
    values: Mapping[str, Any]
    prefix: str = ""

    @classmethod
    def of(cls, file: Path, item: str, value: object) -> Fields:
        if not isinstance(value, dict):
            raise AnnotationError(file, item, "", "an object", shown(value))
        return cls(file, item, value)

    def __contains__(self, name: str) -> bool:
        return name in self.values

    def error(self, name: str, expected: str, got: str) -> AnnotationError:
        return AnnotationError(self.file, self.item, self.prefix + name, expected, got)

    def integer(self, name: str, *, at_least: int = 0, at_most: int = _LARGEST) -> int:
        value = self._value(name)
        if type(value) is not int or not at_least <= value <= at_most:
            expected = f"an integer in [{at_least}, {at_most}]" if at_most < _LARGEST else f"an integer >= {at_least}"
            raise self.error(name, expected, shown(value))
        return value

    def positive(self, name: str) -> float:
        value = self._value(name)
        if type(value) not in (int, float) or not 0 < value <= _LARGEST or not math.isfinite(value):
            raise self.error(name, "a positive number", shown(value))
        return float(value)

    def number(self, name: str) -> float:
        """A finite number that is not negative."""
        value = self._value(name)
        if type(value) not in (int, float) or not 0 <= value <= _LARGEST:
            raise self.error(name, "a number that is not negative", shown(value))
        return float(value)

    def string(self, name: str) -> str:
        """Any string, also one that is no valid Unicode, as the name of a file need not be."""
        value = self._value(name)
        if not isinstance(value, str):
            raise self.error(name, "a text", shown(value))
        return value

    def text(self, name: str) -> str:
        """A string that is not only white space."""
        value = self._value(name)
        if not isinstance(value, str) or not value.strip() or not _encodable(value):
            raise self.error(name, "a text that is not blank, in valid Unicode", shown(value))
        return value

    def sentence(self, name: str) -> str:
        """A text that a text encoder can read, see :func:`stvg_nst.queries.query_fault`."""
        text = self.text(name)
        if fault := query_fault(text):
            raise self.error(name, "a sentence", f"{shown(text)}, which {fault}")
        return text

    def file_name(self, name: str) -> str:
        return check_file_name(self.text(name), self.file, self.item, self.prefix + name)

    def sequence(self, name: str) -> list[Any]:
        value = self._value(name)
        if not isinstance(value, list):
            raise self.error(name, "a list", shown(value))
        return value

    def fields(self, name: str) -> Fields:
        """The fields of an object within the item."""
        value = self._value(name)
        if not isinstance(value, dict):
            raise self.error(name, "an object", shown(value))
        return Fields(self.file, self.item, value, f"{self.prefix}{name}.")

    def objects(self, name: str) -> list[Fields]:
        """The fields of every object of a list."""
        found = []
        for index, value in enumerate(self.sequence(name)):
            if not isinstance(value, dict):
                raise self.error(f"{name}[{index}]", "an object", shown(value))
            found.append(Fields(self.file, self.item, value, f"{self.prefix}{name}[{index}]."))
        return found

    def unknown(self, known: Iterable[str]) -> list[str]:
        return sorted(self.prefix + name for name in self.values.keys() - set(known))

    def _value(self, name: str) -> Any:
        if name not in self.values:
            raise self.error(name, "this field", "an item without it")
        return self.values[name]


def are_integers(values: Sequence[Any]) -> bool:
    """Whether :meth:`Fields.integer` would take each of some values, at least one, without a Python call for each."""
    return set(map(type, values)) == {int} and min(values) >= 0 and max(values) <= _LARGEST


def check_file_name(name: str, file: Path, item: str, field: str = "") -> str:
    """A name that leads into no other folder and that a file system can hold.

    Raises:
        AnnotationError: it does or cannot.
    """
    if not name.strip() or name in (".", "..") or any(c in name for c in "/\\\0") or not _encodable(name):
        raise AnnotationError(file, item, field, "the plain name of a file", shown(name))
    return name


def box_array(rows: Sequence[Any], fields: Fields, name: str, first: int = 0) -> NDArray[np.float64]:
    """Boxes as (N, 4), from N lists of four finite numbers; whether they fit the frame is not looked at.

    Args:
        first: number that the first of them has in the field called ``name``.

    Raises:
        AnnotationError: there is none, or one is something else.
    """
    if not rows:
        raise fields.error(name, "at least one box", "none")
    for index, row in enumerate(rows):
        if not isinstance(row, list) or len(row) != 4:
            raise fields.error(f"{name}[{first + index}]", "four numbers", shown(row))
    if not all(type(value) is int or type(value) is float for value in chain.from_iterable(rows)):
        index = next(i for i, row in enumerate(rows) if any(type(value) not in (int, float) for value in row))
        raise fields.error(f"{name}[{first + index}]", "four numbers", shown(rows[index]))
    try:
        boxes = np.array(rows, dtype=np.float64)
    except OverflowError:
        raise fields.error(name, "numbers of pixels", "an integer beyond the range of a float") from None
    # A comparison that NaN fails.
    plausible = (np.abs(boxes) <= _LARGEST).all(axis=1)
    if not plausible.all():
        index = int(plausible.argmin())
        raise fields.error(f"{name}[{first + index}]", "finite numbers of pixels", shown(rows[index]))
    return boxes


def _encodable(text: str) -> bool:
    """Whether a text has no half of a surrogate pair, which JSON can hold and UTF-8 cannot."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def shown(value: object) -> str:
    """A value as an error shows it: in ASCII, and short."""
    text = ascii(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
