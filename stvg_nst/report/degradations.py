"""Runs side by side in each kind and severity of degradation: what ``report --by-degradation`` prints."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from rich import box
from rich.table import Table
from rich.text import Text

from stvg_nst.evaluation.views import (
    CLEAN,
    MEAN_KIND,
    METRICS,
    RELATIVE,
    SEVERITY,
    WORST_KIND,
    Samples,
    ViewSums,
    kinds_of,
)
from stvg_nst.report.results import ResultsFileError, RunResults
from stvg_nst.report.table import run_labels

SUMMARIES = {
    CLEAN: CLEAN,
    "LQ": "LQ, all samples",
    MEAN_KIND: "mean of kinds",
    WORST_KIND: "worst kind",
    RELATIVE: "LQ / HQ, %",
}


@dataclass(frozen=True, slots=True)
class DegradationReport:
    """One metric of some runs, by kind and severity.

    Args:
        title: names the conditions and the metric.
        header: of the columns.
        lines: of cells; the first two name a view and a run.
        note: how many samples stand behind a number.
    """

    title: str
    header: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]
    note: str

    def table(self) -> Table:
        """For the terminal; a view is named once, and runs stand below each other."""
        table = Table(title=self.title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), min_width=len(self.title))
        for index, name in enumerate(self.header):
            table.add_column(name, justify="left" if index < 2 else "right", no_wrap=index != 1)
        before = None
        for view, *cells in self.lines:
            if before is not None and view != before:
                table.add_section()
            table.add_row(Text("" if view == before else view, style="bold"), *map(Text, cells))
            before = view
        return table

    def markdown(self) -> str:
        """The same as a section of a Markdown document."""
        rows = [self.header, ("---", "---", *["---:"] * (len(self.header) - 2)), *self.lines]
        cells = ("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)
        return "\n".join([f"### {self.title}", "", *cells, "", f"{self.note}.", ""])


def degradation_report(runs: Sequence[RunResults], metric: str) -> DegradationReport:
    """One metric of every run in every view by degradation; "-" where a run has no such sample.

    Args:
        runs: evaluated under the same conditions.
        metric: one of ``METRICS``.

    Raises:
        ValueError: there is no such metric.
        ResultsFileError: the samples of a run do not say how well and in which condition they were grounded.
    """
    if metric not in METRICS:
        raise ValueError(f"the metric must be one of {', '.join(METRICS)}, got '{metric}'")
    points = [view_points(run) for run in runs]
    names = dict.fromkeys(name for own in points for name in own)
    severities = sorted(int(name.removeprefix(SEVERITY).split("/")[0]) for name in _named(names, metric, SEVERITY))
    columns = [f":{severity}" for severity in severities] + [""]
    kinds = {kind: kind for kind in kinds_of(names)}
    lines = []
    for view, label in (kinds | SUMMARIES).items():
        for run, own in zip(run_labels(runs), points, strict=True):
            # Of a summary there is one number, not one for each severity.
            keys = [f"{view}{column}/{metric}" if view in kinds or not column else "" for column in columns]
            lines.append((label, run, *(_cell(own, key) for key in keys)))
    return DegradationReport(
        title=f"{runs[0].conditions}, {metric} by degradation",
        header=("severity", "Method", *map(str, severities), "all"),
        lines=tuple(lines),
        note=_note(runs),
    )


def view_points(run: RunResults) -> dict[str, float]:
    """Percent points of every view of the benchmark by ``<view>/<metric>``, counted from the run's samples.

    Raises:
        ResultsFileError: they do not say how well and in which condition they were grounded.
    """
    for index, sample in enumerate(run.samples):
        for name in ("sentence_type", "degradation", "tIoU", "vIoU"):
            if name not in sample:
                raise ResultsFileError(
                    f"{run.path}: field 'samples[{index}].{name}' is missing; evaluate the run again"
                )
    rows = {item: row for row, item in enumerate(dict.fromkeys(sample["item_id"] for sample in run.samples))}
    samples = Samples(
        row=np.array([rows[sample["item_id"]] for sample in run.samples]),
        conditions=tuple(sample["degradation"] or sample["quality"] for sample in run.samples),
        sentence_types=tuple(sample["sentence_type"] for sample in run.samples),
        num_items=len(rows),
    )
    t_iou, v_iou = (np.array([sample[name] for sample in run.samples]) for name in ("tIoU", "vIoU"))
    means = ViewSums(samples, t_iou, v_iou).means(np.ones((1, len(rows))))
    return {name: float(values[0]) for name, values in means.items()}


def _named(names: Mapping[str, object], metric: str, prefix: str) -> Iterator[str]:
    return (name for name in names if name.startswith(prefix) and name.count("/") == 1 and name.endswith(f"/{metric}"))


def _cell(points: Mapping[str, float], key: str) -> str:
    if not key:
        return ""
    value = points.get(key, math.nan)
    return "-" if math.isnan(value) else f"{value:.2f}"


def _note(runs: Sequence[RunResults]) -> str:
    counts = Counter(sample["degradation"] for sample in runs[0].samples if sample["degradation"])
    if not counts:
        return "no sample was degraded"
    few, many = min(counts.values()), max(counts.values())
    size = f"{few}" if few == many else f"{few} to {many}"
    return f"a kind at one severity is {size} samples of {runs[0].path}"
