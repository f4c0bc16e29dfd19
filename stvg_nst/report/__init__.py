"""Tables and figures out of what runs left. Never imports torch, so that a report takes no time to start."""

from __future__ import annotations

from stvg_nst.report.folder import print_report, report_folders, report_markdown
from stvg_nst.report.runs import BaselineError, runs_section

__all__ = ["BaselineError", "print_report", "report_folders", "report_markdown", "runs_section"]
