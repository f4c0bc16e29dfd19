"""Tables I and II of the paper, and the numbers of its Fig. 2."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

from stvg_nst.comparison.paired import LEVEL, Difference, PairedBootstrap
from stvg_nst.comparison.replicates import REFERENCE, Comparison, Method
from stvg_nst.comparison.sheet import Cell, Section, Sheet
from stvg_nst.evaluation.views import METRICS
from stvg_nst.report.table import parameter_count, signed
from stvg_nst.study.summary import Spread

MAIN = "m_vIoU"
BASELINE = "Zero-shot"


def table1(comparison: Comparison, bootstrap: PairedBootstrap) -> Sheet:
    """Table I: all four metrics on MQ by sentence type, with the difference to the baseline."""
    return _by_sentence_type(
        comparison, bootstrap, "table1", "Table I: Mixed Quality (HQ and LQ 1 : 1), by sentence type", "MQ"
    )


def table2(comparison: Comparison, bootstrap: PairedBootstrap) -> Sheet:
    """Table II: the WAS in all four metrics by sentence type."""
    return _by_sentence_type(
        comparison, bootstrap, "table2", "Table II: Weighted Adaptation Score, by sentence type", "WAS"
    )


def figure2_table(comparison: Comparison, bootstrap: PairedBootstrap) -> Sheet:
    """What Fig. 2 shows: gain on LQ, drop on HQ, and their difference, of m_vIoU over all sentences."""
    quantities = {"LQ gain": ("LQ", 1), "HQ drop": ("HQ", -1), "WAS": ("WAS", 1)}
    columns = ("Scope", "Method", "Trainable", "Runs", *quantities, *(f"{name} to {REFERENCE}" for name in quantities))
    rows, records = [], []
    for method in comparison.methods:
        cells, record = [], identity(method)
        for name, (view, sign) in quantities.items():
            spread = changes(method, view, sign)
            cells.append(signed_spread(spread, ranked=name != "HQ drop"))
            record |= numbers(name, spread)
        for name, (view, sign) in quantities.items():
            difference = _to_reference(comparison, bootstrap, method, view)
            cells.append(_shown_difference(difference, sign))
            record |= _interval(f"{name} to {REFERENCE}", difference, sign)
        rows += [(*labels(method), *cells)] if method.begun else []
        records.append(record)
    title = f"Fig. 2: restoration and forgetting, {MAIN}"
    return make_sheet(comparison, "fig2", title, (Section("", columns, tuple(rows)),), records)


def changes(method: Method, view: str, sign: int = 1, metric: str = MAIN) -> Spread | None:
    """A metric's difference to the baseline, or the WAS, over the replicates; ``sign`` -1 for a drop."""
    key = f"{view}/{metric}"
    values = (
        own.points[key] if view == "WAS" else sign * (own.points[key] - base.points[key])
        for own, base in method.replicates
    )
    return Spread(tuple(values)) if method.replicates else None


def _by_sentence_type(comparison: Comparison, bootstrap: PairedBootstrap, name: str, title: str, view: str) -> Sheet:
    columns = ("Scope", "Method", "Trainable", "Runs", *METRICS, f"{MAIN} to {REFERENCE}")
    sections, records = [], []
    for kind in sentence_types(comparison):
        keys = [f"{view}/{kind}/{metric}" if kind else f"{view}/{metric}" for metric in METRICS]
        rows = [] if view == "WAS" else [_baseline_row(comparison, keys)]
        records += [] if view == "WAS" else [_baseline_record(comparison, kind, keys)]
        for method in comparison.methods:
            difference = _to_reference(comparison, bootstrap, method, view, kind)
            cells = [_cell(method, key) for key in keys]
            rows += [(*labels(method), *cells, _shown_difference(difference))] if method.begun else []
            record = {**identity(method), "sentence_type": kind or "all"}
            for metric, key in zip(METRICS, keys, strict=True):
                record |= numbers(metric, _spread(method, key))
            records.append(record | _interval(f"{MAIN} to {REFERENCE}", difference))
        sections.append(Section(f"{kind} sentences" if kind else "all sentences", columns, tuple(rows)))
    return make_sheet(comparison, name, title, tuple(sections), records)


def sentence_types(comparison: Comparison) -> tuple[str | None, ...]:
    """Those of the data; ``None``, all of them, where there is but one."""
    keys = (key for key in comparison.baselines[0].results.metrics if key.count("/") == 2)
    found = tuple(dict.fromkeys(key.split("/")[1] for key in keys))
    return found if len(found) > 1 else (None,)


def _baseline_row(comparison: Comparison, keys: Sequence[str]) -> tuple[Cell, ...]:
    means = (fmean(baseline.points[key] for baseline in comparison.baselines) for key in keys)
    return (*baseline_labels(comparison), *(Cell(f"{mean:.2f}") for mean in means), Cell(""))


def _baseline_record(comparison: Comparison, kind: str | None, keys: Sequence[str]) -> dict[str, object]:
    record = {**baseline_identity(comparison), "sentence_type": kind or "all"}
    for metric, key in zip(METRICS, keys, strict=True):
        record |= numbers(metric, Spread(tuple(baseline.points[key] for baseline in comparison.baselines)))
    return record | _interval(f"{MAIN} to {REFERENCE}", None)


def _spread(method: Method, key: str) -> Spread | None:
    return Spread(tuple(own.points[key] for own, _ in method.replicates)) if method.replicates else None


def _cell(method: Method, key: str) -> Cell:
    spread = _spread(method, key)
    if spread is None:
        return Cell("failed" if method.failed else "-")
    if key.startswith("WAS/"):
        return signed_spread(spread)
    change = fmean(own.points[key] - base.points[key] for own, base in method.replicates)
    return Cell(f"{plain_spread(spread).text} ({signed(change)})", spread.mean)


def _to_reference(
    comparison: Comparison, bootstrap: PairedBootstrap, method: Method, view: str, kind: str | None = None
) -> Difference | None:
    reference = comparison.reference_of(method)
    if reference is None or reference is method:
        return None
    return bootstrap.difference(method, reference, view, MAIN, kind)


def labels(method: Method) -> tuple[Cell, ...]:
    """The first cells of a method's row: scope, name, trainable parameters, runs."""
    trainable = method.trainable_parameters
    runs = f"{len(method.replicates)}" + ("" if method.complete else f" of {method.num_expected}")
    shown = "-" if trainable is None else parameter_count(trainable)
    return Cell(method.scope), Cell(method.name), Cell(shown), Cell(runs)


def baseline_labels(comparison: Comparison) -> tuple[Cell, ...]:
    return Cell(""), Cell(BASELINE), Cell("0"), Cell(str(len(comparison.baselines)))


def identity(method: Method) -> dict[str, object]:
    """The first fields of a method's record."""
    return {
        "scope": method.scope,
        "method": method.name,
        "trainable": method.trainable_parameters,
        "runs": len(method.replicates),
        "of_runs": method.num_expected,
    }


def baseline_identity(comparison: Comparison) -> dict[str, object]:
    count = len(comparison.baselines)
    return {"scope": "", "method": BASELINE, "trainable": 0, "runs": count, "of_runs": count}


def plain_spread(spread: Spread | None) -> Cell:
    if spread is None:
        return Cell("-")
    return Cell(f"{spread.mean:.2f}" + _deviation(spread), spread.mean)


def signed_spread(spread: Spread | None, *, ranked: bool = True) -> Cell:
    if spread is None:
        return Cell("-")
    return Cell(signed(spread.mean) + _deviation(spread), spread.mean if ranked else None)


def _deviation(spread: Spread) -> str:
    return "" if spread.deviation is None else f" \u00b1 {spread.deviation:.2f}"


def _shown_difference(difference: Difference | None, sign: int = 1) -> Cell:
    """The star behind an interval says that zero lies outside."""
    if difference is None:
        return Cell("")
    low, high = sorted((sign * difference.low, sign * difference.high))
    return Cell(f"{signed(sign * difference.mean)} [{low:+.1f}, {high:+.1f}]" + ("*" if difference.decided else " "))


def numbers(name: str, spread: Spread | None) -> dict[str, object]:
    """The fields of a record that hold a number."""
    return {f"{name} mean": spread and spread.mean, f"{name} std": spread and spread.deviation}


def _interval(name: str, difference: Difference | None, sign: int = 1) -> dict[str, object]:
    low, high = sorted((sign * difference.low, sign * difference.high)) if difference else (None, None)
    return {name: difference and sign * difference.mean, f"{name} low": low, f"{name} high": high}


def make_sheet(
    comparison: Comparison,
    name: str,
    title: str,
    sections: tuple[Section, ...],
    records: Sequence[Mapping[str, object]],
    *,
    intervals: bool = True,
) -> Sheet:
    """A sheet that says what was measured, and what is missing of it."""
    missing = "" if comparison.complete else ", INCOMPLETE"
    words = (
        f"{comparison.conditions}. Percent points, mean \u00b1 sample standard deviation over runs: a run is a tuning "
        "seed on a grounder, tested on a draw of the benchmark. In parentheses the difference to the frozen grounder. "
        "The best of a scope is bold."
    )
    paired = (
        f"'to {REFERENCE}' is the method less {REFERENCE} in the same scope (the last, where its own has none), paired "
        f"over runs, with a {100 * LEVEL:g} % bootstrap interval over clips; * where it leaves 0 out."
    )
    notes = (words, *((paired,) if intervals else ()), *comparison.notes)
    return Sheet(name, f"{comparison.title}. {title}{missing}", sections, tuple(records), notes)
