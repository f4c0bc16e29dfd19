"""Tables I and II of the paper, and the numbers of its Fig. 2."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import chain
from statistics import fmean

from stvg_nst.comparison.paired import LEVEL, Difference, PairedBootstrap
from stvg_nst.comparison.replicates import REFERENCE, Comparison, Method, Replicate
from stvg_nst.metric_names import METRICS
from stvg_nst.report.numbers import parameter_count, signed
from stvg_nst.report.sheet import Cell, Section, Sheet
from stvg_nst.study.summary import Spread

MAIN = "m_vIoU"
BASELINE = "Zero-shot"
Number = Callable[[Replicate, Replicate], float | None]
"""Of a replicate and its baseline; ``None`` where these two do not have it."""

_SPREAD = (
    "Percent points, mean \u00b1 sample standard deviation over runs: a run is a tuning seed on a grounder, tested on "
    "a draw of the benchmark. On HQ, which no draw touches, a seed on a grounder counts once; where only one of them "
    "stands, its draws are averaged, for they are one training."
)
_PAIRED = (
    f"'to {REFERENCE}' is the method less {REFERENCE} in the same scope (in the one that is named, where its own has "
    f"none), paired over the runs that both have, with a {100 * LEVEL:g} % bootstrap interval over clips; * where it "
    "leaves 0 out."
)


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
    """What Fig. 2 shows: gain on LQ, drop on HQ, and their difference, of m_vIoU over all sentences.

    Over all grounders, and on each for itself, where there are several: what holds on one alone may be chance.
    """
    parts = [(None, comparison), *comparison.by_grounder.items()]
    sections, records = [], []
    for grounder, part in parts:
        rows, found = _trade_off(part, bootstrap, grounder)
        sections.append(Section(_part_title(grounder) if len(parts) > 1 else "", _TRADE_OFF_COLUMNS, rows))
        records += found
    title = f"Fig. 2: restoration and forgetting, {MAIN}"
    words = (f"{_SPREAD} The best of a scope is bold.", _PAIRED)
    return make_sheet(comparison, "fig2", title, tuple(sections), records, words)


_TRADE_OFF = {"LQ gain": ("LQ", 1), "HQ drop": ("HQ", -1), "WAS": ("WAS", 1)}
_TRADE_OFF_COLUMNS = (
    *("Scope", "Method", "Trainable", "Runs"),
    *_TRADE_OFF,
    *(f"{name} to {REFERENCE}" for name in _TRADE_OFF),
)


def _part_title(grounder: str | None) -> str:
    return "all grounders" if grounder is None else f"grounder {grounder}"


def _trade_off(
    comparison: Comparison, bootstrap: PairedBootstrap, grounder: str | None
) -> tuple[tuple[tuple[Cell, ...], ...], list[dict[str, object]]]:
    """The rows and the records of what stands on a grounder, or on all of them: ``None``."""
    rows, records = [], []
    for method in comparison.methods:
        cells, record = [], {**identity(method), "grounder": grounder}
        for name, (view, sign) in _TRADE_OFF.items():
            spread = changes(method, view, sign)
            cells.append(signed_spread(method, spread, ranked=name != "HQ drop"))
            record |= numbers(name, spread)
        for name, (view, sign) in _TRADE_OFF.items():
            difference = _to_reference(comparison, bootstrap, method, view)
            cells.append(_shown_difference(comparison, method, difference, sign))
            record |= _interval(f"{name} to {REFERENCE}", difference, sign)
        rows += [(*labels(method), *cells)] if method.begun else []
        records.append(record | _reference_identity(comparison, method, difference))
    return tuple(rows), records


def changes(method: Method, view: str, sign: int = 1) -> Spread | None:
    """The main metric's difference to the baseline, or the WAS, over the runs; ``sign`` -1 for a drop."""
    key = f"{view}/{MAIN}"
    return over_runs(method, view, lambda own, base: sign * _change(own, base, key))


def over_runs(method: Method, view: str, number: Number) -> Spread | None:
    """A number of every replicate that has it; ``None`` where none does.

    The draws of a run are averaged where they would only pretend to more runs than there are: on HQ, which no draw
    touches, and where one run alone stands.
    """
    by_run: defaultdict[tuple[str | None, int | None], list[float]] = defaultdict(list)
    for own, baseline in method.replicates:
        if (value := number(own, baseline)) is not None:
            by_run[own.grounder, own.seed].append(value)
    averaged = view == "HQ" or len(by_run) == 1
    values = map(fmean, by_run.values()) if averaged else chain.from_iterable(by_run.values())
    return Spread(tuple(values)) if by_run else None


def _change(own: Replicate, baseline: Replicate, key: str) -> float:
    """The WAS is a difference already."""
    return own.points[key] if key.startswith("WAS/") else own.points[key] - baseline.points[key]


def _by_sentence_type(comparison: Comparison, bootstrap: PairedBootstrap, name: str, title: str, view: str) -> Sheet:
    columns = ("Scope", "Method", "Trainable", "Runs", *METRICS, f"{MAIN} to {REFERENCE}")
    sections, records = [], []
    for kind in sentence_types(comparison):
        keys = [f"{view}/{kind}/{metric}" if kind else f"{view}/{metric}" for metric in METRICS]
        rows = [] if view == "WAS" else [_baseline_row(comparison, keys)]
        records += [] if view == "WAS" else [_baseline_record(comparison, kind, keys)]
        for method in comparison.methods:
            difference = _to_reference(comparison, bootstrap, method, view, kind)
            cells = [_cell(method, view, key) for key in keys]
            if method.begun:
                rows.append((*labels(method), *cells, _shown_difference(comparison, method, difference)))
            record = {**identity(method), "sentence_type": kind or "all"}
            for metric, key in zip(METRICS, keys, strict=True):
                record |= _metric_numbers(method, view, metric, key)
            record |= _interval(f"{MAIN} to {REFERENCE}", difference)
            records.append(record | _reference_identity(comparison, method, difference))
        sections.append(Section(f"{kind} sentences" if kind else "all sentences", columns, tuple(rows)))
    best = "" if view == "WAS" else "In parentheses the difference to the frozen grounder in the same runs. "
    words = (f"{_SPREAD} {best}The best of a scope is bold{', by its difference' if best else ''}.", _PAIRED)
    return make_sheet(comparison, name, title, tuple(sections), records, words)


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
        record |= {metric: fmean(baseline.points[key] for baseline in comparison.baselines)}
        record |= numbers(f"{metric} change", None)
    return record | _interval(f"{MAIN} to {REFERENCE}", None) | dict.fromkeys(_REFERENCE_FIELDS)


def _cell(method: Method, view: str, key: str) -> Cell:
    change = over_runs(method, view, lambda own, base: _change(own, base, key))
    if change is None or view == "WAS":
        return signed_spread(method, change)
    level = fmean(own.points[key] for own, _ in method.replicates)
    return Cell(f"{level:.2f} ({signed(change.mean)}{_deviation(change)})", change.mean)


def _metric_numbers(method: Method, view: str, metric: str, key: str) -> dict[str, object]:
    change = over_runs(method, view, lambda own, base: _change(own, base, key))
    if view == "WAS":
        return numbers(metric, change)
    level = fmean(own.points[key] for own, _ in method.replicates) if method.replicates else None
    return {metric: level, **numbers(f"{metric} change", change)}


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
    runs += f", {method.num_failed} failed" if method.num_failed else ""
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
        "failed": method.num_failed,
    }


def baseline_identity(comparison: Comparison) -> dict[str, object]:
    count = len(comparison.baselines)
    return {"scope": "", "method": BASELINE, "trainable": 0, "runs": count, "of_runs": count, "failed": 0}


def signed_spread(method: Method, spread: Spread | None, *, ranked: bool = True) -> Cell:
    if spread is None:
        return Cell("failed" if method.num_failed else "-")
    return Cell(signed(spread.mean) + _deviation(spread), spread.mean if ranked else None)


def _deviation(spread: Spread) -> str:
    return "" if spread.deviation is None else f" \u00b1 {spread.deviation:.2f}"


def _shown_difference(comparison: Comparison, method: Method, difference: Difference | None, sign: int = 1) -> Cell:
    """The star behind an interval says that zero lies outside; a reference in another scope is named."""
    reference = comparison.reference_of(method)
    if difference is None or reference is None:
        return Cell("")
    low, high = sorted((sign * difference.low, sign * difference.high))
    elsewhere = f" ({reference.scope})" if reference.scope != method.scope else ""
    star = "*" if difference.decided else " "
    return Cell(f"{signed(sign * difference.mean)} [{low:+.1f}, {high:+.1f}]{star}{elsewhere}")


_REFERENCE_FIELDS = (f"scope of {REFERENCE}", f"pairs with {REFERENCE}")


def _reference_identity(comparison: Comparison, method: Method, difference: Difference | None) -> dict[str, object]:
    """Which runs of null-space tuning a method is compared with, and how many of its own have one to be paired with."""
    reference = comparison.reference_of(method)
    known = (None, None) if difference is None or reference is None else (reference.scope, difference.pairs)
    return dict(zip(_REFERENCE_FIELDS, known, strict=True))


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
    records: Sequence[dict[str, object]],
    words: Sequence[str],
) -> Sheet:
    """A sheet that says what was measured, how its numbers are read, and what is missing of it."""
    missing = "" if comparison.complete else ", INCOMPLETE"
    notes = (f"{comparison.conditions}. {words[0]}", *words[1:], *comparison.notes)
    study = {"study": comparison.title}
    return Sheet(f"{comparison.title}. {title}{missing}", sections, notes, tuple(study | r for r in records), name)
