"""What a part of `make bench-gpu` prints while it measures: tables whose rows appear as they are measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

Value = float | int | str | None


class Report(Protocol):
    """Where a part says what it finds."""

    def table(self, title: str, columns: Sequence[str]) -> None:
        """From here on, rows are of this table."""

    def row(self, name: str, values: Mapping[str, Value]) -> None:
        """A row, by columns; what a column does not have is left empty."""

    def note(self, text: str) -> None:
        """A line."""


@dataclass
class Printed:
    """Prints a part as Markdown, and keeps it for the file."""

    tables: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def table(self, title: str, columns: Sequence[str]) -> None:
        self.tables.append({"title": title, "columns": list(columns), "rows": []})
        print(f"\n{title}\n\n| " + " | ".join(["", *columns]) + " |\n|---|" + "---:|" * len(columns), flush=True)

    def row(self, name: str, values: Mapping[str, Value]) -> None:
        table = self.tables[-1]
        if unknown := sorted(values.keys() - set(table["columns"])):
            raise ValueError(f"the table '{table['title']}' has no columns {unknown}")
        table["rows"].append({"name": name, **values})
        print(
            "| " + " | ".join([name, *(_shown(values.get(column)) for column in table["columns"])]) + " |", flush=True
        )

    def note(self, text: str) -> None:
        self.notes.append(text)
        print(f"\n{text}", flush=True)


def _shown(value: Value) -> str:
    """Three digits, or all of those before the point."""
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
    return "" if value is None else str(value)
