"""A study of levels, such as numbers of tuning clips: each of its rows as a curve over them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, ScalarFormatter
from rich.console import Console

from stvg_nst.report.findings import QUANTITIES, Findings, Method, Quantity, over_seeds
from stvg_nst.report.rows import seeds_explanation, spread_cell
from stvg_nst.report.sheet import Cell, Section, Sheet, print_sheet, write_sheet
from stvg_nst.report.style import MUTED, STYLE, draw_if_possible, entitle, row_looks, save
from stvg_nst.results.metric_names import MAIN, METRICS

LINEAR_UP_TO = 20.0
"""Points. Values beyond are drawn on a logarithmic scale: otherwise a run that diverged would flatten all others."""
TICKS = (-80, -50, -20, -15, -10, -5, 0, 5, 10, 15, 20, 50, 80)
SPREAD = 0.5
"""Of the room between two levels, over which the rows' marks lie side by side."""


def write_levels(findings: Findings, folder: Path, console: Console) -> list[Path]:
    """Prints the table, writes ``levels.md``, ``.csv``, ``.png`` and ``.svg``, and says which of them it wrote."""
    sheet, figures = levels_sheet(findings), [folder / "levels.png", folder / "levels.svg"]
    written = write_sheet(sheet, folder, ("md", "csv"))
    print_sheet(replace(sheet, notes=()), console)  # behind the table of all metrics, which has the same notes
    return [*written, *draw_if_possible(draw_levels, findings, *figures)]


def levels_sheet(findings: Findings) -> Sheet:
    """Under each quantity a row for each row of the study, with mean and deviation over the seeds at each level."""
    cells, levels = findings.cells, tuple(findings.study.levels)
    shown = dict.fromkeys(row for row, _ in cells)
    rows = tuple(
        (Cell(quantity.name), Cell(row), *(_cell(cells.get((row, level)), quantity) for level in levels))
        for quantity in QUANTITIES
        for row in shown
    )
    title = f"{findings.study.heading}: {MAIN}, {findings.draws}"
    notes = (seeds_explanation(findings), *findings.missing, *findings.remarks)
    return Sheet("", (Section(title, ("", "", *levels), rows),), notes, tuple(_records(findings)), "levels")


def _cell(method: Method | None, quantity: Quantity) -> Cell:
    if method is None:  # it is not shown
        return Cell("-")
    cell = spread_cell(method, over_seeds(method, quantity.number()), ranked=False)
    unfinished = bool(method.finished_runs) and not method.complete
    return Cell(f"{cell.text} ({method.seeds})", warns=True) if unfinished else cell


def _records(findings: Findings) -> Iterator[dict[str, object]]:
    """One per row of the study, level, metric and quantity; none for what is not known."""
    for (row, level), method in findings.cells.items():
        place: dict[str, object] = {"study": findings.study.heading, "row": row, "level": level}
        counts: dict[str, object] = {"seeds": len(method.finished_runs), "of_seeds": method.num_runs}
        for metric in METRICS:
            for quantity in QUANTITIES if method.finished_runs else ():
                spread = over_seeds(method, quantity.number(metric))
                assert spread is not None
                numbers: dict[str, object] = {"mean": spread.mean, "std": spread.deviation}
                yield place | counts | {"quantity": quantity.name, "metric": metric} | numbers


def draw_levels(findings: Findings, *paths: Path) -> None:
    """The WAS and its two parts against the levels, evenly spaced: mean and sample standard deviation. The rows' marks
    lie side by side around the level that they share, and are joined where the levels are in order.

    Rows of which nothing is measured are left out; the tables have them.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(11.5, 4.4), layout="constrained")
        for axes, quantity in zip(figure.subplots(1, len(QUANTITIES)), reversed(QUANTITIES), strict=True):
            _draw_quantity(axes, findings, quantity)
        bent = any(axes.get_yscale() == "symlog" for axes in figure.axes)
        figure.axes[0].set_ylabel("points" + (f", logarithmic beyond \u00b1{LINEAR_UP_TO:g}" if bent else ""))
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside right center", frameon=False, fontsize=8)
        entitle(figure, findings.study.heading, findings.draws, complete=findings.complete)
        save(figure, paths)


def _draw_quantity(axes: Axes, findings: Findings, quantity: Quantity) -> None:
    axes.axhline(0, color=MUTED, linewidth=0.8)
    study, cells = findings.study, findings.cells
    looks = row_looks(study.rows)  # what is missing takes no room, but keeps its colour for later
    rows = [row for row in looks if any(method.finished_runs for (of, _), method in cells.items() if of == row)]
    for index, row in enumerate(rows):
        methods = {place: cells.get((row, level)) for place, level in enumerate(study.levels)}
        found = {
            place: over_seeds(method, quantity.number()) for place, method in methods.items() if method is not None
        }
        spreads = {place: spread for place, spread in found.items() if spread is not None}
        axes.errorbar(
            # Side by side, or the deviations of one would hide another's.
            [place + SPREAD * ((index + 0.5) / len(rows) - 0.5) for place in spreads],
            [spread.mean for spread in spreads.values()],
            yerr=[spread.deviation or 0.0 for spread in spreads.values()],
            label=row,
            markersize=4,
            linestyle="-" if study.ordered_levels else "none",
            linewidth=1.2,
            capsize=2,
            **looks[row],
        )
    axes.set_xticks(range(len(study.levels)), list(study.levels), rotation=30, ha="right")
    if max(map(abs, axes.dataLim.intervaly)) > LINEAR_UP_TO:
        axes.set_yscale("symlog", linthresh=LINEAR_UP_TO, linscale=2)
        axes.yaxis.set_major_locator(FixedLocator(TICKS))
        axes.yaxis.set_major_formatter(ScalarFormatter())
    axes.grid(axis="y", color="#e6e6e6", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_title(f"{quantity.name}, {MAIN}")
