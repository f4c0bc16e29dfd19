"""A table as data, and its forms: for the terminal, as Markdown, and as CSV in full precision."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from stvg_nst.machine.whole_files import write_whole

WIDTH = 240
"""Letters of a line where there is no terminal: more than the widest table needs."""
SHOWN_DIGITS = 2
"""Behind the point of a number that is ranked."""
NAME_WIDTH = 12
"""Letters that a column of names keeps on a narrow terminal, where it is folded."""


@dataclass(frozen=True, slots=True)
class Cell:
    """What is shown.

    Args:
        text: the number, or the name.
        value: what the cell is ranked by in its column; ``None`` where there is no better or worse.
        change: shown behind the number, such as `` (+0.88)``.
        warns: whether the reader must not overlook it.
    """

    text: str
    value: float | None = None
    change: str = ""
    warns: bool = False

    @property
    def tone(self) -> str:
        """How the change is: ``none``, ``better`` or ``worse``."""
        return "none" if self.change in ("", " (+0.00)") else "better" if "+" in self.change else "worse"


Row = tuple[Cell, ...]


@dataclass(frozen=True, slots=True)
class Section:
    """A part of a sheet under a title of its own.

    Args:
        columns: the names of the columns.
        rows: one cell a column.
        labels: how many columns on the left are names. Where they are two, rows of one first name are a group: the name
            is shown once, and the best of each column is the best of its group.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    labels: int = 2

    @property
    def groups(self) -> Iterator[tuple[Row, ...]]:
        """Rows that belong together."""
        if self.labels < 2:
            yield self.rows
        else:
            yield from (tuple(rows) for _, rows in groupby(self.rows, key=lambda row: row[0].text))

    def is_best(self, row: Row, column: int) -> bool:
        """Whether a cell has the highest value of its column among rows of the same first name, if it has rivals.

        What reads alike is alike: sums that differ in their last bits alone are not told apart.
        """
        rivals = [other[column].value for other in self.rows if other[0].text == row[0].text]
        known = [round(value, SHOWN_DIGITS) for value in rivals if value is not None]
        own = row[column].value
        return len(known) > 1 and own is not None and round(own, SHOWN_DIGITS) == max(known)


@dataclass(frozen=True, slots=True)
class Sheet:
    """Tables that belong together.

    Args:
        title: over all sections; empty where each has its own.
        records: the numbers behind it, one mapping a row of the CSV file, all with the same keys.
        notes: what its reader must know.
        name: of its files.
    """

    title: str
    sections: tuple[Section, ...]
    notes: tuple[str, ...] = ()
    records: tuple[Mapping[str, object], ...] = ()
    name: str = ""


def sheet_console() -> Console:
    """The terminal, or a pipe that folds no table: a pipe has no width, and rich would take it for 80 letters wide."""
    console = Console(highlight=False, emoji=False)
    if not console.is_terminal:
        console.width = WIDTH
    return console


def print_sheet(sheet: Sheet, console: Console) -> None:
    """Prints the sections, each number on one line, and the notes below them."""
    if sheet.title:
        console.print(Text(sheet.title, style="bold"), soft_wrap=True)
    for section in sheet.sections:
        _print_section(section, console)
    for note in sheet.notes:
        console.print(f"note: {note}", markup=False, style="yellow", soft_wrap=True)


def write_sheet(sheet: Sheet, folder: Path, suffixes: Sequence[str] = ("txt", "md", "csv")) -> list[Path]:
    """Writes the sheet in the forms that are asked for, and says where."""
    forms = {"txt": sheet_text, "md": sheet_markdown, "csv": sheet_csv}
    written = [folder / f"{sheet.name}.{suffix}" for suffix in suffixes]
    for path, suffix in zip(written, suffixes, strict=True):
        write_whole(path, forms[suffix](sheet))
    return written


def sheet_text(sheet: Sheet) -> str:
    """What a wide terminal shows, without colours: FORCE_COLOR in the environment asks for them in files too."""
    text = io.StringIO()
    print_sheet(sheet, Console(file=text, width=WIDTH, highlight=False, emoji=False, color_system=None))
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines()) + "\n"


def sheet_markdown(sheet: Sheet) -> str:
    """Titles, tables and notes as a part of a Markdown document."""
    parts = [f"## {_escaped(sheet.title)}", ""] if sheet.title else []
    for section in sheet.sections:
        parts += [f"### {section.title}", ""] if section.title else []
        parts.append(_markdown_row(section.columns))
        parts.append("|" + "---|" * section.labels + "---:|" * (len(section.columns) - section.labels))
        for row in section.rows:
            best = [section.is_best(row, column) for column in range(len(row))]
            parts.append(
                _markdown_row([(f"**{c.text}**" if b else c.text) + c.change for c, b in zip(row, best, strict=True)])
            )
        parts.append("")
    parts += [f"* {note}" for note in sheet.notes]
    return "\n".join(parts).rstrip("\n") + "\n"


def sheet_csv(sheet: Sheet) -> str:
    """The records; a number that is not known is empty."""
    text = io.StringIO()
    if sheet.records:
        writer = csv.DictWriter(text, [*sheet.records[0]], lineterminator="\n")
        writer.writeheader()
        writer.writerows(sheet.records)
    return text.getvalue()


def _print_section(section: Section, console: Console) -> None:
    table = Table(title=Text(section.title) if section.title else None, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.min_width = len(section.title) + 2  # or rich folds it
    for index, column in enumerate(section.columns):
        table.add_column(Text(column), justify="left" if index < section.labels else "right", no_wrap=True)
    for rows in section.groups:
        for row in rows:
            first = Text("" if section.labels > 1 and row is not rows[0] else row[0].text, style="bold")
            table.add_row(first, *(_rich_cell(section, row, column) for column in range(1, len(row))))
        table.add_section()
    # Names are folded first. Where that is not enough the terminal folds whole lines, for rich would cut numbers off.
    names = table.columns[section.labels - 1]
    names.no_wrap, names.overflow, names.max_width = False, "fold", NAME_WIDTH
    needed = Measurement.get(console, console.options.update(width=10 * WIDTH), table).maximum
    names.max_width = None
    names.min_width = min(NAME_WIDTH, max((len(row[section.labels - 1].text) for row in section.rows), default=0))
    width = console.width
    console.width = max(width, needed)
    console.print(table, crop=False)
    console.width = width


def _rich_cell(section: Section, row: Row, column: int) -> Text:
    cell = row[column]
    style = "bold" if section.is_best(row, column) else "yellow" if cell.warns else ""
    tones = {"none": "dim", "better": "green", "worse": "red"}
    return Text.assemble((cell.text, style), (cell.change, tones[cell.tone]))


def _markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(map(_escaped, cells)) + " |"


def _escaped(text: str) -> str:
    """Without what would end a cell, or be read as HTML."""
    return text.replace("|", "\\|").replace("<", "&lt;")
