"""Tables I and II of the paper, and the numbers of its Fig. 2."""

from __future__ import annotations

from statistics import fmean

from stvg_nst.evaluation.bootstrap import LEVEL
from stvg_nst.report.findings import DROP, GAIN, REFERENCE, SCORE, Findings, Method, Quantity, over_runs
from stvg_nst.report.numbers import signed
from stvg_nst.report.paired import Difference, PairedBootstrap
from stvg_nst.report.rows import (
    LABELS,
    SPREAD_OVER_RUNS,
    baseline_identity,
    baseline_labels,
    deviation,
    identity,
    labels,
    methods_sheet,
    numbers,
    spread_cell,
)
from stvg_nst.report.sheet import Cell, Row, Section, Sheet
from stvg_nst.results.metric_names import MAIN, METRICS, MetricName, sentence_types_of

Record = dict[str, object]
_PAIRED = (
    f"'to {REFERENCE}' is the method less {REFERENCE} in the same scope (in the one that is named, where its own has "
    f"none), paired over the runs that both have, with a {100 * LEVEL:g} % bootstrap interval over clips; * where it "
    "leaves 0 out."
)
_MIXED = Quantity("MQ change", "MQ")
_TRADE_OFF = (GAIN, DROP, SCORE)


def table1(findings: Findings, bootstrap: PairedBootstrap) -> Sheet:
    """Table I: all four metrics on MQ by sentence type, with the difference to the baseline."""
    title = "Table I: Mixed Quality (HQ and LQ 1 : 1), by sentence type"
    return _by_sentence_type(findings, bootstrap, "table1", title, _MIXED)


def table2(findings: Findings, bootstrap: PairedBootstrap) -> Sheet:
    """Table II: the WAS in all four metrics by sentence type."""
    return _by_sentence_type(
        findings, bootstrap, "table2", "Table II: Weighted Adaptation Score, by sentence type", SCORE
    )


def figure2_table(findings: Findings, bootstrap: PairedBootstrap) -> Sheet:
    """What Fig. 2 shows: gain on LQ, drop on HQ, and their difference, of m_vIoU over all sentences.

    Over all grounders, and on each for itself, where there are several: what holds on one alone may be chance.
    """
    parts = [(None, findings), *findings.by_grounder.items()]
    names = [quantity.name for quantity in _TRADE_OFF]
    columns = (*LABELS, *names, *(f"{name} to {REFERENCE}" for name in names))
    sections, records = [], []
    for grounder, part in parts:
        found = [_trade_off(part, bootstrap, method, grounder) for method in part.methods]
        title = "" if len(parts) == 1 else "all grounders" if grounder is None else f"grounder {grounder}"
        rows = (row for method, (row, _) in zip(part.methods, found, strict=True) if method.begun)
        sections.append(Section(title, columns, tuple(rows)))
        records += [record for _, record in found]
    title = f"Fig. 2: restoration and forgetting, {MAIN}"
    return methods_sheet(
        findings, "fig2", title, sections, records, (f"{SPREAD_OVER_RUNS} The best of a scope is bold.", _PAIRED)
    )


def _trade_off(
    findings: Findings, bootstrap: PairedBootstrap, method: Method, grounder: str | None
) -> tuple[Row, Record]:
    cells, record = [*labels(method)], {**identity(method), "grounder": grounder}
    for quantity in _TRADE_OFF:
        spread = over_runs(method, quantity.view, quantity.number())
        cells.append(spread_cell(method, spread, ranked=quantity is not DROP))
        record |= numbers(quantity.name, spread)
    difference = None
    for quantity in _TRADE_OFF:
        difference = _to_reference(findings, bootstrap, method, quantity)
        cells.append(_difference_cell(findings, method, difference, quantity.sign))
        record |= _interval(f"{quantity.name} to {REFERENCE}", difference, quantity.sign)
    return tuple(cells), record | _reference_identity(findings, method, difference)


def _by_sentence_type(
    findings: Findings, bootstrap: PairedBootstrap, name: str, title: str, quantity: Quantity
) -> Sheet:
    columns = (*LABELS, *METRICS, f"{MAIN} to {REFERENCE}")
    sections, records = [], []
    for kind in sentence_types(findings):
        rows = []
        if quantity is not SCORE:
            row, record = _baseline(findings, quantity.view, kind)
            rows.append(row)
            records.append(record)
        for method in findings.methods:
            row, record = _method(findings, bootstrap, method, quantity, kind)
            rows += [row] if method.begun else []
            records.append(record)
        sections.append(Section(f"{kind} sentences" if kind else "all sentences", columns, tuple(rows)))
    best = "" if quantity is SCORE else "In parentheses the difference to the frozen grounder in the same runs. "
    words = (f"{SPREAD_OVER_RUNS} {best}The best of a scope is bold{', by its difference' if best else ''}.", _PAIRED)
    return methods_sheet(findings, name, title, sections, records, words)


def sentence_types(findings: Findings) -> tuple[str | None, ...]:
    """Those of the data; ``None``, all of them, where there is but one."""
    found = sentence_types_of(findings.baselines[0].results.metrics)
    return found if len(found) > 1 else (None,)


def _baseline(findings: Findings, view: str, kind: str | None) -> tuple[Row, Record]:
    means = {metric: findings.baseline_mean(str(MetricName(view, metric, kind))) for metric in METRICS}
    record = {**baseline_identity(findings), "sentence_type": kind or "all"}
    for metric, mean in means.items():
        record |= {metric: mean, **numbers(f"{metric} change", None)}
    record |= _interval(f"{MAIN} to {REFERENCE}", None) | dict.fromkeys(_REFERENCE_FIELDS)
    return (*baseline_labels(findings), *(Cell(f"{mean:.2f}") for mean in means.values()), Cell("")), record


def _method(
    findings: Findings, bootstrap: PairedBootstrap, method: Method, quantity: Quantity, kind: str | None
) -> tuple[Row, Record]:
    cells, record = [*labels(method)], {**identity(method), "sentence_type": kind or "all"}
    for metric in METRICS:
        change = over_runs(method, quantity.view, quantity.number(metric, kind))
        if quantity is SCORE:
            cells.append(spread_cell(method, change))
            record |= numbers(metric, change)
            continue
        key = str(MetricName(quantity.view, metric, kind))
        level = fmean(own.points[key] for own, _ in method.replicates) if method.replicates else None
        shown = change and f"{level:.2f} ({signed(change.mean)}{deviation(change)})"
        cells.append(Cell(shown, change.mean) if change and shown else spread_cell(method, None))
        record |= {metric: level, **numbers(f"{metric} change", change)}
    difference = _to_reference(findings, bootstrap, method, quantity, kind)
    cells.append(_difference_cell(findings, method, difference))
    record |= _interval(f"{MAIN} to {REFERENCE}", difference)
    return tuple(cells), record | _reference_identity(findings, method, difference)


def _to_reference(
    findings: Findings, bootstrap: PairedBootstrap, method: Method, quantity: Quantity, kind: str | None = None
) -> Difference | None:
    reference = findings.reference_of(method)
    if reference is None or reference is method:
        return None
    return bootstrap.difference(method, reference, quantity.view, MAIN, kind)


def _difference_cell(findings: Findings, method: Method, difference: Difference | None, sign: int = 1) -> Cell:
    """The star behind an interval says that zero lies outside; a reference in another scope is named."""
    reference = findings.reference_of(method)
    if difference is None or reference is None:
        return Cell("")
    low, high = sorted((sign * difference.low, sign * difference.high))
    elsewhere = f" ({reference.scope})" if reference.scope != method.scope else ""
    star = "*" if difference.decided else " "
    return Cell(f"{signed(sign * difference.mean)} [{low:+.1f}, {high:+.1f}]{star}{elsewhere}")


_REFERENCE_FIELDS = (f"scope of {REFERENCE}", f"pairs with {REFERENCE}")


def _reference_identity(findings: Findings, method: Method, difference: Difference | None) -> Record:
    """Which runs of null-space tuning a method is compared with, and how many of its own have one to be paired with."""
    reference = findings.reference_of(method)
    known = (None, None) if difference is None or reference is None else (reference.scope, difference.pairs)
    return dict(zip(_REFERENCE_FIELDS, known, strict=True))


def _interval(name: str, difference: Difference | None, sign: int = 1) -> Record:
    low, high = sorted((sign * difference.low, sign * difference.high)) if difference else (None, None)
    return {name: difference and sign * difference.mean, f"{name} low": low, f"{name} high": high}
