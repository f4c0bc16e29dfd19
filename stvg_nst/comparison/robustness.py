"""Beyond the paper's tables: by kind and severity of degradation, and what a method costs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean

from stvg_nst.comparison.replicates import Comparison, Replicate
from stvg_nst.comparison.sheet import Cell, Section, Sheet
from stvg_nst.comparison.tables import (
    MAIN,
    baseline_identity,
    baseline_labels,
    identity,
    labels,
    make_sheet,
    numbers,
)
from stvg_nst.evaluation.views import MEAN_KIND, RELATIVE, SEVERITY, WORST_KIND, kinds_of
from stvg_nst.report.degradations import view_points
from stvg_nst.study.summary import Spread

_SUMMARIES = {MEAN_KIND: "mean of kinds", WORST_KIND: "worst kind", RELATIVE: "LQ / HQ, %"}
Views = Mapping[str, float]


def robustness(comparison: Comparison) -> Sheet:
    """m_vIoU on LQ by kind and by severity, mean and worst over the kinds, and LQ relative to HQ.

    The records hold every kind at every severity too, on the samples that the benchmark draws there.
    """
    everyone = [(cells, who, [views(own) for own in replicates]) for cells, who, replicates in _rows(comparison)]
    every = [*dict.fromkeys(view for _, _, found in everyone for replicate in found for view in replicate)]
    shown = [*kinds_of(dict.fromkeys(every)), *(v for v in every if v.startswith(SEVERITY)), *_SUMMARIES]
    rows, records = [], []
    for cells, who, found in everyone:
        spreads = {view: Spread(tuple(r[view] for r in found)) if found else None for view in every}
        rows.append((*cells, *(_mean(spreads.get(view)) for view in shown)))
        records += [{**who, "view": view, **numbers(MAIN, spread)} for view, spread in spreads.items()]
    columns = ("Scope", "Method", "Trainable", "Runs", *map(_label, shown))
    title = f"Robustness: {MAIN} on LQ by kind and severity of degradation"
    section = Section("", columns, tuple(rows))
    return make_sheet(comparison, "robustness", title, (section,), records, intervals=False)


def views(replicate: Replicate) -> Views:
    """m_vIoU on every view of the benchmark; see ``stvg_nst.evaluation.views``."""
    points = view_points(replicate.results)
    return {key.split("/")[0]: value for key, value in points.items() if key.split("/")[1:] == [MAIN]}


def severity_matrix(replicates: Sequence[Replicate]) -> dict[tuple[str, str], float]:
    """Mean m_vIoU of each kind at each severity."""
    found = [views(replicate) for replicate in replicates]
    cells = [view for view in (found[0] if found else ()) if ":" in view]
    kinds = {cell: tuple(cell.split(":")) for cell in cells}
    return {(kinds[cell][0], kinds[cell][1]): fmean(replicate[cell] for replicate in found) for cell in cells}


def _rows(comparison: Comparison) -> Iterator[tuple[tuple[Cell, ...], dict[str, object], Sequence[Replicate]]]:
    yield baseline_labels(comparison), baseline_identity(comparison), comparison.baselines
    for method in comparison.methods:
        if method.begun:
            yield labels(method), identity(method), [own for own, _ in method.replicates]


def _mean(spread: Spread | None) -> Cell:
    """The mean alone, for the columns are many; the records hold the deviation."""
    return Cell("-") if spread is None else Cell(f"{spread.mean:.2f}", spread.mean)


def _label(view: str) -> str:
    return _SUMMARIES.get(view, view.replace(SEVERITY, "sev. ").replace("_", " "))
