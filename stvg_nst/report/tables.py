"""`tables`: the tables and figures of a study, as text, Markdown, CSV, PNG and SVG."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console

from stvg_nst.best_effort import NOT_TO_BE_HAD
from stvg_nst.command_line.arguments import CommandParser, positive_int
from stvg_nst.machine.outputs import check_outputs
from stvg_nst.machine.whole_files import write_whole
from stvg_nst.report.clips import ShowClip, draw_figure3
from stvg_nst.report.cost import cost_sheet
from stvg_nst.report.figures import draw_figure2, draw_severities
from stvg_nst.report.findings import Findings
from stvg_nst.report.paired import PairedBootstrap
from stvg_nst.report.paper import figure2_table, table1, table2
from stvg_nst.report.primary import primary_table
from stvg_nst.report.reading import read_findings
from stvg_nst.report.robustness import robustness
from stvg_nst.report.sheet import print_sheet, sheet_console, write_sheet
from stvg_nst.study import StudyError, read_studies
from stvg_nst.study.definition import quick_folder

SUFFIXES = ("txt", "md", "csv", "png", "svg")
KINDS = ("primary", "table1", "table2", "fig2", "fig3", "robustness", "cost")
WITHOUT_RUNS = {"cost"}
"""What is measured elsewhere. It is checked against the runs where there are any."""


def tables_command(arguments: Sequence[str], *, prog: str, show: ShowClip) -> int:
    """Writes what was asked for below the folder of the runs, and prints it.

    Args:
        show: reads the pixels of a clip, for Fig. 3.

    Raises:
        StudyError: there are no results, or too few for something that was asked for; all else is written first.
    """
    options = _options(arguments, prog)
    runs: Path = quick_folder(options.runs) if options.quick else options.runs
    studies = read_studies(options.study, quick=options.quick)
    options.show = options.show or [kind for kind in KINDS if kind != "primary" or studies[0].primary]
    findings = read_findings(studies, runs, only=options.only)
    if not findings.baselines and set(options.show) - WITHOUT_RUNS:
        reasons = "; ".join((*findings.missing, *findings.remarks))
        raise StudyError(f"there is nothing to compare with: no baseline has results below '{runs}'; {reasons}")
    folder: Path = options.output or runs / "tables"
    files = {kind: [folder / f"{kind}.{suffix}" for suffix in SUFFIXES] for kind in options.show}
    check_outputs(
        {f"the file {path.name} of --output": path for paths in files.values() for path in paths},
        inputs=(options.study, options.costs),
    )
    console = sheet_console()
    written: list[Path] = []
    failed: list[str] = []
    for kind in options.show:
        try:
            for path in _make(kind, findings, folder, options, show, console):
                written.append(path)
        except NOT_TO_BE_HAD as error:  # The results may suffice for one table and not for another, or for no picture.
            failed.append(f"{kind}: {error}")
            for stale in set(files[kind]).difference(written):  # of other results than what is new
                stale.unlink(missing_ok=True)
    console.print(f"written: {', '.join(map(str, written)) or 'nothing'}", markup=False, soft_wrap=True)
    if failed:
        raise StudyError("not made: " + "; ".join(failed))
    return 0


def _make(
    kind: str, findings: Findings, folder: Path, options: argparse.Namespace, show: ShowClip, console: Console
) -> Iterator[Path]:
    """Writes one of the tables or figures, pictures last, and yields each file when it is written."""
    if kind == "fig3":
        words = draw_figure3(findings, options.scope, show, options.data, folder / "fig3.png")
        yield folder / "fig3.png"
        write_whole(folder / "fig3.txt", words + "\n")
        yield folder / "fig3.txt"
        console.print(words, markup=False, soft_wrap=True)
        return
    pictures = {"fig2": draw_figure2, "robustness": draw_severities}
    if kind == "robustness":
        sheet = robustness(findings)
    elif kind == "cost":
        sheet = cost_sheet(findings, options.costs)
    else:
        make = {"primary": primary_table, "table1": table1, "table2": table2, "fig2": figure2_table}[kind]
        own = [run for method in findings.methods for run, _ in method.replicates]
        sheet = make(findings, PairedBootstrap(own, draws=options.bootstrap, over_seeds=kind == "primary"))
    yield from write_sheet(sheet, folder)
    print_sheet(sheet, console)
    if kind in pictures:
        paths = [folder / f"{kind}.png", folder / f"{kind}.svg"]
        pictures[kind](findings, paths)
        yield from paths


def _options(arguments: Sequence[str], prog: str) -> argparse.Namespace:
    parser = CommandParser(
        prog=prog,
        description="The paper's tables and figures out of the runs of a study, finished or not. Nothing is run.",
    )
    parser.add_argument("study", type=Path, help="the study's .yaml")
    parser.add_argument("--runs", type=Path, required=True, help="folder of its runs")
    parser.add_argument("--quick", action="store_true", help="use the study cut short")
    parser.add_argument("--only", nargs="+", metavar="POINT", help="these of the points; * matches any")
    parser.add_argument("--show", nargs="+", choices=KINDS, help="what to make (default: all)")
    parser.add_argument("--output", type=Path, help="folder to write to (default: RUNS/tables)")
    parser.add_argument("--scope", help="of Fig. 3 (default: the first that has LoRA and NST)")
    parser.add_argument("--data", help="folder of the data set, for the frames of Fig. 3")
    parser.add_argument("--costs", type=Path, help="what benchmarks/peers.py wrote")
    parser.add_argument("--bootstrap", type=positive_int, default=2000, metavar="N", help="replicates (default: 2000)")
    return parser.parse_args(arguments)
