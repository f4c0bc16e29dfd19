"""Beyond the paper's tables: methods by kind and severity of degradation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from math import isnan
from statistics import fmean

from stvg_nst.evaluation.views import kinds_of
from stvg_nst.report.findings import Findings, Number, Replicate, over_runs
from stvg_nst.report.numbers import level
from stvg_nst.report.rows import (
    LABELS,
    baseline_identity,
    baseline_labels,
    identity,
    labels,
    methods_sheet,
    numbers,
    spread_cell,
)
from stvg_nst.report.severities import view_points
from stvg_nst.report.sheet import Cell, Section, Sheet
from stvg_nst.results.metric_names import MAIN, SEVERITY, SUMMARIES, MetricName, view_label

Views = Mapping[str, float]


def robustness(findings: Findings) -> Sheet:
    """m_vIoU on LQ by kind and by severity, mean and worst over the kinds, and LQ relative to HQ.

    Methods are shown by what they change, for grounders and draws differ in level. The records hold every kind at every
    severity too, on the samples that the benchmark draws there.
    """
    pairs = [pair for method in findings.methods for pair in method.replicates]
    found = {id(r): _views(r) for r in (*findings.baselines, *chain(*pairs))}
    every = [*dict.fromkeys(view for own in found.values() for view in own)]
    shown = [*kinds_of(every), *(v for v in every if v.startswith(SEVERITY)), *SUMMARIES]
    levels = {view: _level([found[id(r)] for r in findings.baselines], view) for view in every}
    rows = [(*baseline_labels(findings), *(Cell(level(levels.get(view))) for view in shown))]
    records: list[dict[str, object]] = [
        {**baseline_identity(findings), "view": view, MAIN: points, **numbers("change", None)}
        for view, points in levels.items()
    ]
    for method in findings.methods:
        changes = {view: over_runs(method, view, _change_on(view, found)) for view in every}
        if method.begun:
            rows.append((*labels(method), *(spread_cell(method, changes[view], deviates=False) for view in shown)))
        own = [found[id(replicate)] for replicate, _ in method.replicates]
        records += [
            {**identity(method), "view": view, MAIN: _level(own, view)} | numbers("change", changes[view])
            for view in every
        ]
    columns = (*LABELS, *(view_label(view).replace("severity", "sev.").replace("_", " ") for view in shown))
    title = f"Robustness: {MAIN} on LQ by kind and severity of degradation"
    words = (
        f"{MAIN} in percent points: of the frozen grounder as it is, of methods the mean difference to it in the same "
        "runs; the .csv has deviations. The samples of one kind or severity are other clips than those of the next. "
        "The best of a scope is bold.",
    )
    return methods_sheet(findings, "robustness", title, (Section("", columns, tuple(rows)),), records, words)


def severity_levels(replicates: Sequence[Replicate]) -> dict[tuple[str, str], float]:
    """Mean m_vIoU of each kind at each severity, over the replicates that were shown some of it."""
    return _means([_cells(replicate) for replicate in replicates])


def severity_changes(pairs: Sequence[tuple[Replicate, Replicate]]) -> dict[tuple[str, str], float]:
    """The same of the difference to each replicate's own baseline."""
    found = [(_cells(own), _cells(baseline)) for own, baseline in pairs]
    return _means([{cell: own[cell] - base[cell] for cell in own if cell in base} for own, base in found])


def _means(found: Sequence[dict[tuple[str, str], float]]) -> dict[tuple[str, str], float]:
    return {cell: fmean(own[cell] for own in found if cell in own) for cell in dict.fromkeys(chain(*found))}


def _views(replicate: Replicate) -> Views:
    """m_vIoU on every view of the benchmark where it is defined: LQ relative to an HQ of 0 is not."""
    points = ((MetricName.parse(key), value) for key, value in view_points(replicate.results).items())
    return {name.view: value for name, value in points if name == MetricName(name.view, MAIN) and not isnan(value)}


def _cells(replicate: Replicate) -> dict[tuple[str, str], float]:
    split = ((view.partition(":"), value) for view, value in _views(replicate).items())
    return {(kind, severity): value for (kind, colon, severity), value in split if colon}


def _change_on(view: str, found: Mapping[int, Views]) -> Number:
    """The difference to the baseline, where both were shown some of the view; ``found`` is by identity."""

    def change(own: Replicate, baseline: Replicate) -> float | None:
        after, before = found[id(own)].get(view), found[id(baseline)].get(view)
        return None if after is None or before is None else after - before

    return change


def _level(found: Sequence[Views], view: str) -> float | None:
    values = [own[view] for own in found if view in own]
    return fmean(values) if values else None
