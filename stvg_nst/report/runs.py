"""Runs side by side: every quality, differences to the baseline, and the WAS, after Tables I and II of the paper."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from stvg_nst.report.numbers import parameter_count, signed
from stvg_nst.report.sheet import Cell, Section
from stvg_nst.results.conditions import name_measurement
from stvg_nst.results.metric_names import MAIN, VIEWS, MetricName
from stvg_nst.results.results_file import RunResults
from stvg_nst.results.was import with_adaptation_scores

ZERO_SHOT = "ZeroShot"
_RANDOM = "RANDOM WEIGHTS"


class BaselineError(ValueError):
    """Runs have no baseline to be compared with, or more than one, or one of another grounder or of fewer metrics."""


def runs_section(
    runs: Sequence[RunResults],
    baseline: str | None = ZERO_SHOT,
    *,
    sentence_type: str | None = None,
    name_usual: bool = False,
) -> Section:
    """One row per quality and run: each metric, its difference to the baseline, the best of each column marked.

    The WAS is computed here, from the baseline run; a run's own may be relative to another one.

    Args:
        runs: evaluated under the same conditions: data set, split, benchmark seed, and degradations shown; and measured
            alike.
        baseline: name of the method that the others are compared with; ``None`` leaves differences and WAS out.
        sentence_type: ``declarative`` or ``interrogative``; ``None`` for all sentences together.
        name_usual: say how the runs were measured even where it is the usual way.

    Raises:
        ValueError: the runs were evaluated on different data, or in different precisions.
        BaselineError: no run is of the baseline method, or several are and differ, or it lacks a metric, or a run tuned
            other weights than the baseline's.
    """
    title, names = _title(runs, sentence_type, name_usual), _metric_names(runs)
    base = None if baseline is None else _baseline_run(runs, baseline)
    labels, points = run_labels(runs), [points_against(run, base) for run in runs]
    rows = []
    for view in VIEWS:
        keys = [str(MetricName(view, name, sentence_type)) for name in names]
        for run, label, own in zip(runs, labels, points, strict=True):
            reference = {} if base is None or run.method == base.method else base.metrics
            if not own.keys().isdisjoint(keys):
                trainable = Cell(parameter_count(run.trainable_parameters))
                rows.append((Cell(view), Cell(label), trainable, *(_cell(key, own, reference) for key in keys)))
    return Section(title, ("", "Method", "Trainable", *names), tuple(rows))


def changes_of_runs(runs: Sequence[RunResults]) -> list[tuple[RunResults, float, float]]:
    """Of every tuned run that has them, change on HQ and gain on LQ in the main metric; nothing without a baseline."""
    high, low = str(MetricName("HQ", MAIN)), str(MetricName("LQ", MAIN))
    measured = [run for run in runs if {high, low} <= run.metrics.keys()]
    tuned = [run for run in measured if run.method != ZERO_SHOT]
    try:
        base = _baseline_run(measured, ZERO_SHOT)
        for run in tuned:
            _refuse_other_weights(run, base)
    except BaselineError:
        return []
    return [(run, run.metrics[high] - base.metrics[high], run.metrics[low] - base.metrics[low]) for run in tuned]


def points_against(run: RunResults, base: RunResults | None) -> dict[str, float]:
    """The run's metrics, with the WAS relative to ``base``; the baseline itself has none.

    Raises:
        BaselineError: the baseline has other weights, or lacks a metric.
    """
    if base is None or run.method == base.method:
        return {key: value for key, value in run.metrics.items() if MetricName.parse(key).view != "WAS"}
    _refuse_other_weights(run, base)
    try:
        return with_adaptation_scores(run.metrics, base.metrics)
    except ValueError as error:
        raise BaselineError(f"{run.path} cannot be compared with {base.path}: {error}") from error


def _refuse_other_weights(run: RunResults, base: RunResults) -> None:
    if run.weights is None or base.weights is None:  # in files from before this field
        return
    if Path(run.weights).resolve() != Path(base.weights).resolve():
        raise BaselineError(
            f"{run.path} tuned the weights '{run.weights}', but the baseline {base.path} has '{base.weights}'; report "
            "the runs of each grounder from a folder of its own"
        )


def _cell(key: str, own: Mapping[str, float], reference: Mapping[str, float]) -> Cell:
    if key not in own:
        return Cell("-")
    if MetricName.parse(key).view == "WAS":  # a difference already; a baseline's own WAS is relative to something else
        return Cell(signed(own[key]), own[key])
    change = f" ({signed(own[key] - reference[key])})" if key in reference else ""
    return Cell(f"{own[key]:.2f}", own[key], change)


def _baseline_run(runs: Sequence[RunResults], baseline: str) -> RunResults:
    candidates = [run for run in runs if run.method == baseline]
    if not candidates:
        methods = ", ".join(sorted({run.method for run in runs}))
        raise BaselineError(f"no run of the baseline {baseline} among {methods}; evaluate one on the same data")
    if any(run.metrics != candidates[0].metrics for run in candidates):
        paths = ", ".join(str(run.path) for run in candidates)
        raise BaselineError(f"{len(candidates)} runs of the baseline {baseline} differ: {paths}; keep one")
    return candidates[0]


def measurement_notes(results: Sequence[RunResults]) -> Iterator[str]:
    """What a reader must know of how results that are shown together were measured."""
    said = [run.measurement for run in results if run.measurement is not None]
    silent = [run for run in results if run.measurement is None]
    if said and silent:
        yield (
            f"{', '.join(str(run.path) for run in silent)}: older than the record of precision, and shown with what "
            f"was measured in {said[0]}"
        )
    devices = sorted({measurement.last_digits for measurement in said})
    if len(devices) > 1:
        yield f"measured on {' and on '.join(devices)}: for that alone the last digits may differ"


def run_labels(runs: Sequence[RunResults]) -> list[str]:
    """What a run is called: its method, and its folder where a method has several runs (seeds, ablations).

    RANDOM WEIGHTS is added where the grounder was never trained.
    """
    count = Counter(run.method for run in runs)
    folders = [Path(os.path.abspath(run.path.parent)) for run in runs]  # for some may be named relative to here
    root = Path(os.path.commonpath(folders))
    alike = len({folder.name for folder in folders}) < len(folders)
    names = [str(folder.relative_to(root)) if alike else folder.name for folder in folders]
    labels = [
        run.method if count[run.method] == 1 else f"{run.method} ({n})" for run, n in zip(runs, names, strict=True)
    ]
    return [f"{label} {_RANDOM}" if run.random_weights else label for run, label in zip(runs, labels, strict=True)]


def _metric_names(runs: Sequence[RunResults]) -> tuple[str, ...]:
    """Every metric's name without its view, in the order of first appearance."""
    found = (MetricName.parse(key) for run in runs for key in run.metrics)
    return tuple(dict.fromkeys(name.metric for name in found if name.view in VIEWS))


def _title(runs: Sequence[RunResults], sentence_type: str | None, name_usual: bool) -> str:
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
    return str(conditions.pop()).replace(", ", sentences, 1) + name_measurement(measured, usual=name_usual) + random
