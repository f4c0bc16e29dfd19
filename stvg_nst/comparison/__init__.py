"""Methods side by side: the paper's tables and figures out of the runs of a study. Never imports torch."""

from __future__ import annotations

from stvg_nst.comparison.replicates import Comparison, Method, Replicate, read_comparison

__all__ = ["Comparison", "Method", "Replicate", "read_comparison"]
