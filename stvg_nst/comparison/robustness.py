"""Beyond the paper's tables: by kind and severity of degradation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from statistics import fmean

from stvg_nst.comparison.replicates import Comparison, Method, Replicate
from stvg_nst.comparison.tables import (
    MAIN,
    Number,
    baseline_identity,
    baseline_labels,
    identity,
    labels,
    make_sheet,
    numbers,
    over_runs,
    signed_spread,
)
from stvg_nst.evaluation.views import kinds_of
from stvg_nst.metric_names import SEVERITY, SUMMARIES, view_label
from stvg_nst.report.severities import view_points
from stvg_nst.report.sheet import Cell, Section, Sheet
from stvg_nst.study.summary import Spread

Views = Mapping[str, float]


def robustness(comparison: Comparison) -> Sheet:
    """m_vIoU on LQ by kind and by severity, mean and worst over the kinds, and LQ relative to HQ.

    Methods are shown by what they change, for grounders and draws differ in level. The records hold every kind at every
    severity too, on the samples that the benchmark draws there.
    """
    found = {id(r): views(r) for r in _everyone(comparison)}
    every = [*dict.fromkeys(view for own in found.values() for view in own)]
    shown = [*kinds_of(dict.fromkeys(every)), *(v for v in every if v.startswith(SEVERITY)), *SUMMARIES]
    levels = {view: _level([found[id(r)] for r in comparison.baselines], view) for view in every}
    rows = [(*baseline_labels(comparison), *(Cell(_shown(levels.get(view))) for view in shown))]
    records: list[dict[str, object]] = [
        {**baseline_identity(comparison), "view": view, MAIN: level, **numbers("change", None)}
        for view, level in levels.items()
    ]
    for method in comparison.methods:
        changes = {view: over_runs(method, view, _change_on(view, found)) for view in every}
        if method.begun:
            rows.append((*labels(method), *(_signed_mean(method, changes[view]) for view in shown)))
        own = [found[id(replicate)] for replicate, _ in method.replicates]
        records += [
            {**identity(method), "view": view, MAIN: _level(own, view)} | numbers("change", changes[view])
            for view in every
        ]
    columns = ("Scope", "Method", "Trainable", "Runs", *map(_label, shown))
    title = f"Robustness: {MAIN} on LQ by kind and severity of degradation"
    words = (
        f"{MAIN} in percent points: of the frozen grounder as it is, of methods the mean difference to it in the same "
        "runs; the .csv has deviations. The samples of one kind or severity are other clips than those of the next. "
        "The best of a scope is bold.",
    )
    return make_sheet(comparison, "robustness", title, (Section("", columns, tuple(rows)),), records, words)


def views(replicate: Replicate) -> Views:
    """m_vIoU on every view of the benchmark; see ``stvg_nst.evaluation.views``."""
    points = view_points(replicate.results)
    return {key.split("/")[0]: value for key, value in points.items() if key.split("/")[1:] == [MAIN]}


def severity_levels(replicates: Sequence[Replicate]) -> dict[tuple[str, str], float]:
    """Mean m_vIoU of each kind at each severity, over the replicates that were shown some of it."""
    found = [_cells(replicate) for replicate in replicates]
    return {cell: fmean(own[cell] for own in found if cell in own) for cell in dict.fromkeys(chain(*found))}


def severity_changes(pairs: Sequence[tuple[Replicate, Replicate]]) -> dict[tuple[str, str], float]:
    """The same of the difference to each replicate's own baseline."""
    found = [(_cells(own), _cells(baseline)) for own, baseline in pairs]
    changes = [{cell: own[cell] - base[cell] for cell in own if cell in base} for own, base in found]
    return {cell: fmean(own[cell] for own in changes if cell in own) for cell in dict.fromkeys(chain(*changes))}


def _cells(replicate: Replicate) -> dict[tuple[str, str], float]:
    split = ((view.partition(":"), value) for view, value in views(replicate).items())
    return {(kind, severity): value for (kind, colon, severity), value in split if colon}


def _change_on(view: str, found: Mapping[int, Views]) -> Number:
    """The difference to the baseline, where both were shown some of the view; ``found`` is by identity."""

    def change(own: Replicate, baseline: Replicate) -> float | None:
        after, before = found[id(own)].get(view), found[id(baseline)].get(view)
        return None if after is None or before is None else after - before

    return change


def _everyone(comparison: Comparison) -> Iterator[Replicate]:
    yield from comparison.baselines
    for method in comparison.methods:
        yield from chain(*method.replicates)


def _level(found: Sequence[Views], view: str) -> float | None:
    values = [own[view] for own in found if view in own]
    return fmean(values) if values else None


def _shown(level: float | None) -> str:
    return "-" if level is None else f"{level:.2f}"


def _signed_mean(method: Method, spread: Spread | None) -> Cell:
    """Without the deviation, for the columns are many."""
    return signed_spread(method, spread and Spread((spread.mean,)))


def _label(view: str) -> str:
    return view_label(view).replace("severity", "sev.").replace("_", " ")
