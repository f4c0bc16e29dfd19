"""The parts that the tables of methods share: first columns, means with deviations, and what their reader must know."""

from __future__ import annotations

from collections.abc import Sequence

from stvg_nst.report.findings import BASELINE, Findings, Method, Spread
from stvg_nst.report.numbers import parameter_count, signed
from stvg_nst.report.sheet import Cell, Section, Sheet
from stvg_nst.results.metric_names import METRICS, MetricName

LABELS = ("Scope", "Method", "Trainable", "Runs")
SPREAD_OVER_RUNS = (
    "Percent points, mean \u00b1 sample standard deviation over runs: a run is a tuning seed on a grounder, tested on "
    "a draw of the benchmark. On HQ, which no draw touches, a seed on a grounder counts once; where there is only one, "
    "its draws are averaged, for they are one training."
)
"""What :func:`stvg_nst.report.findings.over_runs` is, in words."""


def labels(method: Method) -> tuple[Cell, ...]:
    """The first cells of a method's row, under ``LABELS``."""
    runs = f"{len(method.replicates)}" + ("" if method.complete else f" of {method.num_expected}")
    runs += f", {method.num_failed} failed" if method.failed else ""
    return Cell(method.scope), Cell(method.name), Cell(parameter_count(method.trainable_parameters)), Cell(runs)


def baseline_labels(findings: Findings) -> tuple[Cell, ...]:
    return Cell(""), Cell(BASELINE), Cell("0"), Cell(str(len(findings.baselines)))


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


def baseline_identity(findings: Findings) -> dict[str, object]:
    count = len(findings.baselines)
    return {"scope": "", "method": BASELINE, "trainable": 0, "runs": count, "of_runs": count, "failed": 0}


def spread_cell(method: Method, spread: Spread | None, *, ranked: bool = True, deviates: bool = True) -> Cell:
    """A difference with its deviation, which may be left out where columns are many."""
    if spread is None:
        return Cell("failed" if method.failed else "-")
    return Cell(signed(spread.mean) + (deviation(spread) if deviates else ""), spread.mean if ranked else None)


def deviation(spread: Spread) -> str:
    """The deviation behind a mean; empty for a single value, which has none."""
    return "" if spread.deviation is None else f" \u00b1 {spread.deviation:.2f}"


def numbers(name: str, spread: Spread | None, divider: str = " ") -> dict[str, object]:
    """The fields of a record that hold a mean and its deviation."""
    found = (spread.mean, spread.deviation) if spread else (None, None)
    return dict(zip((f"{name}{divider}mean", f"{name}{divider}std"), found, strict=True))


def methods_sheet(
    findings: Findings,
    name: str,
    subject: str,
    sections: Sequence[Section],
    records: Sequence[dict[str, object]],
    words: Sequence[str],
) -> Sheet:
    """A sheet that says what was measured, how its numbers are read, and what is missing of it."""
    state = "" if findings.complete else ", INCOMPLETE"
    absent = [method for method in findings.methods if not method.begun]
    left_out = f"INCOMPLETE: left out, with 0 of {absent[0].num_expected} runs each: " if absent else ""
    left_out += "; ".join(method.point for method in absent)
    first, *others = words
    notes = (f"{findings.conditions}. {first}", *others, *findings.missing, left_out, *findings.remarks)
    return Sheet(
        f"{findings.study.title}. {subject}{state}",
        tuple(sections),
        tuple(filter(None, notes)),
        tuple({"study": findings.study.title} | record for record in records),
        name,
    )


def seeds_explanation(findings: Findings) -> str:
    """What the numbers of ``over_seeds`` are, and what the differences are relative to."""
    views = (
        f"{view} " + " / ".join(f"{findings.baseline_mean(str(MetricName(view, name))):.2f}" for name in METRICS)
        for view in ("HQ", "LQ")
    )
    tests = ", of each seed's mean over the tests" if len(findings.baselines) > 1 else ""
    return (
        f"{findings.draws}. Points of difference to {findings.baselines[0].results.method} ({', '.join(views)}), mean "
        f"\u00b1 sample standard deviation over seeds{tests}."
    )
