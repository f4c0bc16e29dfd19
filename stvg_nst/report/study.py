"""What a study found: each point's difference to the baseline, over its seeds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from stvg_nst.report.findings import QUANTITIES, Findings, over_seeds
from stvg_nst.report.levels import write_levels
from stvg_nst.report.numbers import parameter_count
from stvg_nst.report.reading import read_findings
from stvg_nst.report.reproduction import Reproduction
from stvg_nst.report.rows import numbers, seeds_explanation, spread_cell
from stvg_nst.report.sheet import Cell, Section, Sheet, print_sheet, sheet_console, write_sheet
from stvg_nst.report.study_figure import draw_study
from stvg_nst.report.style import draw_if_possible
from stvg_nst.results.conditions import Conditions
from stvg_nst.results.metric_names import METRICS
from stvg_nst.study import Study, StudyError, planned_runs


def report_study(study: Study, runs: Path, output: Path, only: Sequence[str] | None = None) -> None:
    """Prints what a study has found so far on one grounder, and writes its tables and figure.

    Args:
        runs: folder of all runs.
        output: folder to write to, where a grounder has one of its own.
        only: patterns of the points that are shown, or all.

    Raises:
        StudyError: see :func:`read_study`; or the baseline is not what was published of it, after all is written.
    """
    findings, folder, console = read_study(study, runs, only=only), study.folder_in(output), sheet_console()
    reproduction = Reproduction.of(findings) if study.published else None
    sheets = [] if reproduction is None else [reproduction.sheet()]
    sheets += [study_sheet(findings)] if study.points else []
    written = [path for sheet in sheets for path in write_sheet(sheet, folder, ("md", "csv"))]
    for sheet in sheets:
        print_sheet(sheet, console)
    if study.levels:
        written += write_levels(findings, folder, console)
    elif study.points:
        written += draw_if_possible(draw_study, findings, folder / "study.png", folder / "study.svg")
    console.print(f"written: {', '.join(map(str, written))}", markup=False, soft_wrap=True)
    if reproduction is not None:
        reproduction.require()


def read_study(study: Study, runs: Path, *, only: Sequence[str] | None = None) -> Findings:
    """What a study has found on one grounder, finished or not.

    Args:
        only: as of :func:`read_findings`.

    Raises:
        StudyError: the baseline is not finished, some results do not belong to the study or do not compare, or a
            pattern matches no point.
        ResultsFileError: a ``results.json`` is damaged.
    """
    findings = read_findings([study], runs, only=only)
    baseline, _ = planned_runs(study, study.folder_in(runs))
    if not baseline.finished:
        reason = f"; its last attempt failed: {baseline.why_failed}" if baseline.failed else ""
        lacking = next(test.results for test in baseline.tests if not test.results.exists())
        raise StudyError(f"there is nothing to compare with: '{lacking}' is not there yet{reason}")
    return findings


def study_sheet(findings: Findings) -> Sheet:
    """Under each quantity a row for each point: mean and deviation over the seeds."""
    rows = [
        (
            Cell(quantity.name),
            Cell(method.point),
            Cell(parameter_count(method.trainable_parameters)),
            Cell(method.seeds, warns=not method.complete),
            *(spread_cell(method, over_seeds(method, quantity.number(metric))) for metric in METRICS),
        )
        for quantity in QUANTITIES
        for method in findings.methods
    ]
    section = Section(findings.study.heading, ("", "Point", "Trainable", "Seeds", *METRICS), tuple(rows))
    notes = (seeds_explanation(findings), *findings.missing, *findings.remarks)
    return Sheet("", (section,), notes, tuple(_records(findings)), "study")


def _records(findings: Findings) -> list[dict[str, object]]:
    """One per point and metric."""
    conditions = findings.baselines[0].results.conditions
    draws = "+".join(str(baseline.results.benchmark_seed) for baseline in findings.baselines)
    shared = {"study": findings.study.heading, **dict(zip(Conditions._fields, conditions, strict=True))}
    return [
        {
            **shared,
            "benchmark_seed": draws,
            "point": method.point,
            "trainable_parameters": method.trainable_parameters,
            "seeds": len(method.finished_runs),
            "of_seeds": method.num_runs,
            "metric": metric,
        }
        | {
            name: number
            for quantity in QUANTITIES
            for name, number in numbers(
                quantity.name.lower().replace(" ", "_"), over_seeds(method, quantity.number(metric)), "_"
            ).items()
        }
        for method in findings.methods
        for metric in METRICS
    ]
