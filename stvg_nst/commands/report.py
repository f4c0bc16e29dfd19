"""`report`: all that the runs below some folders have measured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from stvg_nst.command_line.arguments import CommandParser


def report(arguments: Sequence[str], program: str) -> int:
    from stvg_nst.report import report_folders
    from stvg_nst.results.metric_names import METRICS

    parser = CommandParser(prog=program, description="Compare all results below some folders.")
    parser.add_argument("folders", type=Path, nargs="+", metavar="RUN", help="a run, or a folder that holds runs")
    parser.add_argument("--markdown", type=Path, help="also write the tables to this file")
    parser.add_argument("--html", type=Path, help="also write one page that holds all of it, to read offline")
    parser.add_argument(
        "--by-degradation",
        nargs="?",
        const="m_vIoU",
        choices=METRICS,
        metavar="METRIC",
        help="also show a metric, m_vIoU unless named, by kind and severity, with mean, worst and LQ relative to HQ",
    )
    parser.add_argument("--by-sentence", action="store_true", help="also show a table for each type of sentence")
    options = parser.parse_args(arguments)
    return report_folders(
        options.folders, options.markdown, options.by_degradation, options.html, by_sentence=options.by_sentence
    )
