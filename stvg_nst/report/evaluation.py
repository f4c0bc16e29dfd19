"""An evaluation of tubes in files as a sheet: protocols, views, degradations and sentence types."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping

from stvg_nst.counting import counted
from stvg_nst.evaluation.bootstrap import LEVEL, Interval
from stvg_nst.evaluation.evaluator import Evaluation, ProtocolResult
from stvg_nst.evaluation.tubes import SENTENCE_TYPES
from stvg_nst.evaluation.views import kinds_of
from stvg_nst.report.numbers import signed
from stvg_nst.report.sheet import Cell, Row, Section, Sheet
from stvg_nst.results.metric_names import (
    MAIN,
    METRICS,
    SEVERITY,
    SUMMARIES,
    VIEWS,
    MetricName,
    sentence_types_of,
    view_label,
    views_of,
)

_COLUMNS = ("", *METRICS)


def evaluation_sheet(evaluation: Evaluation) -> Sheet:
    """Protocols side by side, then the first of them: every view, differences to the baseline, sentence types."""
    against = "" if evaluation.baseline is None else f", against {evaluation.baseline}"
    title = (
        f"{evaluation.method} on {evaluation.dataset} {evaluation.split}: {evaluation.coverage.samples} samples of "
        f"{counted(evaluation.num_items, 'item')}{against}"
    )
    return Sheet(title, tuple(_sections(evaluation)), tuple(_notes(evaluation)))


def _sections(evaluation: Evaluation) -> Iterator[Section]:
    main, result = next(iter(evaluation.protocols.items()))
    views = _views(result.metrics)
    yield _by_protocol(evaluation)
    yield _values(f"every view, {main}", result, [(view_label(view), view, None) for view in views])
    if kinds_of(views):
        found = views_of(result.metrics)
        points = {view: result.metrics[key] for view in found if (key := str(MetricName(view, MAIN))) in result.metrics}
        yield _by_degradation(f"{MAIN} by kind and severity, {main}", points, digits=2)
    if evaluation.separation:
        title = f"AUROC of the verdicts of {evaluation.method} on the quality, by kind and severity"
        yield _by_degradation(title, evaluation.separation, digits=3)
    if evaluation.bootstrap and evaluation.baseline is not None:
        rows = (
            _row(view_label(view), view, None, result.differences, result.difference_intervals, {}, difference=True)
            for view in views
            if view != "WAS"
        )
        title = f"differences to {evaluation.baseline}, paired over clips, {main}"
        yield Section(title, _COLUMNS, tuple(rows), labels=1)
    found = sentence_types_of(result.metrics)
    types = [kind for kind in SENTENCE_TYPES if kind in found]
    if len(types) > 1:
        by_type = [(f"{view}, {kind}", view, kind) for view in VIEWS if view in views for kind in types]
        yield _values(f"by sentence type, {main}", result, by_type)


def _notes(evaluation: Evaluation) -> Iterator[str]:
    """What a reader must know to believe the numbers."""
    for protocol, reason in evaluation.left_out.items():
        yield f"without protocol {protocol}: {reason}"
    if evaluation.frames_taken_out:
        yield f"taken out of the ground truth, to count nowhere: {counted(evaluation.frames_taken_out, 'frame')}"
    if empty := evaluation.boxes_without_area:
        said = "1 box of the ground truth has" if empty == 1 else f"{empty:,} boxes of the ground truth have"
        yield f"{said} no area, and so no overlap"
    for method, coverage in (
        (evaluation.method, evaluation.coverage),
        (f"the baseline {evaluation.baseline}", evaluation.baseline_coverage),
    ):
        if coverage is None:
            continue
        if coverage.missing:
            yield f"{method}: {coverage.missing} of {coverage.samples} samples have no prediction and score 0"
        if coverage.unknown:
            yield f"{method}: {coverage.unknown} predictions are of samples that were not asked for, and were ignored"
        if coverage.frames_without_box:
            yield f"{method}: no box, and so no overlap, in {counted(coverage.frames_without_box, 'predicted frame')}"
    if evaluation.bootstrap:
        yield (
            f"[low, high] are {100 * LEVEL:g} % percentile intervals of {evaluation.bootstrap} bootstrap replicates "
            f"over {counted(evaluation.num_clips, 'clip')} with all their sentences, seed {evaluation.seed}"
        )
    if evaluation.bootstrap and evaluation.num_clips == 1 < evaluation.num_items:
        yield "all items are of one clip, so that intervals have no width; the ground truth may name the 'clip' of each"


def _by_protocol(evaluation: Evaluation) -> Section:
    rows = (
        _row(f"{protocol}, {view}", view, None, result.metrics, result.intervals, result.differences)
        for protocol, result in evaluation.protocols.items()
        for view in VIEWS
        if str(MetricName(view, METRICS[0])) in result.metrics
    )
    return Section("by protocol", _COLUMNS, tuple(rows), labels=1)


def _values(title: str, result: ProtocolResult, shown: Iterable[tuple[str, str, str | None]]) -> Section:
    """Of every label, view and sentence type a row."""
    rows = (_row(*each, result.metrics, result.intervals, result.differences) for each in shown)
    return Section(title, _COLUMNS, tuple(rows), labels=1)


def _by_degradation(title: str, numbers: Mapping[str, float], *, digits: int) -> Section:
    """Of one number a view, those of every kind at every severity."""
    severities = [view.removeprefix(SEVERITY) for view in numbers if view.startswith(SEVERITY)]

    def row(label: str, views: Iterable[str]) -> Row:
        return Cell(label), *(Cell(f"{numbers[view]:.{digits}f}" if view in numbers else "") for view in views)

    rows = [row(kind, [*(f"{kind}:{severity}" for severity in severities), kind]) for kind in kinds_of(numbers)]
    rows.append(row("all kinds", [*(f"{SEVERITY}{severity}" for severity in severities), "LQ"]))
    return Section(title, ("severity", *severities, "all"), tuple(rows), labels=1)


def _views(metrics: Mapping[str, float]) -> tuple[str, ...]:
    """Views over all sentences, but for the cells of one kind and one severity, which have a table of their own."""
    found = views_of(metrics)
    severities = [view for view in found if view.startswith(SEVERITY)]
    *qualities, score = VIEWS
    return tuple(v for v in (*qualities, *kinds_of(found), *severities, *SUMMARIES, score) if v in found)


def _row(
    label: str,
    view: str,
    sentence_type: str | None,
    values: Mapping[str, float],
    intervals: Mapping[str, Interval],
    changes: Mapping[str, float],
    *,
    difference: bool = False,
) -> Row:
    """Cells like ``53.04 (-0.50)``, or ``53.04 [52.1, 54.0]`` with intervals; empty where there is nothing."""

    def written(points: float, digits: int = 2) -> str:
        return signed(points, digits) if difference or view == "WAS" else f"{points:.{digits}f}"

    def cell(key: str) -> Cell:
        if key not in values or math.isnan(values[key]):
            return Cell("-" if key in values else "")
        if key in intervals:
            low, high = (written(edge, 1) for edge in intervals[key])
            return Cell(f"{written(values[key])} [{low}, {high}]")
        return Cell(written(values[key]), change=f" ({signed(changes[key])})" if key in changes else "")

    return Cell(label), *(cell(str(MetricName(view, metric, sentence_type))) for metric in METRICS)
