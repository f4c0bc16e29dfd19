"""Many sentences about many films: a table is read, answered film by film, and gone on with where it stopped."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from math import isfinite
from pathlib import Path
from typing import Any, Literal

from datamodules.footage import open_footage
from datamodules.video import VideoDecodeError
from stvg_nst.machine.whole_files import write_whole
from stvg_nst.prediction.answer import Answer
from stvg_nst.prediction.grounder import Progress, VideoGrounder

BadRowPolicy = Literal["refuse", "skip"]

COLUMNS = ("video", "sentence", "item_id", "start", "stop")
NEEDED = COLUMNS[:2]
FORMAT = {"format": "stvg-answers", "version": 1}
# What is wrong with a row, and not with this program: a file, a part of a film, a sentence.
BAD = (VideoDecodeError, OSError, ValueError)


class TableError(ValueError):
    """A table that cannot be read, or answers that are not those of the table."""


@dataclass(frozen=True, slots=True)
class Row:
    """What is asked.

    Args:
        item_id: unique in the table.
        video: the file.
        sentence: about it.
        start, stop: of the part to look at, in seconds; ``None`` for the beginning and the end.
    """

    item_id: str
    video: Path
    sentence: str
    start: float | None = None
    stop: float | None = None


@dataclass(frozen=True, slots=True)
class Asking:
    """How every row is asked.

    Args:
        fps, window, overlap, compare: as of :meth:`VideoGrounder.ground`.
    """

    fps: float | None = None
    window: float | None = None
    overlap: float | None = None
    compare: bool = False


def read_table(path: Path) -> tuple[Row, ...]:
    """The rows of a table in CSV with a line of names, or in JSON lines (.jsonl).

    Columns are ``video`` and ``sentence``, and perhaps ``item_id``, ``start`` and ``stop``. A video's path is relative
    to the table. Without an ``item_id`` a row has the film's name and the number of the row.

    Raises:
        TableError: the table is none, a row lacks something, or an ``item_id`` stands twice.
        OSError: it cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise TableError(f"'{path}' is no text in UTF-8; save the table as such") from error
    read = _json_lines if path.suffix.lower() in (".jsonl", ".ndjson") else _csv_lines
    rows = [_row(path, number, line, place) for number, (line, place) in enumerate(read(text, path), start=1)]
    if not rows:
        raise TableError(f"'{path}' has no rows; give it at least one")
    seen: dict[str, int] = {}
    for number, row in enumerate(rows, start=1):
        if seen.setdefault(row.item_id, number) != number:
            raise TableError(f"'{path}': rows {seen[row.item_id]} and {number} are both called '{row.item_id}'")
    return tuple(rows)


def _csv_lines(text: str, path: Path) -> Iterator[tuple[dict[str, Any], int]]:
    head = text.partition("\n")[0]
    delimiter = max(",;\t", key=head.count)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        reader.fieldnames = [name.strip() for name in reader.fieldnames or ()]
        for line in reader:
            if None in line:
                raise TableError(
                    f"'{path}', line {reader.line_num}: there are more fields than names in the first line"
                )
            yield {name: value for name, value in line.items() if value}, reader.line_num
    except csv.Error as error:
        raise TableError(f"'{path}', line {reader.line_num}: is no CSV ({error})") from error


def _json_lines(text: str, path: Path) -> Iterator[tuple[dict[str, Any], int]]:
    for number, line in enumerate(text.split("\n"), start=1):  # a text may hold other characters that end lines
        if not line.strip():
            continue
        try:
            content = json.loads(line)
        except ValueError as error:
            raise TableError(f"'{path}', line {number}: is no JSON ({error})") from error
        if not isinstance(content, dict):
            raise TableError(f"'{path}', line {number}: expected an object, got {content!r}")
        yield {name: value for name, value in content.items() if value is not None}, number


def _row(path: Path, number: int, line: Mapping[str, Any], place: int) -> Row:
    if lacking := [name for name in NEEDED if name not in line]:
        raise TableError(f"'{path}', line {place}: there is no {lacking[0]}; the columns are {', '.join(COLUMNS)}")
    if unknown := [name for name in line if name not in COLUMNS]:
        raise TableError(f"'{path}', line {place}: unknown column '{unknown[0]}'; the columns are {', '.join(COLUMNS)}")
    for name in ("video", "sentence"):
        if not isinstance(line[name], str):
            raise TableError(f"'{path}', line {place}: expected a text as {name}, got {line[name]!r}")
    video = path.parent / line["video"]
    return Row(
        item_id=str(line.get("item_id", f"{video.stem}/{number}")),
        video=video,
        sentence=line["sentence"],
        start=_seconds(line.get("start"), path, place),
        stop=_seconds(line.get("stop"), path, place),
    )


def _seconds(value: Any, path: Path, place: int) -> float | None:
    try:
        seconds = None if value is None else float(value)
        if isinstance(value, bool) or (seconds is not None and not isfinite(seconds)):
            raise ValueError
        return seconds
    except (TypeError, ValueError):
        raise TableError(f"'{path}', line {place}: expected a number of seconds, got {value!r}") from None


class AnswerFile:
    """``answers.jsonl``: what has been answered, one line each, added as it comes; the first one makes the file.

    The first line says which model answers and how it is asked. What a process that was killed has left stands, but
    for half a line at the end.

    Args:
        path: of the file.
        asked_by: what all lines share: model, options.

    Raises:
        TableError: the file that stands there is of another model, or asked otherwise.
    """

    def __init__(self, path: Path, asked_by: Mapping[str, Any]) -> None:
        self._path = path
        self._header = {**FORMAT, **asked_by}
        self.lines: dict[str, dict[str, Any]] = {}
        if path.exists():
            self._go_on()

    def _go_on(self) -> None:
        try:
            text = self._path.read_text(encoding="utf-8")
            whole = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
            if not whole or not all(isinstance(line, dict) for line in whole):
                raise ValueError("a cut line")
        except ValueError as error:
            raise TableError(
                f"'{self._path}' holds no answers that can be gone on with ({error}); choose another --output, or "
                "--overwrite"
            ) from error
        before, *whole = whole
        if before != self._header:
            said = _difference(before, self._header)
            raise TableError(f"'{self._path}' was answered otherwise ({said}); choose another --output, or --overwrite")
        # What could not be answered is tried again: a file may have been mended.
        self.lines = {line["item_id"]: line for line in whole if "error" not in line}
        write_whole(self._path, "".join(map(_line, [self._header, *self.lines.values()])))

    def left_of(self, rows: Sequence[Row]) -> list[Row]:
        """The rows that are not answered yet.

        Raises:
            TableError: one that is answered asks something else now.
        """
        for row in rows:
            line = self.lines.get(row.item_id)
            if line is not None and line["asked"] != _asked(row):
                raise TableError(
                    f"row '{row.item_id}' asks {_asked(row)} now, and '{self._path}' has the answer to "
                    f"{line['asked']}; choose another --output, or --overwrite"
                )
        return [row for row in rows if row.item_id not in self.lines]

    def add(self, row: Row, answer: Answer | Exception) -> str:
        """Writes a line, and gives it back."""
        said = {"error": str(answer)} if isinstance(answer, Exception) else answer.as_dict()
        line = {"item_id": row.item_id, "asked": _asked(row), **said}
        if "error" not in line:
            self.lines[row.item_id] = line
        text = _line(line)
        if not self._path.exists():
            write_whole(self._path, _line(self._header))
        with self._path.open("a", encoding="utf-8") as file:
            file.write(text)
        return text


def _asked(row: Row) -> dict[str, Any]:
    return {name: str(value) if isinstance(value, Path) else value for name, value in asdict(row).items()}


def _line(content: Mapping[str, Any]) -> str:
    return json.dumps(content, allow_nan=False) + "\n"


def _difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    name = next(name for name in {**before, **now} if before.get(name) != now.get(name))
    return f"{name}: {before.get(name)!r} before, {now.get(name)!r} now"


def answer_rows(
    grounder: VideoGrounder,
    rows: Sequence[Row],
    asking: Asking,
    *,
    workers: int,
    draw: Callable[[Row, Answer], None],
    progress: Progress | None = None,
) -> Iterator[tuple[Row, Answer | Exception]]:
    """Answers rows as their films come, several films at a time; rows of one part of a film share its decoding.

    Args:
        workers: films that are read at a time; the network works for one of them at a time.
        draw: makes pictures of an answer, in the same thread.
        progress: as of :meth:`VideoGrounder.ground`, where all rows are about one film.

    Yields:
        Each row with its answer, or with what is wrong with it: see :data:`BAD`.
    """
    parts: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        parts.setdefault((row.video, row.start, row.stop), []).append(row)
    with _pool(workers) as pool:
        working = [pool.submit(_answer_part, grounder, part, asking, draw, progress) for part in parts.values()]
        for done in as_completed(working):
            yield from done.result()


@contextmanager
def _pool(workers: int) -> Iterator[ThreadPoolExecutor]:
    """Threads that begin nothing new once the block is left."""
    pool = ThreadPoolExecutor(workers)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _answer_part(
    grounder: VideoGrounder,
    rows: Sequence[Row],
    asking: Asking,
    draw: Callable[[Row, Answer], None],
    progress: Progress | None,
) -> list[tuple[Row, Answer | Exception]]:
    found: list[tuple[Row, Answer | Exception]] = []
    sound = []
    for row in rows:
        try:
            grounder.check([row.sentence])
            sound.append(row)
        except ValueError as error:
            found.append((row, error))
    if not sound:
        return found
    first = sound[0]
    try:
        answers = grounder.ground_all(
            open_footage(first.video, fps=asking.fps),
            [row.sentence for row in sound],
            start=first.start,
            stop=first.stop,
            window=asking.window,
            overlap=asking.overlap,
            compare=asking.compare,
            progress=progress,
        )
    except BAD as error:
        return [*found, *((row, error) for row in sound)]
    for row, answer in zip(sound, answers, strict=True):
        draw(row, answer)
    return [*found, *zip(sound, answers, strict=True)]
