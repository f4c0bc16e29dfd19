"""Studies: grids of runs (points x seeds) that are started, resumed and reported as one. Never imports torch."""

from __future__ import annotations

from stvg_nst.study.definition import Study, StudyError, read_studies
from stvg_nst.study.runs import StudyRun, planned_runs
from stvg_nst.study.summary import StudySummary, summarise

__all__ = ["Study", "StudyError", "StudyRun", "StudySummary", "planned_runs", "read_studies", "summarise"]
