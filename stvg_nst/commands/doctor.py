"""`doctor`: what this machine can do, why it would run on the CPU, and what an experiment lacks here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from datamodules.decoders import decoder_versions, missing_decoders
from stvg_nst.command_line.arguments import CommandParser
from stvg_nst.commands.data_options import say
from stvg_nst.commands.gpus import examine_gpus
from stvg_nst.commands.missing import examine_experiment
from stvg_nst.machine.health import Finding, examine_machine, examine_packages
from stvg_nst.report.sheet import sheet_console

MANY = 8
"""Files of an experiment from which on a title does not name them all."""


def doctor(arguments: Sequence[str], program: str) -> int:
    """Prints what was found.

    Returns:
        Exit status: 1 where something is lacking.
    """
    parser = CommandParser(
        prog=program,
        description="Say what this machine can do, and all that a named experiment lacks on it. Exits with 1 where "
        "something is lacking.",
    )
    parser.add_argument(
        "experiment", type=Path, nargs="*", help="the overlays of a run in their order, or the files of studies"
    )
    parser.add_argument(
        "--hardware", type=Path, nargs="+", default=[], metavar="OVERLAY", help="as for the command study"
    )
    options = parser.parse_args(arguments)
    machine = (*examine_machine(Path.cwd()), *examine_packages(), *examine_gpus(), _decoders())
    experiment = examine_experiment(options.experiment, options.hardware) if options.experiment else ()
    console = sheet_console()
    console.print(_table("This machine", machine))
    if experiment:
        shown = [str(path) for path in options.experiment]
        title = " ".join(shown) if len(shown) < MANY else f"{shown[0]} and {len(shown) - 1} more"
        console.print(_table(title, experiment))
    lacking = sum(finding.verdict == "lacking" for finding in (*machine, *experiment))
    words = "nothing is" if not lacking else "1 thing is" if lacking == 1 else f"{lacking} things are"
    say(console, f"{words} lacking")
    return int(lacking > 0)


def _decoders() -> Finding:
    if missing := missing_decoders():
        return Finding("films", f"{decoder_versions()} does not decode {', '.join(missing)}", "note", "pip install av")
    return Finding("films", f"{decoder_versions()} decodes all usual formats")


def _table(title: str, findings: Sequence[Finding]) -> Table:
    table = Table(title=escape(title), title_justify="left", show_header=False)
    table.add_column()
    table.add_column(overflow="fold")
    table.add_column()
    colours = {"ok": "green", "note": "yellow", "lacking": "red"}
    for finding in findings:
        words = finding.said + f"; {finding.advice}" * bool(finding.advice)
        table.add_row(finding.about, escape(words), f"[{colours[finding.verdict]}]{finding.verdict}[/]")
    return table
