"""How well tubes fit, and how well tuning keeps what was known."""

from __future__ import annotations

from stvg_nst.metrics.functional import tube_iou
from stvg_nst.metrics.grounding import GroundingMetrics
from stvg_nst.metrics.quality_means import QualityMeans

__all__ = ["GroundingMetrics", "QualityMeans", "tube_iou"]
