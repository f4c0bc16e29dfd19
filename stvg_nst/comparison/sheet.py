"""A table in three forms: for the terminal, as Markdown, and as CSV in full precision."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from stvg_nst.whole_files import write_whole

WIDTH = 240
"""Of the text in letters: more than the widest table needs, for a narrower one would cut its numbers off."""
LABELS = 2  # columns of names on the left


@dataclass(frozen=True, slots=True)
class Cell:
    """What is shown. ``value`` is what it is ranked by in its column, ``None`` where there is no better or worse."""

    text: str
    value: float | None = None


@dataclass(frozen=True, slots=True)
class Section:
    """A part of a sheet under a title of its own: rows of one cell a column, the first two being names."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]

    def is_best(self, row: tuple[Cell, ...], column: int) -> bool:
        """Whether a cell has the highest value of its column among rows of the same first name, if it has rivals."""
        rivals = [other[column].value for other in self.rows if other[0].text == row[0].text]
        known = [value for value in rivals if value is not None]
        return len(known) > 1 and row[column].value == max(known)


@dataclass(frozen=True, slots=True)
class Sheet:
    """One of the tables.

    Args:
        name: of its files.
        study: its title, which says where it was cut short; every row of the CSV file begins with it.
        subject: what of the study is shown.
        records: the numbers behind it, one mapping a row of the CSV file, all with the same keys.
        notes: what its reader must know.
    """

    name: str
    study: str
    subject: str
    sections: tuple[Section, ...]
    records: tuple[Mapping[str, object], ...]
    notes: tuple[str, ...] = field(default_factory=tuple)

    @property
    def title(self) -> str:
        return f"{self.study}. {self.subject}"


def print_sheet(sheet: Sheet, console: Console) -> None:
    console.print(Text(sheet.title, style="bold"))
    for section in sheet.sections:
        console.print(_rich_table(section))
    for note in sheet.notes:
        console.print(f"note: {note}", markup=False, style="yellow", soft_wrap=True)


def write_sheet(sheet: Sheet, folder: Path) -> list[Path]:
    """Writes the sheet as ``.txt``, ``.md`` and ``.csv``, and says where."""
    texts = {"txt": sheet_text(sheet), "md": sheet_markdown(sheet), "csv": sheet_csv(sheet)}
    for suffix, text in texts.items():
        write_whole(folder / f"{sheet.name}.{suffix}", text)
    return [folder / f"{sheet.name}.{suffix}" for suffix in texts]


def sheet_text(sheet: Sheet) -> str:
    text = io.StringIO()
    print_sheet(sheet, Console(file=text, width=WIDTH, highlight=False))
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines()) + "\n"


def sheet_markdown(sheet: Sheet) -> str:
    parts = [f"## {sheet.title}", ""]
    for section in sheet.sections:
        parts += [f"### {section.title}", ""] if section.title else []
        parts.append(_line(section.columns))
        parts.append("|" + "---|" * LABELS + "---:|" * (len(section.columns) - LABELS))
        for row in section.rows:
            bold = [section.is_best(row, column) for column in range(len(row))]
            parts.append(_line([f"**{c.text}**" if best else c.text for c, best in zip(row, bold, strict=True)]))
        parts.append("")
    parts += [f"* {note}" for note in sheet.notes]
    return "\n".join(parts).rstrip("\n") + "\n"


def sheet_csv(sheet: Sheet) -> str:
    text = io.StringIO()
    if sheet.records:
        writer = csv.DictWriter(text, ["study", *sheet.records[0]], lineterminator="\n")
        writer.writeheader()
        writer.writerows({"study": sheet.study, **record} for record in sheet.records)
    return text.getvalue()


def _rich_table(section: Section) -> Table:
    table = Table(title=Text(section.title) if section.title else None, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for index, column in enumerate(section.columns):
        table.add_column(Text(column), justify="left" if index < LABELS else "right", no_wrap=True)
    scope: str | None = None
    for row in section.rows:
        if scope is not None and row[0].text != scope:
            table.add_section()
        shown = "" if row[0].text == scope else row[0].text
        scope = row[0].text
        styles = ["bold" if section.is_best(row, column) else "" for column in range(len(row))]
        cells = [Text(cell.text, style=style) for cell, style in zip(row, styles, strict=True)]
        table.add_row(Text(shown), *cells[1:])
    return table


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
