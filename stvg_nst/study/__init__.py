"""Studies: grids of runs (points x seeds) that are started and resumed as one. Never imports torch."""

from __future__ import annotations

from stvg_nst.study.definition import Study, StudyError, read_studies
from stvg_nst.study.runs import StudyRun, planned_runs

__all__ = ["Study", "StudyError", "StudyRun", "planned_runs", "read_studies"]
