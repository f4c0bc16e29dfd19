"""Runs side by side: every quality, differences to the baseline, and the WAS, after Tables I and II of the paper."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich.table import Table
from rich.text import Text

from stvg_nst.adaptation import adaptation_scores
from stvg_nst.conditions import name_measurement
from stvg_nst.report.results import RunResults

VIEWS = ("HQ", "LQ", "MQ", "WAS")
ZERO_SHOT = "ZeroShot"
_RANDOM = "RANDOM WEIGHTS"


class BaselineError(ValueError):
    """Runs have no baseline to be compared with, or more than one, or one of another grounder or of fewer metrics."""


def results_table(
    runs: Sequence[RunResults], baseline: str | None = ZERO_SHOT, *, sentence_type: str | None = None
) -> Table:
    """One line per quality and run: each metric, its difference to the baseline, the best of each column in bold.

    The WAS is computed here, from the baseline run, with lambda_hq = 1; a run's own ``WAS/`` metrics are not used.

    Args:
        runs: evaluated under the same conditions: data set, split, benchmark seed, and degradations shown; and measured
            alike.
        baseline: name of the method that the others are compared with; ``None`` leaves differences and WAS out.
        sentence_type: ``declarative`` or ``interrogative``; ``None`` for all sentences together.

    Raises:
        ValueError: the runs were evaluated on different data, or in different precisions.
        BaselineError: no run is of the baseline method, or several are and differ, or it lacks a metric, or a run tuned
            other weights than the baseline's.
    """
    table = Table(title=_title(runs, sentence_type), box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("", style="bold", no_wrap=True)
    table.add_column("Method", overflow="fold", min_width=12)
    table.add_column("Trainable", justify="right", no_wrap=True)
    names = _metric_names(runs)
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    view = None
    for line in _lines(runs, baseline, sentence_type, names):
        if view is not None and view != line.view:
            table.add_section()
        cells = [Text(cell.value, style="bold" if cell.best else "").append_text(_tinted(cell)) for cell in line.cells]
        table.add_row("" if view == line.view else line.view, Text(line.method), line.trainable, *cells)
        view = line.view
    return table


def to_markdown(
    runs: Sequence[RunResults], baseline: str | None = ZERO_SHOT, *, sentence_type: str | None = None
) -> str:
    """The same table, by the same arguments and with the same errors, as a Markdown section."""
    names = _metric_names(runs)
    rows = [
        f"### {_title(runs, sentence_type)}",
        "",
        "| | " + " | ".join(("Method", "Trainable", *names)) + " |",
        "|---|---|" + "---:|" * (1 + len(names)),
    ]
    for line in _lines(runs, baseline, sentence_type, names):
        cells = [(f"**{cell.value}**" if cell.best else cell.value) + cell.change for cell in line.cells]
        rows.append("| " + " | ".join((line.view, line.method.replace("|", "\\|"), line.trainable, *cells)) + " |")
    return "\n".join(rows) + "\n"


@dataclass(frozen=True, slots=True)
class _Cell:
    """A number as it is shown: ``value`` in points, ``change`` like `` (+0.88)``."""

    value: str
    change: str
    best: bool


@dataclass(frozen=True, slots=True)
class _Line:
    view: str
    method: str
    trainable: str
    cells: tuple[_Cell, ...]


def _lines(
    runs: Sequence[RunResults], baseline: str | None, sentence_type: str | None, names: Sequence[str]
) -> list[_Line]:
    base = None if baseline is None else _baseline_run(runs, baseline)
    labels, points = run_labels(runs), [_points(run, base) for run in runs]
    lines = []
    for view in VIEWS:
        keys = [f"{view}/{sentence_type}/{name}" if sentence_type else f"{view}/{name}" for name in names]
        for run, label, own in zip(runs, labels, points, strict=True):
            if own.keys().isdisjoint(keys):
                continue
            reference = {} if base is None or run.method == base.method else base.metrics
            cells = tuple(_cell(key, own, reference, points) for key in keys)
            lines.append(_Line(view, label, parameter_count(run.trainable_parameters), cells))
    return lines


def _points(run: RunResults, base: RunResults | None) -> dict[str, float]:
    """The run's metrics, with the WAS relative to ``base``; the baseline itself has none."""
    points = {key: value for key, value in run.metrics.items() if not key.startswith("WAS/")}
    if base is None or run.method == base.method:
        return points
    if None not in (run.weights, base.weights) and run.weights != base.weights:
        raise BaselineError(
            f"{run.path} tuned the weights '{run.weights}', but the baseline {base.path} has '{base.weights}'; report "
            "the runs of each grounder from a folder of its own"
        )
    try:
        return points | adaptation_scores(points, base.metrics)
    except ValueError as error:
        raise BaselineError(f"{run.path} cannot be compared with {base.path}: {error}") from error


def _cell(
    key: str, own: Mapping[str, float], reference: Mapping[str, float], everyone: Sequence[Mapping[str, float]]
) -> _Cell:
    if key not in own:
        return _Cell("-", "", best=False)
    rivals = [points[key] for points in everyone if key in points]
    is_score = key.startswith("WAS/")
    # The WAS is a difference already, and a baseline's own WAS/ metrics are relative to something else.
    change = f" ({signed(own[key] - reference[key])})" if key in reference and not is_score else ""
    value = signed(own[key]) if is_score else f"{own[key]:.2f}"
    return _Cell(value, change, best=len(rivals) > 1 and own[key] == max(rivals))


def signed(points: float) -> str:
    """A difference as it is shown, like ``+0.88``."""
    return f"{round(points, 2) + 0.0:+.2f}"  # adding zero turns -0.00 into +0.00


def _tinted(cell: _Cell) -> Text:
    if cell.change == " (+0.00)":
        return Text(cell.change, style="dim")
    return Text(cell.change, style="green" if "+" in cell.change else "red")


def _baseline_run(runs: Sequence[RunResults], baseline: str) -> RunResults:
    candidates = [run for run in runs if run.method == baseline]
    if not candidates:
        methods = ", ".join(sorted({run.method for run in runs}))
        raise BaselineError(f"no run of the baseline {baseline} among {methods}; evaluate one on the same data")
    if any(run.metrics != candidates[0].metrics for run in candidates):
        paths = ", ".join(str(run.path) for run in candidates)
        raise BaselineError(f"{len(candidates)} runs of the baseline {baseline} differ: {paths}; keep one")
    return candidates[0]


def run_labels(runs: Sequence[RunResults]) -> list[str]:
    """The method, the run's folder where a method has several runs (seeds, ablations), and whether it means a thing."""
    count = Counter(run.method for run in runs)
    folders = [run.path.parent for run in runs]
    root = Path(os.path.commonpath(folders))
    alike = len({folder.name for folder in folders}) < len(folders)
    names = [str(folder.relative_to(root)) if alike else folder.name for folder in folders]
    labels = [
        run.method if count[run.method] == 1 else f"{run.method} ({n})" for run, n in zip(runs, names, strict=True)
    ]
    return [f"{label} {_RANDOM}" if run.random_weights else label for run, label in zip(runs, labels, strict=True)]


def _metric_names(runs: Sequence[RunResults]) -> tuple[str, ...]:
    """Every metric's name without its view, in the order of first appearance."""
    keys = (key for run in runs for key in run.metrics if key.startswith(tuple(f"{view}/" for view in VIEWS)))
    return tuple(dict.fromkeys(key.rsplit("/", 1)[1] for key in keys))


def _title(runs: Sequence[RunResults], sentence_type: str | None) -> str:
    conditions = {run.conditions for run in runs}
    if len(conditions) != 1:
        raise ValueError(
            f"a table holds runs under the same conditions, got {'; '.join(map(str, sorted(conditions))) or 'no run'}; "
            "make one table of each"
        )
    measured = [run.measurement for run in runs if run.measurement is not None]
    if len({str(measurement) for measurement in measured}) > 1:
        ways = ", ".join(sorted({str(measurement) for measurement in measured}))
        raise ValueError(f"a table holds runs that were measured alike, got {ways}; make one table of each")
    sentences = f", {sentence_type} sentences, " if sentence_type else ", "
    random = f", {_RANDOM}" if any(run.random_weights for run in runs) else ""
    return str(conditions.pop()).replace(", ", sentences, 1) + name_measurement(measured) + random


def parameter_count(count: int) -> str:
    """A number of parameters as it is shown, like ``1.77 M``."""
    for unit, size in (("M", 10**6), ("k", 10**3)):
        if count >= size:
            return f"{count / size:.2f} {unit}"
    return str(count)
