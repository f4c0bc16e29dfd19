"""A study's findings as text: for the terminal, as Markdown and as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean

from rich import box
from rich.table import Table
from rich.text import Text

from stvg_nst.conditions import Conditions, name_draws
from stvg_nst.report.numbers import parameter_count, signed
from stvg_nst.study.summary import METRICS, QUANTITIES, PointSummary, Spread, StudySummary


def study_table(summary: StudySummary) -> Table:
    """Under each quantity a line for each point: mean and deviation over the seeds, the best mean in bold."""
    table = Table(title=Text(summary.title), box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("Point", overflow="fold", min_width=12)
    table.add_column("Trainable", justify="right", no_wrap=True)
    table.add_column("Seeds", justify="right", no_wrap=True)
    for metric in METRICS:
        table.add_column(metric, justify="right", no_wrap=True)
    quantity = None
    for line in _lines(summary):
        if quantity != line.quantity:
            table.add_section()
            table.add_row(Text(line.quantity, style="bold"))
        quantity = line.quantity
        cells = [Text(cell.text, style="bold" if cell.best else "") for cell in line.cells]
        table.add_row(Text(line.point), line.trainable, Text(line.seeds, style=line.seeds_style), *cells)
    return table


def study_markdown(summary: StudySummary) -> str:
    """The same table as a Markdown section, with the notes below."""
    rows = [
        f"### {summary.title}",
        "",
        "| | " + " | ".join(("Point", "Trainable", "Seeds", *METRICS)) + " |",
        "|---|---|" + "---:|" * (2 + len(METRICS)),
    ]
    for line in _lines(summary):
        cells = [f"**{cell.text}**" if cell.best else cell.text for cell in line.cells]
        name = line.point.replace("|", "\\|")
        rows.append("| " + " | ".join((line.quantity, name, line.trainable, line.seeds, *cells)) + " |")
    rows += ["", explanation(summary)]
    if summary.notes:
        rows += ["", *(f"- note: {note}" for note in summary.notes)]
    return "\n".join(rows) + "\n"


def study_csv(summary: StudySummary) -> str:
    """One row per point and metric, in full precision; a number that is not known is empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = [quantity.lower().replace(" ", "_") for quantity in QUANTITIES]
    spreads = [f"{name}_{part}" for name in names for part in ("mean", "std")]
    identity = ("study", *Conditions._fields, "point", "trainable_parameters", "seeds", "of_seeds")
    writer.writerow((*identity, "metric", *spreads))
    dataset, split, _, shown = summary.baselines[0].conditions
    draws = "+".join(str(baseline.benchmark_seed) for baseline in summary.baselines)
    for point in summary.points:
        for metric in METRICS:
            found = [point.spreads.get((quantity, metric)) for quantity in QUANTITIES]
            numbers = [number for spread in found for number in (_numbers(spread) if spread else (None, None))]
            row = (point.name, point.trainable_parameters, point.num_seeds, point.num_expected, metric, *numbers)
            writer.writerow((summary.title, dataset, split, draws, shown, *row))
    return text.getvalue()


def explanation(summary: StudySummary) -> str:
    """What the numbers are, and what the differences are relative to."""
    views = (
        f"{view} " + " / ".join(f"{_baseline_mean(summary, f'{view}/{name}'):.2f}" for name in METRICS)
        for view in ("HQ", "LQ")
    )
    tests = ", of each seed's mean over the tests" if len(summary.baselines) > 1 else ""
    return (
        f"{conditions_line(summary)}. Points of difference to {summary.baselines[0].method} ({', '.join(views)}), mean "
        f"\u00b1 sample standard deviation over seeds{tests}."
    )


def _baseline_mean(summary: StudySummary, name: str) -> float:
    return fmean(baseline.metrics[name] for baseline in summary.baselines)


def conditions_line(summary: StudySummary) -> str:
    return name_draws([baseline.conditions for baseline in summary.baselines])


@dataclass(frozen=True, slots=True)
class _Cell:
    text: str
    best: bool


@dataclass(frozen=True, slots=True)
class _Line:
    quantity: str
    point: str
    trainable: str
    seeds: str
    seeds_style: str
    cells: tuple[_Cell, ...]


def _lines(summary: StudySummary) -> Iterator[_Line]:
    for quantity in QUANTITIES:
        best = {metric: _best_mean(summary.points, quantity, metric) for metric in METRICS}
        for point in summary.points:
            cells = tuple(_cell(point, point.spreads.get((quantity, metric)), best[metric]) for metric in METRICS)
            trainable = "-" if point.trainable_parameters is None else parameter_count(point.trainable_parameters)
            seeds, style = f"{point.num_seeds} of {point.num_expected}", "" if point.complete else "yellow"
            yield _Line(quantity, point.name, trainable, seeds, style, cells)


def _best_mean(points: Sequence[PointSummary], quantity: str, metric: str) -> float | None:
    """The highest mean; none where there is no rival, whose best would be no news."""
    means = [point.spreads[quantity, metric].mean for point in points if point.spreads]
    return max(means) if len(means) > 1 else None


def _cell(point: PointSummary, spread: Spread | None, best: float | None) -> _Cell:
    if spread is None:
        return _Cell("failed" if point.failed else "-", best=False)
    deviation = "" if spread.deviation is None else f" \u00b1 {spread.deviation:.2f}"
    return _Cell(signed(spread.mean) + deviation, best=spread.mean == best)


def _numbers(spread: Spread) -> tuple[float, float | None]:
    return spread.mean, spread.deviation
