"""A study of levels, such as numbers of tuning clips: each of its rows as a curve over them."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, ScalarFormatter
from rich import box
from rich.table import Table
from rich.text import Text

from stvg_nst.report.numbers import signed
from stvg_nst.study.figure import MUTED, STYLE, row_looks, save
from stvg_nst.study.summary import QUANTITIES, PointSummary, StudySummary
from stvg_nst.study.tables import conditions_line

METRIC = "m_vIoU"
LINEAR_UP_TO = 20.0
"""Points; where something lies beyond, it is drawn on a logarithmic scale, so that a run that diverged does not flatten
all others."""
TICKS = (-80, -50, -20, -15, -10, -5, 0, 5, 10, 15, 20, 50, 80)
SPREAD = 0.5
"""Of the room between two levels, over which the rows' marks lie side by side."""
Line = tuple[str, str, tuple[str, ...]]


def levels_table(summary: StudySummary) -> Table:
    """Under each quantity a line for each row, with mean and deviation over the seeds at each level."""
    table = Table(title=Text(_title(summary)), box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("", overflow="fold", min_width=12)
    for level in summary.levels:
        table.add_column(level, justify="right", no_wrap=True)
    quantity = None
    for line_quantity, row, cells in _lines(summary):
        if quantity != line_quantity:
            table.add_section()
            table.add_row(Text(line_quantity, style="bold"))
        quantity = line_quantity
        table.add_row(Text(row), *cells)
    return table


def write_levels(summary: StudySummary, folder: Path) -> list[Path]:
    """Writes ``levels.md``, ``.csv``, ``.png`` and ``.svg``, and says where."""
    files = [folder / f"levels.{suffix}" for suffix in ("md", "csv", "png", "svg")]
    files[0].write_text(levels_markdown(summary), encoding="utf-8")
    files[1].write_text(levels_csv(summary), encoding="utf-8")
    draw_levels(summary, *files[2:])
    return files


def levels_markdown(summary: StudySummary) -> str:
    """The same table as a Markdown section."""
    rows = [
        f"### {_title(summary)}",
        "",
        "| | | " + " | ".join(summary.levels) + " |",
        "|---|---|" + "---:|" * len(summary.levels),
        *(f"| {quantity} | {row} | {' | '.join(cells)} |" for quantity, row, cells in _lines(summary)),
    ]
    return "\n".join(rows) + "\n"


def levels_csv(summary: StudySummary) -> str:
    """One row per row of the study, level, metric and quantity, in full precision; none for what is not known."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("study", "row", "level", "seeds", "of_seeds", "quantity", "metric", "mean", "std"))
    for (row, level), point in summary.cells.items():
        for (quantity, metric), spread in point.spreads.items():
            numbers = (point.num_seeds, point.num_expected, quantity, metric, spread.mean, spread.deviation)
            writer.writerow((summary.title, row, level, *numbers))
    return text.getvalue()


def draw_levels(summary: StudySummary, *paths: Path) -> None:
    """The WAS and its two parts against the levels, evenly spaced: mean and sample standard deviation. The rows' marks
    lie side by side around the level that they share, and are joined where the levels are in order.

    Rows of which nothing is measured are left out; the tables have them.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(11.5, 4.4), layout="constrained")
        for axes, quantity in zip(figure.subplots(1, len(QUANTITIES)), reversed(QUANTITIES), strict=True):
            _draw_quantity(axes, summary, quantity)
        bent = any(axes.get_yscale() == "symlog" for axes in figure.axes)
        figure.axes[0].set_ylabel("points" + (f", logarithmic beyond \u00b1{LINEAR_UP_TO:g}" if bent else ""))
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside right center", frameon=False, fontsize=8)
        missing = "" if summary.complete else ", INCOMPLETE"
        figure.suptitle(f"{summary.title}\n{conditions_line(summary)}{missing}", x=0.01, ha="left", fontsize=11)
        save(figure, paths)


def _draw_quantity(axes: Axes, summary: StudySummary, quantity: str) -> None:
    axes.axhline(0, color=MUTED, linewidth=0.8)
    looks = row_looks(_rows(summary))  # what is missing takes no room, but keeps its colour for later
    rows = [row for row in looks if any(summary.cells[row, level].spreads for level in summary.levels)]
    for index, row in enumerate(rows):
        measured = [(place, summary.cells[row, level]) for place, level in enumerate(summary.levels)]
        measured = [(place, point) for place, point in measured if point.spreads]
        spreads = [point.spreads[quantity, METRIC] for _, point in measured]
        axes.errorbar(
            # Side by side, or the deviations of one would hide another's.
            [place + SPREAD * ((index + 0.5) / len(rows) - 0.5) for place, _ in measured],
            [spread.mean for spread in spreads],
            yerr=[spread.deviation or 0.0 for spread in spreads],
            label=row,
            markersize=4,
            linestyle="-" if summary.ordered_levels else "none",
            linewidth=1.2,
            capsize=2,
            **looks[row],
        )
    axes.set_xticks(range(len(summary.levels)), summary.levels, rotation=30, ha="right")
    if max(map(abs, axes.dataLim.intervaly)) > LINEAR_UP_TO:
        axes.set_yscale("symlog", linthresh=LINEAR_UP_TO, linscale=2)
        axes.yaxis.set_major_locator(FixedLocator(TICKS))
        axes.yaxis.set_major_formatter(ScalarFormatter())
    axes.grid(axis="y", color="#e6e6e6", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_title(f"{quantity}, {METRIC}")


def _title(summary: StudySummary) -> str:
    return f"{summary.title}: {METRIC}, {conditions_line(summary)}"


def _rows(summary: StudySummary) -> Sequence[str]:
    return tuple(dict.fromkeys(row for row, _ in summary.cells))


def _lines(summary: StudySummary) -> list[Line]:
    return [
        (quantity, row, tuple(_cell(summary.cells[row, level], quantity) for level in summary.levels))
        for quantity in QUANTITIES
        for row in _rows(summary)
    ]


def _cell(point: PointSummary, quantity: str) -> str:
    if not point.spreads:
        return "failed" if point.failed else "-"
    spread = point.spreads[quantity, METRIC]
    deviation = "" if spread.deviation is None else f" \u00b1 {spread.deviation:.2f}"
    unfinished = "" if point.complete else f" ({point.num_seeds} of {point.num_expected})"
    return signed(spread.mean) + deviation + unfinished
